package route

import (
	"fmt"
	"net/http"
	"net/netip"
	"slices"

	"ztunnel/proxy/workload"
)

// An InboundRequest is a CONNECT request that arrived at a pod.
type InboundRequest struct {
	Local *workload.Workload // the pod, or other workload, that is served
	// Destination is the address at which the tunnel arrived, canonical.
	Destination netip.AddrPort
	Authority   string // of the request, as received
	Network     string // of this node
	// IllegalPorts are the proxy's own, to which nobody is connected.
	IllegalPorts []uint16
}

// An InboundDecision is what a request means at this pod.
type InboundDecision struct {
	// Target is where the application is: always an address of the pod, with
	// the port after all translation. Policies are asked about it.
	Target netip.AddrPort
	// Tunnel says what to tell the application about where the client wanted
	// to go. It is zero unless the workload has an application tunnel.
	Tunnel Tunnel
	// Services are those that the client may have meant, see [GuessService].
	// Read-only.
	Services []*workload.Service
}

// A Tunnel is how a connection is handed to a workload that serves others,
// like a waypoint behind a proxy of its own.
type Tunnel struct {
	Protocol workload.AppTunnelProtocol
	Target   netip.AddrPort // what the client asked for
}

// An InboundError is the refusal of a request.
type InboundError struct {
	Code   int    // the HTTP status of the answer
	Reason string // one of the Reason constants
	Text   string // the text of the reference's log
}

// Error returns e.Text.
func (e *InboundError) Error() string { return e.Text }

// Status returns e.Code.
func (e *InboundError) Status() int { return e.Code }

// RejectReason returns e.Reason.
func (e *InboundError) RejectReason() string { return e.Reason }

// refuse makes the error of a request that cannot be served.
func refuse(reason, format string, args ...any) *InboundError {
	return &InboundError{http.StatusServiceUnavailable, reason, fmt.Sprintf(format, args...)}
}

// NoValidAuthority is the refusal of an authority that ParseAuthority does not
// take. It goes before all that needs to know the workload.
func NoValidAuthority(authority string) *InboundError {
	return &InboundError{http.StatusBadRequest, ReasonBadAuthority, "no valid authority pseudo header: " + authority}
}

// Inbound validates a CONNECT request and translates its authority. The error
// is nil or says how to refuse it. The checks are made in the order of the
// reference, of which the first that fails is reported.
func Inbound(s *workload.Store, r *InboundRequest) (InboundDecision, *InboundError) {
	a, ok := ParseAuthority(r.Authority)
	if !ok {
		return InboundDecision{}, NoValidAuthority(r.Authority)
	}
	var d InboundDecision
	var err *InboundError
	if a.Addr.IsValid() {
		d, err = r.toAddress(s, a)
	} else {
		d, err = r.toService(s, a)
	}
	if err != nil {
		return InboundDecision{}, err
	}
	if slices.Contains(r.IllegalPorts, d.Target.Port()) {
		return InboundDecision{}, refuse(ReasonSelfCall, selfCall)
	}
	if err := r.tunnel(a, &d); err != nil {
		return InboundDecision{}, err
	}
	return d, nil
}

// CheckPlaintext refuses redirected connections to one of the proxy's own
// ports, on whatever address.
func CheckPlaintext(target netip.AddrPort, illegalPorts []uint16) *InboundError {
	if slices.Contains(illegalPorts, target.Port()) {
		return refuse(ReasonSelfCall, selfCall)
	}
	return nil
}

// toAddress serves an address: the one at which the request arrived, or any
// that this workload is the waypoint of or tunnels for.
func (r *InboundRequest) toAddress(s *workload.Store, a Authority) (InboundDecision, *InboundError) {
	asked, here := a.Addr.Addr(), r.Destination.Addr()
	if asked != here && r.Local.ApplicationTunnel == nil && !r.waypointOf(s, asked) {
		return InboundDecision{}, &InboundError{http.StatusBadRequest, ReasonIPMismatch, fmt.Sprintf("ip mismatch: %s != %s", here, asked)}
	}
	return InboundDecision{Target: netip.AddrPortFrom(here, a.Addr.Port()), Services: s.ServicesOf(r.Local)}, nil
}

// toService serves a service by name at the port that this workload, or else
// the service, has for it. The workload need not be an endpoint: a network
// gateway is asked for the services behind it.
func (r *InboundRequest) toService(s *workload.Store, a Authority) (InboundDecision, *InboundError) {
	svc := s.ServiceByHostname(a.Host, r.Local.Namespace, true)
	if svc == nil {
		return InboundDecision{}, refuse(ReasonUnknownHost, "no service or workload for hostname: %s", a.Host)
	}
	port := endpointPort(s, svc, r.Local, a.Port)
	if port == 0 {
		return InboundDecision{}, refuse(ReasonUnknownHost, "requested service %s:%d found, but cannot resolve port", a.Host, a.Port)
	}
	return InboundDecision{Target: netip.AddrPortFrom(r.Destination.Addr(), port), Services: []*workload.Service{svc}}, nil
}

// endpointPort translates a port of a service to that of a workload: by its
// own word, else the service's. It is 0 if neither tells.
func endpointPort(s *workload.Store, svc *workload.Service, w *workload.Workload, port uint16) uint16 {
	ports, _ := s.PortsOf(w, svc)
	if target, ok := ports[port]; ok {
		return target
	}
	return svc.Ports[port]
}

// waypointOf reports whether the local workload is the waypoint of whoever has
// the address. A service may have several waypoints.
func (r *InboundRequest) waypointOf(s *workload.Store, addr netip.Addr) bool {
	svc, w := byAddress(s, r.Network, addr)
	switch {
	case w != nil:
		return w.Waypoint != nil && r.isGateway(s, w.Waypoint)
	case svc == nil:
		return false
	case svc.Waypoint != nil && r.isGateway(s, svc.Waypoint):
		return true
	}
	for i := range svc.WeightedWaypoints {
		if r.isGateway(s, &svc.WeightedWaypoints[i].Gateway) {
			return true
		}
	}
	return false
}

// isGateway reports whether g refers to the local workload: by an address at
// which the request arrived, or as an endpoint of a service.
func (r *InboundRequest) isGateway(s *workload.Store, g *workload.Gateway) bool {
	svc, w := behind(s, g)
	if w != nil {
		return slices.Contains(w.Addrs, r.Destination.Addr())
	}
	return svc != nil && member(s, svc, r.Local)
}

// tunnel applies the workload's application tunnel, if it has one: its port,
// and what the client asked for in terms that the tunnel can express.
func (r *InboundRequest) tunnel(a Authority, d *InboundDecision) *InboundError {
	t := r.Local.ApplicationTunnel
	if t == nil {
		return nil
	}
	asked := a.Addr
	if !asked.IsValid() {
		vip, ok := bestVIP(d.Services[0], r.Network)
		if !ok {
			return refuse(ReasonNoRoute, "requested service %s found, but has no IP addresses", a.Host)
		}
		asked = netip.AddrPortFrom(vip, a.Port)
	}
	if t.Port != 0 {
		d.Target = netip.AddrPortFrom(d.Target.Addr(), t.Port)
	}
	d.Tunnel = Tunnel{Protocol: t.Protocol, Target: asked}
	return nil
}

// bestVIP returns the address of a service that is shown to applications: one
// of our own network before others, IPv4 before IPv6, the last of equals.
func bestVIP(svc *workload.Service, network string) (best netip.Addr, ok bool) {
	bestRank := -1
	for _, vip := range svc.VIPs {
		rank := 0
		if vip.Network == network {
			rank = 1
			if vip.Addr.Is4() {
				rank = 2
			}
		}
		if rank >= bestRank {
			best, bestRank = vip.Addr, rank
		}
	}
	return best, bestRank >= 0
}

// GuessService returns which of several services of a workload the client
// meant: the one that it named as host, else the first that has port as a
// target port. It returns nil if none does. It is for telemetry only: host is
// the client's claim.
func GuessService(s *workload.Store, local *workload.Workload, candidates []*workload.Service, host string, port uint16) *workload.Service {
	if host != "" {
		for _, svc := range candidates {
			if svc.Hostname == host {
				return svc
			}
		}
	}
	for _, svc := range candidates {
		if hasTarget(svc.Ports, port) {
			return svc
		}
		if own, _ := s.PortsOf(local, svc); hasTarget(own, port) {
			return svc
		}
	}
	return nil
}

// hasTarget reports whether any port stands for this one.
func hasTarget(ports workload.PortMap, port uint16) bool {
	for _, target := range ports {
		if target == port {
			return true
		}
	}
	return false
}
