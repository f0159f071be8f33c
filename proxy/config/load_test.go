package config

import (
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
)

var addresses = cmpopts.EquateComparable(netip.AddrPort{})

// machine is a system without any file.
func machine(t testing.TB, cpus int) system {
	t.Helper()
	dir := t.TempDir()
	return system{cpus: cpus, resolvConf: filepath.Join(dir, "resolv.conf"), loopbackNoIP6: filepath.Join(dir, "disable_ipv6")}
}

// loaded loads a configuration that must be good.
func loaded(t testing.TB, dir string, environ ...string) *Config {
	t.Helper()
	c, err := load(environ, nil, dir, machine(t, 8))
	if err != nil {
		t.Fatalf("load(%q) = %v, want no error", environ, err)
	}
	return c
}

// withMesh returns a working directory with a mesh configuration file.
func withMesh(t *testing.T, content string) string {
	t.Helper()
	dir := t.TempDir()
	write(t, filepath.Join(dir, "etc/istio/config/mesh"), content)
	return dir
}

func write(t *testing.T, path, content string) {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
		t.Fatal(err)
	}
}

func TestDefaults(t *testing.T) {
	got := loaded(t, t.TempDir())
	want := &Config{
		ClusterID: "Kubernetes", ClusterDomain: "cluster.local", TrustDomain: "cluster.local", InstanceIP: "1.1.1.1",
		XDSAddress: "https://localhost:15012", CAAddress: "https://localhost:15012",
		XDSRootCA: RootCA{Path: "./var/run/secrets/istio/root-cert.pem"}, CARootCA: RootCA{Path: "./var/run/secrets/istio/root-cert.pem"},
		SecretTTL: 24 * time.Hour, ProxyMetadata: map[string]string{}, ProxyMetadataJSON: map[string]any{},
		EnableProxy: true, DNSProxy: true, DNSProxyAddr: Listen{Localhost: true, IPv6: true, Port: 15053},
		IPv6: true, LocalhostIPv6: true, AdminPort: 15000, StatsPort: 15020,
		AdminAddr:     Listen{Localhost: true, IPv6: true, Port: 15000},
		StatsAddr:     Listen{Addr: netip.MustParseAddrPort("[::]:15020")},
		ReadinessAddr: Listen{Addr: netip.MustParseAddrPort("[::]:15021")},
		InboundAddr:   netip.MustParseAddrPort("[::]:15008"), InboundPlaintextAddr: netip.MustParseAddrPort("[::]:15006"),
		OutboundAddr: netip.MustParseAddrPort("[::]:15001"), IllegalPorts: []uint16{15001, 15006, 15008},
		PacketMark: 1337, InpodUDS: "/var/run/ztunnel/ztunnel.sock", InpodPortReuse: true, LocalhostAppTunnel: true, ResponseBaggage: true,
		PoolMaxStreams: 100, PoolUnusedTimeout: 5 * time.Minute, StreamWindow: 4194304, ConnectionWindow: 16777216, FrameSize: 1048576,
		Keepalive:     Keepalive{Enabled: true, Time: 3 * time.Minute, Interval: 3 * time.Minute, Retries: 9},
		DrainDeadline: 5 * time.Second, WorkerThreads: 2, Resolver: Resolver{Timeout: 5, Attempts: 2, NDots: 1, CacheSize: 4096},
		InboundHandshakeTimeout: 15 * time.Second, OutboundHandshakeTimeout: 15 * time.Second, ConnectResponseTimeout: 30 * time.Second,
		RequestHeadersTimeout: 15 * time.Second, CSRTimeout: 30 * time.Second,
		Budgets:   Budgets{Window: 10 * time.Second, ControlFrames: 200, PendingResets: 200, Resets: 1000, HeaderListBytes: 65536, ContinuationFrames: 16},
		LogFilter: "info", IstioVersion: "unknown",
		Telemetry: Telemetry{
			Exposure: ExposureMesh, Surfaces: []string{"metrics"}, PushVia: PushAuto, MetricsIdleEviction: time.Hour, MetricsMaxSeries: 50000,
			OTLP: OTLP{
				Protocol: "http/protobuf", Endpoint: "http://localhost:4318/v1/metrics", Insecure: true, ServiceName: "ztunnel", ResourceAttributes: map[string]string{},
				Timeout: 10 * time.Second, Interval: time.Minute, CollectTimeout: 30 * time.Second,
			},
			Pyroscope: Pyroscope{ApplicationName: "ztunnel", UploadRate: 15 * time.Second},
		},
	}
	if len(got.Warnings) != 2 {
		t.Errorf("Warnings = %q, want one about the loopback interface and one about DNS servers", got.Warnings)
	}
	got.Warnings = nil
	if diff := cmp.Diff(want, got, addresses); diff != "" {
		t.Errorf("load() of an empty environment (-want +got):\n%s", diff)
	}
}

// The cases of the mesh file and PROXY_CONFIG.
func TestProxyConfig(t *testing.T) {
	const file = "defaultConfig:\n  statsPort: 15888\n  proxyAdminPort: 15099\n  proxyMetadata: {ISTIO_META_FOO: foo, BOTH: plain, ISTIO_META_BOTH: prefixed}\nrootNamespace: x\n"
	t.Run("only the file", func(t *testing.T) {
		c := loaded(t, withMesh(t, file))
		if c.StatsPort != 15888 || c.AdminPort != 15099 || c.AdminAddr.Port != 15099 || c.StatsAddr.Addr.Port() != 15888 || c.ClusterID != "Kubernetes" {
			t.Errorf("ports %d, %d, cluster %q, want 15888, 15099, Kubernetes", c.StatsPort, c.AdminPort, c.ClusterID)
		}
		want := map[string]string{"FOO": "foo", "BOTH": "prefixed"}
		if diff := cmp.Diff(want, c.ProxyMetadata); diff != "" {
			t.Errorf("ProxyMetadata (-want +got):\n%s", diff)
		}
	})
	t.Run("only the variable", func(t *testing.T) {
		c := loaded(t, t.TempDir(), "PROXY_CONFIG=discoveryAddress: istiod-rev0.istio-system-2:15012")
		if want := "https://istiod-rev0.istio-system-2:15012"; c.XDSAddress != want || c.ReadinessAddr.Addr.Port() != 15021 {
			t.Errorf("XDSAddress = %q, readiness %v, want %q, port 15021", c.XDSAddress, c.ReadinessAddr, want)
		}
		if c.CAAddress != "https://localhost:15012" {
			t.Errorf("CAAddress = %q, want the default", c.CAAddress)
		}
	})
	t.Run("both", func(t *testing.T) {
		c := loaded(t, withMesh(t, "defaultConfig: {statsPort: 15888, proxyAdminPort: 1, concurrency: 3, proxyMetadata: {ISTIO_META_FOO: file, ISTIO_META_BAR: file, NO_PREFIX: file, N: 7}}"),
			`PROXY_CONFIG={"proxyAdminPort": 15999, "proxyMetadata": {"ISTIO_META_FOO": "env"}, "unknown": 1}`)
		if c.StatsPort != 15888 || c.AdminPort != 15999 || c.WorkerThreads != 3 {
			t.Errorf("ports %d, %d, threads %d, want 15888, 15999, 3", c.StatsPort, c.AdminPort, c.WorkerThreads)
		}
		want := map[string]string{"FOO": "env", "BAR": "file", "NO_PREFIX": "file", "N": "7"}
		if diff := cmp.Diff(want, c.ProxyMetadata); diff != "" {
			t.Errorf("ProxyMetadata (-want +got):\n%s", diff)
		}
	})
	t.Run("metadata of the environment", func(t *testing.T) {
		c := loaded(t, withMesh(t, file), "ISTIO_META_INCLUDE_THIS=yes", "NOT_THIS=no", "ISTIO_META_FOO=env", "ISTIO_META_CLUSTER_ID=east", "CLUSTER_ID=west",
			`ISTIO_METAJSON_L={"a": 1}`, "ISTIO_METAJSON_BAD={")
		want := map[string]string{"INCLUDE_THIS": "yes", "FOO": "env", "BOTH": "prefixed", "CLUSTER_ID": "east"}
		if diff := cmp.Diff(want, c.ProxyMetadata); diff != "" {
			t.Errorf("ProxyMetadata (-want +got):\n%s", diff)
		}
		if diff := cmp.Diff(map[string]any{"L": map[string]any{"a": 1.0}}, c.ProxyMetadataJSON); diff != "" {
			t.Errorf("ProxyMetadataJSON (-want +got):\n%s", diff)
		}
		if c.ClusterID != "east" {
			t.Errorf("ClusterID = %q, want east", c.ClusterID)
		}
		if !strings.HasPrefix(c.Warnings[0], "failed to parse ISTIO_METAJSON_BAD: ") {
			t.Errorf("Warnings = %q, want one about ISTIO_METAJSON_BAD", c.Warnings)
		}
	})
	t.Run("empty cluster of the metadata", func(t *testing.T) {
		if c := loaded(t, t.TempDir(), "ISTIO_META_CLUSTER_ID="); c.ClusterID != "" {
			t.Errorf("ClusterID = %q, want none", c.ClusterID)
		}
	})
	t.Run("empty sources", func(t *testing.T) {
		if c := loaded(t, withMesh(t, ""), "PROXY_CONFIG="); c.StatsPort != 15020 {
			t.Errorf("StatsPort = %d, want 15020", c.StatsPort)
		}
	})
}

// The cases where several variables decide together.
func TestCombinations(t *testing.T) {
	dir := t.TempDir()
	write(t, filepath.Join(dir, "root.pem"), "x")
	write(t, filepath.Join(dir, "token"), "x")
	dedicated := []string{"PROXY_MODE=dedicated", "PROXY_WORKLOAD_INFO=ns/name/sa/more"}
	for _, tc := range []struct {
		name string
		env  []string
		got  func(*Config) any
		want any
	}{
		{"workload", dedicated, func(c *Config) any { return *c.Workload }, WorkloadInfo{Namespace: "ns", Name: "name", ServiceAccount: "sa/more"}},
		{"workload ignored", []string{"PROXY_WORKLOAD_INFO=x"}, func(c *Config) any { return c.Workload == nil }, true},
		{"mark dedicated", dedicated, func(c *Config) any { return c.PacketMark }, uint32(0)},
		{"mark given", []string{"PACKET_MARK=5"}, func(c *Config) any { return c.PacketMark }, uint32(5)},
		{"xds in Kubernetes", []string{"KUBERNETES_SERVICE_HOST="}, func(c *Config) any { return c.XDSAddress }, "https://istiod.istio-system.svc:15012"},
		{"xds off", []string{"XDS_ADDRESS=", "PROXY_CONFIG=discoveryAddress: x"}, func(c *Config) any { return c.XDSAddress }, ""},
		{"xds without scheme", []string{"XDS_ADDRESS=istiod-x.ns.svc:15012"}, func(c *Config) any { return c.XDSAddress }, "https://istiod-x.ns.svc:15012"},
		{"xds http", []string{"XDS_ADDRESS=http://h:1"}, func(c *Config) any { return c.XDSAddress }, "http://h:1"},
		{"fake CA", []string{"FAKE_CA=true", "CA_ADDRESS=x"}, func(c *Config) any { return c.CAAddress }, ""},
		{"no CA", []string{"CA_ADDRESS="}, func(c *Config) any { return c.CAAddress }, ""},
		{"root file", []string{"XDS_ROOT_CA=root.pem"}, func(c *Config) any { return c.XDSRootCA }, RootCA{Kind: RootFile, Path: "root.pem"}},
		{"root system", []string{"XDS_ROOT_CA=SYSTEM"}, func(c *Config) any { return c.XDSRootCA }, RootCA{Kind: RootSystem}},
		{"root inline", []string{"CA_ROOT_CA=-----BEGIN CERTIFICATE-----"}, func(c *Config) any { return c.CARootCA }, RootCA{Kind: RootInline, PEM: "-----BEGIN CERTIFICATE-----"}},
		{"root that may come", []string{"CA_ROOT_CA=/not/yet"}, func(c *Config) any { return c.CARootCA }, RootCA{Kind: RootFile, Path: "/not/yet"}},
		{"token file", []string{"AUTH_TOKEN=token"}, func(c *Config) any { return c.Auth }, Token{Path: "token"}},
		{"token that may come", []string{"AUTH_TOKEN=./later"}, func(c *Config) any { return c.Auth }, Token{Path: "./later"}},
		{"token literal", []string{"AUTH_TOKEN=abc"}, func(c *Config) any { return c.Auth.Literal.Reveal() }, "abc"},
		{"xds headers", []string{"XDS_HEADER_HEADER_FOO=foo", "CA_HEADER_HEADER_BAZ=baz"}, func(c *Config) any { return c.XDSHeaders }, []Header{{"header_foo", "foo"}}},
		{"ca headers", []string{"XDS_HEADER_HEADER_FOO=foo", "CA_HEADER_HEADER_BAZ=baz"}, func(c *Config) any { return c.CAHeaders }, []Header{{"header_baz", "baz"}}},
		{"IPv4 only", []string{"IPV6_ENABLED=false"}, func(c *Config) any { return c.OutboundAddr.String() + c.StatsAddr.Addr.String() }, "0.0.0.0:150010.0.0.0:15020"},
		{"IPv4 loopback", []string{"IPV6_ENABLED=false"}, func(c *Config) any { return len(c.AdminAddr.Addrs()) }, 1},
		{"stats address", []string{"STATS_ADDR=127.0.0.1:9", "PROXY_CONFIG=statsPort: 8"}, func(c *Config) any { return c.StatsAddr.Addr.String() }, "127.0.0.1:9"},
		{"dns off", []string{"ISTIO_META_DNS_CAPTURE=FALSE"}, func(c *Config) any { return c.DNSProxy }, false},
		{"dns on", []string{"ISTIO_META_DNS_CAPTURE=TRUE"}, func(c *Config) any { return c.DNSProxy }, true},
		{"dns localhost", []string{"ISTIO_META_DNS_PROXY_ADDR=localhost:53"}, func(c *Config) any { return c.DNSProxyAddr }, Listen{Localhost: true, IPv6: true, Port: 53}},
		{"dns address", []string{"ISTIO_META_DNS_PROXY_ADDR=[::1]:53"}, func(c *Config) any { return c.DNSProxyAddr.Addr.String() }, "[::1]:53"},
		{"socks", []string{"UNSTABLE_ENABLE_SOCKS5=true"}, func(c *Config) any { return c.Socks5Addr.String() }, "127.0.0.1:15080"},
		{"socks port", []string{"UNSTABLE_ENABLE_SOCKS5=true"}, func(c *Config) any { return c.IllegalPorts }, []uint16{15001, 15006, 15008, 15080}},
		{"on demand", []string{"XDS_ON_DEMAND=true", "ISTIO_META_DNS_CAPTURE=false"}, func(c *Config) any { return c.XDSOnDemand }, true},
		{"original source", []string{"ENABLE_ORIG_SRC=false"}, func(c *Config) any { return *c.OriginalSource }, false},
		{"pool of nothing", []string{"POOL_MAX_STREAMS_PER_CONNECTION=0"}, func(c *Config) any { return c.PoolMaxStreams }, uint16(1)},
		{"drain wins", []string{"CONNECTION_TERMINATION_DEADLINE=7", "TERMINATION_GRACE_PERIOD_SECONDS=30"}, func(c *Config) any { return c.DrainDeadline }, 7 * time.Second},
		{"grace 30", []string{"TERMINATION_GRACE_PERIOD_SECONDS=30"}, func(c *Config) any { return c.DrainDeadline }, 25 * time.Second},
		{"grace 11", []string{"TERMINATION_GRACE_PERIOD_SECONDS=11"}, func(c *Config) any { return c.DrainDeadline }, 6 * time.Second},
		{"grace 10", []string{"TERMINATION_GRACE_PERIOD_SECONDS=10"}, func(c *Config) any { return c.DrainDeadline }, 9 * time.Second},
		{"grace 1", []string{"TERMINATION_GRACE_PERIOD_SECONDS=1"}, func(c *Config) any { return c.DrainDeadline }, time.Second},
		{"grace 0", []string{"TERMINATION_GRACE_PERIOD_SECONDS=0"}, func(c *Config) any { return c.DrainDeadline }, time.Second},
		{"grace for ever", []string{"TERMINATION_GRACE_PERIOD_SECONDS=18446744073709551615"}, func(c *Config) any { return c.DrainDeadline > 100*365*24*time.Hour }, true},
		{"switches", []string{"TLS12_ENABLED=TRUE", "COMPLIANCE_POLICY=PQC", "LOG_FORMAT=JSON", "AUTHZ_POLICY_INFO_LOGGING=1"}, func(c *Config) any { return c.TLS12 || c.PQC || c.LogJSON || c.AuthzInfoLogging }, false},
		{"switches on", []string{"TLS12_ENABLED=true", "COMPLIANCE_POLICY=pqc", "LOG_FORMAT=json", "AUTHZ_POLICY_INFO_LOGGING=true"}, func(c *Config) any { return c.TLS12 && c.PQC && c.LogJSON && c.AuthzInfoLogging }, true},
		{"log alias", []string{"LOG_LEVEL=debug"}, func(c *Config) any { return c.LogFilter }, "debug"},
		{"log both", []string{"LOG_LEVEL=debug", "RUST_LOG=x,=!"}, func(c *Config) any { return c.LogFilter }, "x,=!"},
		{"record layer", []string{"TLS_RECORD_LAYER=crypto/tls"}, func(c *Config) any { return c.CryptoTLS }, true},
		{"log overflow", []string{"ZTUNNEL_LOG_OVERFLOW=block"}, func(c *Config) any { return c.Telemetry.LogOverflowBlock }, true},
		{"surfaces", []string{"TELEMETRY_SURFACES=profiles, metrics,profiles"}, func(c *Config) any { return c.Telemetry.Surfaces }, []string{"metrics", "profiles"}},
		{"readers", []string{"TELEMETRY_READERS=cluster.local/ns/monitoring/*,*/sa/auditor,*"}, func(c *Config) any { return c.Telemetry.Readers }, []string{"cluster.local/ns/monitoring/*", "*/sa/auditor", "*"}},
		{"not UTF-8", []string{"NETWORK=\xff", "CLUSTER_DOMAIN=\xff"}, func(c *Config) any { return c.Network + c.ClusterDomain }, "cluster.local"},
		{"twice", []string{"NETWORK=a", "NETWORK=b"}, func(c *Config) any { return c.Network }, "a"},
		{"empty string", []string{"CLUSTER_DOMAIN="}, func(c *Config) any { return c.ClusterDomain }, ""},
		{"no identity", []string{"POD_NAME=p", "POD_NAMESPACE=n"}, func(c *Config) any { return c.OwnWorkload() == nil }, true},
		{"identity", []string{"POD_NAME=p", "POD_NAMESPACE=n", "SERVICE_ACCOUNT=s"}, func(c *Config) any { return *c.OwnWorkload() }, WorkloadInfo{Name: "p", Namespace: "n", ServiceAccount: "s"}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			if diff := cmp.Diff(tc.want, tc.got(loaded(t, dir, tc.env...)), addresses); diff != "" {
				t.Errorf("load(%q) (-want +got):\n%s", tc.env, diff)
			}
		})
	}
}

func TestLoopbackWithoutIPv6(t *testing.T) {
	sys := machine(t, 1)
	write(t, sys.loopbackNoIP6, "1\n")
	c, err := load(nil, nil, t.TempDir(), sys)
	if err != nil || c.LocalhostIPv6 || !c.IPv6 || len(c.AdminAddr.Addrs()) != 1 || c.DNSProxyAddr.IPv6 {
		t.Errorf("load() = %+v, %v, want IPv6 but not for localhost", c, err)
	}
}

func TestArguments(t *testing.T) {
	c, err := load(nil, []string{"proxy", "ztunnel", "--more"}, t.TempDir(), machine(t, 1))
	if err != nil || c.ProxyArgs != "proxy ztunnel --more" {
		t.Errorf("ProxyArgs = %q, %v, want proxy ztunnel --more", c.ProxyArgs, err)
	}
}

func TestOTLP(t *testing.T) {
	const prefix = "OTEL_EXPORTER_OTLP_"
	for _, tc := range []struct {
		name     string
		env      []string
		enabled  bool
		endpoint string
	}{
		{"off", nil, false, "http://localhost:4318/v1/metrics"},
		{"empty means unset", []string{prefix + "ENDPOINT=", "OTEL_METRICS_EXPORTER=", prefix + "PROTOCOL=", prefix + "TIMEOUT="}, false, "http://localhost:4318/v1/metrics"},
		{"exporter", []string{"OTEL_METRICS_EXPORTER=otlp,prometheus"}, true, "http://localhost:4318/v1/metrics"},
		{"exporter and grpc", []string{"OTEL_METRICS_EXPORTER=otlp", prefix + "PROTOCOL=grpc"}, true, "http://localhost:4317"},
		{"endpoint", []string{prefix + "ENDPOINT=https://c:1/base/"}, true, "https://c:1/base/v1/metrics"},
		{"metrics endpoint is exact", []string{prefix + "METRICS_ENDPOINT=https://c:1/x", prefix + "ENDPOINT=https://other"}, true, "https://c:1/x"},
		{"grpc without scheme", []string{prefix + "ENDPOINT=c:4317", prefix + "PROTOCOL=grpc"}, true, "https://c:4317"},
		{"grpc insecure", []string{prefix + "ENDPOINT=c:4317", prefix + "METRICS_PROTOCOL=grpc", prefix + "INSECURE=True"}, true, "http://c:4317"},
		{"none", []string{prefix + "ENDPOINT=https://c", "OTEL_METRICS_EXPORTER=none"}, false, "https://c/v1/metrics"},
		{"disabled", []string{prefix + "ENDPOINT=https://c", "OTEL_SDK_DISABLED=TRUE"}, false, "https://c/v1/metrics"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			o := loaded(t, t.TempDir(), tc.env...).Telemetry.OTLP
			if o.Enabled != tc.enabled || o.Endpoint != tc.endpoint || o.Insecure != strings.HasPrefix(tc.endpoint, "http:") {
				t.Errorf("load(%q) = enabled %v, endpoint %q, insecure %v, want %v, %q", tc.env, o.Enabled, o.Endpoint, o.Insecure, tc.enabled, tc.endpoint)
			}
		})
	}
	o := loaded(t, t.TempDir(), prefix+"HEADERS=A=1", prefix+"METRICS_HEADERS=X-Tenant=a%20b, y=2,", prefix+"METRICS_TIMEOUT=5", prefix+"COMPRESSION=gzip",
		"OTEL_RESOURCE_ATTRIBUTES=service.name=zt,a=b%3D", "OTEL_METRIC_EXPORT_INTERVAL=1000").Telemetry.OTLP
	if diff := cmp.Diff([]Header{{"x-tenant", "a b"}, {"y", "2"}}, o.Headers); diff != "" {
		t.Errorf("Headers (-want +got):\n%s", diff)
	}
	if o.Timeout != 5*time.Millisecond || !o.Gzip || o.ServiceName != "zt" || o.ResourceAttributes["a"] != "b=" || o.Interval != time.Second {
		t.Errorf("OTLP = %+v, want timeout 5ms, gzip, service zt, a=b=, interval 1s", o)
	}
}

// Load works on this machine, whatever it is.
func TestLoad(t *testing.T) {
	c, err := Load([]string{"NETWORK=n"}, nil, t.TempDir())
	if err != nil || c.Network != "n" || c.WorkerThreads < 1 {
		t.Errorf("Load() = %+v, %v, want network n", c, err)
	}
}
