package surface

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"regexp"
	"strings"
	"sync"
	"testing"

	"github.com/google/go-cmp/cmp"
	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/sdk/metric"
	"go.opentelemetry.io/otel/sdk/metric/metricdata"
	"go.uber.org/goleak"

	"ztunnel/telemetry/catalog"
	"ztunnel/telemetry/httpd"
	"ztunnel/telemetry/logging"
	"ztunnel/telemetry/profiles"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// fixture is a surface with its log and metrics.
type fixture struct {
	*Server
	logs   *logging.Logging
	out    bytes.Buffer
	reader *metric.ManualReader
}

func newFixture(t *testing.T, cfg Config) *fixture {
	t.Helper()
	f := &fixture{reader: metric.NewManualReader()}
	var err error
	if f.logs, err = logging.New(logging.Config{Output: &f.out}); err != nil {
		t.Fatal(err)
	}
	cfg.Log = f.logs.Logger("telemetry")
	if cfg.Metrics == nil {
		cfg.Metrics = http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, "istio_build 1\n") })
	}
	if f.Server, err = New(cfg); err != nil {
		t.Fatal(err)
	}
	provider := metric.NewMeterProvider(metric.WithReader(f.reader))
	t.Cleanup(func() { _ = provider.Shutdown(context.Background()) })
	if err := f.Register(provider.Meter("test")); err != nil {
		t.Fatal(err)
	}
	return f
}

// lines closes the log and is what it has, without times and durations.
func (f *fixture) lines(t *testing.T) string {
	t.Helper()
	if err := f.logs.Close(t.Context()); err != nil {
		t.Fatal(err)
	}
	text := regexp.MustCompile(`(?m)^\S+\t`).ReplaceAllString(f.out.String(), "")
	return regexp.MustCompile(`"\d+ms"`).ReplaceAllString(text, `"TIME"`)
}

// metrics is all points by name and labels.
func (f *fixture) metrics(t *testing.T) map[string]int64 {
	t.Helper()
	var rm metricdata.ResourceMetrics
	if err := f.reader.Collect(t.Context(), &rm); err != nil {
		t.Fatal(err)
	}
	points := map[string]int64{}
	add := func(name string, dps []metricdata.DataPoint[int64]) {
		for _, p := range dps {
			points[name+"{"+p.Attributes.Encoded(attribute.DefaultEncoder())+"}"] = p.Value
		}
	}
	for _, scope := range rm.ScopeMetrics {
		for _, m := range scope.Metrics {
			if want := catalog.Help(m.Name); m.Description != want || want == "" {
				t.Errorf("description of %s = %q, want %q as in the catalog", m.Name, m.Description, want)
			}
			switch data := m.Data.(type) {
			case metricdata.Sum[int64]:
				add(m.Name, data.DataPoints)
			case metricdata.Gauge[int64]:
				add(m.Name, data.DataPoints)
			}
		}
	}
	return points
}

var prometheus = Reader{"spiffe://cluster.local/ns/monitoring/sa/prometheus", netip.MustParseAddrPort("10.0.0.1:4000")}

// open serves one end of a pipe to a reader.
func open(ctx context.Context, f *Surface, by Reader) (client net.Conn, done <-chan error) {
	client, server := net.Pipe()
	result := make(chan error, 1)
	go func() { result <- f.ServeConn(ctx, server, by) }()
	return client, result
}

func get(t *testing.T, conn io.ReadWriter, path string) (int, string) {
	t.Helper()
	if _, err := fmt.Fprintf(conn, "GET %s HTTP/1.1\r\nHost: ztunnel\r\n\r\n", path); err != nil {
		t.Fatal(err)
	}
	resp, err := http.ReadResponse(bufio.NewReader(conn), nil)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return resp.StatusCode, string(b)
}

func TestReadOverTunnel(t *testing.T) {
	f := newFixture(t, Config{})
	s, ok := f.Lookup(PortMetrics)
	if !ok || s.Name != Metrics || s.NeedsAllow {
		t.Fatalf("Lookup(%d) = %+v, %v, want metrics", PortMetrics, s, ok)
	}
	conn, done := open(t.Context(), s, prometheus)
	for _, tc := range []struct {
		path   string
		status int
		body   string
	}{
		{"/metrics", 200, "istio_build 1\n"},
		{"/stats/prometheus?x=y", 200, "istio_build 1\n"},
		{"/config_dump", 404, ""},
		{"/debug/pprof/heap", 404, ""},
	} {
		if status, body := get(t, conn, tc.path); status != tc.status || body != tc.body {
			t.Errorf("GET %s = %d %q, want %d %q", tc.path, status, body, tc.status, tc.body)
		}
	}
	conn.Close()
	if err := <-done; err != nil {
		t.Errorf("ServeConn = %v, want nil", err)
	}
	s.Denied(t.Context(), Reader{"spiffe://cluster.local/ns/default/sa/x", netip.MustParseAddrPort("[2001:db8::1]:1")}, errors.New("allow policies exist, but none allowed"))

	const by = `src.addr=10.0.0.1:4000 src.identity="spiffe://cluster.local/ns/monitoring/sa/prometheus" surface="metrics" `
	want := "info\ttelemetry\tread\t" + by + `path="/metrics" status=200 bytes_sent=14 duration="TIME" scope="full"` + "\n" +
		"info\ttelemetry\tread\t" + by + `path="/stats/prometheus" status=200 bytes_sent=14 duration="TIME" scope="full"` + "\n" +
		"info\ttelemetry\tread\t" + by + `path="/config_dump" status=404 bytes_sent=0 duration="TIME" scope="full"` + "\n" +
		"info\ttelemetry\tread\t" + by + `path="/debug/pprof/heap" status=404 bytes_sent=0 duration="TIME" scope="full"` + "\n" +
		"warn\ttelemetry\tread denied\t" + `src.addr=[2001:db8::1]:1 src.identity="spiffe://cluster.local/ns/default/sa/x" surface="metrics" error="allow policies exist, but none allowed"` + "\n"
	if diff := cmp.Diff(want, f.lines(t)); diff != "" {
		t.Errorf("audit lines differ (-want +got):\n%s", diff)
	}
	const family = "istio_ztunnel_telemetry_requests_total"
	wantMetrics := map[string]int64{
		family + "{code=200,peer_identity=" + prometheus.Identity + ",surface=metrics,transport=hbone}":            2,
		family + "{code=404,peer_identity=" + prometheus.Identity + ",surface=metrics,transport=hbone}":            2,
		family + "{code=401,peer_identity=spiffe://cluster.local/ns/default/sa/x,surface=metrics,transport=hbone}": 1,
		"istio_ztunnel_telemetry_exposure{mode=mesh}":                                                              1,
		"istio_ztunnel_telemetry_endpoint_ready{}":                                                                 0,
	}
	if diff := cmp.Diff(wantMetrics, f.metrics(t)); diff != "" {
		t.Errorf("metrics differ (-want +got):\n%s", diff)
	}
	f.SetReady(true)
	if got := f.metrics(t)["istio_ztunnel_telemetry_endpoint_ready{}"]; got != 1 {
		t.Errorf("endpoint_ready = %d, want 1", got)
	}
}

func TestRevokedReaderIsCut(t *testing.T) {
	f := newFixture(t, Config{})
	s, _ := f.Lookup(PortMetrics)
	cause := errors.New("policy changed")
	ctx, cancel := context.WithCancelCause(context.Background())
	conn, done := open(ctx, s, prometheus)
	if status, _ := get(t, conn, "/metrics"); status != 200 {
		t.Errorf("status = %d, want 200", status)
	}
	cancel(cause)
	if err := <-done; !errors.Is(err, cause) {
		t.Errorf("ServeConn = %v, want %v", err, cause)
	}
	if _, err := conn.Read(make([]byte, 1)); err == nil {
		t.Error("the connection is still open")
	}
}

func TestConfiguration(t *testing.T) {
	pages := http.NotFoundHandler()
	for _, tc := range []struct {
		name    string
		cfg     Config
		wantErr string
		ports   []uint16 // of Lookup
		virtual bool
		plain   bool
	}{
		{"default", Config{}, "", []uint16{PortMetrics}, true, false},
		{"both", Config{Exposure: Both}, "", []uint16{PortMetrics}, true, true},
		{"plaintext", Config{Exposure: Plaintext}, "", nil, false, true},
		{"profiles too", Config{Surfaces: []string{Metrics, Profiles}, Profiles: pages}, "", []uint16{PortMetrics, PortProfiles}, true, false},
		{"profiles alone", Config{Surfaces: []string{Profiles}, Profiles: pages}, "", []uint16{PortProfiles}, true, false},
		{"none", Config{Surfaces: []string{}}, "", nil, true, false},
		{"no profiles", Config{Surfaces: []string{Profiles}}, "surface profiles has no handler", nil, false, false},
		{"connections", Config{Surfaces: []string{Metrics, Connections}}, "surface connections is not available in this version", nil, false, false},
		{"unknown", Config{Surfaces: []string{"logs"}}, `telemetry surface "logs" is unknown, expected metrics, profiles or connections`, nil, false, false},
		{"exposure", Config{Exposure: "open"}, `telemetry exposure "open" is unknown, expected mesh, both or plaintext`, nil, false, false},
	} {
		t.Run(tc.name, func(t *testing.T) {
			tc.cfg.Metrics, tc.cfg.Log = pages, slog.New(slog.DiscardHandler)
			s, err := New(tc.cfg)
			if tc.wantErr != "" || err != nil {
				if err == nil || err.Error() != tc.wantErr {
					t.Errorf("New = %v, want %q", err, tc.wantErr)
				}
				return
			}
			var ports []uint16
			for _, port := range []uint16{80, 15000, 15008, 15020, 15021, 15022, 15023} {
				f, ok := s.Lookup(port)
				if !ok {
					continue
				}
				if f.Port != port || f.NeedsAllow != (port != PortMetrics) {
					t.Errorf("Lookup(%d) = %+v", port, f)
				}
				ports = append(ports, port)
			}
			if diff := cmp.Diff(tc.ports, ports); diff != "" {
				t.Errorf("ports differ (-want +got):\n%s", diff)
			}
			if s.IsVirtual(PortConnections) != tc.virtual || s.IsVirtual(80) || s.HasPlaintext() != tc.plain {
				t.Errorf("IsVirtual(%d) = %v, IsVirtual(80) = %v, HasPlaintext() = %v", PortConnections, s.IsVirtual(PortConnections), s.IsVirtual(80), s.HasPlaintext())
			}
		})
	}
}

func TestProfilesSurface(t *testing.T) {
	f := newFixture(t, Config{Surfaces: []string{Profiles}, Profiles: profiles.New(&sync.Mutex{})})
	s, _ := f.Lookup(PortProfiles)
	conn, done := open(t.Context(), s, prometheus)
	for _, name := range []string{"heap", "delta_heap", "goroutine"} {
		if status, body := get(t, conn, "/debug/pprof/"+name); status != 200 || !strings.HasPrefix(body, "\x1f\x8b") {
			t.Errorf("%s: got %d %.10q, want a profile in gzip", name, status, body)
		}
	}
	if status, _ := get(t, conn, "/metrics"); status != 404 {
		t.Errorf("/metrics: got %d, want 404", status)
	}
	conn.Close()
	if err := <-done; err != nil {
		t.Errorf("ServeConn = %v", err)
	}
	if got := f.lines(t); strings.Count(got, `surface="profiles" path="/debug/pprof/`) != 3 {
		t.Errorf("audit lines %s, want 3 of the surface profiles", got)
	}
}

func TestPlaintextAndLoopback(t *testing.T) {
	f := newFixture(t, Config{Exposure: Both})
	listen := func() net.Listener {
		ln, err := httpd.Listen(t.Context(), netip.MustParseAddrPort("[::1]:0"))
		if err != nil {
			ln, err = httpd.Listen(t.Context(), netip.MustParseAddrPort("127.0.0.1:0"))
		}
		if err != nil {
			t.Fatal(err)
		}
		return ln
	}
	plain, loopback := listen(), listen()
	ctx, cancel := context.WithCancel(context.Background())
	var serving sync.WaitGroup
	serving.Go(func() {
		if err := f.ServePlaintext(ctx, slog.New(slog.DiscardHandler), plain); err != nil {
			t.Errorf("ServePlaintext = %v", err)
		}
	})
	serving.Go(func() {
		admin := httpd.New(httpd.Config{Component: "admin", Handler: f.Loopback(), Log: slog.New(slog.DiscardHandler)})
		if err := admin.Serve(ctx, loopback); err != nil {
			t.Errorf("Serve = %v", err)
		}
	})
	for transport, ln := range map[string]net.Listener{"plaintext": plain, "loopback": loopback} {
		conn, err := net.Dial("tcp", ln.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		if status, body := get(t, conn, "/stats/prometheus"); status != 200 || body != "istio_build 1\n" {
			t.Errorf("%s: got %d %q, want metrics", transport, status, body)
		}
		if status, _ := get(t, conn, "/"); status != 404 {
			t.Errorf("%s: got %d for /, want 404", transport, status)
		}
		got := f.metrics(t)["istio_ztunnel_telemetry_requests_total{code=200,peer_identity=unknown,surface=metrics,transport="+transport+"}"]
		if got != 1 {
			t.Errorf("%s: %d reads counted, want 1", transport, got)
		}
		conn.Close()
	}
	cancel()
	serving.Wait()
	if f.metrics(t)["istio_ztunnel_telemetry_exposure{mode=both}"] != 1 {
		t.Errorf("metrics %v, want the exposure both", f.metrics(t))
	}
	if got := f.lines(t); strings.Count(got, "src.addr=") != 4 || strings.Contains(got, "src.identity") {
		t.Errorf("audit lines %s, want 4 with an address and no identity", got)
	}
}

// The number of readers that are told apart is bounded.
func TestIdentitiesAreBounded(t *testing.T) {
	f := newFixture(t, Config{})
	s, _ := f.Lookup(PortMetrics)
	for range 2 {
		for i := range maxIdentities + 10 {
			s.Denied(t.Context(), Reader{Identity: fmt.Sprint("spiffe://td/ns/a/sa/", i)}, errors.New("no"))
		}
	}
	points := f.metrics(t)
	if got := points["istio_ztunnel_telemetry_requests_total{code=401,peer_identity=other,surface=metrics,transport=hbone}"]; got != 20 {
		t.Errorf("other readers counted = %d, want 20", got)
	}
	if got := points["istio_ztunnel_telemetry_requests_total{code=401,peer_identity=spiffe://td/ns/a/sa/0,surface=metrics,transport=hbone}"]; got != 2 {
		t.Errorf("first reader counted = %d, want 2", got)
	}
}

// A page that panics is a read with status 500.
func TestPanicIsAudited(t *testing.T) {
	f := newFixture(t, Config{Metrics: http.HandlerFunc(func(http.ResponseWriter, *http.Request) { panic("oops") })})
	s, _ := f.Lookup(PortMetrics)
	conn, done := open(t.Context(), s, prometheus)
	if _, err := io.WriteString(conn, "GET /metrics HTTP/1.1\r\nHost: h\r\n\r\n"); err != nil {
		t.Fatal(err)
	}
	_, _ = io.Copy(io.Discard, conn)
	if err := <-done; err != nil {
		t.Errorf("ServeConn = %v", err)
	}
	if got := f.lines(t); !strings.Contains(got, "status=500") {
		t.Errorf("audit lines %s, want status=500", got)
	}
}
