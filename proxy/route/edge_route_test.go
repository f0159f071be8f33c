package route

import (
	"net/netip"
	"testing"

	"ztunnel/proxy/workload"
)

// A port that is named, so that its number is each endpoint's own, is the one asked for at a waypoint that takes every port
// and has no word of its own.
func TestNamedPortOfASandwichedWaypoint(t *testing.T) {
	for _, test := range []struct {
		name   string
		tunnel func(*workload.Workload)
		want   string
	}{
		{"with a port of its tunnel", appTunnel(workload.AppTunnelProxy, 15088), "HBONE 127.0.0.11:15008 authority=10.0.0.1:80 workload=w service=s expected=san-wp,w"},
		{"without", appTunnel(workload.AppTunnelProxy, 0), `unknown_waypoint: unknown waypoint: waypoint GatewayAddress { destination: Hostname(NamespacedHostname { namespace: "default", hostname: "wp" }), hbone_mtls_port: 15008 } not found`},
	} {
		t.Run(test.name, func(t *testing.T) {
			src := source()
			s := world(t, src, service("s", "/10.0.0.1", serviceVia(gwHost("wp", 15008))), service("wp", "", ports(15008, 0)),
				pod("w", at("127.0.0.11"), in("wp"), test.tunnel))
			r := &Request{Source: src, Client: netip.MustParseAddrPort("127.0.0.1:1"), Target: netip.MustParseAddrPort("10.0.0.1:80")}
			if got := outcome(Pick(s, r, first{})); got != test.want {
				t.Errorf("Pick = %s, want %s", got, test.want)
			}
		})
	}
}

// The network of a service's address says nothing about that of its endpoints: both are found.
func TestAddressAndEndpointsOnDifferentNetworks(t *testing.T) {
	src := source()
	s := world(t, src, service("s", "/10.0.0.1", serviceVia(gwAddr("remote/10.0.0.9:15018"))),
		service("wp", "remote/10.0.0.9", ports(15018, 15010)), pod("w", at("127.0.0.11"), in("wp")))
	p := picker{Store: s, Request: &Request{Source: src}, rnd: first{}}
	up, ok := p.find("remote", netip.MustParseAddrPort("10.0.0.9:15018"), standardMode)
	if !ok || up.workload.UID != "w" || up.port != 15010 {
		t.Errorf("find at remote/10.0.0.9:15018 = %+v, %t, want port 15010 of w", up, ok)
	}
	if up, ok := p.find("", netip.MustParseAddrPort("10.0.0.9:15018"), standardMode); ok {
		t.Errorf("find at /10.0.0.9:15018 = %+v, want nobody", up)
	}
	r := &Request{Source: src, Client: netip.MustParseAddrPort("127.0.0.1:1"), Target: netip.MustParseAddrPort("10.0.0.1:80")}
	const want = "HBONE 127.0.0.11:15010 authority=10.0.0.1:80 workload=w service=s expected=san-wp,w"
	if got := outcome(Pick(s, r, first{})); got != want {
		t.Errorf("Pick = %s, want %s", got, want)
	}
}
