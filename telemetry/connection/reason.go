package connection

import "net/netip"

// Reason is why a connection was refused before it was understood: a value of
// the label reason of istio_tcp_connections_rejected_total. The set is closed;
// nothing that a client controls goes into it.
type Reason string

// The reasons.
const (
	ReasonTLSHandshake      Reason = "tls_handshake" // any handshake error without a reason of its own
	ReasonNoClientCert      Reason = "no_client_cert"
	ReasonUntrustedCert     Reason = "untrusted_cert"
	ReasonExpiredCert       Reason = "expired_cert"
	ReasonRevokedCert       Reason = "revoked_cert"
	ReasonBadRequest        Reason = "bad_request"
	ReasonBadAuthority      Reason = "bad_authority"
	ReasonIPMismatch        Reason = "ip_mismatch"
	ReasonUnknownHost       Reason = "unknown_host"
	ReasonUnknownWorkload   Reason = "unknown_workload"
	ReasonNoHealthyUpstream Reason = "no_healthy_upstream"
	ReasonNoRoute           Reason = "no_route"
	ReasonUnknownWaypoint   Reason = "unknown_waypoint"
	ReasonSelfCall          Reason = "self_call"
	ReasonDraining          Reason = "draining"
	ReasonLimit             Reason = "limit"
	ReasonHandshakeTimeout  Reason = "handshake_timeout"
	ReasonFlood             Reason = "flood"
	ReasonNoSuchSurface     Reason = "no_such_surface"
)

var reasons = [...]Reason{
	ReasonTLSHandshake, ReasonNoClientCert, ReasonUntrustedCert, ReasonExpiredCert, ReasonRevokedCert,
	ReasonBadRequest, ReasonBadAuthority, ReasonIPMismatch, ReasonUnknownHost, ReasonUnknownWorkload,
	ReasonNoHealthyUpstream, ReasonNoRoute, ReasonUnknownWaypoint, ReasonSelfCall, ReasonDraining,
	ReasonLimit, ReasonHandshakeTimeout, ReasonFlood, ReasonNoSuchSurface,
}

// Reasons returns all reasons.
func Reasons() []Reason { return append([]Reason(nil), reasons[:]...) }

// closed is the reason if it is one of the set; what is not counts as a
// request that was not understood.
func (r Reason) closed() Reason {
	for i := range reasons {
		if reasons[i] == r {
			return reasons[i]
		}
	}
	return ReasonBadRequest
}

// Rejection is a connection that is refused before there is a Record for it.
type Rejection struct {
	Reporter Reporter
	Reason   Reason
	Src, Dst netip.AddrPort
	Err      error // for the log; nil leaves the field out
	// Workload and Namespace name the destination workload where it is known
	// from our own records, e.g. the owner of the listener. Empty is unknown.
	Workload, Namespace string
}
