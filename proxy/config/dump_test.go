package config

import (
	"encoding/json"
	"flag"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

var update = flag.Bool("update", false, "rewrite golden files and the table in README.md")

func dumpJSON(t *testing.T, c *Config) []byte {
	t.Helper()
	content, err := json.MarshalIndent(c.Dump(), "", "  ")
	if err != nil {
		t.Fatal(err)
	}
	return append(content, '\n')
}

// The whole dump, of defaults and of much that is set.
func TestDumpGolden(t *testing.T) {
	full := []string{
		"PROXY_MODE=dedicated", "PROXY_WORKLOAD_INFO=ns/name/sa", "NODE_NAME=node1", "POD_NAME=p", "POD_NAMESPACE=n", "SERVICE_ACCOUNT=s",
		"XDS_ROOT_CA=SYSTEM", "CA_ROOT_CA=-----BEGIN CERTIFICATE-----", "XDS_HEADER_A=hunter2", "CA_HEADER_B=hunter2", "AUTH_TOKEN=hunter2",
		"ENABLE_ORIG_SRC=true", "PACKET_MARK=7", "UNSTABLE_ENABLE_SOCKS5=true", "IPV6_ENABLED=false", "ISTIO_META_DNS_PROXY_ADDR=127.0.0.1:53",
		"CONNECTION_TERMINATION_DEADLINE=1500ms", "CRL_PATH=/crl", "LOCAL_XDS=hunter2: x", "TELEMETRY_SURFACES=metrics,profiles", "TELEMETRY_READERS=a,b*",
		"OTEL_EXPORTER_OTLP_ENDPOINT=https://me:hunter2@collector:1", "OTEL_EXPORTER_OTLP_HEADERS=x=hunter2", "OTEL_RESOURCE_ATTRIBUTES=a=b",
		"PYROSCOPE_SERVER_ADDRESS=https://hunter2@pyroscope", "PYROSCOPE_BASIC_AUTH_USER=me", "PYROSCOPE_BASIC_AUTH_PASSWORD=hunter2",
		"XDS_ADDRESS=", "CA_ADDRESS=https://me:hunter2@ca",
	}
	for name, environ := range map[string][]string{"defaults": nil, "full": full} {
		sys := machine(t, 8)
		write(t, sys.resolvConf, "# comment\nnameserver 10.96.0.10\nsearch a.svc.cluster.local svc.cluster.local\noptions ndots:5 edns0\n")
		c, err := load(environ, []string{"proxy", "ztunnel"}, t.TempDir(), sys)
		if err != nil {
			t.Fatal(err)
		}
		got := dumpJSON(t, c)
		if strings.Contains(string(got), "hunter2") {
			t.Errorf("%s: there is a secret in the dump:\n%s", name, got)
		}
		golden(t, filepath.Join("testdata", "dump-"+name+".json"), got)
	}
}

// The types that Kiali demands, in whatever way things are set.
func TestDumpDecodesInKiali(t *testing.T) {
	type addr struct{ Localhost []any }
	type socketAddr struct{ SocketAddr string }
	type cert struct{ File string }
	type duration struct{ Secs, Nanos int64 }
	type kiali struct {
		AdminAddr, DNSProxyAddr                                               addr
		StatsAddr, ReadinessAddr                                              socketAddr
		CaRootCert, XdsRootCert                                               cert
		SecretTTL, SelfTerminationDeadline, PoolUnusedReleaseTimeout          duration
		AltCaHostname, AltXdsHostname, Socks5Addr, RequireOriginalSource      *string
		PacketMark, WindowSize, ConnectionWindowSize, FrameSize               int
		NumWorkerThreads, PoolMaxStreamsPerConn                               int
		IllegalPorts                                                          []int
		Proxy, DNSProxy, FakeCa, FakeSelfInbound, InpodPortReuse, XdsOnDemand bool
		ClusterDomain, ClusterID, LocalNode, Network, InpodUds                string
		ProxyArgs, ProxyMode, XdsAddress, CaAddress                           string
		InboundAddr, InboundPlaintextAddr, OutboundAddr                       string
		ProxyMetadata                                                         map[string]string
		DNSResolverCfg                                                        struct {
			Domain      string
			NameServers []struct {
				Protocol               string `json:"protocol"`
				SocketAddr             string `json:"socket_addr"`
				TrustNegativeResponses bool   `json:"trust_negative_responses"`
			} `json:"name_servers"`
			Search []string
		}
		DNSResolverOpts struct {
			Attempts, Ndots int
			CacheSize       int    `json:"cache_size"`
			IPStrategy      string `json:"ip_strategy"`
			Timeout         duration
		}
	}
	for _, environ := range [][]string{
		nil,
		{"XDS_ROOT_CA=SYSTEM", "CA_ROOT_CA=PEM -----BEGIN", "ENABLE_ORIG_SRC=false", "FAKE_CA=true", "XDS_ADDRESS=", "UNSTABLE_ENABLE_SOCKS5=true", "PACKET_MARK=0"},
	} {
		var k kiali
		if err := json.Unmarshal(dumpJSON(t, loaded(t, t.TempDir(), environ...)), &k); err != nil {
			t.Errorf("Dump() with %q does not decode: %v", environ, err)
		}
		if k.AdminAddr.Localhost[1] != 15000.0 || k.StatsAddr.SocketAddr != "[::]:15020" || k.SecretTTL.Secs != 86400 || k.FrameSize != 1048576 {
			t.Errorf("Dump() with %q decodes to %+v", environ, k)
		}
	}
}

// Nothing that formats a configuration shows a secret.
func TestSecretsDoNotShow(t *testing.T) {
	c := loaded(t, t.TempDir(), "XDS_HEADER_A=hunter2", "AUTH_TOKEN=hunter2", "PYROSCOPE_BASIC_AUTH_PASSWORD=hunter2", "OTEL_EXPORTER_OTLP_HEADERS=x=hunter2")
	if got := c.Auth.Literal.Reveal(); got != "hunter2" {
		t.Fatalf("Reveal() = %q, want hunter2", got)
	}
	var log strings.Builder
	slog.New(slog.NewTextHandler(&log, nil)).Info("x", "secret", c.Auth.Literal, "config", c)
	encoded, err := json.Marshal(c)
	if err != nil {
		t.Fatal(err)
	}
	for _, text := range []string{fmt.Sprintf("%v %+v %#v %s %q %x", c, *c, *c, c.Auth, c.Auth, c.Auth), log.String(), string(encoded)} {
		if strings.Contains(text, "hunter2") || strings.Contains(text, "68756e74657232") {
			t.Errorf("a secret shows in %s", text)
		}
	}
	if got := fmt.Sprint(Secret("")); got != "" {
		t.Errorf("an empty secret prints as %q, want nothing", got)
	}
}

func TestParseResolvConf(t *testing.T) {
	r := parseResolvConf([]byte("; x\nnameserver 10.0.0.1\nnameserver fe80::1%eth0\nnameserver nonsense\ndomain d\nsearch a b\noptions ndots:99 timeout:0 attempts:3 rotate ndots:x\nlonely\n"))
	want := Resolver{Search: []string{"a", "b"}, Timeout: 1, Attempts: 3, NDots: 15, CacheSize: 4096, Servers: r.Servers}
	if diff := cmp.Diff(want, r, addresses); diff != "" || len(r.Servers) != 2 || r.Servers[1].String() != "[fe80::1%eth0]:53" {
		t.Errorf("parseResolvConf() servers %v (-want +got):\n%s", r.Servers, diff)
	}
}

// The names of the table are unique, and each row can be explained.
func TestTable(t *testing.T) {
	seen := map[string]bool{}
	for _, v := range table() {
		if seen[v.Name] {
			t.Errorf("%s stands twice in the table", v.Name)
		}
		seen[v.Name] = true
		if v.Type == "" || v.Meaning == "" || v.Default != "" && v.Unset != "" {
			t.Errorf("%s: type %q, meaning %q, default %q, unset %q: want type, meaning, and at most one of the last", v.Name, v.Type, v.Meaning, v.Default, v.Unset)
		}
		if handlers := v.set != nil || v.each != nil; handlers == (v.Status == Ignored) || v.set != nil && v.each != nil {
			t.Errorf("%s: status %s with handler %v, want a handler unless ignored", v.Name, v.Status, handlers)
		}
		if prefix := strings.HasSuffix(v.Name, prefixMark); prefix != (v.each != nil) {
			t.Errorf("%s: prefix %v, want what its handler says", v.Name, prefix)
		}
	}
}

// README.md documents every variable as the table has it.
func TestReadmeHasTheTable(t *testing.T) {
	const begin, end = "<!-- env:begin -->\n", "<!-- env:end -->"
	path := filepath.Join("..", "..", "README.md")
	content, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	before, rest, ok := strings.Cut(string(content), begin)
	got, after, ok2 := strings.Cut(rest, end)
	if !ok || !ok2 {
		t.Fatalf("README.md has no markers %s and %s", strings.TrimSpace(begin), end)
	}
	want := MarkdownTable()
	if *update {
		if err := os.WriteFile(path, []byte(before+begin+want+end+after), 0o644); err != nil {
			t.Fatal(err)
		}
		return
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("README.md is not current; go test ./proxy/config -update rewrites it (-want +got):\n%s", diff)
	}
}

func golden(t *testing.T, path string, got []byte) {
	t.Helper()
	if *update {
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, got, 0o644); err != nil {
			t.Fatal(err)
		}
		return
	}
	want, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(string(want), string(got)); diff != "" {
		t.Errorf("%s (-want +got):\n%s", path, diff)
	}
}
