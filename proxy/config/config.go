package config

import (
	"net/netip"
	"time"
)

// Mode says whom one process serves.
type Mode uint8

const (
	// Shared is one process per node that serves many pods (the default).
	Shared Mode = iota
	// Dedicated is one process that serves exactly one workload, in whose
	// network namespace it runs.
	Dedicated
)

// String returns the spelling of the config dump, "Shared" or "Dedicated".
func (m Mode) String() string {
	if m == Dedicated {
		return "Dedicated"
	}
	return "Shared"
}

// WorkloadInfo names a workload by what the environment knows of it.
type WorkloadInfo struct {
	Name, Namespace, ServiceAccount string
}

// Config is the whole effective configuration of one process. Load makes it;
// nobody changes it afterwards, so it is safe for concurrent readers. Strings
// that are empty mean "not configured" unless the field says otherwise.
type Config struct {
	// Mode is PROXY_MODE.
	Mode Mode
	// Workload is the one workload served; set exactly in Dedicated mode.
	Workload *WorkloadInfo
	// NodeName is the Kubernetes node of this process.
	NodeName string
	// Network is the Istio network of this node; "" is a valid network.
	Network string
	// ClusterID is the id of the cluster, for metrics, baggage and the xDS node.
	ClusterID string
	// ClusterDomain is the DNS domain of the cluster, as in svc.cluster.local.
	ClusterDomain string
	// PodName, PodNamespace and ServiceAccount are those of this process's pod.
	PodName, PodNamespace, ServiceAccount string
	// TrustDomain is that of this process's own identity only.
	TrustDomain string
	// InstanceIP is the address told to the control plane.
	InstanceIP string
	// ProxyArgs are all command line arguments, joined with one space.
	ProxyArgs string

	// XDSAddress is the control plane as an URI; "" means no xDS at all.
	XDSAddress string
	// XDSRootCA verifies the control plane.
	XDSRootCA RootCA
	// XDSHeaders are metadata of every xDS stream, sorted by name.
	XDSHeaders []Header
	// AltXDSHostname is one more accepted server name of the control plane.
	AltXDSHostname string
	// XDSOnDemand asks for workloads only when they are needed.
	XDSOnDemand bool
	// CAAddress is the certificate authority as an URI; "" means none (and is
	// always "" with FakeCA).
	CAAddress string
	// CARootCA verifies the certificate authority.
	CARootCA RootCA
	// CAHeaders are metadata of every request for a certificate, sorted by name.
	CAHeaders []Header
	// AltCAHostname is one more accepted server name of the CA.
	AltCAHostname string
	// FakeCA makes this process sign its own certificates, with a root made at
	// start. Only for tests and demonstrations.
	FakeCA bool
	// Auth is the token for control plane and CA.
	Auth Token
	// SecretTTL is the requested lifetime of certificates.
	SecretTTL time.Duration
	// CRLPath is the file of revoked certificates.
	CRLPath string
	// LocalXDSPath is a file with workloads, services and policies; LocalXDS is
	// the same content itself. At most one of them is set.
	LocalXDSPath, LocalXDS string
	// PreferredServiceNamespace breaks ties between services of one hostname
	// in answers of the DNS proxy.
	PreferredServiceNamespace string
	// ProxyMetadata is node metadata, keys without the prefix ISTIO_META_.
	ProxyMetadata map[string]string
	// ProxyMetadataJSON is node metadata of other types than string, decoded by
	// encoding/json.
	ProxyMetadataJSON map[string]any

	// EnableProxy says whether traffic is proxied at all.
	EnableProxy bool
	// DNSProxy says whether DNS is answered.
	DNSProxy bool
	// DNSProxyAddr is where DNS is answered.
	DNSProxyAddr Listen
	// Socks5 opens the SOCKS5 listener.
	Socks5 bool
	// IPv6 false means: bind IPv4 only, resolve IPv4 only.
	IPv6 bool
	// LocalhostIPv6 says whether ::1 may be bound: IPv6, and not switched off
	// for the loopback interface.
	LocalhostIPv6 bool
	// AdminPort (loopback) and StatsPort are those of the HTTP servers.
	AdminPort, StatsPort uint16
	// AdminAddr, StatsAddr, ReadinessAddr are where the HTTP servers listen.
	// StatsAddr is only bound when the exposure of telemetry says so.
	AdminAddr, StatsAddr, ReadinessAddr Listen
	// InboundAddr (HBONE), InboundPlaintextAddr, OutboundAddr are the listeners
	// of the data path.
	InboundAddr, InboundPlaintextAddr, OutboundAddr netip.AddrPort
	// Socks5Addr is zero unless Socks5.
	Socks5Addr netip.AddrPort
	// IllegalPorts are destination ports that would lead back into this
	// process, sorted.
	IllegalPorts []uint16
	// OriginalSource: nil keeps the source address of clients wherever that is
	// permitted, true demands it, false never does.
	OriginalSource *bool
	// PacketMark is SO_MARK of all sockets of the proxy; 0 means none.
	PacketMark uint32
	// InpodUDS is the socket of the CNI agent (Shared mode).
	InpodUDS string
	// InpodPortReuse sets SO_REUSEPORT on listeners in pods (Shared mode).
	InpodPortReuse bool
	// LocalhostAppTunnel sends application-tunnel traffic (PROXY protocol) to
	// the loopback address of the pod.
	LocalhostAppTunnel bool
	// ResponseBaggage answers a CONNECT with the baggage of the destination.
	ResponseBaggage bool
	// PoolMaxStreams is the most streams on one pooled HBONE tunnel, at least 1.
	PoolMaxStreams uint16
	// PoolUnusedTimeout is how long a pooled tunnel without streams is kept.
	PoolUnusedTimeout time.Duration
	// StreamWindow and ConnectionWindow are HTTP/2 receive windows, in bytes.
	StreamWindow, ConnectionWindow uint32
	// FrameSize is the largest HTTP/2 frame taken, in bytes.
	FrameSize uint32
	// CryptoTLS leaves the records of tunnels to crypto/tls after the handshake too.
	CryptoTLS bool
	// Keepalive holds the TCP options of long-lived sockets.
	Keepalive Keepalive
	// DrainDeadline bounds a graceful end.
	DrainDeadline time.Duration
	// WorkerThreads is how many threads may run Go code at once, at least 1.
	WorkerThreads int
	// Resolver is the system's DNS configuration at start.
	Resolver Resolver

	// TLS12 accepts TLS 1.2 beside 1.3.
	TLS12 bool
	// PQC demands a post-quantum key exchange.
	PQC bool
	// InboundHandshakeTimeout bounds TLS, and again preface and SETTINGS, of a
	// client.
	InboundHandshakeTimeout time.Duration
	// OutboundHandshakeTimeout bounds TLS, and again SETTINGS, of a server.
	OutboundHandshakeTimeout time.Duration
	// ConnectResponseTimeout bounds the wait for the answer to a CONNECT.
	ConnectResponseTimeout time.Duration
	// RequestHeadersTimeout bounds the headers of one request, begun to
	// finished. It has no variable.
	RequestHeadersTimeout time.Duration
	// CSRTimeout bounds one request for a certificate.
	CSRTimeout time.Duration
	// Budgets bound what one tunnel may cost us. They have no variables.
	Budgets Budgets

	// LogFilter is the text of RUST_LOG (else LOG_LEVEL), unchecked: a bad
	// filter must not keep a node from starting.
	LogFilter string
	// LogJSON writes logs as JSON lines.
	LogJSON bool
	// AuthzInfoLogging logs policy decisions at info instead of debug.
	AuthzInfoLogging bool
	// IstioVersion is the version of the installation this process belongs to.
	IstioVersion string
	// Telemetry is how this process is observed.
	Telemetry Telemetry

	// Warnings are complaints about what was tolerated, to be logged once
	// logging works. They hold no secrets.
	Warnings []string
}

// Keepalive holds TCP keepalive options.
type Keepalive struct {
	Enabled        bool
	Time, Interval time.Duration // first probe, and between probes
	Retries        uint32        // unanswered probes that end a connection
	UserTimeout    bool          // TCP_USER_TIMEOUT = Time + Retries*Interval
}

// Budgets bound the work a peer can cause on one HBONE tunnel. Over budget,
// the tunnel ends with ENHANCE_YOUR_CALM.
type Budgets struct {
	Window             time.Duration // period of the two rates
	ControlFrames      int           // per Window: PING, SETTINGS, PRIORITY, empty DATA and unknown frames beyond what traffic explains
	PendingResets      int           // streams reset whose handling has not ended
	Resets             int           // per Window: streams reset without payload
	HeaderListBytes    uint32        // of one request or response, decoded
	ContinuationFrames int           // of one header block
}

// Exposure says over which transports telemetry can be read.
type Exposure string

// The exposures of TELEMETRY_EXPOSURE.
const (
	ExposureMesh      Exposure = "mesh"      // only through the mesh, under policy
	ExposureBoth      Exposure = "both"      // also on StatsAddr, in plaintext, for a migration
	ExposurePlaintext Exposure = "plaintext" // only on StatsAddr, as the reference
)

// PushVia says how exporters reach their endpoint.
type PushVia string

// The ways of TELEMETRY_PUSH_VIA.
const (
	PushAuto   PushVia = "auto"   // through the mesh when the endpoint is a mesh address
	PushMesh   PushVia = "mesh"   // always through the mesh
	PushDirect PushVia = "direct" // never through the mesh
)

// Telemetry says how this process is observed.
type Telemetry struct {
	// Exposure is where telemetry can be read.
	Exposure Exposure
	// Surfaces are the virtual ports that are on: "metrics", "profiles",
	// "connections"; sorted, without duplicates.
	Surfaces []string
	// Readers are patterns of principals (exact, prefix*, *suffix, *) that may
	// read at all; empty means no restriction beyond policy.
	Readers []string
	// ScopesFile is a file saying which reader sees which namespaces.
	ScopesFile string
	// PushVia is how exporters reach their endpoint.
	PushVia PushVia
	// MetricsIdleEviction is how long a series without open connections is
	// kept; 0 means for ever.
	MetricsIdleEviction time.Duration
	// MetricsMaxSeries is the most label sets of one metric family.
	MetricsMaxSeries int
	// LogOverflowBlock makes a full log queue block its writers, as in the
	// reference, instead of dropping lines.
	LogOverflowBlock bool
	// OTLP pushes metrics.
	OTLP OTLP
	// Pyroscope pushes profiles.
	Pyroscope Pyroscope
}

// OTLP is the push of metrics by the OpenTelemetry protocol, from the standard
// variables OTEL_*.
type OTLP struct {
	// Enabled says whether to push; if not, the rest is as configured but
	// without effect.
	Enabled bool
	// Protocol is "grpc" or "http/protobuf".
	Protocol string
	// Endpoint is an absolute URL, http or https; for http/protobuf with the
	// path to post to.
	Endpoint string
	// Headers are sent with each export, in the order given.
	Headers []Header
	// Timeout bounds one export request; Interval is the time between two;
	// CollectTimeout bounds collecting and exporting together.
	Timeout, Interval, CollectTimeout time.Duration
	// Certificate is a PEM file that verifies the server; "" means the
	// system's trust store.
	Certificate string
	// Insecure says that the endpoint is spoken to without TLS.
	Insecure bool
	// Gzip compresses exports.
	Gzip bool
	// ServiceName is the resource attribute service.name.
	ServiceName string
	// ResourceAttributes are further resource attributes.
	ResourceAttributes map[string]string
}

// Pyroscope is the push of continuous profiles.
type Pyroscope struct {
	// ServerAddress is an absolute URL; "" means no profiles are pushed.
	ServerAddress string
	// ApplicationName is the name of the profiles.
	ApplicationName string
	// BasicAuthUser and BasicAuthPassword authenticate to the server.
	BasicAuthUser     string
	BasicAuthPassword Secret
	// TenantID is sent as X-Scope-OrgID.
	TenantID string
	// UploadRate is the time between two uploads.
	UploadRate time.Duration
}

// OwnWorkload names this process's own pod, or returns nil: namespace, service
// account and name must all be known. With it a Shared process serves itself.
func (c *Config) OwnWorkload() *WorkloadInfo {
	if c.PodNamespace == "" || c.ServiceAccount == "" || c.PodName == "" {
		return nil
	}
	return &WorkloadInfo{Name: c.PodName, Namespace: c.PodNamespace, ServiceAccount: c.ServiceAccount}
}
