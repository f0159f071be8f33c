package route

import (
	"net/netip"
	"testing"

	"ztunnel/proxy/spiffe"
	"ztunnel/proxy/workload"
)

// source is the client of most cases, at 127.0.0.1.
func source(opts ...func(*workload.Workload)) *workload.Workload {
	return pod("client", append([]func(*workload.Workload){at("127.0.0.1", "ff06::1")}, opts...)...)
}

// away is a workload of another network that is known by its gateway only.
func away(name string, g *workload.Gateway, opts ...func(*workload.Workload)) *workload.Workload {
	return pod(name, append([]func(*workload.Workload){on("remote"), behindGateway(g)}, opts...)...)
}

// The decision tree, branch by branch: what is dialled, what is asked for,
// who must answer and to whom the connection is accounted.
func TestPick(t *testing.T) {
	wpAddr, gwByIP := gwAddr("/127.0.0.10:15008"), gwAddr("remote/10.22.1.1:15009")
	waypoint := pod("waypoint", at("127.0.0.10"))
	gateway := pod("gateway", at("10.22.1.1"), on("remote"))
	for _, test := range []struct {
		name   string
		source *workload.Workload // source() if nil
		world  []any
		target string
		want   string
	}{
		// B1
		{"unknown destination", nil, nil, "1.2.3.4:80", "Passthrough 1.2.3.4:80"},
		{"workload on another network has no address here", nil, []any{pod("w", at("1.2.3.4"), on("remote"))}, "1.2.3.4:80", "Passthrough 1.2.3.4:80"},
		{"service without endpoints", nil, []any{service("s", "/10.0.0.1")}, "10.0.0.1:80", "no_healthy_upstream: no healthy upstream: 10.0.0.1:80"},
		{"port that the service lacks", nil, []any{service("s", "/10.0.0.1"), pod("w", at("127.0.0.2"), in("s"))}, "10.0.0.1:81", "no_healthy_upstream: no healthy upstream: 10.0.0.1:81"},
		{"IPv6 service without endpoints", nil, []any{service("s", "/ff06::9")}, "[ff06::9]:80", "no_healthy_upstream: no healthy upstream: [ff06::9]:80"},
		{"passthrough service", nil, []any{service("s", "/10.0.0.1", balanced(workload.ModePassthrough)), pod("w", at("127.0.0.2"), in("s"))}, "10.0.0.1:80", "Passthrough 10.0.0.1:80"},
		{"invisible service", nil, []any{service("s", "/10.0.0.1", func(s *workload.Service) { s.Namespace, s.Visibility = "other", workload.VisibilityNamespace })}, "10.0.0.1:80", "Passthrough 10.0.0.1:80"},
		{"service on another network", nil, []any{service("s", "remote/10.0.0.1")}, "10.0.0.1:80", "Passthrough 10.0.0.1:80"},

		// D3
		{"plain workload", nil, []any{pod("w", at("127.0.0.2"), plain)}, "127.0.0.2:80", "TCP 127.0.0.2:80 workload=w"},
		{"captured workload", nil, []any{pod("w", at("127.0.0.2"))}, "127.0.0.2:80", "HBONE 127.0.0.2:15008 authority=127.0.0.2:80 workload=w expected=w"},
		{
			"captured workload on the same node", source(func(w *workload.Workload) { w.Node = "n" }),
			[]any{pod("w", at("127.0.0.2"), func(w *workload.Workload) { w.Node = "n" })},
			"127.0.0.2:80",
			"HBONE 127.0.0.2:15008 authority=127.0.0.2:80 workload=w expected=w",
		},
		{"itself", nil, nil, "127.0.0.1:80", "HBONE 127.0.0.1:15008 authority=127.0.0.1:80 workload=client expected=client"},
		{"waypoint of the source plays no role", source(via(wpAddr)), []any{waypoint, pod("w", at("127.0.0.2"))}, "127.0.0.2:80", "HBONE 127.0.0.2:15008 authority=127.0.0.2:80 workload=w expected=w"},
		{
			"endpoint", nil,
			[]any{service("s", "/10.0.0.1"), pod("w", at("127.0.0.2"), in("s"))},
			"10.0.0.1:80",
			"HBONE 127.0.0.2:15008 authority=127.0.0.2:8080 workload=w service=s expected=san-s,w",
		},
		{"plain endpoint", nil, []any{service("s", "/10.0.0.1"), pod("w", at("127.0.0.2"), plain, in("s"))}, "10.0.0.1:80", "TCP 127.0.0.2:8080 workload=w service=s"},
		{
			"endpoint whose identity the service names", nil,
			[]any{service("s", "/10.0.0.1"), pod("w", at("127.0.0.2"), account("san-s"), in("s"))},
			"10.0.0.1:80",
			"HBONE 127.0.0.2:15008 authority=127.0.0.2:8080 workload=w service=s expected=san-s",
		},
		{
			"waypoint of an endpoint plays no role", nil,
			[]any{service("s", "/10.0.0.1"), pod("w", at("127.0.0.2"), in("s"), via(gwAddr("/9.9.9.9:1")))},
			"10.0.0.1:80",
			"HBONE 127.0.0.2:15008 authority=127.0.0.2:8080 workload=w service=s expected=san-s,w",
		},
		{
			"waypoint of a workload's service plays no role", nil,
			[]any{service("s", "/10.0.0.1", serviceVia(wpAddr)), waypoint, pod("w", at("127.0.0.2"), in("s"))},
			"127.0.0.2:80",
			"HBONE 127.0.0.2:15008 authority=127.0.0.2:80 workload=w expected=w",
		},
		{"service in a range", nil, []any{service("s", "", cidr("10.0.0.0/16")), pod("w", at("127.0.0.2"), plain, in("s"))}, "10.0.7.7:80", "TCP 127.0.0.2:8080 workload=w service=s"},
		{"host network, by service", nil, []any{service("s", "/10.0.0.1"), pod("w", at("127.0.0.2"), onHost, plain, in("s")), pod("other", at("127.0.0.2"), onHost, plain)}, "10.0.0.1:80", "TCP 127.0.0.2:8080 workload=w service=s"},
		{"host network, by address", nil, []any{pod("w", at("127.0.0.2"), onHost, plain), pod("other", at("127.0.0.2"), onHost, plain)}, "127.0.0.2:80", "Passthrough 127.0.0.2:80"},
		// The quirk of a pod inside a service's range: not service addressed, yet balanced by the service.
		{"pod inside a range", nil, []any{service("s", "", cidr("127.0.0.0/16"), serviceVia(wpAddr)), pod("w", at("127.0.0.2")), pod("e", at("127.0.0.3"), plain, in("s"))}, "127.0.0.2:80", "TCP 127.0.0.3:8080 workload=e service=s"},
		{"pod inside a range without endpoints", nil, []any{service("s", "", cidr("127.0.0.0/16")), pod("w", at("127.0.0.2"))}, "127.0.0.2:80", "Passthrough 127.0.0.2:80"},

		// names instead of addresses
		{
			"captured workload to resolve", nil,
			[]any{service("s", "/10.0.0.1"), pod("w", named("w.example.com"), in("s"))},
			"10.0.0.1:80",
			"HBONE resolve=w.example.com port=15008 workload=w service=s expected=san-s,w",
		},
		{"plain workload to resolve", nil, []any{service("s", "/10.0.0.1"), pod("w", named("w.example.com"), plain, in("s"))}, "10.0.0.1:80", "TCP resolve=w.example.com port=8080 workload=w service=s"},
		{
			"waypoint to resolve", nil,
			[]any{service("s", "/10.0.0.1", serviceVia(gwHost("w.example.com", 15008))), pod("w", named("w.example.com"))},
			"10.0.0.1:80",
			"HBONE resolve=w.example.com port=15008 authority=10.0.0.1:80 workload=w service=s expected=w",
		},
		{"neither address nor name", nil, []any{service("s", "/10.0.0.1"), pod("w", in("s"))}, "10.0.0.1:80", "no_healthy_upstream: no healthy upstream: 10.0.0.1:80"},
		{
			"only an address of a family that is excluded", nil,
			[]any{service("s", "/10.0.0.1", families(workload.FamiliesIPv6)), pod("w", at("127.0.0.2"), in("s"))},
			"10.0.0.1:80",
			"no_route: no valid routing destination for workload: Workload{w with uid w (HBONE)}",
		},

		// A1
		{
			"service waypoint by address", nil,
			[]any{service("s", "/10.0.0.1", serviceVia(wpAddr)), waypoint, pod("w", at("127.0.0.2"), in("s"))},
			"10.0.0.1:80",
			"HBONE 127.0.0.10:15008 authority=10.0.0.1:80 workload=waypoint service=s expected=waypoint",
		},
		{
			"service waypoint, port that the service lacks", nil,
			[]any{service("s", "/10.0.0.1", serviceVia(wpAddr)), waypoint},
			"10.0.0.1:9999",
			"HBONE 127.0.0.10:15008 authority=10.0.0.1:9999 workload=waypoint service=s expected=waypoint",
		},
		{
			"service waypoint of a passthrough service", nil,
			[]any{service("s", "/10.0.0.1", serviceVia(wpAddr), balanced(workload.ModePassthrough)), waypoint},
			"10.0.0.1:80",
			"HBONE 127.0.0.10:15008 authority=10.0.0.1:80 workload=waypoint service=s expected=waypoint",
		},
		{
			"service waypoint by address of its service", nil,
			[]any{service("s", "/10.0.0.1", serviceVia(gwAddr("/10.0.0.9:15018"))), service("wp", "/10.0.0.9", ports(15018, 15010)), pod("w", at("127.0.0.11"), in("wp"))},
			"10.0.0.1:80",
			"HBONE 127.0.0.11:15010 authority=10.0.0.1:80 workload=w service=s expected=san-wp,w",
		},
		{
			"service waypoint by name of its service", nil,
			[]any{service("s", "/10.0.0.1", serviceVia(gwHost("wp", 15008))), service("wp", "", ports(15008, 15008)), pod("w", at("127.0.0.11"), in("wp"))},
			"10.0.0.1:80",
			"HBONE 127.0.0.11:15008 authority=10.0.0.1:80 workload=w service=s expected=san-wp,w",
		},
		{
			"sandwiched waypoint whose service has no port", nil,
			[]any{service("s", "/10.0.0.1", serviceVia(gwHost("wp", 15008))), service("wp", "", ports()), pod("w", at("127.0.0.11"), in("wp"), appTunnel(workload.AppTunnelProxy, 15088))},
			"10.0.0.1:80",
			"HBONE 127.0.0.11:15008 authority=10.0.0.1:80 workload=w service=s expected=san-wp,w",
		},
		{
			"sandwiched waypoint without port", nil,
			[]any{service("s", "/10.0.0.1", serviceVia(gwHost("wp", 15008))), service("wp", "", ports()), pod("w", at("127.0.0.11"), in("wp"), appTunnel(workload.AppTunnelNone, 0))},
			"10.0.0.1:80",
			`unknown_waypoint: unknown waypoint: waypoint GatewayAddress { destination: Hostname(NamespacedHostname { namespace: "default", hostname: "wp" }), hbone_mtls_port: 15008 } not found`,
		},
		{
			"by name in the caller's family", nil,
			[]any{service("s", "/ff06::c3", serviceVia(gwHost("wp", 15008))), service("wp", "", ports(15008, 15008)), pod("w", at("127.0.0.11", "ff06::b"), in("wp"))},
			"[ff06::c3]:80",
			"HBONE [ff06::b]:15008 authority=[ff06::c3]:80 workload=w service=s expected=san-wp,w",
		},
		{
			"by address in the waypoint's family", nil,
			[]any{service("s", "/ff06::c3", serviceVia(wpAddr)), waypoint},
			"[ff06::c3]:80",
			"HBONE 127.0.0.10:15008 authority=[ff06::c3]:80 workload=waypoint service=s expected=waypoint",
		},
		{"unknown name", nil, []any{service("s", "/10.0.0.1", serviceVia(gwHost("nowhere", 15008))), pod("w", at("127.0.0.2"), in("s"))}, "10.0.0.1:80", "unknown_waypoint: unknown waypoint: waypoint nowhere not found"},
		{
			"unknown address", nil,
			[]any{service("s", "/10.0.0.1", serviceVia(gwAddr("/10.96.0.250:15008"))), pod("w", at("127.0.0.2"), in("s"))},
			"10.0.0.1:80",
			`unknown_waypoint: unknown waypoint: waypoint GatewayAddress { destination: Address(NetworkAddress { network: "", address: 10.96.0.250 }), hbone_mtls_port: 15008 } not found`,
		},
		{
			"waypoint service without endpoints", nil,
			[]any{service("s", "/10.0.0.1", serviceVia(gwHost("wp", 15008))), service("wp", "", ports(15008, 15008))},
			"10.0.0.1:80",
			`unknown_waypoint: unknown waypoint: waypoint GatewayAddress { destination: Hostname(NamespacedHostname { namespace: "default", hostname: "wp" }), hbone_mtls_port: 15008 } not found`,
		},
		{
			"port that the waypoint's service lacks", nil,
			[]any{service("s", "/10.0.0.1", serviceVia(gwHost("wp", 15009))), service("wp", "", ports(15008, 15008)), pod("w", at("127.0.0.11"), in("wp"))},
			"10.0.0.1:80",
			`unknown_waypoint: unknown waypoint: waypoint GatewayAddress { destination: Hostname(NamespacedHostname { namespace: "default", hostname: "wp" }), hbone_mtls_port: 15009 } not found`,
		},

		// D2
		{"workload waypoint", nil, []any{waypoint, pod("w", at("127.0.0.2"), via(wpAddr))}, "127.0.0.2:80", "HBONE 127.0.0.10:15008 authority=127.0.0.2:80 workload=waypoint expected=waypoint"},
		{"workload waypoint of a plain workload, IPv6", nil, []any{waypoint, pod("w", at("ff06::c3"), plain, via(wpAddr))}, "[ff06::c3]:80", "HBONE 127.0.0.10:15008 authority=[ff06::c3]:80 workload=waypoint expected=waypoint"},
		{
			"workload waypoint by name of a workload", nil,
			[]any{pod("w", at("127.0.0.2"), via(gwHost("wp.example.com", 15010))), pod("x", at("127.0.0.11"), named("wp.example.com"))},
			"127.0.0.2:80",
			"HBONE 127.0.0.11:15010 authority=127.0.0.2:80 workload=x expected=x",
		},
		{"workload waypoint that is missing", nil, []any{pod("w", at("127.0.0.2"), via(gwHost("nowhere", 15008)))}, "127.0.0.2:80", "unknown_waypoint: unknown waypoint: waypoint nowhere not found"},
		{"workload waypoint on another network", nil, []any{pod("w", at("127.0.0.2"), via(gwAddr("remote/10.22.1.1:15009"))), gateway}, "127.0.0.2:80", "HBONE 10.22.1.1:15009 authority=127.0.0.2:80 workload=gateway expected=gateway"},
		{
			"workload waypoint without address", nil,
			[]any{service("wp", "", ports(15008, 15008)), pod("w", at("127.0.0.2"), via(gwHost("wp", 15008))), away("x", gwByIP, in("wp")), gateway},
			"127.0.0.2:80",
			"no_route: no valid routing destination for workload: Workload{x with uid x (HBONE)}",
		},

		// C, E
		{
			"gateway by address", nil,
			[]any{service("example.com", "/10.0.0.1"), away("w", gwByIP, in("example.com")), gateway},
			"10.0.0.1:80",
			"DoubleHBONE 10.22.1.1:15009 authority=example.com:80 workload=gateway service=example.com expected=gateway inner=san-example.com",
		},
		{
			"gateway by name of its service", nil,
			[]any{service("example.com", "/10.0.0.1"), away("w", gwHost("gw", 15009), in("example.com")), service("gw", "", ports(15009, 15008)), pod("g", at("127.0.0.5"), on("remote"), in("gw"))},
			"10.0.0.1:80",
			"DoubleHBONE 127.0.0.5:15008 authority=example.com:80 workload=g service=example.com expected=san-gw,g inner=san-example.com",
		},
		{
			"gateway by name, sandwiched without port", nil,
			[]any{service("example.com", "/10.0.0.1"), away("w", gwHost("gw", 15009), in("example.com")), service("gw", "", ports()), pod("g", at("127.0.0.5"), on("remote"), in("gw"), appTunnel(workload.AppTunnelProxy, 15088))},
			"10.0.0.1:80",
			`no_route: unknown network gateway: network gateway GatewayAddress { destination: Hostname(NamespacedHostname { namespace: "default", hostname: "gw" }), hbone_mtls_port: 15009 } not found`,
		},
		{
			"service without names", nil,
			[]any{service("example.com", "/10.0.0.1", noSANs), away("w", gwByIP, in("example.com")), gateway},
			"10.0.0.1:80",
			"DoubleHBONE 10.22.1.1:15009 authority=example.com:80 workload=gateway service=example.com expected=gateway",
		},
		{
			"gateway to resolve", nil,
			[]any{service("example.com", "/10.0.0.1"), away("w", gwHost("gw.example.com", 15008), in("example.com")), pod("g", on("remote"), named("gw.example.com"))},
			"10.0.0.1:80",
			"DoubleHBONE resolve=gw.example.com port=15008 authority=example.com:80 workload=g service=example.com expected=g inner=san-example.com",
		},
		{"no gateway and no address", nil, []any{service("example.com", "/10.0.0.1"), pod("w", on("remote"), in("example.com"))}, "10.0.0.1:80", "no_healthy_upstream: no healthy upstream: 10.0.0.1:80"},
		{
			"no gateway but an address", nil,
			[]any{service("example.com", "/10.0.0.1"), pod("w", at("127.0.0.2"), plain, on("remote"), in("example.com"))},
			"10.0.0.1:80",
			"no_route: no valid routing destination for workload: Workload{w with uid w (TCP)}",
		},
		{"unknown gateway name", nil, []any{service("example.com", "/10.0.0.1"), away("w", gwHost("nowhere", 1), in("example.com"))}, "10.0.0.1:80", "no_route: unknown network gateway: network gateway nowhere not found"},
		{
			"unknown gateway address", nil,
			[]any{service("example.com", "/10.0.0.1"), away("w", gwAddr("remote/10.96.0.250:15008"), in("example.com"))},
			"10.0.0.1:80",
			`no_route: unknown network gateway: network gateway GatewayAddress { destination: Address(NetworkAddress { network: "remote", address: 10.96.0.250 }), hbone_mtls_port: 15008 } not found`,
		},
		{"workload away that was not addressed by a service", source(on("remote")), []any{service("s", "remote/10.0.0.1"), pod("w", at("127.0.0.2"), in("s"))}, "10.0.0.1:80", "no_route: no service for target address: 10.0.0.1:80"},
		{
			"service waypoint on another network", nil,
			[]any{service("example.com", "/10.0.0.1", serviceVia(gwHost("wp", 15008))), service("wp", "", ports(15008, 15008)), away("x", gwByIP, in("wp")), gateway},
			"10.0.0.1:80",
			"DoubleHBONE 10.22.1.1:15009 authority=example.com:80 workload=gateway service=example.com expected=gateway inner=san-wp",
		},
		{
			"service waypoint by address of a workload on another network", nil,
			[]any{service("example.com", "/10.0.0.1", serviceVia(gwAddr("remote/10.5.5.5:15008"))), away("x", gwByIP, at("10.5.5.5")), gateway},
			"10.0.0.1:80",
			"DoubleHBONE 10.22.1.1:15009 authority=example.com:80 workload=gateway service=example.com expected=gateway",
		},
		{
			"failover to the network, healthy endpoint here", nil,
			[]any{service("example.com", "/10.0.0.1", balanced(workload.ModeFailover, workload.ScopeNetwork)), away("w", gwByIP, in("example.com")), gateway, pod("here", at("127.0.0.2"), in("example.com"))},
			"10.0.0.1:80",
			"HBONE 127.0.0.2:15008 authority=127.0.0.2:8080 workload=here service=example.com expected=san-example.com,here",
		},
		{
			"failover to the network, unhealthy endpoint here", nil,
			[]any{service("example.com", "/10.0.0.1", balanced(workload.ModeFailover, workload.ScopeNetwork)), away("w", gwByIP, in("example.com")), gateway, pod("here", at("127.0.0.2"), unhealthy, in("example.com"))},
			"10.0.0.1:80",
			"DoubleHBONE 10.22.1.1:15009 authority=example.com:80 workload=gateway service=example.com expected=gateway inner=san-example.com",
		},
		{
			"virtual address and endpoints on different networks", source(on("remote")),
			[]any{service("s", "/10.0.0.1 remote/10.0.0.1"), pod("w", at("127.0.0.2"), on("remote"), in("s"))},
			"10.0.0.1:80",
			"HBONE 127.0.0.2:15008 authority=127.0.0.2:8080 workload=w service=s expected=san-s,w",
		},
	} {
		t.Run(test.name, func(t *testing.T) {
			src := test.source
			if src == nil {
				src = source()
			}
			s := world(t, append([]any{src}, test.world...)...)
			r := &Request{Source: src, Client: netip.MustParseAddrPort("127.0.0.1:1234"), Target: netip.MustParseAddrPort(test.target)}
			for _, rnd := range []Rand{first{}, last{}} {
				if got := outcome(Pick(s, r, rnd)); got != test.want {
					t.Errorf("Pick(%s) = %s\nwant %s", test.target, got, test.want)
				}
			}
		})
	}
}

// Service ports are translated by the endpoint, else by the service.
func TestTargetPort(t *testing.T) {
	for _, test := range []struct {
		name     string
		service  []uint16
		endpoint []uint16
		opts     []func(*workload.Workload)
		want     string
	}{
		{"service", []uint16{80, 8080}, nil, nil, "TCP 127.0.0.2:8080"},
		{"endpoint before service", []uint16{80, 8080}, []uint16{80, 9090}, nil, "TCP 127.0.0.2:9090"},
		{"another port of the endpoint", []uint16{80, 8080}, []uint16{81, 9090}, nil, "TCP 127.0.0.2:8080"},
		{"named port", []uint16{80, 0}, []uint16{80, 1234}, nil, "TCP 127.0.0.2:1234"},
		{"named port that the endpoint lacks", []uint16{80, 0}, []uint16{81, 1234}, nil, "no_healthy_upstream: no healthy upstream: 10.0.0.1:80"},
		{"port 0 of the endpoint", []uint16{80, 8080}, []uint16{80, 0}, nil, "TCP 127.0.0.2:0"},
		{"application tunnel does not override", []uint16{80, 8080}, nil, []func(*workload.Workload){appTunnel(workload.AppTunnelProxy, 15088)}, "TCP 127.0.0.2:8080"},
	} {
		t.Run(test.name, func(t *testing.T) {
			src := source()
			s := world(t, src, service("s", "/10.0.0.1", ports(test.service...)), pod("w", append(test.opts, at("127.0.0.2"), plain, in("s", test.endpoint...))...))
			d, err := Pick(s, &Request{Source: src, Client: netip.MustParseAddrPort("127.0.0.1:1"), Target: netip.MustParseAddrPort("10.0.0.1:80")}, first{})
			got := outcome(Decision{Kind: d.Kind, Dial: d.Dial}, err)
			if got != test.want {
				t.Errorf("Pick = %s, want %s", got, test.want)
			}
		})
	}
}

// Of endpoints of a named port only those that have it take part.
func TestNamedPortLeavesOutEndpoints(t *testing.T) {
	src := source()
	s := world(t, src, service("s", "/10.0.0.1", ports(80, 0)), pod("has", at("127.0.0.2"), in("s", 80, 1234)), pod("lacks", at("127.0.0.3"), in("s", 81, 1234)))
	for _, rnd := range []Rand{first{}, last{}} {
		d, err := Pick(s, &Request{Source: src, Target: netip.MustParseAddrPort("10.0.0.1:80")}, rnd)
		if err != nil || d.Workload.UID != "has" {
			t.Errorf("Pick = %s, want the endpoint that has the port", outcome(d, err))
		}
	}
}

// The address of the endpoint: the one asked for, else the family asked for
// unless the service restricts it, else any.
func TestFamilies(t *testing.T) {
	const v4, v6 = "127.0.0.2", "ff06::2"
	for _, test := range []struct {
		name       string
		families   workload.IPFamilies
		addrs      []string
		over4      string
		over6      string
		atWorkload bool // by the addresses of the workload
	}{
		{"both, no restriction", workload.FamiliesAutomatic, []string{v6, v4}, v4, v6, false},
		{"both, dual", workload.FamiliesDual, []string{v4, v6}, v4, v6, false},
		{"both, IPv4 only", workload.FamiliesIPv4, []string{v6, v4}, v4, v4, false},
		{"both, IPv6 only", workload.FamiliesIPv6, []string{v4, v6}, v6, v6, false},
		{"IPv4, no restriction", workload.FamiliesAutomatic, []string{v4}, v4, v4, false},
		{"IPv6, no restriction", workload.FamiliesAutomatic, []string{v6}, v6, v6, false},
		{"several", workload.FamiliesAutomatic, []string{"127.0.0.9", v4, v6}, "127.0.0.9", v6, false},
		{"workload", workload.FamiliesAutomatic, []string{"127.0.0.9", v4, v6}, v4, v6, true},
	} {
		t.Run(test.name, func(t *testing.T) {
			src := source()
			s := world(t, src, service("s", "/10.0.0.1 /ff06::aa", families(test.families)), pod("w", at(test.addrs...), plain, in("s")))
			targets := []string{"10.0.0.1:80", "[ff06::aa]:80"}
			if test.atWorkload {
				targets = []string{v4 + ":80", "[" + v6 + "]:80"}
			}
			for i, want := range []string{test.over4, test.over6} {
				d, err := Pick(s, &Request{Source: src, Target: netip.MustParseAddrPort(targets[i])}, first{})
				if err != nil || d.Dial.Addr().String() != want {
					t.Errorf("Pick(%s) = %s, want %s", targets[i], outcome(d, err), want)
				}
			}
		})
	}
}

// A connection from a workload's waypoint goes to the workload; one from
// somebody else with the waypoint's identity, or from an address of the
// waypoint with another identity, goes to the waypoint.
func TestFromWaypoint(t *testing.T) {
	for name, g := range map[string]*workload.Gateway{
		"workload by address": gwAddr("/127.0.0.10:15008"), "workload by name": gwHost("wp-0", 15008),
		"service by address": gwAddr("/10.0.0.9:15008"), "service by name": gwHost("wp", 15008),
	} {
		for _, health := range []workload.Status{workload.Healthy, workload.Unhealthy} {
			t.Run(name+" "+health.String(), func(t *testing.T) {
				// An unhealthy waypoint still is one, for what it sends itself. Another one, healthy, is what others are sent to.
				waypoint := pod("wp", at("127.0.0.10", "ff06::10"), named("wp-0"), in("wp"), func(w *workload.Workload) { w.Status = health })
				spare := pod("spare", at("127.0.0.13"), account("wp"), in("wp"))
				namesake := pod("namesake", at("127.0.0.11"), account("wp"))
				stranger := pod("stranger", at("127.0.0.12"))
				s := world(t, waypoint, spare, namesake, stranger, service("wp", "/10.0.0.9", ports(15008, 15008)), pod("w", at("127.0.0.2"), via(g)))
				for _, test := range []struct {
					from   *workload.Workload
					client string
					direct bool
				}{
					{waypoint, "127.0.0.10:1", true},
					{waypoint, "[ff06::10]:1", true},
					{waypoint, "127.0.0.99:1", false},
					{namesake, "127.0.0.11:1", false},
					{stranger, "127.0.0.10:1", false},
					{stranger, "127.0.0.12:1", false},
				} {
					d, err := Pick(s, &Request{Source: test.from, Client: netip.MustParseAddrPort(test.client), Target: netip.MustParseAddrPort("127.0.0.2:80")}, first{})
					if direct := err == nil && d.Workload.UID == "w"; err != nil || direct != test.direct {
						t.Errorf("Pick from %s at %s = %s, want direct = %t", test.from.UID, test.client, outcome(d, err), test.direct)
					}
				}
			})
		}
	}
}

// A waypoint that is not known was not the one who calls.
func TestFromUnknownWaypoint(t *testing.T) {
	src := source()
	s := world(t, src, pod("w", at("127.0.0.2"), via(gwHost("nowhere", 15008))))
	d, err := Pick(s, &Request{Source: src, Client: netip.MustParseAddrPort("127.0.0.1:1"), Target: netip.MustParseAddrPort("127.0.0.2:80")}, first{})
	if want := "unknown_waypoint: unknown waypoint: waypoint nowhere not found"; outcome(d, err) != want {
		t.Errorf("Pick = %s, want %s", outcome(d, err), want)
	}
}

func TestResolve(t *testing.T) {
	addrs := func(list ...string) (out []netip.Addr) {
		for _, a := range list {
			out = append(out, netip.MustParseAddr(a))
		}
		return out
	}
	src := source()
	s := world(t, src, service("s", "/10.0.0.1 /ff06::aa"), pod("w", named("w.example.com"), in("s")),
		service("p", "/10.0.0.2", serviceVia(gwHost("wp.example.com", 15008))), pod("wp", named("wp.example.com")))
	for _, test := range []struct {
		name, target string
		answers      []netip.Addr
		rnd          Rand
		want         string
	}{
		{"first of the family", "10.0.0.1:80", addrs("ff06::1", "1.1.1.1", "2.2.2.2"), first{}, "HBONE 1.1.1.1:15008 authority=1.1.1.1:8080 workload=w service=s expected=san-s,w"},
		{"last of the family", "10.0.0.1:80", addrs("1.1.1.1", "2.2.2.2", "ff06::1"), last{}, "HBONE 2.2.2.2:15008 authority=2.2.2.2:8080 workload=w service=s expected=san-s,w"},
		{"mapped", "10.0.0.1:80", addrs("ff06::1", "::ffff:1.1.1.1"), first{}, "HBONE 1.1.1.1:15008 authority=1.1.1.1:8080 workload=w service=s expected=san-s,w"},
		{"IPv6", "[ff06::aa]:80", addrs("1.1.1.1", "ff06::1"), first{}, "HBONE [ff06::1]:15008 authority=[ff06::1]:8080 workload=w service=s expected=san-s,w"},
		{"only the other family", "[ff06::aa]:80", addrs("1.1.1.1", "2.2.2.2"), last{}, "HBONE 2.2.2.2:15008 authority=2.2.2.2:8080 workload=w service=s expected=san-s,w"},
		{"waypoint", "10.0.0.2:80", addrs("1.1.1.1"), first{}, "HBONE 1.1.1.1:15008 authority=10.0.0.2:80 workload=wp service=p expected=wp"},
		{"nothing", "10.0.0.1:80", nil, first{}, "unknown_host: ip addresses were resolved for workload w, but valid dns response had no A/AAAA records"},
	} {
		t.Run(test.name, func(t *testing.T) {
			d, err := Pick(s, &Request{Source: src, Target: netip.MustParseAddrPort(test.target)}, test.rnd)
			if err != nil || d.Hostname == "" {
				t.Fatalf("Pick = %s, want a name to resolve", outcome(d, err))
			}
			if got := outcome(d.Resolve(test.answers)); got != test.want {
				t.Errorf("Resolve = %s, want %s", got, test.want)
			}
			if got, want := outcome(Decision{}, d.Unresolved()), "unknown_host: no ip addresses were resolved for workload: "+d.Workload.UID; got != want {
				t.Errorf("Unresolved = %s, want %s", got, want)
			}
		})
	}
}

func TestExpectedKey(t *testing.T) {
	a, b := spiffe.ID{TrustDomain: "a"}, spiffe.ID{TrustDomain: "b"}
	keys := map[string]bool{}
	for _, ids := range [][]spiffe.ID{nil, {a}, {b}, {a, b}, {b, a}} {
		d := Decision{Expected: ids}
		keys[d.ExpectedKey()] = true
	}
	if len(keys) != 5 {
		t.Errorf("%d different keys, want 5: %v", len(keys), keys)
	}
}

func TestSelfCalls(t *testing.T) {
	illegal := []uint16{15001, 15006, 15008}
	for _, test := range []struct {
		target              string
		outbound, plaintext bool // refused
	}{
		{"127.0.0.1:15001", true, true},
		{"[::1]:15008", true, true},
		{"127.9.9.9:15006", true, true},
		{"0.0.0.0:15001", true, true},
		{"[::]:15001", true, true},
		{"10.0.0.1:15001", false, true},
		{"127.0.0.1:80", false, false},
		{"127.0.0.1:15080", false, false},
		{"10.0.0.1:80", false, false},
	} {
		target := netip.MustParseAddrPort(test.target)
		out, plain := CheckOutbound(target, illegal), CheckPlaintext(target, illegal)
		if (out != nil) != test.outbound || (plain != nil) != test.plaintext {
			t.Errorf("checks of %s = %v, %v, want refusals %t, %t", test.target, out, plain, test.outbound, test.plaintext)
		}
		if out != nil && outcome(Decision{}, out) != "self_call: attempted recursive call to ourselves" {
			t.Errorf("CheckOutbound(%s) = %s", test.target, outcome(Decision{}, out))
		}
		if plain != nil && (plain.Text != selfCall || plain.Reason != ReasonSelfCall) {
			t.Errorf("CheckPlaintext(%s) = %+v", test.target, plain)
		}
	}
}
