package catalog

// The families of the parts of the node.
const (
	LogLines        = "istio_ztunnel_log_lines_total"
	LogLinesDropped = "istio_ztunnel_log_lines_dropped_total"
	LogQueueLength  = "istio_ztunnel_log_queue_length"
	LogWriteErrors  = "istio_ztunnel_log_write_errors_total"

	SurfaceRequests = "istio_ztunnel_telemetry_requests_total"
	SurfaceExposure = "istio_ztunnel_telemetry_exposure"
	SurfaceReady    = "istio_ztunnel_telemetry_endpoint_ready"

	LocalConfigReloads = "istio_ztunnel_local_config_reloads_total"
	FakeCA             = "istio_ztunnel_fake_ca"
	CertExpiry         = "istio_cert_expiry_timestamp_seconds"
	RootExpiry         = "istio_ztunnel_root_cert_expiry_timestamp_seconds"
	Certs              = "istio_ztunnel_certs"
	IdentitiesRefused  = "istio_ztunnel_identities_refused_total"
	CSRs               = "istio_ztunnel_csr_total"
	CSRDuration        = "istio_ztunnel_csr_duration_seconds"
	CRLRejected        = "istio_crl_policy_rejections_total"
	CRLUntracked       = "istio_crl_untracked_connections_total"
	CRLState           = "istio_ztunnel_crl_state"
	CRLLoads           = "istio_ztunnel_crl_loads_total"
	CRLRevoked         = "istio_ztunnel_crl_revoked_certificates"
	CRLLoaded          = "istio_ztunnel_crl_loaded_timestamp_seconds"
	CRLNextUpdate      = "istio_ztunnel_crl_next_update_timestamp_seconds"
	CRLTracked         = "istio_ztunnel_crl_tracked_connections"
	Panics             = "istio_ztunnel_panics_total"
	Draining           = "istio_ztunnel_draining"
	DrainForced        = "istio_ztunnel_drain_connections_forced_total"
	Uptime             = "istio_ztunnel_uptime_seconds"

	HBONETunnels = "istio_ztunnel_hbone_tunnels"
	HBONEStreams = "istio_ztunnel_hbone_streams"
	HBONEQueued  = "istio_ztunnel_hbone_queued_bytes"
	HBONEFaults  = "istio_ztunnel_hbone_faults_total"

	PoolConnections = "istio_ztunnel_hbone_pool_connections"
	PoolStreams     = "istio_ztunnel_hbone_pool_streams"
	PoolHits        = "istio_ztunnel_hbone_pool_hits_total"
	PoolMisses      = "istio_ztunnel_hbone_pool_misses_total"
)

func logging() []Metric {
	return []Metric{
		{Name: LogLines, Type: Counter, Labels: []string{"scope", "level"}, Help: "The total number of log lines"},
		{Name: LogLinesDropped, Type: Counter, Labels: []string{"scope", "reason"}, Help: "The total number of log lines dropped, by reason"},
		{Name: LogQueueLength, Type: Gauge, Help: "The number of log lines that wait to be written"},
		{Name: LogWriteErrors, Type: Counter, Help: "The total number of writes of the log that failed"},
	}
}

func surface() []Metric {
	return []Metric{
		{Name: SurfaceRequests, Type: Counter, Labels: []string{"peer_identity", "surface", "code", "transport"}, Help: "The total number of reads of the telemetry surfaces, by reader"},
		{Name: SurfaceExposure, Type: Gauge, Labels: []string{"mode"}, Help: "How telemetry is exposed: 1 for the mode in use"},
		{Name: SurfaceReady, Type: Gauge, Help: "Whether telemetry can be read through the mesh"},
	}
}

func crl() []Metric {
	return []Metric{
		{Name: CRLRejected, Type: Counter, Labels: []string{"reporter"}, Help: "The total number of connections refused or torn down because of a revoked certificate"},
		{Name: CRLUntracked, Type: Counter, Labels: []string{"reporter"}, Help: "The total number of connections that a later revocation cannot tear down"},
		{Name: CRLState, Type: Gauge, Labels: []string{"state"}, Help: "The state of the file of revocation lists: 1 for the one it is in"},
		{Name: CRLLoads, Type: Counter, Labels: []string{"result"}, Help: "The total number of times that the file of revocation lists changed, by result"},
		{Name: CRLRevoked, Type: Gauge, Help: "The number of revoked certificates in the revocation lists in force"},
		{Name: CRLLoaded, Type: Gauge, Unit: "s", Help: "When the revocation lists in force were loaded, as Unix time"},
		{Name: CRLNextUpdate, Type: Gauge, Unit: "s", Help: "When the first of the revocation lists in force should have been replaced, as Unix time"},
		{Name: CRLTracked, Type: Gauge, Labels: []string{"reporter"}, Help: "The number of connections watched for revocation"},
	}
}

func node() []Metric {
	return []Metric{
		{Name: LocalConfigReloads, Type: Counter, Labels: []string{"result"}, Help: "The total number of reloads of the local configuration file, by result"},
		{Name: FakeCA, Type: Gauge, Help: "Whether certificates come from a CA that is made up, for tests"},
		{Name: CertExpiry, Type: Gauge, Unit: "s", Labels: []string{"identity"}, Help: "When the certificate of an identity expires, as Unix time"},
		{Name: RootExpiry, Type: Gauge, Unit: "s", Labels: []string{"fingerprint"}, Help: "When a root certificate that came with a certificate expires, as Unix time"},
		{Name: Certs, Type: Gauge, Labels: []string{"state"}, Help: "The number of identities held, by state"},
		{Name: IdentitiesRefused, Type: Counter, Help: "The total number of requests for an identity beyond the limit"},
		{Name: CSRs, Type: Counter, Labels: []string{"result", "code"}, Help: "The total number of requests to the CA, by result and gRPC code"},
		{Name: CSRDuration, Type: Histogram, Unit: "s", Labels: []string{"result"}, Help: "The time of a request to the CA, by result"},
		{Name: Panics, Type: Counter, Help: "The total number of panics that were recovered from"},
		{Name: Draining, Type: Gauge, Help: "Whether the process is draining"},
		{Name: DrainForced, Type: Counter, Help: "The total number of connections that a drain cut at its deadline"},
		{Name: Uptime, Type: Gauge, Unit: "s", Help: "Time since the process started"},
	}
}

func hbone() []Metric {
	return []Metric{
		{Name: HBONETunnels, Type: Gauge, Labels: []string{"role"}, Help: "The number of open HBONE tunnels, by role"},
		{Name: HBONEStreams, Type: Gauge, Labels: []string{"role"}, Help: "The number of open HBONE streams, by role"},
		{Name: HBONEQueued, Type: Gauge, Unit: "By", Labels: []string{"role"}, Help: "The number of bytes that came over HBONE and wait for applications to take them, by role"},
		{Name: HBONEFaults, Type: Counter, Labels: []string{"kind"}, Help: "The total number of limits, deadlines and rules of HBONE tunnels that peers have broken, by kind"},
		{Name: PoolConnections, Type: Gauge, Labels: []string{"state"}, Help: "The number of HBONE tunnels to other nodes that connections may share, by state"},
		{Name: PoolStreams, Type: Gauge, Help: "The number of connections in these tunnels"},
		{Name: PoolHits, Type: Counter, Help: "The total number of connections that found a tunnel"},
		{Name: PoolMisses, Type: Counter, Help: "The total number of connections that had to wait for a tunnel"},
	}
}
