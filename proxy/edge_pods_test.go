package proxy

import (
	"io"
	"net/netip"
	"slices"
	"testing"

	"ztunnel/proxy/config"
	"ztunnel/proxy/needs"
	"ztunnel/proxy/proxytest"
	"ztunnel/proxy/socket"
	"ztunnel/proxy/workload"
)

// A pod that calls the ports of its own proxy is let in and sent away, by whichever loopback address.
func TestPods_CallsToOwnPorts(t *testing.T) {
	needs.Root(t)
	w, ps := newPods(t)
	ns := netns(t)
	w.start(t, ps, ns)
	refused := func() int {
		return w.log.Count("WARN connection failed", "error=attempted recursive call to ourselves") +
			w.log.Count("WARN connection failed", "error=tls handshake error: ")
	}
	for i, addr := range []string{"127.0.0.1:15001", "127.0.0.1:15006", "127.0.0.1:15008", "[::1]:15001", "[::1]:15006", "[::1]:15008"} {
		c, err := inside(ns).Dial(t.Context(), netip.Addr{}, netip.MustParseAddrPort(addr))
		if err != nil {
			t.Errorf("connect to %s = %v, want it accepted", addr, err)
			continue
		}
		_, _ = io.WriteString(c, "hello world\r\n\r\n")
		_ = proxytest.Ended(c)
		_ = c.Close()
		proxytest.Until(t, "a refusal of "+addr+" is logged", func() bool { return refused() == i+1 })
	}
	if n := w.log.Count("error=attempted recursive call to ourselves"); n != 4 {
		t.Errorf("%d recursive calls in the log, want those to 15001 and 15006", n)
	}
}

// The search list of the process's own resolv.conf says nothing about a pod's, but is that of the process's own workload.
func TestDNSConfig_SearchList(t *testing.T) {
	w := newNode(t)
	w.Config.Resolver.Search = []string{"istio-system.svc.cluster.local", "example.com"}
	pod, sockets := workload.Info{Name: "web", Namespace: "default-ns"}, socket.NewFactory(socket.Config{})
	w.Config.Mode = config.Shared
	if got := w.DNSConfig(pod, nil, sockets, w.log.Logger()).Search; got != nil {
		t.Errorf("search list of a pod = %q, want that of its namespace, which is none here", got)
	}
	w.Config.Mode = config.Dedicated
	if got := w.DNSConfig(pod, nil, sockets, w.log.Logger()).Search; !slices.Equal(got, w.Config.Resolver.Search) {
		t.Errorf("search list of the process's own workload = %q, want %q", got, w.Config.Resolver.Search)
	}
}
