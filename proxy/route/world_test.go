package route

import (
	"errors"
	"fmt"
	"net/netip"
	"strings"
	"testing"

	"ztunnel/proxy/spiffe"
	"ztunnel/proxy/workload"
)

// first is the Rand that always takes what comes first.
type first struct{}

func (first) Uint64N(uint64) uint64 { return 0 }

// last is the Rand that always takes what comes last.
type last struct{}

func (last) Uint64N(n uint64) uint64 { return n - 1 }

// world puts workloads and services into a store. Workloads get capacity 1
// unless they are of the type weightless.
func world(t testing.TB, items ...any) *workload.Store {
	t.Helper()
	s := workload.NewStore(workload.Config{})
	var u workload.Update
	for _, item := range items {
		switch i := item.(type) {
		case *workload.Workload:
			if i.Capacity == 0 {
				i.Capacity = 1
			}
			u.Workloads = append(u.Workloads, i)
		case weightless:
			u.Workloads = append(u.Workloads, i.Workload)
		case *workload.Service:
			u.Services = append(u.Services, i)
		default:
			t.Fatalf("world: %T", item)
		}
	}
	s.Apply(u)
	return s
}

// weightless is a workload of capacity 0.
type weightless struct{ *workload.Workload }

// pod is a captured workload of the namespace "default" with its name as UID
// and service account.
func pod(name string, opts ...func(*workload.Workload)) *workload.Workload {
	w := &workload.Workload{
		UID: name, Name: name, Namespace: "default", TrustDomain: "td", ServiceAccount: name,
		Protocol: workload.HBONE, Services: map[workload.NamespacedHostname]workload.PortMap{},
	}
	for _, o := range opts {
		o(w)
	}
	return w
}

func at(addrs ...string) func(*workload.Workload) {
	return func(w *workload.Workload) {
		for _, a := range addrs {
			w.Addrs = append(w.Addrs, netip.MustParseAddr(a))
		}
	}
}

// in makes a workload an endpoint, with pairs of ports.
func in(hostname string, ports ...uint16) func(*workload.Workload) {
	return func(w *workload.Workload) {
		w.Services[workload.NamespacedHostname{Namespace: "default", Hostname: hostname}] = portMap(ports)
	}
}

func portMap(pairs []uint16) workload.PortMap {
	m := workload.PortMap{}
	for i := 0; i < len(pairs); i += 2 {
		m[pairs[i]] = pairs[i+1]
	}
	return m
}

func plain(w *workload.Workload)     { w.Protocol = workload.TCP }
func unhealthy(w *workload.Workload) { w.Status = workload.Unhealthy }
func onHost(w *workload.Workload)    { w.NetworkMode = workload.HostNetwork }

func on(network string) func(*workload.Workload) {
	return func(w *workload.Workload) { w.Network = network }
}

func named(hostname string) func(*workload.Workload) {
	return func(w *workload.Workload) { w.Hostname = hostname }
}

func account(name string) func(*workload.Workload) {
	return func(w *workload.Workload) { w.ServiceAccount = name }
}

func via(g *workload.Gateway) func(*workload.Workload) {
	return func(w *workload.Workload) { w.Waypoint = g }
}

func behindGateway(g *workload.Gateway) func(*workload.Workload) {
	return func(w *workload.Workload) { w.NetworkGateway = g }
}

func appTunnel(p workload.AppTunnelProtocol, port uint16) func(*workload.Workload) {
	return func(w *workload.Workload) {
		w.ApplicationTunnel = &workload.ApplicationTunnel{Protocol: p, Port: port}
	}
}

func locality(region, zone, subzone string) func(*workload.Workload) {
	return func(w *workload.Workload) {
		w.Locality = workload.Locality{Region: region, Zone: zone, Subzone: subzone}
	}
}

// service is a service of the namespace "default".
func service(hostname, vips string, opts ...func(*workload.Service)) *workload.Service {
	s := &workload.Service{
		Name: hostname, Namespace: "default", Hostname: hostname, Ports: workload.PortMap{80: 8080},
		SubjectAltNames: []string{"spiffe://td/ns/default/sa/san-" + hostname}, Canonical: true,
		SANs: []spiffe.ID{{TrustDomain: "td", Namespace: "default", ServiceAccount: "san-" + hostname}},
	}
	for v := range strings.FieldsSeq(vips) {
		network, ip, _ := strings.Cut(v, "/")
		s.VIPs = append(s.VIPs, workload.NetworkAddress{Network: network, Addr: netip.MustParseAddr(ip)})
	}
	for _, o := range opts {
		o(s)
	}
	return s
}

func ports(pairs ...uint16) func(*workload.Service) {
	return func(s *workload.Service) { s.Ports = portMap(pairs) }
}

func serviceVia(g *workload.Gateway) func(*workload.Service) {
	return func(s *workload.Service) { s.Waypoint = g }
}

func weighted(pairs ...any) func(*workload.Service) {
	return func(s *workload.Service) {
		for i := 0; i < len(pairs); i += 2 {
			s.WeightedWaypoints = append(s.WeightedWaypoints, workload.WeightedWaypoint{Gateway: *pairs[i].(*workload.Gateway), Weight: uint32(pairs[i+1].(int))})
		}
	}
}

func balanced(m workload.Mode, scopes ...workload.Scope) func(*workload.Service) {
	return func(s *workload.Service) { s.LoadBalancer = &workload.LoadBalancer{Mode: m, Preferences: scopes} }
}

func families(f workload.IPFamilies) func(*workload.Service) {
	return func(s *workload.Service) { s.IPFamilies = f }
}

func cidr(prefix string) func(*workload.Service) {
	return func(s *workload.Service) {
		s.CIDRVIPs = append(s.CIDRVIPs, workload.CIDRVIP{Prefix: netip.MustParsePrefix(prefix)})
	}
}

func noSANs(s *workload.Service) { s.SubjectAltNames, s.SANs = nil, nil }

// gwAddr refers to a gateway by "network/ip:port".
func gwAddr(ref string) *workload.Gateway {
	network, addr, _ := strings.Cut(ref, "/")
	ap := netip.MustParseAddrPort(addr)
	return &workload.Gateway{Address: workload.NetworkAddress{Network: network, Addr: ap.Addr()}, Port: ap.Port()}
}

// gwHost refers to a gateway by name.
func gwHost(hostname string, port uint16) *workload.Gateway {
	return &workload.Gateway{Hostname: workload.NamespacedHostname{Namespace: "default", Hostname: hostname}, Port: port}
}

// describe renders a decision on one line, without what is not set.
func describe(d Decision) string {
	parts := []string{d.Kind.String()}
	if d.Hostname != "" {
		parts = append(parts, "resolve="+d.Hostname, fmt.Sprint("port=", d.Dial.Port()))
	} else {
		parts = append(parts, d.Dial.String())
	}
	if d.Authority != "" {
		parts = append(parts, "authority="+d.Authority)
	}
	if d.Workload != nil {
		parts = append(parts, "workload="+d.Workload.UID)
	}
	if d.Service != nil {
		parts = append(parts, "service="+d.Service.Hostname)
	}
	if len(d.Expected) > 0 {
		parts = append(parts, "expected="+accounts(d.Expected))
	}
	if len(d.InnerExpected) > 0 {
		parts = append(parts, "inner="+accounts(d.InnerExpected))
	}
	return strings.Join(parts, " ")
}

func accounts(ids []spiffe.ID) string {
	var names []string
	for _, id := range ids {
		names = append(names, id.ServiceAccount)
	}
	return strings.Join(names, ",")
}

// outcome is a decision or an error with its reason.
func outcome(d Decision, err error) string {
	if err == nil {
		return describe(d)
	}
	e, ok := errors.AsType[*Error](err)
	if !ok {
		return fmt.Sprintf("error of type %T", err)
	}
	return e.Reason + ": " + e.Error()
}
