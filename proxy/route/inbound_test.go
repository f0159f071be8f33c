package route

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"ztunnel/proxy/workload"
	"ztunnel/telemetry/connection"
)

// The metric has a reason of its own for each of ours.
func TestReasons(t *testing.T) {
	for _, reason := range []string{
		ReasonBadAuthority, ReasonIPMismatch, ReasonUnknownHost, ReasonNoHealthyUpstream, ReasonNoRoute, ReasonUnknownWaypoint, ReasonSelfCall,
	} {
		if !slices.Contains(connection.Reasons(), connection.Reason(reason)) {
			t.Errorf("reason %q is not one of %q", reason, connection.Reasons())
		}
	}
}

// describeInbound renders a decision on one line.
func describeInbound(d InboundDecision, err *InboundError) string {
	if err != nil {
		return fmt.Sprintf("%d %s: %s", err.Status(), err.RejectReason(), err)
	}
	parts := []string{d.Target.String()}
	if d.Tunnel != (Tunnel{}) {
		parts = append(parts, d.Tunnel.Protocol.String()+" "+d.Tunnel.Target.String())
	}
	for _, s := range d.Services {
		parts = append(parts, "service="+s.Hostname)
	}
	return strings.Join(parts, " ")
}

// What a request means at the pod it arrives at, and how it is refused. The
// client is 10.0.0.1, the server 10.0.0.2 with the service "server" at
// 10.10.0.1, the waypoint 10.0.0.3 with the service "waypoint" at 10.10.0.2.
func TestInbound(t *testing.T) {
	const server, waypoint = "10.0.0.2:15008", "10.0.0.3:15008"
	none, proxyProtocol := workload.AppTunnelNone, workload.AppTunnelProxy
	tunnel := func(p workload.AppTunnelProtocol, port uint16) *workload.ApplicationTunnel {
		return &workload.ApplicationTunnel{Protocol: p, Port: port}
	}
	mismatch := func(conn, authority string) string {
		return fmt.Sprintf("400 ip_mismatch: ip mismatch: %s != %s", conn, authority)
	}
	references := map[string]*workload.Gateway{
		"pod address": gwAddr("/10.0.0.3:15008"), "service address": gwAddr("/10.10.0.2:15008"), "service name": gwHost("waypoint", 15008), "pod name": gwHost("waypoint-0", 15008),
	}
	type scene struct {
		workload *workload.Gateway           // waypoint of the server
		service  *workload.Gateway           // of the server's service
		canary   *workload.Gateway           // one of the service's weighted waypoints
		tunnel   *workload.ApplicationTunnel // of the waypoint
	}
	type row struct {
		name      string
		scene     scene
		dst       string
		authority string
		want      string
	}
	rows := []row{
		{"own address", scene{}, server, "10.0.0.2:8080", "10.0.0.2:8080 service=server"},
		{"own address, odd port", scene{}, server, "10.0.0.2:07000", "10.0.0.2:7000 service=server"},
		{"own address, other family", scene{}, server, "[fd00::2]:8080", mismatch("10.0.0.2", "fd00::2")},
		{"own address of the other family", scene{}, "[fd00::2]:15008", "[fd00::2]:8080", "[fd00::2]:8080 service=server"},
		{"own address, mapped", scene{}, server, "[::ffff:10.0.0.2]:8080", mismatch("10.0.0.2", "::ffff:10.0.0.2")},
		{"the client", scene{}, server, "10.0.0.1:8080", mismatch("10.0.0.2", "10.0.0.1")},
		{"the loopback interface", scene{}, server, "127.0.0.1:15000", mismatch("10.0.0.2", "127.0.0.1")},
		{"the unspecified address", scene{}, server, "0.0.0.0:80", mismatch("10.0.0.2", "0.0.0.0")},
		{"nobody", scene{}, server, "10.9.9.9:80", mismatch("10.0.0.2", "10.9.9.9")},
		{"address of the service", scene{}, server, "10.10.0.1:80", mismatch("10.0.0.2", "10.10.0.1")},
		{"mismatch before illegal port", scene{}, server, "10.0.0.1:15008", mismatch("10.0.0.2", "10.0.0.1")},
		{"illegal port", scene{}, server, "10.0.0.2:15008", "503 self_call: attempted recursive call to ourselves"},

		{"name", scene{}, server, "server:80", "10.0.0.2:8080 service=server"},
		{"name, port of the endpoint", scene{}, server, "server:81", "10.0.0.2:8081 service=server"},
		{"name, named port without number", scene{}, server, "server:82", "503 unknown_host: requested service server:82 found, but cannot resolve port"},
		{"name, port that the service lacks", scene{}, server, "server:9", "503 unknown_host: requested service server:9 found, but cannot resolve port"},
		{"name, port that leads to the proxy", scene{}, server, "server:83", "503 self_call: attempted recursive call to ourselves"},
		{"name of a service of others", scene{}, server, "elsewhere:80", "10.0.0.2:8080 service=elsewhere"},
		{"name of an invisible service", scene{}, server, "invisible:80", "503 unknown_host: no service or workload for hostname: invisible"},
		{"name in other case", scene{}, server, "Server:80", "503 unknown_host: no service or workload for hostname: Server"},
		{"unknown name", scene{}, server, "nowhere:80", "503 unknown_host: no service or workload for hostname: nowhere"},
		{"user at an address", scene{}, server, "user@10.0.0.2:80", "503 unknown_host: no service or workload for hostname: 10.0.0.2"},
		{"IPv4 in brackets", scene{}, server, "[10.0.0.2]:80", "503 unknown_host: no service or workload for hostname: [10.0.0.2]"},
		{"no host", scene{}, server, ":80", "503 unknown_host: no service or workload for hostname: "},
		{"no port", scene{}, server, "10.0.0.2", "400 bad_authority: no valid authority pseudo header: 10.0.0.2"},
		{"nothing", scene{}, server, "", "400 bad_authority: no valid authority pseudo header: "},
		{"too large a port", scene{}, server, "10.0.0.2:65536", "400 bad_authority: no valid authority pseudo header: 10.0.0.2:65536"},

		{"waypoint: itself", scene{}, waypoint, "10.0.0.3:80", "10.0.0.3:80 service=waypoint"},
		{"waypoint: the client", scene{}, waypoint, "10.0.0.1:8080", mismatch("10.0.0.3", "10.0.0.1")},
		{"waypoint: a workload without one", scene{}, waypoint, "10.0.0.2:8080", mismatch("10.0.0.3", "10.0.0.2")},
		{"waypoint: address of its own service", scene{}, waypoint, "10.10.0.2:80", mismatch("10.0.0.3", "10.10.0.2")},
		{"waypoint: unknown reference", scene{workload: gwHost("nowhere", 15008)}, waypoint, "10.0.0.2:8080", mismatch("10.0.0.3", "10.0.0.2")},
		{"waypoint: somebody else's, by address", scene{workload: gwAddr("/10.0.0.1:15008")}, waypoint, "10.0.0.2:8080", mismatch("10.0.0.3", "10.0.0.2")},
		{"waypoint: somebody else's, by name", scene{workload: gwHost("elsewhere", 15008)}, waypoint, "10.0.0.2:8080", mismatch("10.0.0.3", "10.0.0.2")},
		{"waypoint: the canary of a service", scene{service: gwAddr("/10.0.0.1:15008"), canary: references["service name"]}, waypoint, "10.10.0.1:8080", "10.0.0.3:8080 service=waypoint"},
		{"waypoint: illegal port", scene{workload: references["pod address"]}, waypoint, "10.0.0.2:15006", "503 self_call: attempted recursive call to ourselves"},

		{"tunnel for anybody", scene{tunnel: tunnel(none, 0)}, waypoint, "10.9.9.9:99", "10.0.0.3:99 NONE 10.9.9.9:99 service=waypoint"},
		{"tunnel at a port", scene{tunnel: tunnel(none, 15088)}, waypoint, "10.9.9.9:99", "10.0.0.3:15088 NONE 10.9.9.9:99 service=waypoint"},
		{"tunnel of the PROXY protocol", scene{tunnel: tunnel(proxyProtocol, 15088)}, waypoint, "10.9.9.9:99", "10.0.0.3:15088 PROXY 10.9.9.9:99 service=waypoint"},
		{"tunnel of the PROXY protocol without a port", scene{tunnel: tunnel(proxyProtocol, 0)}, waypoint, "10.9.9.9:99", "10.0.0.3:99 PROXY 10.9.9.9:99 service=waypoint"},
		{"tunnel for a name", scene{tunnel: tunnel(proxyProtocol, 15088)}, waypoint, "server:80", "10.0.0.3:15088 PROXY 10.10.0.1:80 service=server"},
		{"tunnel for a name without address", scene{tunnel: tunnel(proxyProtocol, 15088)}, waypoint, "headless:80", "503 no_route: requested service headless found, but has no IP addresses"},
		{"tunnel for a name without port", scene{tunnel: tunnel(proxyProtocol, 15088)}, waypoint, "server:9", "503 unknown_host: requested service server:9 found, but cannot resolve port"},
		{"tunnel: illegal port of the target", scene{tunnel: tunnel(proxyProtocol, 15088)}, waypoint, "10.9.9.9:15008", "503 self_call: attempted recursive call to ourselves"},
		{"tunnel at an illegal port", scene{tunnel: tunnel(none, 15006)}, waypoint, "10.9.9.9:80", "10.0.0.3:15006 NONE 10.9.9.9:80 service=waypoint"},
	}
	for name, g := range references {
		rows = append(rows,
			row{"waypoint of the workload by " + name, scene{workload: g}, waypoint, "10.0.0.2:8080", "10.0.0.3:8080 service=waypoint"},
			row{"waypoint of the workload, IPv6, by " + name, scene{workload: g}, waypoint, "[fd00::2]:8080", "10.0.0.3:8080 service=waypoint"},
			row{"waypoint of the service by " + name, scene{service: g}, waypoint, "10.10.0.1:8080", "10.0.0.3:8080 service=waypoint"},
			row{"waypoint of the service, for the workload, by " + name, scene{service: g}, waypoint, "10.0.0.2:8080", mismatch("10.0.0.3", "10.0.0.2")},
			row{"waypoint of the workload, for the service, by " + name, scene{workload: g}, waypoint, "10.10.0.1:8080", mismatch("10.0.0.3", "10.10.0.1")},
			row{"waypoint of the workload with PROXY by " + name, scene{workload: g, tunnel: tunnel(proxyProtocol, 15088)}, waypoint, "10.0.0.2:8080", "10.0.0.3:15088 PROXY 10.0.0.2:8080 service=waypoint"},
			row{"waypoint of the service with PROXY by " + name, scene{service: g, tunnel: tunnel(proxyProtocol, 15088)}, waypoint, "10.10.0.1:8080", "10.0.0.3:15088 PROXY 10.10.0.1:8080 service=waypoint"},
		)
	}
	for _, test := range rows {
		t.Run(test.name, func(t *testing.T) {
			locals := map[string]*workload.Workload{
				"10.0.0.2": pod("server", at("10.0.0.2", "fd00::2"), in("server", 81, 8081), via(test.scene.workload)),
				// A waypoint that is going away serves what still reaches it.
				"10.0.0.3": pod("waypoint", at("10.0.0.3"), named("waypoint-0"), in("waypoint"), unhealthy, func(w *workload.Workload) { w.ApplicationTunnel = test.scene.tunnel }),
			}
			locals["fd00::2"] = locals["10.0.0.2"]
			svc := service("server", "/10.10.0.1", ports(80, 8080, 81, 0, 82, 0, 83, 15008), serviceVia(test.scene.service))
			if test.scene.canary != nil {
				weighted(gwAddr("/10.0.0.1:15008"), 99, test.scene.canary, 1)(svc)
			}
			s := world(t, pod("client", at("10.0.0.1")), locals["10.0.0.2"], locals["10.0.0.3"], svc, service("waypoint", "/10.10.0.2", ports(15008, 15008)),
				service("elsewhere", "/10.10.0.9"), service("headless", ""),
				service("invisible", "", func(s *workload.Service) { s.Namespace, s.Visibility = "other", workload.VisibilityNamespace }))
			dst := netip.MustParseAddrPort(test.dst)
			r := &InboundRequest{Local: locals[dst.Addr().String()], Destination: dst, Authority: test.authority, IllegalPorts: []uint16{15001, 15006, 15008}}
			if got := describeInbound(Inbound(s, r)); got != test.want {
				t.Errorf("Inbound(%s to %s) = %s\nwant %s", test.authority, test.dst, got, test.want)
			}
		})
	}
}

// A mapping that an endpoint given with its service has counts like one that
// the workload declares.
func TestInboundPortOfStaticEndpoint(t *testing.T) {
	s := workload.NewStore(workload.Config{})
	local := pod("w", at("10.0.0.2"))
	svc := service("s", "", ports(80, 0))
	s.Replace([]*workload.Workload{local}, []*workload.Service{svc}, map[workload.NamespacedHostname][]workload.StaticEndpoint{
		svc.Key(): {{Key: "w", WorkloadUID: "w", Ports: workload.PortMap{80: 7070}}},
	})
	d, err := Inbound(s, &InboundRequest{Local: local, Destination: netip.MustParseAddrPort("10.0.0.2:15008"), Authority: "s:80"})
	if err != nil || d.Target.Port() != 7070 {
		t.Errorf("Inbound = %s, want port 7070", describeInbound(d, err))
	}
}

func TestBestVIP(t *testing.T) {
	for _, test := range []struct{ vips, want string }{
		{"", ""},
		{"other/1.1.1.1 fd00::1", "fd00::1"},
		{"n/1.1.1.1 n/2.2.2.2", "2.2.2.2"},
		{"n/1.1.1.1 n/fd00::1 other/3.3.3.3", "1.1.1.1"},
		{"n/fd00::1 other/3.3.3.3", "fd00::1"},
		{"other/3.3.3.3 other/fd00::3", "fd00::3"},
	} {
		svc := &workload.Service{}
		for v := range strings.FieldsSeq(test.vips) {
			network, ip, ok := strings.Cut(v, "/")
			if !ok {
				network, ip = "n", network
			}
			svc.VIPs = append(svc.VIPs, workload.NetworkAddress{Network: network, Addr: netip.MustParseAddr(ip)})
		}
		got := ""
		if addr, ok := bestVIP(svc, "n"); ok {
			got = addr.String()
		}
		if got != test.want {
			t.Errorf("bestVIP(%s) = %q, want %q", test.vips, got, test.want)
		}
	}
}

func TestGuessService(t *testing.T) {
	local := pod("w", at("10.0.0.2"), in("a"), in("b", 81, 9090), in("c"))
	a, b, c := service("a", "", ports(80, 8080)), service("b", "", ports(81, 0)), service("c", "", ports(80, 8080, 82, 7000))
	s := world(t, local, a, b, c)
	all := []*workload.Service{a, b, c}
	for _, test := range []struct {
		name       string
		candidates []*workload.Service
		host       string
		port       uint16
		want       *workload.Service
	}{
		{"by host", all, "c", 8080, c},
		{"by host whatever the port", all, "c", 1, c},
		{"by port", all, "", 8080, a},
		{"by port if the host is none of them", all, "x", 8080, a},
		{"by port of the endpoint", all, "", 9090, b},
		{"by another port", all, "", 7000, c},
		{"no such port", all, "", 1, nil},
		{"no candidate", nil, "c", 8080, nil},
		{"a service port is no target", all, "", 82, nil},
	} {
		if got := GuessService(s, local, test.candidates, test.host, test.port); got != test.want {
			t.Errorf("%s: GuessService = %v, want %v", test.name, got, test.want)
		}
	}
}
