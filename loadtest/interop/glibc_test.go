package interop

import (
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"ztunnel/proxy/needs"
)

// podSearch is what kubelet writes into the resolv.conf of a pod, beside servers.
const podSearch = "search shop.svc.cluster.local svc.cluster.local cluster.local\noptions ndots:5\n"

// getent tells which addresses glibc finds for a name, or which name for an
// address, in order, or none.
func (r *resolvers) getent(t *testing.T, script, database, name string) []string {
	t.Helper()
	const notFound = 2 // of getent(1)
	lines, status := r.run(t, script, database, name)
	if status == notFound && len(lines) == 0 {
		return nil
	}
	if status != 0 {
		t.Errorf("getent %s %s: status %d: %q", database, name, status, lines)
	}
	column := 0
	if database == "hosts" {
		column = 1
	}
	var found []string
	for _, line := range lines {
		found = append(found, strings.Fields(line)[column])
	}
	slices.Sort(found)
	return slices.Compact(found) // there is a line for each type of socket
}

// The resolver of glibc gets what it asks for. It asks for both families at once
// from one socket, and puts search domains behind a name before it asks for the
// name alone.
func (r *resolvers) glibc(t *testing.T) {
	getent := needs.Getent(t)
	for _, setting := range []struct{ server, options string }{
		{nameserver, "attempts:1"},
		{nameserver6, "attempts:1"},
		{nameserver, "use-vc"},
		{nameserver, "edns0"},
		{nameserver, "single-request"},
		{nameserver6, "single-request-reopen"},
	} {
		script := filepath.Join(r.dir, "getent-"+setting.server+"-"+setting.options)
		r.resolvConf(t, script, "nameserver "+setting.server+"\n"+podSearch+"options "+setting.options+"\n", getent, "--service", "hosts:dns")
		for _, test := range []struct {
			database, name string
			want           []string
		}{
			{"ahosts", "keeper.stock.svc.cluster.local", []string{"10.96.0.10", "fd00:96::10"}},
			{"ahosts", "keeper.stock.svc.cluster.local.", []string{"10.96.0.10", "fd00:96::10"}},
			{"ahosts", "KEEPER.Stock.svc", []string{"10.96.0.10", "fd00:96::10"}},
			{"ahostsv4", "keeper.stock", []string{"10.96.0.10"}},
			{"ahostsv6", "keeper.stock", []string{"fd00:96::10"}},
			{"ahosts", "cart", []string{"10.96.0.20"}},
			{"ahosts", "keeper", nil}, // it is of another namespace
			{"ahosts", "crowd.stock", crowdOf("10.65.0.")},
			{"ahosts", "www.example.org", []string{"192.0.2.7", "2001:db8::7"}},
			{"ahosts", "alias.example.org", []string{"192.0.2.7", "2001:db8::7"}},
			{"ahosts", "shop.wild.example.org", []string{"10.96.0.30"}},
			{"ahosts", "crowd.example.org", crowdOf("192.0.2.")},
			{"ahosts", "missing.example.org", nil},
			{"hosts", "192.0.2.7", []string{"www.example.org"}},
			{"hosts", "192.0.2.8", nil},
		} {
			if got := r.getent(t, script, test.database, test.name); !slices.Equal(got, test.want) {
				t.Errorf("server %s, options %s: getent %s %s finds %q, want %q", setting.server, setting.options, test.database, test.name, got, test.want)
			}
		}
	}
}
