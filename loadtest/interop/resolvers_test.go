package interop

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"ztunnel/loadtest/app"
	"ztunnel/loadtest/cluster"
	"ztunnel/loadtest/control"
	"ztunnel/loadtest/mesh"
	"ztunnel/proxy/api/workloadapi"
	"ztunnel/proxy/needs"
	"ztunnel/proxy/spiffe"
)

var binary = flag.String("ztunnel", "", "path of a drop-in ztunnel to test instead of that of this repository")

// resolverLimit ends a program that hangs.
const resolverLimit = 20 * time.Second

// The name servers that the pod asks. Nobody has the addresses: only who captures
// the question can answer it.
const (
	nameserver  = "10.96.0.53"
	nameserver6 = "fd00:96::53"
)

// crowded is how many endpoints the headless service has: more than 512 bytes
// tell of. As many addresses has crowd.example.org.
const crowded = 60

// resolvers is a captured pod in which other people's programs ask for names, in
// a mesh that knows some. A server outside of the mesh knows others.
type resolvers struct {
	client  *cluster.Pod
	outside *outside
	dir     string
	runs    int
}

// Other people's programs and libraries in a captured pod get what they ask for,
// as its redirection rules lead their questions to ztunnel.
func TestResolvers(t *testing.T) {
	r := newResolvers(t)
	t.Run("glibc", r.glibc)
	t.Run("dig", r.dig)
	t.Run("nsupdate", r.nsupdate)
}

// newResolvers makes the mesh. It ends with the test.
func newResolvers(t *testing.T) *resolvers {
	t.Helper()
	needs.Root(t)
	r := &resolvers{dir: t.TempDir()}
	path, script := *binary, filepath.Join(r.dir, "ztunnel-with-names")
	if path == "" {
		path = filepath.Join(r.dir, "ztunnel")
		if err := cluster.Build(t.Context(), path); err != nil {
			t.Fatal(err)
		}
	}
	c, err := cluster.New(cluster.Config{Binary: script, Dir: r.dir})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := c.Close(); err != nil {
			t.Errorf("Close() = %v, want nil", err)
		}
	})
	if !c.Mesh.IPv6 {
		needs.Missing(t, "this test needs IPv6")
	}
	node, err := c.AddNode("node")
	if err != nil {
		t.Fatal(err)
	}
	server, err := node.NewPod(cluster.Spec{Name: "outside-0"})
	if err != nil {
		t.Fatal(err)
	}
	r.outside = serveOutside(t, server.Namespace)
	r.resolvConf(t, script, fmt.Sprintf("nameserver %s\n", server.Addr), path)
	ctx, cancel := context.WithTimeout(t.Context(), resolverLimit)
	defer cancel()
	z, err := node.StartZtunnel()
	if err != nil {
		t.Fatal(err)
	}
	if err := z.AwaitReady(ctx); err != nil {
		t.Fatal(err)
	}
	if err := c.Plane.Update(knownNames()); err != nil {
		t.Fatal(err)
	}
	if r.client, err = node.AddPod(ctx, cluster.Spec{Name: "client-0", ID: shopID}); err != nil {
		t.Fatal(err)
	}
	if err := app.Retry(ctx, pollEvery, func() error {
		if s := c.Plane.Stats(); s.Streams != 1 || s.Behind > 0 {
			return fmt.Errorf("%d ztunnels are connected to the control plane, %d have not acknowledged all", s.Streams, s.Behind)
		}
		return nil
	}); err != nil {
		t.Fatal(err)
	}
	return r
}

// knownNames are those of the mesh.
func knownNames() control.Update {
	service := func(namespace, name string, vips ...string) *workloadapi.Service {
		spec := control.ServiceSpec{Namespace: namespace, Name: name, Ports: []control.Port{{Port: servicePort, Target: targetPort}}}
		for _, vip := range vips {
			spec.VIPs = append(spec.VIPs, netip.MustParseAddr(vip))
		}
		return control.Service(spec)
	}
	crowd := service("stock", "crowd")
	wild := service("stock", "wild", "10.96.0.30")
	wild.Hostname, wild.Canonical = "*.wild.example.org", false
	update := control.Update{Services: []*workloadapi.Service{
		service("stock", "keeper", "10.96.0.10", "fd00:96::10"), service("shop", "cart", "10.96.0.20"), crowd, wild,
	}}
	for i := range crowded {
		update.Workloads = append(update.Workloads, control.Pod(control.PodSpec{
			TrustDomain: spiffe.DefaultTrustDomain, Namespace: "stock", Name: fmt.Sprintf("crowd-%d", i),
			Addresses: []netip.Addr{netip.AddrFrom4([4]byte{10, 65, 0, byte(i)})}, Services: []*workloadapi.Service{crowd},
		}))
	}
	return update
}

// crowdOf are the addresses of a crowd, as text in order.
func crowdOf(prefix string) []string {
	all := make([]string, 0, crowded)
	for i := range crowded {
		all = append(all, fmt.Sprint(prefix, i))
	}
	slices.Sort(all)
	return all
}

// resolvConf writes a script at path that runs a program, with arguments of its
// own before those of the script, and with an /etc/resolv.conf of its own. What
// it needs, unshare and mount of util-linux, every Linux has, and the process
// keeps its number.
func (r *resolvers) resolvConf(t *testing.T, path, content string, program ...string) {
	t.Helper()
	config := path + ".conf"
	if err := os.WriteFile(config, []byte(content), 0o600); err != nil {
		t.Fatal(err)
	}
	script := fmt.Sprintf(`#!/bin/sh
PATH=/usr/sbin:/usr/bin:/sbin:/bin
exec unshare --mount --propagation private sh -c 'mount --bind "$0" /etc/resolv.conf && exec "$@"' '%s' %s "$@"
`, config, strings.Join(program, " "))
	if err := os.WriteFile(path, []byte(script), 0o700); err != nil { //nolint:gosec // it is a program
		t.Fatal(err)
	}
}

// run runs a program in the pod, and returns what it wrote and its exit status.
func (r *resolvers) run(t *testing.T, path string, args ...string) (lines []string, status int) {
	t.Helper()
	r.runs++
	p, err := r.client.Start(mesh.Command{Path: path, Args: args, LogFile: filepath.Join(r.dir, fmt.Sprintf("run-%d.log", r.runs))})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), resolverLimit)
	defer cancel()
	err = p.Wait(ctx)
	lines = p.Log.Tail(p.Log.Len())
	if exit, ok := errors.AsType[*exec.ExitError](err); ok {
		return lines, exit.ExitCode()
	}
	if err != nil {
		t.Fatalf("%s %s: %v\n%s", filepath.Base(path), strings.Join(args, " "), err, strings.Join(lines, "\n"))
	}
	return lines, 0
}

// listenPacket listens at a port of all addresses of a namespace.
func listenPacket(ctx context.Context, at *mesh.Namespace, port uint16) (conn net.PacketConn, err error) {
	err = at.Do(func() error {
		conn, err = (&net.ListenConfig{}).ListenPacket(ctx, "udp", fmt.Sprintf(":%d", port))
		return err
	})
	return conn, err
}
