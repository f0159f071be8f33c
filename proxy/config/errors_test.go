package config

import (
	"strings"
	"testing"

	"ztunnel/proxy/rbac"
)

// A list of readers that is taken here must not be refused later, where it is
// put into force. Package config may not ask package rbac itself.
func TestReadersAsInPolicies(t *testing.T) {
	for _, pattern := range []string{
		"*", "**", "***", "a", "a*", "*a", "*a*", "a*b", "a**", "**a", "spiffe://a", "spiffe://", "spiffe://*", "*spiffe://a", "SPIFFE://a", "td/ns/a/sa/b",
	} {
		_, want := rbac.ParsePrincipals([]string{pattern})
		if got := principalPattern(pattern); (got == nil) != (want == nil) {
			t.Errorf("principalPattern(%q) = %v, but as a policy writes it: %v", pattern, got, want)
		}
	}
}

// Every variable that can be wrong, with what is said then.
func TestBadValues(t *testing.T) {
	const (
		notBool     = "must be true or false"
		notDuration = "must be a duration such as 90s, 1h30m or 2d, or a number of seconds, not negative and below 292 years"
		notPositive = "must be a duration greater than zero"
		notU32      = "must be a whole number from 0 to 4294967295"
		notMillis   = "must be a whole number of milliseconds, at least 1"
		notURL      = "must be an http or https URL"
		notPairs    = "must be a list NAME=VALUE,NAME=VALUE with percent-encoded values"
		notCPUs     = "must be a positive CPU quantity such as 2, 1.5 or 500m"
	)
	type row struct{ name, value, reason string }
	rows := []row{
		{"PROXY_MODE", "neither", "PROXY_MODE must be one of dedicated, shared"},
		{"PROXY_MODE", "", "PROXY_MODE must be one of dedicated, shared"},
		{"INSTANCE_IP", "here", "must be an IP address"},
		{"PACKET_MARK", "many", notU32},
		{"PACKET_MARK", "0x539", notU32},
		{"PACKET_MARK", "4294967296", notU32},
		{"PACKET_MARK", "", notU32},
		{"PACKET_MARK", "-1", notU32},
		{"KEEPALIVE_RETRIES", "x", notU32},
		{"POOL_MAX_STREAMS_PER_CONNECTION", "70000", "must be a whole number from 0 to 65535"},
		{"HTTP2_STREAM_WINDOW_SIZE", "2147483648", "must be a whole number from 1 to 2147483647"},
		{"HTTP2_CONNECTION_WINDOW_SIZE", "0", "must be a whole number from 1 to 2147483647"},
		{"HTTP2_FRAME_SIZE", "16383", "must be a whole number from 16384 to 16777215"},
		{"HTTP2_FRAME_SIZE", "16777216", "must be a whole number from 16384 to 16777215"},
		{"TLS_RECORD_LAYER", "go", "must be one of own, crypto/tls"},
		{"TERMINATION_GRACE_PERIOD_SECONDS", "30s", "must be a whole number from 0 to 18446744073709551615"},
		{"SECRET_TTL", "0", notPositive},
		{"SECRET_TTL", "-1h", notDuration},
		{"ZTUNNEL_WORKER_THREADS", "120%", "percentage must be between 0 and 100, 0 excluded"},
		{"ZTUNNEL_WORKER_THREADS", "0%", "percentage must be between 0 and 100, 0 excluded"},
		{"ZTUNNEL_WORKER_THREADS", "-1%", "percentage must be between 0 and 100"},
		{"ZTUNNEL_WORKER_THREADS", "many%", "invalid percentage: must be a number followed by %"},
		{"ZTUNNEL_WORKER_THREADS", "many", "invalid number: must be a whole number from 0 (all CPUs) to 65536, or a percentage such as 50%"},
		{"ZTUNNEL_WORKER_THREADS", "", "invalid number: must be a whole number from 0 (all CPUs) to 65536, or a percentage such as 50%"},
		{"ZTUNNEL_CPU_LIMIT", "1.5", "must be a whole number from 0 to 65536"},
		{"ZTUNNEL_RESOURCE_CPU_LIMIT", "-1", notCPUs},
		{"ZTUNNEL_RESOURCE_CPU_LIMIT", "0", notCPUs},
		{"ZTUNNEL_RESOURCE_CPU_LIMIT", "NaN", notCPUs},
		{"ZTUNNEL_RESOURCE_CPU_REQUEST", "inf", notCPUs},
		{"ZTUNNEL_LOG_OVERFLOW", "panic", "must be one of drop, block"},
		{"TELEMETRY_EXPOSURE", "none", "must be one of mesh, both, plaintext"},
		{"TELEMETRY_SURFACES", "metrics,shell", "must list some of metrics, profiles, connections"},
		{"TELEMETRY_SURFACES", "", "must be a comma separated list without empty elements"},
		{"TELEMETRY_READERS", "", "must be a comma separated list without empty elements"},
		{"TELEMETRY_READERS", "a,,b", "must be a comma separated list without empty elements"},
		{"TELEMETRY_READERS", "*mid*", "must be principals of the form NAME, PREFIX*, *SUFFIX or *"},
		{"TELEMETRY_READERS", "a*b", "must be principals of the form NAME, PREFIX*, *SUFFIX or *"},
		{"TELEMETRY_READERS", "spiffe://td/ns/a/sa/b", "must be principals without spiffe://"},
		{"TELEMETRY_PUSH_VIA", "carrier", "must be one of auto, mesh, direct"},
		{"STATS_ADDR", "15020", "must be IP:PORT"},
		{"METRICS_MAX_SERIES", "0", "must be a whole number from 1 to 10000000"},
		{"OTEL_METRICS_EXPORTER", "console", "must list some of otlp, prometheus, none"},
		{"OTEL_EXPORTER_OTLP_ENDPOINT", "collector:4318", notURL},
		{"OTEL_EXPORTER_OTLP_METRICS_ENDPOINT", "ftp://x", notURL},
		{"OTEL_METRIC_EXPORT_INTERVAL", "0", notMillis},
		{"OTEL_METRIC_EXPORT_TIMEOUT", "1s", notMillis},
		{"OTEL_RESOURCE_ATTRIBUTES", "name", notPairs},
		{"OTEL_SDK_DISABLED", "2", notBool},
		{"PYROSCOPE_SERVER_ADDRESS", "pyroscope:4040", notURL},
	}
	for _, name := range []string{
		"XDS_ON_DEMAND", "FAKE_CA", "ENABLE_PROXY", "IPV6_ENABLED", "ENABLE_ORIG_SRC", "INPOD_PORT_REUSE", "LOCALHOST_APP_TUNNEL",
		"ENABLE_RESPONSE_BAGGAGE", "UNSTABLE_ENABLE_SOCKS5", "KEEPALIVE_ENABLED", "USER_TIMEOUT_ENABLED",
	} {
		rows = append(rows, row{name, "maybe", notBool}, row{name, "", notBool}, row{name, "True", notBool}, row{name, "1", notBool})
	}
	for _, name := range []string{"KEEPALIVE_TIME", "KEEPALIVE_INTERVAL", "POOL_UNUSED_RELEASE_TIMEOUT", "CONNECTION_TERMINATION_DEADLINE", "METRICS_IDLE_EVICTION"} {
		rows = append(rows, row{name, "soon", notDuration}, row{name, "", notDuration})
	}
	for _, name := range []string{"CSR_TIMEOUT", "INBOUND_HANDSHAKE_TIMEOUT", "OUTBOUND_HANDSHAKE_TIMEOUT", "CONNECT_RESPONSE_TIMEOUT", "PYROSCOPE_UPLOAD_RATE"} {
		rows = append(rows, row{name, "soon", notDuration}, row{name, "0s", notPositive})
	}
	for _, infix := range []string{"", "METRICS_"} {
		rows = append(rows,
			row{"OTEL_EXPORTER_OTLP_" + infix + "PROTOCOL", "http/json", "must be one of grpc, http/protobuf"},
			row{"OTEL_EXPORTER_OTLP_" + infix + "TIMEOUT", "10s", notMillis},
			row{"OTEL_EXPORTER_OTLP_" + infix + "INSECURE", "yes", notBool},
			row{"OTEL_EXPORTER_OTLP_" + infix + "COMPRESSION", "zstd", "must be one of none, gzip"},
		)
	}
	tested := map[string]bool{}
	for _, r := range rows {
		tested[r.name] = true
		want := "invalid env var " + r.name + "=" + r.value + " (" + r.reason + ")"
		expectError(t, want, r.name+"="+r.value)
	}

	// All others of the table take any text, or are tested with their own
	// messages below.
	free := map[string]bool{}
	for _, name := range []string{
		"PROXY_WORKLOAD_INFO", "NODE_NAME", "NETWORK", "CLUSTER_ID", "CLUSTER_DOMAIN", "POD_NAME", "POD_NAMESPACE", "SERVICE_ACCOUNT",
		"TRUST_DOMAIN", "KUBERNETES_SERVICE_HOST", "XDS_ADDRESS", "CA_ADDRESS", "XDS_ROOT_CA", "CA_ROOT_CA", "AUTH_TOKEN", "ALT_XDS_HOSTNAME", "ALT_CA_HOSTNAME",
		"XDS_HEADER_<K>", "CA_HEADER_<K>", "CRL_PATH", "TLS12_ENABLED", "COMPLIANCE_POLICY", "LOCAL_XDS_PATH", "LOCAL_XDS", "PROXY_CONFIG",
		"ISTIO_META_CLUSTER_ID", "ISTIO_META_ISTIO_VERSION", "ISTIO_META_DNS_CAPTURE", "ISTIO_META_DNS_PROXY_ADDR", "ISTIO_META_<K>", "ISTIO_METAJSON_<K>",
		"PREFERED_SERVICE_NAMESPACE", "INPOD_UDS", "INPOD_ENABLED", "RUST_LOG", "LOG_LEVEL", "LOG_FORMAT", "AUTHZ_POLICY_INFO_LOGGING", "RUST_BACKTRACE",
		"TELEMETRY_SCOPES_FILE", "OTEL_SERVICE_NAME", "OTEL_EXPORTER_OTLP_HEADERS", "OTEL_EXPORTER_OTLP_METRICS_HEADERS", "OTEL_EXPORTER_OTLP_CERTIFICATE",
		"OTEL_EXPORTER_OTLP_METRICS_CERTIFICATE", "PYROSCOPE_APPLICATION_NAME", "PYROSCOPE_BASIC_AUTH_USER", "PYROSCOPE_BASIC_AUTH_PASSWORD", "PYROSCOPE_TENANT_ID",
	} {
		free[name] = true
	}
	for _, v := range Variables() {
		if tested[v.Name] == free[v.Name] {
			t.Errorf("%s: tested %v, without wrong values %v, want exactly one", v.Name, tested[v.Name], free[v.Name])
		}
	}
}

// Errors that several variables make, or that have words of their own.
func TestOtherErrors(t *testing.T) {
	for _, tc := range []struct {
		want string
		env  []string
	}{
		{"invalid configuration: PROXY_MODE=dedicated requires PROXY_WORKLOAD_INFO to be set", []string{"PROXY_MODE=dedicated"}},
		{`invalid configuration: PROXY_WORKLOAD_INFO must match the format 'namespace/name/service-account' (got ["-"])`, []string{"PROXY_MODE=dedicated", "PROXY_WORKLOAD_INFO=-"}},
		{`invalid configuration: PROXY_WORKLOAD_INFO must match the format 'namespace/name/service-account' (got ["shop" "web"])`, []string{"PROXY_MODE=dedicated", "PROXY_WORKLOAD_INFO=shop/web"}},
		{`invalid configuration: PROXY_WORKLOAD_INFO must match the format 'namespace/name/service-account' (got ["" "" ""])`, []string{"PROXY_MODE=dedicated", "PROXY_WORKLOAD_INFO=//"}},
		{"invalid configuration: only one of LOCAL_XDS_PATH or LOCAL_XDS may be set", []string{"LOCAL_XDS_PATH=x", "LOCAL_XDS={}"}},
		{"error parsing proxy config: ztunnel run without any servers enabled", []string{"ENABLE_PROXY=false", "ISTIO_META_DNS_CAPTURE=false"}},
		{"invalid configuration: failed to parse DNS_PROXY_ADDR: not-an-address (must be localhost:PORT or IP:PORT)", []string{"ISTIO_META_DNS_PROXY_ADDR=not-an-address"}},
		{"invalid configuration: failed to parse DNS_PROXY_ADDR: localhost:dns (must be localhost:PORT or IP:PORT)", []string{"PROXY_CONFIG=proxyMetadata: {DNS_PROXY_ADDR: 'localhost:dns'}"}},
		{"invalid configuration: XDS_ON_DEMAND=true cannot be used with the DNS proxy; ISTIO_META_DNS_CAPTURE=false switches it off", []string{"XDS_ON_DEMAND=true"}},
		{"XDS_ADDRESS: invalid uri: ftp://x (the scheme must be https or http)", []string{"XDS_ADDRESS=ftp://x"}},
		{"CA_ADDRESS: invalid uri: https://:15012 (there must be a host)", []string{"CA_ADDRESS=https://:15012"}},
		{"XDS_ADDRESS: invalid uri: host:port", []string{"XDS_ADDRESS=host:port"}},
		{"XDS_ADDRESS: invalid uri: host:70000 (the port must be 1 to 65535)", []string{"XDS_ADDRESS=host:70000"}},
		{"failed to parse header key: XDS_HEADER_a b (must be letters, digits, '-', '_' and '.', and not end in -bin)", []string{"XDS_HEADER_a b=x"}},
		{"failed to parse header key: CA_HEADER_X-Bin (must be letters, digits, '-', '_' and '.', and not end in -bin)", []string{"CA_HEADER_X-Bin=x"}},
		{"failed to parse header key: CA_HEADER_ (must be letters, digits, '-', '_' and '.', and not end in -bin)", []string{"CA_HEADER_=x"}},
		{"failed to parse header value: [redacted] of CA_HEADER_X (must be printable ASCII)", []string{"CA_HEADER_X=a\nb"}},
		{"error parsing proxy config: failed parsing proxy config env: yaml: did not find expected node content", []string{"PROXY_CONFIG={statsPort: [}"}},
		{"error parsing proxy config: failed parsing proxy config env: yaml: unmarshal errors: line 1: cannot unmarshal !!int `70000` into uint16", []string{"PROXY_CONFIG=statsPort: 70000"}},
	} {
		expectError(t, tc.want, tc.env...)
	}
	dir := withMesh(t, "defaultConfig: 5")
	if _, err := load(nil, nil, dir, machine(t, 1)); err == nil || !strings.HasPrefix(err.Error(), "error parsing proxy config: failed parsing mesh config file "+dir+"/etc/istio/config/mesh: yaml: ") {
		t.Errorf("load() with a bad mesh file = %v, want an error naming it", err)
	}
}

// What is secret shows in no error.
func TestErrorsHoldNoSecrets(t *testing.T) {
	const secret = "hunter2"
	for _, entry := range []string{
		"XDS_HEADER_A=" + secret + "\x00", "CA_HEADER_A=" + secret + "\x7f",
		"OTEL_EXPORTER_OTLP_HEADERS=" + secret, "OTEL_EXPORTER_OTLP_METRICS_HEADERS=a=" + secret + "%0a", "OTEL_EXPORTER_OTLP_HEADERS=a b=" + secret,
		"XDS_ADDRESS=https://me:" + secret + "@host:port", "CA_ADDRESS=me:" + secret + "@host:port", "XDS_ADDRESS=https://me:a/" + secret + "@host:port",
		"OTEL_EXPORTER_OTLP_ENDPOINT=ftp://me:" + secret + "@host", "PYROSCOPE_SERVER_ADDRESS=me:" + secret + "@host",
	} {
		_, err := load([]string{entry}, nil, t.TempDir(), machine(t, 1))
		if err == nil || strings.Contains(err.Error(), secret) {
			t.Errorf("load(%q) = %v, want an error without %q", entry, err, secret)
		}
	}
}

func TestLongValuesAreCut(t *testing.T) {
	_, err := load([]string{"PROXY_MODE=" + strings.Repeat("ä", 1000)}, nil, t.TempDir(), machine(t, 1))
	if err == nil || len(err.Error()) > 300 || !strings.Contains(err.Error(), "ä… (PROXY_MODE must be") {
		t.Errorf("load() of a long value = %v, want it cut", err)
	}
}

func expectError(t *testing.T, want string, environ ...string) {
	t.Helper()
	_, err := load(environ, nil, t.TempDir(), machine(t, 8))
	if err == nil || err.Error() != want {
		t.Errorf("load(%q) = %v, want %s", environ, err, want)
	}
}
