package route

import (
	"net/netip"
	"slices"
	"strconv"

	"ztunnel/proxy/spiffe"
	"ztunnel/proxy/workload"
)

// mode tells what an endpoint is wanted for.
type mode uint8

const (
	standardMode mode = iota // an application, or a network gateway
	waypointMode             // a waypoint, whose service need not have the port
)

// upstream is a workload that was found for an address or a name.
type upstream struct {
	workload *workload.Workload
	port     uint16
	service  *workload.Service // by which it was found; nil if by itself
	like     netip.Addr        // what was asked for: this address, or its family
}

// passthrough reports whether connections to a service go where they went.
func passthrough(svc *workload.Service) bool {
	return svc.LoadBalancer != nil && svc.LoadBalancer.Mode == workload.ModePassthrough
}

// find returns who is reached at an address: an endpoint of the service that
// has it, else the workload. ok is false if there is nobody to choose.
func (p *picker) find(network string, to netip.AddrPort, m mode) (up upstream, ok bool) {
	if svc := p.ServiceByVIP(network, to.Addr(), p.Source.Namespace, true); svc != nil {
		if passthrough(svc) {
			return upstream{}, false
		}
		return p.endpoint(svc, to.Port(), to.Addr(), m)
	}
	w := p.Workload(network, to.Addr())
	if w == nil {
		return upstream{}, false
	}
	return upstream{workload: w, port: to.Port(), like: to.Addr()}, true
}

// balance picks an endpoint for a port of a service.
func (p *picker) balance(svc *workload.Service, port uint16, m mode) (e workload.Endpoint, ok bool) {
	return p.Choose(svc, &workload.Wish{Source: p.Source, Port: port, Waypoint: m == waypointMode}, p.rnd)
}

// endpoint picks an endpoint for a port of a service and finds its own port.
func (p *picker) endpoint(svc *workload.Service, port uint16, like netip.Addr, m mode) (up upstream, ok bool) {
	e, ok := p.balance(svc, port, m)
	if !ok {
		return upstream{}, false
	}
	target, ok := targetPort(svc, &e, port)
	if !ok {
		return upstream{}, false
	}
	return upstream{workload: e.Workload, port: target, service: svc, like: like}, true
}

// targetPort translates a port of a service to the endpoint's: its own word,
// else the service's. A waypoint behind an application tunnel takes every port.
func targetPort(svc *workload.Service, e *workload.Endpoint, port uint16) (target uint16, ok bool) {
	if target, ok = e.Ports[port]; ok {
		return target, true
	}
	if target = svc.Ports[port]; target > 0 {
		return target, true
	}
	if t := e.Workload.ApplicationTunnel; t != nil && t.Port > 0 {
		return port, true
	}
	return 0, false
}

// addr chooses among the addresses of the workload: the one that was asked
// for, else the first of its family, else the first, both only of families
// that the service allows. ok is false if there is none.
func (u *upstream) addr() (addr netip.Addr, ok bool) {
	addrs := u.workload.Addrs
	if slices.Contains(addrs, u.like) {
		return u.like, true
	}
	families := workload.FamiliesAutomatic
	if u.service != nil {
		families = u.service.IPFamilies
	}
	for _, a := range addrs {
		if !allowed(families, a) {
			continue
		}
		if a.Is4() == u.like.Is4() {
			return a, true
		}
		if !ok {
			addr, ok = a, true
		}
	}
	return addr, ok
}

// allowed reports whether a service of these families may be reached at a.
func allowed(f workload.IPFamilies, a netip.Addr) bool {
	switch f {
	case workload.FamiliesIPv4:
		return a.Is4()
	case workload.FamiliesIPv6:
		return !a.Is4()
	}
	return true
}

// expected returns the identities of which the workload must have one: those
// that the service names, then its own.
func (u *upstream) expected() []spiffe.ID {
	if u.service == nil {
		return u.workload.Identities(nil)
	}
	return u.workload.Identities(u.service.SANs)
}

// hostPort joins a hostname, which has no colon, and a port.
func hostPort(host string, port uint16) string {
	b := make([]byte, 0, len(host)+6)
	b = append(append(b, host...), ':')
	return string(strconv.AppendUint(b, uint64(port), 10))
}
