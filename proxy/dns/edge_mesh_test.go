package dns

import (
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"slices"
	"testing"

	"github.com/miekg/dns"

	"ztunnel/proxy/needs"
	"ztunnel/proxy/workload"
)

// Cases that the mesh of TestRespond_Mesh does not have.
func TestRespond_MoreOfTheMesh(t *testing.T) {
	s := meshServer(t, records(t))
	s.config.Store.Apply(workload.Update{Services: []*workload.Service{
		service("ns1", "empty.outside.com"), kube("vip4", "ns1", "15.0.1.1"), kube("vip6", "ns1", "fd00::101"), kube("empty", "ns1"),
	}})
	for _, tc := range []struct {
		name  string
		qtype uint16
		code  int
		want  []string
	}{
		{"empty.outside.com.", dns.TypeA, dns.RcodeNameError, nil}, // of the resolver
		{"empty.ns1.svc.cluster.local.", dns.TypeA, dns.RcodeSuccess, nil},
		{"vip4.", dns.TypeA, dns.RcodeSuccess, []string{"vip4. A 15.0.1.1"}},
		{"vip4.", dns.TypeAAAA, dns.RcodeSuccess, nil},
		{"vip6.", dns.TypeA, dns.RcodeSuccess, nil},
		{"vip6.", dns.TypeAAAA, dns.RcodeSuccess, []string{"vip6. AAAA fd00::101"}},
		{"foo.wildcard.ns1.svc.cluster.local.", dns.TypeA, dns.RcodeSuccess, []string{"foo.wildcard.ns1.svc.cluster.local. A 10.10.10.20"}},
		{"a.b.wildcard.svc.cluster.local.", dns.TypeA, dns.RcodeSuccess, []string{"a.b.wildcard.svc.cluster.local. A 10.10.10.21"}},
	} {
		for over := range transports {
			m := query(t, s, over, new(dns.Msg).SetQuestion(tc.name, tc.qtype))
			if got := text(m); m.Rcode != tc.code || !slices.Equal(got, tc.want) || m.Authoritative != (tc.code == dns.RcodeSuccess) {
				t.Errorf("%s %s over %s: got %v, want %s with %q", tc.name, dns.Type(tc.qtype), over, m, dns.RcodeToString[tc.code], tc.want)
			}
		}
	}
}

// At a socket for both families the address of an IPv4 client is one of IPv6 in form. It is served like any other.
func TestServe_MappedClient(t *testing.T) {
	s, err := Listen(t.Context(), Config{
		Addrs: []netip.AddrPort{netip.MustParseAddrPort("[::]:0")}, Workload: clientInfo, Store: meshStore(), Network: "nw1", Domain: "cluster.local",
		Upstreams: Upstreams{Servers: []netip.AddrPort{records(t, "www.bing.com. 60 IN A 1.1.1.1")}}, Log: slog.New(slog.DiscardHandler),
	})
	if err != nil {
		needs.Missing(t, fmt.Sprintf("this test needs a socket for both families: %v", err))
	}
	s.Start(func(err error) { t.Error(err) })
	defer s.Close()
	for network, addr := range map[string]net.Addr{"udp": s.udp[0].LocalAddr(), "tcp": s.tcp[0].Addr()} {
		_, port, err := net.SplitHostPort(addr.String())
		if err != nil {
			t.Fatal(err)
		}
		for host, want := range map[string]string{"productpage.": "[productpage. A 9.9.9.9]", "www.bing.com.": "[www.bing.com. A 1.1.1.1]"} {
			if got := fmt.Sprint(text(ask(t, network, "127.0.0.1:"+port, host))); got != want {
				t.Errorf("%s over %s: got %s, want %s", host, network, got, want)
			}
		}
	}
}
