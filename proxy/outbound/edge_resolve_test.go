package outbound_test

import (
	"context"
	"fmt"
	"net/netip"
	"slices"
	"sync"
	"testing"

	"ztunnel/proxy/outbound"
	"ztunnel/proxy/proxytest"
	"ztunnel/proxy/workload"
	"ztunnel/telemetry/connection"
)

// oneHost is a resolver that knows one host.
type oneHost struct {
	name string
	addr netip.Addr
}

func (h oneHost) LookupNetIP(_ context.Context, network, host string) ([]netip.Addr, error) {
	if host != h.name || network != "ip4" {
		return nil, fmt.Errorf("no such host: %s (%s)", host, network)
	}
	return []netip.Addr{h.addr}, nil
}

// An endpoint that is known by its name only is looked up for each connection,
// which is told each time; whether the answer is kept is the resolver's.
func TestEdge_EachLookupIsTold(t *testing.T) {
	echo := proxytest.Echo(t, "127.0.0.30")
	var mu sync.Mutex
	var told []string
	p := newPod(t, func(_ *pod, c *outbound.Config) {
		c.Resolver = oneHost{"out.example.com", echo.Addr()}
		c.Resolving = func(source *connection.Workload, host string) {
			mu.Lock()
			defer mu.Unlock()
			told = append(told, source.Name+" "+host)
		}
	})
	named := proxytest.Workload("named")
	named.Protocol, named.Hostname = workload.TCP, "out.example.com"
	named.Services[workload.NamespacedHostname{Namespace: "default", Hostname: "entry.default"}] = workload.PortMap{80: echo.Port()}
	p.put(named)
	p.store.Apply(workload.Update{Services: []*workload.Service{{
		Name: "entry", Namespace: "default", Hostname: "entry.default", Ports: workload.PortMap{80: echo.Port()},
		VIPs: []workload.NetworkAddress{{Addr: netip.MustParseAddr("10.0.0.1")}},
	}}})
	for range 2 {
		proxytest.Say(t, p.connect(t, netip.MustParseAddrPort("10.0.0.1:80")), "hello")
	}
	mu.Lock()
	defer mu.Unlock()
	if want := "client-controller out.example.com"; !slices.Equal(told, []string{want, want}) {
		t.Errorf("told of lookups: %q, want twice %q", told, want)
	}
}
