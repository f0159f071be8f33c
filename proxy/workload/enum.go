package workload

import "strconv"

// Protocol is how a workload is reached.
type Protocol uint8

// The protocols. The zero value is TCP.
const (
	TCP   Protocol = iota // plain TCP, outside the mesh's tunnels
	HBONE                 // HTTP/2 CONNECT over mutual TLS
)

// String returns "TCP" or "HBONE", as in config_dump.
func (p Protocol) String() string { return name(uint8(p), protocolNames) }

// NetworkMode tells whether a workload's addresses are its own.
type NetworkMode uint8

// The network modes. The zero value is NetworkStandard.
const (
	NetworkStandard NetworkMode = iota // the workload has addresses of its own
	HostNetwork                        // it shares its node's addresses, so none of them identifies it
)

// String returns "Standard" or "HostNetwork", as in config_dump.
func (m NetworkMode) String() string { return name(uint8(m), networkModeNames) }

// Status is the health of a workload or endpoint.
type Status uint8

// The health states. The zero value is Healthy.
const (
	Healthy Status = iota
	Unhealthy
)

// String returns "Healthy" or "Unhealthy", as in config_dump.
func (s Status) String() string { return name(uint8(s), statusNames) }

// AppTunnelProtocol is how traffic is handed to a workload that understands more than plain TCP.
type AppTunnelProtocol uint8

// The application tunnel protocols. The zero value is AppTunnelNone.
const (
	AppTunnelNone  AppTunnelProtocol = iota // nothing in front of the bytes
	AppTunnelProxy                          // a PROXY protocol v2 header in front
)

// String returns "NONE" or "PROXY", as in config_dump.
func (p AppTunnelProtocol) String() string { return name(uint8(p), appTunnelNames) }

// Scope is one locality preference of a service's load balancing.
type Scope uint8

// The scopes. There is no zero value: an unset scope is refused at conversion.
const (
	ScopeRegion Scope = iota + 1
	ScopeZone
	ScopeSubzone
	ScopeNode
	ScopeCluster
	ScopeNetwork
)

// String returns "Region", "Zone", …, as in config_dump.
func (s Scope) String() string { return name(uint8(s), scopeNames) }

// Mode tells what the preferences of a load balancer mean.
type Mode uint8

// The modes. The zero value is ModeStandard.
const (
	ModeStandard    Mode = iota // preferences are ignored
	ModeStrict                  // only endpoints that match every preference
	ModeFailover                // the endpoints that match most of them
	ModePassthrough             // no choice: the connection goes where it was going
)

// String returns "Standard", "Strict", "Failover" or "Passthrough", as in config_dump.
func (m Mode) String() string { return name(uint8(m), modeNames) }

// HealthPolicy tells which endpoints of a service may be chosen.
type HealthPolicy uint8

// The health policies. The zero value is OnlyHealthy.
const (
	OnlyHealthy HealthPolicy = iota
	AllowAll
)

// String returns "OnlyHealthy" or "AllowAll", as in config_dump.
func (p HealthPolicy) String() string { return name(uint8(p), healthPolicyNames) }

// IPFamilies restricts the addresses by which endpoints of a service are reached.
type IPFamilies uint8

// The restrictions. The zero value is FamiliesAutomatic: none was given.
const (
	FamiliesAutomatic IPFamilies = iota
	FamiliesIPv4
	FamiliesIPv6
	FamiliesDual
)

// String returns "Automatic", "IPv4", "IPv6" or "Dual"; config_dump has the last three and omits the first.
func (f IPFamilies) String() string { return name(uint8(f), familyNames) }

// Visibility tells whose clients may find a service by its address or hostname.
type Visibility uint8

// The visibilities. The zero value is VisibilityPublic.
const (
	VisibilityPublic    Visibility = iota // every client
	VisibilityNamespace                   // clients of the service's own namespace
)

// String returns "Public" or "Namespace", as in config_dump.
func (v Visibility) String() string { return name(uint8(v), visibilityNames) }

// The spellings of config_dump and of the local configuration, by value.
var (
	protocolNames     = []string{"TCP", "HBONE"}
	networkModeNames  = []string{"Standard", "HostNetwork"}
	statusNames       = []string{"Healthy", "Unhealthy"}
	appTunnelNames    = []string{"NONE", "PROXY"}
	scopeNames        = []string{"", "Region", "Zone", "Subzone", "Node", "Cluster", "Network"}
	modeNames         = []string{"Standard", "Strict", "Failover", "Passthrough"}
	healthPolicyNames = []string{"OnlyHealthy", "AllowAll"}
	familyNames       = []string{"Automatic", "IPv4", "IPv6", "Dual"}
	visibilityNames   = []string{"Public", "Namespace"}
)

func name(v uint8, names []string) string {
	if int(v) < len(names) {
		return names[v]
	}
	return "Unknown(" + strconv.Itoa(int(v)) + ")"
}
