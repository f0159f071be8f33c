package connection

import (
	"net/netip"
	"time"
)

// Reporter is the end of a connection on whose behalf the proxy reports: the
// value of the label reporter.
type Reporter uint8

// The reporters. The reference never reports as a waypoint, nor do we.
const (
	Source      Reporter = iota // outbound path, SOCKS included
	Destination                 // HBONE inbound and plain text inbound

	reporters = iota
)

// String is the value of the label reporter.
func (r Reporter) String() string {
	if r == Source {
		return "source"
	}
	return "destination"
}

// direction is the value of the field direction in the access log.
func (r Reporter) direction() string {
	if r == Source {
		return "outbound"
	}
	return "inbound"
}

// Protocol says how the bytes travel between the two proxies.
type Protocol uint8

// The protocols.
const (
	TCP Protocol = iota
	HBONE
	DoubleHBONE // a tunnel to the far end inside a tunnel to a network gateway
)

// Workload is one end of a connection as telemetry shows it. An empty field is
// "unknown" in labels and absent in the log. It must not change after it was
// passed to [Recorder.Open]; it may be shared by any number of connections.
type Workload struct {
	// Pod is the instance name, for the log only. An end that is known from
	// baggage alone has its service.name here (its workload name on the
	// answer of a double HBONE peer), as in the reference.
	Pod string
	// Name is the name of the controller, e.g. of the Deployment.
	Name              string
	Namespace         string
	CanonicalName     string
	CanonicalRevision string
	// App is the value of the label app where it differs from CanonicalName,
	// which it does for an end derived from baggage: there it is Name.
	App     string
	Cluster string
	Region  string
	Zone    string
	// Known says that the fields come from a workload record, not from a
	// peer's claims. A known workload without a cluster is in "Kubernetes";
	// claims are checked and bounded, and do not make localities appear.
	Known bool
	// Principal is the SPIFFE URI of the record. It becomes
	// destination_principal, also for plain text; for a source it is unused,
	// because a source's principal is never taken from a record.
	Principal string
}

// Service is the service that a connection is for.
type Service struct {
	Hostname  string // fully qualified, without port
	Name      string
	Namespace string
}

// Details is what is known about a connection when it opens. Open copies what
// it needs; the workloads, the service and the strings are kept until the
// connection closes.
type Details struct {
	Reporter Reporter
	Protocol Protocol
	// MutualTLS says that the peer was authenticated. Without it there is
	// neither a source principal nor any identity in the log.
	MutualTLS bool

	Source, Destination *Workload // nil is unknown

	// SourcePrincipal is the SPIFFE URI proven by the source: its certificate
	// at the destination, the local workload's own identity at the source.
	SourcePrincipal string
	// DestinationPrincipal overrides the principal of the destination's
	// record: with double HBONE it is the one proven in the inner handshake.
	DestinationPrincipal string
	// SourceIdentity and DestinationIdentity are the SPIFFE URIs for the log;
	// empty means the principals of the labels.
	SourceIdentity, DestinationIdentity string

	Service *Service // nil is unknown

	Src netip.AddrPort // the peer
	Dst netip.AddrPort // the next hop, or the original destination
	// HBONEAddr is the authority of CONNECT; empty without a tunnel.
	HBONEAddr string

	// Start is when handling began; zero means the moment of Open. It should
	// carry a monotonic reading, which durations are computed from.
	Start time.Time
}
