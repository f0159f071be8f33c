package config

import (
	"math"
	"time"
)

// placeVariables say whom this process serves and where it runs.
func placeVariables() []variable {
	return []variable{
		{
			Variable: Variable{Name: "PROXY_MODE", Type: "`shared` or `dedicated`", Default: "shared", Meaning: "`shared`: one process per node for many pods; `dedicated`: one process for one workload, in its network namespace"},
			set:      into(mode, func(in *inputs) *Mode { return &in.Mode }),
		},
		{
			Variable: Variable{Name: "PROXY_WORKLOAD_INFO", Type: "`namespace/name/service-account`", Meaning: "the workload served; required when dedicated, else ignored"},
			set:      intoPointer(text, func(in *inputs) **string { return &in.workloadInfo }),
		},
		{
			Variable: Variable{Name: "NODE_NAME", Type: "string", Meaning: "Kubernetes node served by this process"},
			set:      into(text, func(in *inputs) *string { return &in.NodeName }),
		},
		{
			Variable: Variable{Name: "NETWORK", Type: "string", Meaning: "Istio network of this node"},
			set:      into(text, func(in *inputs) *string { return &in.Network }),
		},
		{
			Variable: Variable{Name: "CLUSTER_ID", Type: "string", Default: "Kubernetes", Meaning: "id of the cluster; `ISTIO_META_CLUSTER_ID` wins over it"},
			set:      into(text, func(in *inputs) *string { return &in.ClusterID }),
		},
		{
			Variable: Variable{Name: "CLUSTER_DOMAIN", Type: "string", Default: "cluster.local", Meaning: "DNS domain of the cluster"},
			set:      into(text, func(in *inputs) *string { return &in.ClusterDomain }),
		},
		{
			Variable: Variable{Name: "POD_NAME", Type: "string", Meaning: "own pod"},
			set:      into(text, func(in *inputs) *string { return &in.PodName }),
		},
		{
			Variable: Variable{Name: "POD_NAMESPACE", Type: "string", Meaning: "namespace of the own pod"},
			set:      into(text, func(in *inputs) *string { return &in.PodNamespace }),
		},
		{
			Variable: Variable{Name: "SERVICE_ACCOUNT", Type: "string", Meaning: "own service account; with `POD_NAME` and `POD_NAMESPACE` it gives this process an identity of its own"},
			set:      into(text, func(in *inputs) *string { return &in.ServiceAccount }),
		},
		{
			Variable: Variable{Name: "TRUST_DOMAIN", Type: "string", Default: "cluster.local", Meaning: "trust domain of the own identity in log and config dump (certificates and workloads have that of the mesh)"},
			set:      into(text, func(in *inputs) *string { return &in.TrustDomain }),
		},
		{
			Variable: Variable{Name: "INSTANCE_IP", Type: "IP address", Default: "1.1.1.1", Meaning: "own address, as told to the control plane"},
			set:      into(instanceIP, func(in *inputs) *string { return &in.InstanceIP }),
		},
		{
			Variable: Variable{Name: "KUBERNETES_SERVICE_HOST", Type: "presence", Meaning: "if set to anything, the default control plane is istiod's service, else it is localhost"},
			set:      into(present, func(in *inputs) *bool { return &in.kubernetes }),
		},
	}
}

// controlVariables are about xDS, the CA, and the trust in both.
func controlVariables() []variable {
	const defaultRoot = "./var/run/secrets/istio/root-cert.pem"
	rootType := "path, `SYSTEM` or PEM text"
	return []variable{
		{
			Variable: Variable{Name: "XDS_ADDRESS", Type: "URI", Unset: "`discoveryAddress` of the proxy configuration, else `https://istiod.istio-system.svc:15012` in Kubernetes, else `https://localhost:15012`", Meaning: "control plane; empty switches xDS off; without a scheme it is https"},
			set:      intoPointer(text, func(in *inputs) **string { return &in.xdsAddress }),
		},
		{
			Variable: Variable{Name: "CA_ADDRESS", Type: "URI", Unset: "as `XDS_ADDRESS`, without regard to the proxy configuration", Meaning: "certificate authority; ignored with `FAKE_CA`"},
			set:      intoPointer(text, func(in *inputs) **string { return &in.caAddress }),
		},
		{
			Variable: Variable{Name: "XDS_ROOT_CA", Type: rootType, Default: defaultRoot, Meaning: "roots that verify the control plane; a file is read at each connection and may come later"},
			set:      into(text, func(in *inputs) *string { return &in.xdsRoot }),
		},
		{
			Variable: Variable{Name: "CA_ROOT_CA", Type: rootType, Default: defaultRoot, Meaning: "roots that verify the CA"},
			set:      into(text, func(in *inputs) *string { return &in.caRoot }),
		},
		{
			Variable: Variable{Name: "AUTH_TOKEN", Type: "path or token", Unset: "`./var/run/secrets/tokens/istio-token` if it exists at start, else none", Meaning: "bearer token for control plane and CA; a file is read for each use", Secret: true},
			set:      intoPointer(secret, func(in *inputs) **Secret { return &in.authToken }),
		},
		{
			Variable: Variable{Name: "ALT_XDS_HOSTNAME", Type: "string", Meaning: "one more name accepted in the control plane's certificate"},
			set:      into(text, func(in *inputs) *string { return &in.AltXDSHostname }),
		},
		{
			Variable: Variable{Name: "ALT_CA_HOSTNAME", Type: "string", Meaning: "one more name accepted in the CA's certificate"},
			set:      into(text, func(in *inputs) *string { return &in.AltCAHostname }),
		},
		{
			Variable: Variable{Name: "XDS_HEADER_<K>", Type: "string", Meaning: "metadata `<k>` (lower case) of every xDS stream", Secret: true},
			each:     headerInto("XDS_HEADER_", func(in *inputs) *[]Header { return &in.XDSHeaders }),
		},
		{
			Variable: Variable{Name: "CA_HEADER_<K>", Type: "string", Meaning: "metadata `<k>` (lower case) of every request to the CA", Secret: true},
			each:     headerInto("CA_HEADER_", func(in *inputs) *[]Header { return &in.CAHeaders }),
		},
		{
			Variable: Variable{Name: "XDS_ON_DEMAND", Type: "bool", Default: "false", Meaning: "ask for workloads only when needed; not together with the DNS proxy"},
			set:      into(boolean, func(in *inputs) *bool { return &in.XDSOnDemand }),
		},
		{
			Variable: Variable{Name: "FAKE_CA", Type: "bool", Default: "false", Meaning: "sign certificates in the process, with a development root whose key is public; for tests and demonstrations"},
			set:      into(boolean, func(in *inputs) *bool { return &in.FakeCA }),
		},
		{
			Variable: Variable{Name: "SECRET_TTL", Type: "duration", Default: "24h", Meaning: "requested lifetime of certificates"},
			set:      into(positive, func(in *inputs) *time.Duration { return &in.SecretTTL }),
		},
		{
			Variable: Variable{Name: "CSR_TIMEOUT", Type: "duration", Default: "30s", Meaning: "deadline of one request for a certificate"},
			set:      into(positive, func(in *inputs) *time.Duration { return &in.CSRTimeout }),
		},
		{
			Variable: Variable{Name: "CRL_PATH", Type: "path", Meaning: "file of revoked certificates; empty means none"},
			set:      into(text, func(in *inputs) *string { return &in.CRLPath }),
		},
		{
			Variable: Variable{Name: "TLS12_ENABLED", Type: "`true` or anything else", Default: "false", Meaning: "accept TLS 1.2 beside 1.3"},
			set:      into(isExactly("true"), func(in *inputs) *bool { return &in.TLS12 }),
		},
		{
			Variable: Variable{Name: "COMPLIANCE_POLICY", Type: "`pqc` or anything else", Meaning: "`pqc`: post-quantum key exchange only"},
			set:      into(isExactly("pqc"), func(in *inputs) *bool { return &in.PQC }),
		},
	}
}

// metadataVariables are about local state and node metadata.
func metadataVariables() []variable {
	return []variable{
		{
			Variable: Variable{Name: "LOCAL_XDS_PATH", Type: "path", Meaning: "file of workloads, services and policies; not together with `LOCAL_XDS`"},
			set:      into(text, func(in *inputs) *string { return &in.LocalXDSPath }),
		},
		{
			Variable: Variable{Name: "LOCAL_XDS", Type: "YAML", Meaning: "the same content itself"},
			set:      into(text, func(in *inputs) *string { return &in.LocalXDS }),
		},
		{
			Variable: Variable{Name: "PROXY_CONFIG", Type: "YAML or JSON", Meaning: "`discoveryAddress`, `proxyAdminPort`, `statsPort`, `concurrency`, `proxyMetadata`; wins per field over `defaultConfig` of `./etc/istio/config/mesh`"},
			set:      into(text, func(in *inputs) *string { return &in.proxyConfig }),
		},
		{
			Variable: Variable{Name: "ISTIO_META_CLUSTER_ID", Type: "string", Unset: "`CLUSTER_ID`", Meaning: "id of the cluster, even if empty; also metadata"},
			set:      intoPointer(text, func(in *inputs) **string { return &in.metaClusterID }),
		},
		{
			Variable: Variable{Name: "ISTIO_META_ISTIO_VERSION", Type: "string", Default: "unknown", Meaning: "version of the installation, shown in build information; also metadata"},
			set:      into(text, func(in *inputs) *string { return &in.IstioVersion }),
		},
		{
			Variable: Variable{Name: "ISTIO_META_DNS_CAPTURE", Type: "`true` or anything else", Default: "true", Meaning: "serve the DNS of workloads, on port 15053; also possible as `proxyMetadata`"},
			set:      func(*inputs, string) error { return nil },
		}, // read from the merged metadata
		{
			Variable: Variable{Name: "ISTIO_META_DNS_PROXY_ADDR", Type: "`localhost:PORT` or `IP:PORT`", Default: "localhost:15053", Meaning: "where DNS is served; also possible as `proxyMetadata`"},
			set:      func(*inputs, string) error { return nil },
		}, // read from the merged metadata
		{
			Variable: Variable{Name: "ISTIO_META_<K>", Type: "string", Meaning: "node metadata `<K>`, wins over `proxyMetadata`"},
			each:     func(in *inputs, key, value string) error { in.metadata[key] = value; return nil },
		},
		{
			Variable: Variable{Name: "ISTIO_METAJSON_<K>", Type: "JSON", Meaning: "node metadata `<K>` of any type; what does not parse is logged and left out"},
			each:     setMetadataJSON,
		},
		{
			Variable: Variable{Name: "PREFERED_SERVICE_NAMESPACE", Type: "string", Meaning: "(spelled so) namespace preferred among services of one hostname in DNS answers"},
			set:      into(text, func(in *inputs) *string { return &in.PreferredServiceNamespace }),
		},
	}
}

// dataPathVariables are about listeners and sockets.
func dataPathVariables() []variable {
	return []variable{
		{
			Variable: Variable{Name: "ENABLE_PROXY", Type: "bool", Default: "true", Meaning: "proxy traffic"},
			set:      into(boolean, func(in *inputs) *bool { return &in.EnableProxy }),
		},
		{
			Variable: Variable{Name: "IPV6_ENABLED", Type: "bool", Default: "true", Meaning: "listen on IPv6 too, resolve IPv6 addresses"},
			set:      into(boolean, func(in *inputs) *bool { return &in.IPv6 }),
		},
		{
			Variable: Variable{Name: "ENABLE_ORIG_SRC", Type: "bool", Unset: "wherever permitted", Meaning: "keep the source address of clients towards the application: `true` demands it, `false` never does"},
			set:      intoPointer(boolean, func(in *inputs) **bool { return &in.OriginalSource }),
		},
		{
			Variable: Variable{Name: "PACKET_MARK", Type: "u32", Unset: "1337 when shared, none when dedicated", Meaning: "SO_MARK of all sockets of the proxy; 0 is none"},
			set:      intoPointer(number[uint32](0, math.MaxUint32), func(in *inputs) **uint32 { return &in.packetMark }),
		},
		{
			Variable: Variable{Name: "INPOD_UDS", Type: "path", Default: "/var/run/ztunnel/ztunnel.sock", Meaning: "socket of the CNI agent"},
			set:      into(text, func(in *inputs) *string { return &in.InpodUDS }),
		},
		{
			Variable: Variable{Name: "INPOD_PORT_REUSE", Type: "bool", Default: "true", Meaning: "SO_REUSEPORT on listeners in pods"},
			set:      into(boolean, func(in *inputs) *bool { return &in.InpodPortReuse }),
		},
		{Variable: Variable{Name: "INPOD_ENABLED", Type: "any", Meaning: "set by the chart; without effect", Status: Ignored}},
		{
			Variable: Variable{Name: "LOCALHOST_APP_TUNNEL", Type: "bool", Default: "true", Meaning: "traffic with PROXY protocol goes to the loopback address of the pod"},
			set:      into(boolean, func(in *inputs) *bool { return &in.LocalhostAppTunnel }),
		},
		{
			Variable: Variable{Name: "ENABLE_RESPONSE_BAGGAGE", Type: "bool", Default: "true", Meaning: "answer a CONNECT with baggage that describes the destination"},
			set:      into(boolean, func(in *inputs) *bool { return &in.ResponseBaggage }),
		},
		{
			Variable: Variable{Name: "UNSTABLE_ENABLE_SOCKS5", Type: "bool", Default: "false", Meaning: "SOCKS5 on `127.0.0.1:15080` of every pod; names need the DNS proxy"},
			set:      into(boolean, func(in *inputs) *bool { return &in.Socks5 }),
		},
		{
			Variable: Variable{Name: "KEEPALIVE_ENABLED", Type: "bool", Default: "true", Meaning: "TCP keepalive"},
			set:      into(boolean, func(in *inputs) *bool { return &in.Keepalive.Enabled }),
		},
		{
			Variable: Variable{Name: "KEEPALIVE_TIME", Type: "duration", Default: "180s", Meaning: "idle time before the first probe"},
			set:      into(parseDuration, func(in *inputs) *time.Duration { return &in.Keepalive.Time }),
		},
		{
			Variable: Variable{Name: "KEEPALIVE_INTERVAL", Type: "duration", Default: "180s", Meaning: "time between probes"},
			set:      into(parseDuration, func(in *inputs) *time.Duration { return &in.Keepalive.Interval }),
		},
		{
			Variable: Variable{Name: "KEEPALIVE_RETRIES", Type: "u32", Default: "9", Meaning: "unanswered probes that end a connection"},
			set:      into(number[uint32](0, math.MaxUint32), func(in *inputs) *uint32 { return &in.Keepalive.Retries }),
		},
		{
			Variable: Variable{Name: "USER_TIMEOUT_ENABLED", Type: "bool", Default: "false", Meaning: "TCP_USER_TIMEOUT of time + retries × interval"},
			set:      into(boolean, func(in *inputs) *bool { return &in.Keepalive.UserTimeout }),
		},
	}
}

// tunnelVariables are about HBONE tunnels and how long things may take.
func tunnelVariables() []variable {
	const maxWindow = math.MaxInt32 // RFC 9113, 6.9.1
	return []variable{
		{
			Variable: Variable{Name: "POOL_MAX_STREAMS_PER_CONNECTION", Type: "u16", Default: "100", Meaning: "most streams on one pooled tunnel; 0 counts as 1"},
			set:      into(number[uint16](0, math.MaxUint16), func(in *inputs) *uint16 { return &in.PoolMaxStreams }),
		},
		{
			Variable: Variable{Name: "POOL_UNUSED_RELEASE_TIMEOUT", Type: "duration", Default: "5m", Meaning: "how long a pooled tunnel without streams is kept"},
			set:      into(parseDuration, func(in *inputs) *time.Duration { return &in.PoolUnusedTimeout }),
		},
		{
			Variable: Variable{Name: "HTTP2_STREAM_WINDOW_SIZE", Type: "bytes", Default: "4194304", Meaning: "receive window of a stream, 1 to 2147483647"},
			set:      into(number[uint32](1, maxWindow), func(in *inputs) *uint32 { return &in.StreamWindow }),
		},
		{
			Variable: Variable{Name: "HTTP2_CONNECTION_WINDOW_SIZE", Type: "bytes", Default: "16777216", Meaning: "receive window of a tunnel, 1 to 2147483647; best at least four times that of a stream"},
			set:      into(number[uint32](1, maxWindow), func(in *inputs) *uint32 { return &in.ConnectionWindow }),
		},
		{
			Variable: Variable{Name: "HTTP2_FRAME_SIZE", Type: "bytes", Default: "1048576", Meaning: "largest frame taken, 16384 to 16777215"},
			set:      into(number[uint32](1<<14, 1<<24-1), func(in *inputs) *uint32 { return &in.FrameSize }),
		},
		{
			Variable: Variable{Name: "TLS_RECORD_LAYER", Type: "`own` or `crypto/tls`", Default: "own", Meaning: "who protects the records of a tunnel after its handshake, which is always made by crypto/tls; `own` is faster, and is not used in FIPS 140 mode"},
			set: func(in *inputs, value string) error {
				word, err := oneOf("own", "crypto/tls")(value)
				in.CryptoTLS = word == "crypto/tls"
				return err
			},
		},
		{
			Variable: Variable{Name: "INBOUND_HANDSHAKE_TIMEOUT", Type: "duration", Default: "15s", Meaning: "deadline of a client's TLS handshake, and again of its HTTP/2 preface and SETTINGS"},
			set:      into(positive, func(in *inputs) *time.Duration { return &in.InboundHandshakeTimeout }),
		},
		{
			Variable: Variable{Name: "OUTBOUND_HANDSHAKE_TIMEOUT", Type: "duration", Default: "15s", Meaning: "deadline of the TLS handshake with a server, and again of its SETTINGS"},
			set:      into(positive, func(in *inputs) *time.Duration { return &in.OutboundHandshakeTimeout }),
		},
		{
			Variable: Variable{Name: "CONNECT_RESPONSE_TIMEOUT", Type: "duration", Default: "30s", Meaning: "deadline of the answer to a CONNECT"},
			set:      into(positive, func(in *inputs) *time.Duration { return &in.ConnectResponseTimeout }),
		},
		{
			Variable: Variable{Name: "CONNECTION_TERMINATION_DEADLINE", Type: "duration", Unset: "from the next", Meaning: "how long a drain waits for connections"},
			set:      intoPointer(parseDuration, func(in *inputs) **time.Duration { return &in.drainDeadline }),
		},
		{
			Variable: Variable{Name: "TERMINATION_GRACE_PERIOD_SECONDS", Type: "u64", Unset: "a drain of 5s", Meaning: "the pod's grace period: the drain takes 5 s less, or 1 s less up to 10, at least 1 s"},
			set:      intoPointer(number[uint64](0, math.MaxUint64), func(in *inputs) **uint64 { return &in.gracePeriod }),
		},
	}
}

// threadVariables say how many CPUs to use.
func threadVariables() []variable {
	return []variable{
		{
			Variable: Variable{Name: "ZTUNNEL_WORKER_THREADS", Type: "integer or `N%`", Unset: "`concurrency` of the proxy configuration, else automatic", Meaning: "threads that run code at once (GOMAXPROCS); 0 is all CPUs"},
			set:      intoPointer(parseThreads, func(in *inputs) **threadCount { return &in.threads.workers }),
		},
		{
			Variable: Variable{Name: "ZTUNNEL_CPU_LIMIT", Type: "integer", Unset: "CPUs of the machine", Meaning: "number of CPUs to count with; 0 counts as unset"},
			set:      into(number[int](0, maxCPUs), func(in *inputs) *int { return &in.threads.cpuLimit }),
		},
		{
			Variable: Variable{Name: "ZTUNNEL_RESOURCE_CPU_LIMIT", Type: "CPU quantity", Meaning: "explicit limit, rounded up: wins over the above, and automatic threads use all of it"},
			set:      into(parseCPUs, func(in *inputs) *int { return &in.threads.resourceLimit }),
		},
		{
			Variable: Variable{Name: "ZTUNNEL_RESOURCE_CPU_REQUEST", Type: "CPU quantity", Meaning: "automatic threads are at least this many, rounded up"},
			set:      into(parseQuantity, func(in *inputs) *int { return &in.threads.request }),
		},
	}
}
