package route

import (
	"math/rand/v2"
	"net/netip"
	"slices"
	"strings"

	"ztunnel/proxy/spiffe"
	"ztunnel/proxy/workload"
)

// HBONEPort is where the proxy of every workload takes HBONE connections.
const HBONEPort = 15008

// A Request is an outbound connection that wants a route.
type Request struct {
	Source *workload.Workload // the pod that the connection comes from
	Client netip.AddrPort     // the address that it comes from
	Target netip.AddrPort     // the original destination, canonical (no IPv4-mapped IPv6)
	// Network is that of this node. It tells whether Target is the address of a
	// service; endpoints are looked up in the network of Source.
	Network string
}

// A Kind is a way to carry a connection.
type Kind uint8

// The kinds of routes.
const (
	// Passthrough dials the original destination, of which nothing is known.
	Passthrough Kind = iota
	// TCP dials a known workload in plain text.
	TCP
	// HBONE dials the proxy of a workload, or a waypoint.
	HBONE
	// DoubleHBONE opens an HBONE connection through the network gateway.
	DoubleHBONE
)

// String returns the name of the kind.
func (k Kind) String() string {
	switch k {
	case Passthrough:
		return "Passthrough"
	case TCP:
		return "TCP"
	case HBONE:
		return "HBONE"
	case DoubleHBONE:
		return "DoubleHBONE"
	}
	return "Kind(?)"
}

// A Decision is a route. It is a value and refers to immutable records only.
type Decision struct {
	Kind Kind
	// Dial is the next hop. While Hostname is set, only its port is valid.
	Dial netip.AddrPort
	// Hostname is set if the next hop has no address and must be looked up in
	// the DNS; [Decision.Resolve] takes the answer.
	Hostname string
	// Authority is that of the CONNECT request, of both for DoubleHBONE; empty
	// in plain text and, for a workload with a Hostname, until it is resolved.
	Authority string
	// Expected are the identities of which the next hop must have one, the
	// service's first. Empty in plain text. Read-only.
	Expected []spiffe.ID
	// InnerExpected are the same for the far end of DoubleHBONE. If empty,
	// nobody is accepted there. Read-only.
	InnerExpected []spiffe.ID
	// Workload is who is dialled: the workload, the waypoint or the gateway;
	// nil if unknown.
	Workload *workload.Workload
	// Service is the one that the connection is accounted to; nil if none.
	Service *workload.Service

	like          netip.Addr // prefer its family when resolving
	authorityPort uint16     // of the authority of a workload with a Hostname
	rnd           Rand
}

// Rand is a source of random numbers. It must be safe for the use that its
// owner makes of it: concurrent if Pick is called concurrently.
type Rand = workload.Rand

// Random is the Rand for production: fast, safe for concurrent use, seeded by
// the runtime.
type Random struct{}

// Uint64N returns a number in [0, n).
func (Random) Uint64N(n uint64) uint64 { return rand.Uint64N(n) }

// Pick decides where an outbound connection goes. The error is an *Error.
// Alike requests may get different answers: the choice among endpoints and
// among weighted waypoints is random.
func Pick(s *workload.Store, r *Request, rnd Rand) (Decision, error) {
	p := picker{Store: s, Request: r, rnd: rnd}
	svc := p.addressedService()
	if svc != nil {
		if g := p.serviceWaypoint(svc); g != nil {
			return p.throughServiceWaypoint(svc, g)
		}
	}
	up, ok := p.find(r.Source.Network, r.Target, standardMode)
	switch {
	case !ok && svc != nil && !passthrough(svc):
		return Decision{}, noHealthyUpstream(r.Target)
	case !ok:
		return Decision{Kind: Passthrough, Dial: r.Target}, nil
	case up.workload.Network != r.Source.Network && svc == nil:
		return Decision{}, noService(r.Target)
	case up.workload.Network != r.Source.Network:
		return p.throughNetworkGateway(svc, up)
	}
	if g := up.workload.Waypoint; g != nil && svc == nil && !p.fromWaypoint(g) {
		return p.throughWorkloadWaypoint(g, up.service)
	}
	return p.direct(up)
}

// CheckOutbound refuses connections over the loopback interface to one of the
// proxy's own ports, which would come back to it forever.
func CheckOutbound(target netip.AddrPort, illegalPorts []uint16) error {
	local := target.Addr().IsLoopback() || target.Addr().IsUnspecified() // of which the kernel makes loopback
	if local && slices.Contains(illegalPorts, target.Port()) {
		return &Error{ReasonSelfCall, selfCall}
	}
	return nil
}

// picker is one run of Pick.
type picker struct {
	*workload.Store
	*Request
	rnd Rand
}

// addressedService returns the service whose virtual address the target is. An
// address that is also a workload's is the workload's.
func (p *picker) addressedService() *workload.Service {
	ip := p.Target.Addr()
	if p.Workload(p.Network, ip) != nil {
		return nil
	}
	return p.ServiceByVIP(p.Network, ip, p.Source.Namespace, true)
}

// throughServiceWaypoint goes to the waypoint of a service. The waypoint is
// told the virtual address, untranslated.
func (p *picker) throughServiceWaypoint(svc *workload.Service, g *workload.Gateway) (Decision, error) {
	up, err := p.gateway(g, waypointGateway)
	if err != nil {
		return Decision{}, err
	}
	if up.workload.Network != p.Source.Network {
		return p.throughNetworkGateway(svc, up)
	}
	return p.hop(up, Decision{Kind: HBONE, Authority: p.Target.String(), Service: svc})
}

// throughWorkloadWaypoint goes to the waypoint of a workload that was
// addressed directly.
func (p *picker) throughWorkloadWaypoint(g *workload.Gateway, svc *workload.Service) (Decision, error) {
	up, err := p.gateway(g, waypointGateway)
	if err != nil {
		return Decision{}, err
	}
	return p.hop(up, Decision{Kind: HBONE, Authority: p.Target.String(), Service: svc})
}

// throughNetworkGateway goes to the gateway of the network that next is in,
// and asks it for the service by name.
func (p *picker) throughNetworkGateway(svc *workload.Service, next upstream) (Decision, error) {
	g := next.workload.NetworkGateway
	if g == nil {
		return Decision{}, noValidDestination(next.workload)
	}
	up, err := p.gateway(g, networkGateway)
	if err != nil {
		return Decision{}, err
	}
	d := Decision{Kind: DoubleHBONE, Authority: hostPort(svc.Hostname, p.Target.Port()), Service: svc}
	if next.service != nil {
		d.InnerExpected = next.service.SANs
	}
	return p.hop(up, d)
}

// direct goes to the workload itself. Its proxy is told the address and port
// of the workload.
func (p *picker) direct(up upstream) (Decision, error) {
	d := Decision{Kind: TCP, Service: up.service}
	if up.workload.Protocol == workload.HBONE {
		d.Kind = HBONE
		d.authorityPort = up.port
		up.port = HBONEPort
	}
	return p.hop(up, d)
}

// hop completes d, which has everything but what depends on the next hop.
func (p *picker) hop(up upstream, d Decision) (Decision, error) {
	d.Workload = up.workload
	if d.Kind != TCP {
		d.Expected = up.expected()
	}
	addr, ok := up.addr()
	switch {
	case ok:
		d.reach(addr, up.port)
		return d, nil
	case up.workload.Hostname == "":
		return Decision{}, noValidDestination(up.workload)
	}
	d.Hostname = up.workload.Hostname
	d.Dial = netip.AddrPortFrom(netip.Addr{}, up.port)
	d.like, d.rnd = up.like, p.rnd
	return d, nil
}

// reach sets the address of the next hop.
func (d *Decision) reach(addr netip.Addr, port uint16) {
	d.Dial = netip.AddrPortFrom(addr, port)
	if d.authorityPort != 0 {
		d.Authority = netip.AddrPortFrom(addr, d.authorityPort).String()
	}
}

// Resolve returns the route with one of the addresses of its Hostname, a
// random one of the family that the client would have had, else any. The error
// is an *Error: there is none.
func (d Decision) Resolve(answers []netip.Addr) (Decision, error) {
	alike := 0
	for _, a := range answers {
		if a.Unmap().Is4() == d.like.Is4() {
			alike++
		}
	}
	n := alike
	if alike == 0 {
		n = len(answers)
	}
	if n == 0 {
		return Decision{}, &Error{ReasonUnknownHost, "ip addresses were resolved for workload " + d.Workload.UID + ", but valid dns response had no A/AAAA records"}
	}
	skip := d.rnd.Uint64N(uint64(n))
	for _, a := range answers {
		a = a.Unmap()
		if alike > 0 && a.Is4() != d.like.Is4() {
			continue
		}
		if skip == 0 {
			d.Hostname = ""
			d.reach(a, d.Dial.Port())
			break
		}
		skip--
	}
	return d, nil
}

// Unresolved returns the *Error of a route whose Hostname could not be looked
// up.
func (d *Decision) Unresolved() error {
	return &Error{ReasonUnknownHost, "no ip addresses were resolved for workload: " + d.Workload.UID}
}

// ExpectedKey returns the expected identities as one string, by which tunnels
// are shared. Each begins with its scheme on a line of its own.
func (d *Decision) ExpectedKey() string {
	if len(d.Expected) == 1 {
		return d.Expected[0].String()
	}
	var b strings.Builder
	for i, id := range d.Expected {
		if i > 0 {
			b.WriteByte('\n')
		}
		b.WriteString(id.String())
	}
	return b.String()
}
