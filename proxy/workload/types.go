package workload

import (
	"cmp"
	"net/netip"
	"strings"

	"ztunnel/proxy/spiffe"
	"ztunnel/telemetry/connection"
)

// NetworkAddress is an IP address within a network. The network may be "". It is comparable. The families are kept
// apart: a v4-mapped IPv6 address is another address than its IPv4 form, so socket addresses must be unmapped first.
type NetworkAddress struct {
	Network string
	Addr    netip.Addr
}

// String returns "NETWORK/IP".
func (a NetworkAddress) String() string { return a.Network + "/" + a.Addr.String() }

// NamespacedHostname names a service (or a workload that has a hostname). It is comparable.
type NamespacedHostname struct {
	Namespace string
	Hostname  string
}

// String returns "NAMESPACE/HOSTNAME", which is also the service's resource name in xDS.
func (n NamespacedHostname) String() string { return n.Namespace + "/" + n.Hostname }

func (n NamespacedHostname) compare(o NamespacedHostname) int {
	return cmp.Or(cmp.Compare(n.Namespace, o.Namespace), cmp.Compare(n.Hostname, o.Hostname))
}

// ParseNamespacedHostname splits "NAMESPACE/HOSTNAME" at the first slash; ok is false when there is none.
func ParseNamespacedHostname(s string) (n NamespacedHostname, ok bool) {
	n.Namespace, n.Hostname, ok = strings.Cut(s, "/")
	return n, ok
}

// Gateway says where a waypoint or a network gateway is. Exactly one of Address and Hostname is set.
type Gateway struct {
	Address  NetworkAddress
	Hostname NamespacedHostname
	Port     uint16 // its HBONE port, usually 15008
}

// IsHostname reports whether the gateway is given by hostname.
func (g Gateway) IsHostname() bool { return !g.Address.Addr.IsValid() }

// String returns the destination alone, "NETWORK/IP" or "NAMESPACE/HOSTNAME".
func (g Gateway) String() string {
	if g.IsHostname() {
		return g.Hostname.String()
	}
	return g.Address.String()
}

// Locality is where a workload runs. Parts may be "".
type Locality struct {
	Region, Zone, Subzone string
}

// ApplicationTunnel says that the workload wants its traffic in a tunnel protocol.
type ApplicationTunnel struct {
	Protocol AppTunnelProtocol
	Port     uint16 // where it listens for that; 0 = the port of the connection
}

// PortMap maps the ports of a service to those of its endpoints. The target 0 means that the port is named and each
// endpoint has its own number.
type PortMap map[uint16]uint16

// Workload is one workload: usually a pod. A stored workload is immutable, its maps and slices included. The order of
// the fields keeps it small: there may be a hundred thousand.
type Workload struct {
	UID               string // unique and opaque, e.g. CLUSTER//Pod/NAMESPACE/NAME
	Name              string // of the pod
	Namespace         string
	TrustDomain       string
	ServiceAccount    string
	Network           string
	WorkloadName      string // e.g. of the Deployment; telemetry
	WorkloadType      string // e.g. "pod"; telemetry
	CanonicalName     string // telemetry
	CanonicalRevision string // telemetry
	Hostname          string // resolved by DNS when there are no addresses
	Node              string
	ClusterID         string

	Addrs                 []netip.Addr       // may be empty
	Waypoint              *Gateway           // for traffic addressed to the workload itself; nil = none
	NetworkGateway        *Gateway           // by which its network is entered from others; nil = none
	ApplicationTunnel     *ApplicationTunnel // nil = none
	AuthorizationPolicies []string           // selector policies that apply to it, "NAMESPACE/NAME"
	Locality              Locality
	Services              map[NamespacedHostname]PortMap // what it is an endpoint of; may be nil
	Protocol              Protocol
	NetworkMode           NetworkMode
	Status                Status
	NativeTunnel          bool   // it speaks HBONE itself
	Capacity              uint32 // weight in load balancing; 0 = never chosen

	telemetry telemetryCache[dialled] // of Telemetry and Identities
}

// Identity returns the identity that the workload's certificate carries.
func (w *Workload) Identity() spiffe.ID {
	return spiffe.ID{TrustDomain: w.TrustDomain, Namespace: w.Namespace, ServiceAccount: w.ServiceAccount}
}

// CIDRVIP is a range of virtual addresses. Host bits of the prefix may be set; they are ignored in lookups.
type CIDRVIP struct {
	Network string
	Prefix  netip.Prefix
}

// WeightedWaypoint is one of several waypoints among which connections are divided by weight.
type WeightedWaypoint struct {
	Gateway Gateway
	Weight  uint32
}

// LoadBalancer is the policy by which an endpoint of a service is chosen.
type LoadBalancer struct {
	Preferences  []Scope
	Mode         Mode
	HealthPolicy HealthPolicy
}

// Service is a service of the mesh without its endpoints, which Store.Endpoints gives. A stored service is immutable.
type Service struct {
	Name      string
	Namespace string
	Hostname  string // fully qualified; may be a wildcard "*.x"

	VIPs              []NetworkAddress
	CIDRVIPs          []CIDRVIP
	Ports             PortMap
	SubjectAltNames   []string    // as received
	SANs              []spiffe.ID // those of SubjectAltNames that are identities, in order
	Waypoint          *Gateway    // nil = none
	WeightedWaypoints []WeightedWaypoint
	LoadBalancer      *LoadBalancer // nil = weighted random among the healthy
	IPFamilies        IPFamilies
	Canonical         bool // preferred where several services share a hostname or address
	Visibility        Visibility

	telemetry telemetryCache[connection.Service] // of Telemetry
}

// Key returns the service's namespace and hostname, by which it is unique.
func (s *Service) Key() NamespacedHostname {
	return NamespacedHostname{Namespace: s.Namespace, Hostname: s.Hostname}
}

// Accepts reports whether an endpoint of this health may be chosen for the service.
func (s *Service) Accepts(status Status) bool {
	return status == Healthy || s.LoadBalancer != nil && s.LoadBalancer.HealthPolicy == AllowAll
}

// Endpoint is a workload in its role as endpoint of one service. Store.Endpoints returns only those that the service's
// health policy accepts.
type Endpoint struct {
	Workload *Workload // never nil
	Ports    PortMap   // service port to target port of this endpoint; read-only
	Status   Status
}

// StaticEndpoint is an endpoint that is given with the service itself (local configuration) rather than derived from
// what a workload says about its services. The workload's own word wins where both exist.
type StaticEndpoint struct {
	Key         string // unique within the service; usually the workload's UID
	WorkloadUID string // ignored while no such workload is known
	Ports       PortMap
	Status      Status
}

// Info says which workload a proxy acts for: what the environment or the CNI agent tells about a pod. It is comparable.
type Info struct {
	Name, Namespace, ServiceAccount string
}

// String returns "SERVICE-ACCOUNT.NAMESPACE (NAME)".
func (i Info) String() string { return i.ServiceAccount + "." + i.Namespace + " (" + i.Name + ")" }

// ParseSANs returns those of a service's subject alternative names that are identities, and those that are not.
func ParseSANs(names []string) (ids []spiffe.ID, invalid []string) {
	for _, n := range names {
		if id, err := spiffe.Parse(n); err == nil {
			ids = append(ids, id)
		} else {
			invalid = append(invalid, n)
		}
	}
	return ids, invalid
}
