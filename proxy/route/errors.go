package route

import (
	"fmt"
	"net/netip"

	"ztunnel/proxy/workload"
)

// The reasons of refusals, as the rejected-connections metric has them. They
// are part of a closed set that the telemetry packages own; what is not here
// is found by the listeners themselves.
const (
	ReasonBadAuthority      = "bad_authority"
	ReasonIPMismatch        = "ip_mismatch"
	ReasonUnknownHost       = "unknown_host"
	ReasonNoHealthyUpstream = "no_healthy_upstream"
	ReasonNoRoute           = "no_route"
	ReasonUnknownWaypoint   = "unknown_waypoint"
	ReasonSelfCall          = "self_call"
)

const selfCall = "attempted recursive call to ourselves"

// An Error says why there is no route. It is logged as a refusal and nothing
// is dialled.
type Error struct {
	Reason string // one of the Reason constants
	Text   string // the text of the reference's log
}

// Error returns e.Text.
func (e *Error) Error() string { return e.Text }

// RejectReason returns e.Reason.
func (e *Error) RejectReason() string { return e.Reason }

func noHealthyUpstream(target netip.AddrPort) error {
	return &Error{ReasonNoHealthyUpstream, "no healthy upstream: " + target.String()}
}

func noService(target netip.AddrPort) error {
	return &Error{ReasonNoRoute, "no service for target address: " + target.String()}
}

func noValidDestination(w *workload.Workload) error {
	return &Error{ReasonNoRoute, fmt.Sprintf("no valid routing destination for workload: Workload{%s with uid %s (%s)}", w.Name, w.UID, w.Protocol)}
}

// notFound says that a waypoint or network gateway leads nowhere. The texts
// are those of the reference, which shows an unknown hostname as such and
// everything else as the whole reference to the gateway.
func (k gatewayKind) notFound(g *workload.Gateway, unknownHost bool) error {
	ref := g.Hostname.Hostname
	if !unknownHost {
		ref = dumpGateway(g)
	}
	if k == waypointGateway {
		return &Error{ReasonUnknownWaypoint, "unknown waypoint: waypoint " + ref + " not found"}
	}
	return &Error{ReasonNoRoute, "unknown network gateway: network gateway " + ref + " not found"}
}

// dumpGateway is how the reference prints a gateway in these errors.
func dumpGateway(g *workload.Gateway) string {
	if g.IsHostname() {
		return fmt.Sprintf("GatewayAddress { destination: Hostname(NamespacedHostname { namespace: %q, hostname: %q }), hbone_mtls_port: %d }",
			g.Hostname.Namespace, g.Hostname.Hostname, g.Port)
	}
	return fmt.Sprintf("GatewayAddress { destination: Address(NetworkAddress { network: %q, address: %s }), hbone_mtls_port: %d }",
		g.Address.Network, g.Address.Addr, g.Port)
}
