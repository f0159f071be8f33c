package route

import (
	"net/netip"
	"slices"

	"ztunnel/proxy/workload"
)

// gatewayKind is what a workload.Gateway stands for.
type gatewayKind uint8

const (
	waypointGateway gatewayKind = iota
	networkGateway
)

// mode is how endpoints of the gateway's own service are chosen.
func (k gatewayKind) mode() mode {
	if k == waypointGateway {
		return waypointMode
	}
	return standardMode
}

// serviceWaypoint returns the waypoint of a service for one connection: one of
// the weighted ones, else the single one; nil if there is none. Weights whose
// sum exceeds 32 bits do not count, as in the reference.
func (p *picker) serviceWaypoint(svc *workload.Service) *workload.Gateway {
	var total uint64
	for i := range svc.WeightedWaypoints {
		total += uint64(svc.WeightedWaypoints[i].Weight)
	}
	if total == 0 || total > 1<<32-1 {
		return svc.Waypoint
	}
	at := p.rnd.Uint64N(total)
	for i := range svc.WeightedWaypoints {
		w := &svc.WeightedWaypoints[i]
		if at < uint64(w.Weight) {
			return &w.Gateway
		}
		at -= uint64(w.Weight)
	}
	return svc.Waypoint // not reached: the weights add up to total
}

// gateway finds who is behind the reference to a waypoint or network gateway.
// A reference by address is served in the family of that address, one by name
// in that of the connection.
func (p *picker) gateway(g *workload.Gateway, k gatewayKind) (upstream, error) {
	var up upstream
	var ok bool
	if !g.IsHostname() {
		up, ok = p.find(g.Address.Network, netip.AddrPortFrom(g.Address.Addr, g.Port), k.mode())
	} else if svc := p.Service(g.Hostname); svc != nil {
		up, ok = p.endpoint(svc, g.Port, p.Target.Addr(), k.mode())
	} else if w := p.WorkloadByHostname(g.Hostname); w != nil {
		up, ok = upstream{workload: w, port: g.Port, like: p.Target.Addr()}, true
	} else {
		return upstream{}, k.notFound(g, true)
	}
	if !ok {
		return upstream{}, k.notFound(g, false)
	}
	return up, nil
}

// fromWaypoint reports whether the connection comes from the waypoint g. Its
// identity alone does not tell: others may run as the same service account.
func (p *picker) fromWaypoint(g *workload.Gateway) bool {
	svc, w := behind(p.Store, g)
	switch {
	case w != nil:
		return p.is(w)
	case svc == nil:
		return false
	case p.is(p.Source) && member(p.Store, svc, p.Source):
		return true
	}
	return slices.ContainsFunc(p.Endpoints(svc), func(e workload.Endpoint) bool { return p.is(e.Workload) })
}

// is reports whether the connection comes from w.
func (p *picker) is(w *workload.Workload) bool {
	return w.Identity() == p.Source.Identity() && slices.Contains(w.Addrs, p.Client.Addr())
}

// behind returns what a reference names: a workload or a service, or neither.
// Of an address that both have it is the workload.
func behind(s *workload.Store, g *workload.Gateway) (*workload.Service, *workload.Workload) {
	if g.IsHostname() {
		if svc := s.Service(g.Hostname); svc != nil {
			return svc, nil
		}
		return nil, s.WorkloadByHostname(g.Hostname)
	}
	return byAddress(s, g.Address.Network, g.Address.Addr)
}

// byAddress returns the workload with an address, else the service.
func byAddress(s *workload.Store, network string, addr netip.Addr) (*workload.Service, *workload.Workload) {
	if w := s.Workload(network, addr); w != nil {
		return nil, w
	}
	return s.ServiceByVIP(network, addr, "", false), nil
}

// member reports whether a workload is an endpoint of a service, healthy or
// not: a waypoint that is going away still serves what reaches it.
func member(s *workload.Store, svc *workload.Service, w *workload.Workload) bool {
	_, ok := s.PortsOf(w, svc)
	return ok
}
