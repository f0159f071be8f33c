package telemetry

import (
	"bytes"
	"compress/gzip"
	"context"
	"crypto/tls"
	"encoding/pem"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"go.opentelemetry.io/otel/metric"
	collectorpb "go.opentelemetry.io/proto/otlp/collector/metrics/v1"
	commonpb "go.opentelemetry.io/proto/otlp/common/v1"
	metricspb "go.opentelemetry.io/proto/otlp/metrics/v1"
	"google.golang.org/grpc"
	_ "google.golang.org/grpc/encoding/gzip" // what the collector can decompress
	"google.golang.org/grpc/metadata"
	"google.golang.org/protobuf/proto"

	"ztunnel/telemetry/connection"
)

// push is a request that a collector received.
type push struct {
	*collectorpb.ExportMetricsServiceRequest
	token    string // of the header x-token
	encoding string // of the body, for http
}

type collector struct {
	url    string
	pushes chan push
	// answer, if set, is asked for the status of each HTTP request.
	answer func() int
}

func (c *collector) receive(r *collectorpb.ExportMetricsServiceRequest, token, encoding string) {
	select {
	case c.pushes <- push{r, token, encoding}:
	default:
	}
}

func newHTTPCollector(t testing.TB) *collector {
	t.Helper()
	c := &collector{pushes: make(chan push, 100)}
	s := httptest.NewServer(c)
	t.Cleanup(s.Close)
	c.url = s.URL + "/v1/metrics"
	return c
}

// ServeHTTP is the collector's end of http/protobuf.
func (c *collector) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	body, err := io.ReadAll(r.Body)
	if err == nil && r.Header.Get("Content-Encoding") == "gzip" {
		var z *gzip.Reader
		if z, err = gzip.NewReader(bytes.NewReader(body)); err == nil {
			body, err = io.ReadAll(z)
		}
	}
	var req collectorpb.ExportMetricsServiceRequest
	if err == nil {
		err = proto.Unmarshal(body, &req)
	}
	if err != nil || r.URL.Path != "/v1/metrics" || r.Header.Get("Content-Type") != "application/x-protobuf" {
		http.Error(w, "not a push of metrics", http.StatusBadRequest)
		return
	}
	if c.answer != nil {
		if status := c.answer(); status != http.StatusOK {
			w.WriteHeader(status)
			return
		}
	}
	c.receive(&req, r.Header.Get("x-token"), r.Header.Get("Content-Encoding"))
}

// grpcCollector is the collector's end of gRPC.
type grpcCollector struct {
	collectorpb.UnimplementedMetricsServiceServer
	*collector
}

// Export implements the service.
func (c grpcCollector) Export(ctx context.Context, r *collectorpb.ExportMetricsServiceRequest) (*collectorpb.ExportMetricsServiceResponse, error) {
	md, _ := metadata.FromIncomingContext(ctx)
	c.receive(r, strings.Join(md.Get("x-token"), ","), "")
	return &collectorpb.ExportMetricsServiceResponse{}, nil
}

func newGRPCCollector(t *testing.T) *collector {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	c := &collector{pushes: make(chan push, 100), url: "http://" + ln.Addr().String()}
	s := grpc.NewServer()
	collectorpb.RegisterMetricsServiceServer(s, grpcCollector{collector: c})
	var serving sync.WaitGroup
	serving.Go(func() {
		if err := s.Serve(ln); err != nil {
			t.Errorf("collector: %v", err)
		}
	})
	t.Cleanup(func() { s.Stop(); serving.Wait() })
	return c
}

// wait returns the metrics of the first push that has a family.
func (c *collector) wait(t *testing.T, family string) (map[string]*metricspb.Metric, push) {
	t.Helper()
	deadline := time.After(30 * time.Second)
	for {
		select {
		case p := <-c.pushes:
			byName := map[string]*metricspb.Metric{}
			for _, rm := range p.ResourceMetrics {
				for _, sm := range rm.ScopeMetrics {
					for _, m := range sm.Metrics {
						byName[m.Name] = m
					}
				}
			}
			if byName[family] != nil {
				return byName, p
			}
		case <-deadline:
			t.Fatalf("no push with %s arrived", family)
		}
	}
}

// fresh returns the metrics of a push that was collected after the call: the one
// under way ends first, because pushes follow each other.
func (c *collector) fresh(t *testing.T, family string) (map[string]*metricspb.Metric, push) {
	t.Helper()
	for len(c.pushes) > 0 {
		<-c.pushes
	}
	c.wait(t, family)
	return c.wait(t, family)
}

func attributes(kv []*commonpb.KeyValue) map[string]string {
	m := map[string]string{}
	for _, a := range kv {
		m[a.Key] = a.Value.GetStringValue()
	}
	return m
}

// A push has the same names, labels and values as a scrape, cumulative, and
// says which process it is about.
func TestPush(t *testing.T) {
	for protocol, start := range map[string]func(*testing.T) *collector{
		"grpc":          newGRPCCollector,
		"http/protobuf": func(t *testing.T) *collector { return newHTTPCollector(t) },
	} {
		for _, compressed := range []bool{false, true} {
			t.Run(protocol+map[bool]string{true: "+gzip"}[compressed], func(t *testing.T) {
				c := start(t)
				dialed := make(chan string, 100)
				tel := setup(t, Config{
					Build: Build{Version: "1.2.3"},
					Resource: Resource{
						Node: "node1", Pod: "ztunnel-x", Namespace: "istio-system", Cluster: "Kubernetes",
						More: map[string]string{"team": "mesh", "k8s.pod.name": "not this"},
					},
					OTLP: OTLP{
						Enabled: true, Protocol: protocol, Endpoint: c.url, Interval: 20 * time.Millisecond, Gzip: compressed,
						Headers: map[string]string{"x-token": "secret"},
						Dial: func(ctx context.Context, network, address string) (net.Conn, error) {
							dialed <- address
							return (&net.Dialer{}).DialContext(ctx, network, address)
						},
					},
				})
				traffic(recorder(t, tel))
				metrics, p := c.fresh(t, "istio_tcp_sent_bytes_total")
				checkPush(t, metrics, p)
				if len(dialed) == 0 {
					t.Error("connections are not opened by the injected function")
				}
				metrics, p = c.wait(t, "istio_tcp_sent_bytes_total") // and again, the same totals
				checkPush(t, metrics, p)
				if ok := parse(t, scrape(t, tel).Body.String())["istio_ztunnel_telemetry_pushes_total"]; len(ok.GetMetric()) != 2 {
					t.Errorf("pushes are counted as %v, want results ok and error", ok)
				}
			})
		}
	}
}

func checkPush(t *testing.T, metrics map[string]*metricspb.Metric, p push) {
	t.Helper()
	if p.token != "secret" {
		t.Errorf("header x-token = %q, want secret", p.token)
	}
	got := attributes(p.ResourceMetrics[0].Resource.Attributes)
	for name, want := range map[string]string{
		"service.name": "ztunnel", "service.namespace": "istio-system", "service.version": "1.2.3", "k8s.node.name": "node1",
		"k8s.pod.name": "ztunnel-x", "k8s.namespace.name": "istio-system", "k8s.cluster.name": "Kubernetes", "team": "mesh",
	} {
		if got[name] != want {
			t.Errorf("resource has %s=%q, want %q", name, got[name], want)
		}
	}
	sent := metrics["istio_tcp_sent_bytes_total"].GetSum()
	if !sent.GetIsMonotonic() || sent.GetAggregationTemporality() != metricspb.AggregationTemporality_AGGREGATION_TEMPORALITY_CUMULATIVE {
		t.Errorf("sent is %v, want monotonic and cumulative", sent)
	}
	i := slices.IndexFunc(sent.GetDataPoints(), func(p *metricspb.NumberDataPoint) bool {
		a := attributes(p.Attributes)
		return a["reporter"] == "source" && a["destination_workload"] == "server" && len(a) == 27
	})
	if i < 0 || sent.DataPoints[i].GetAsInt() != 8*28 {
		t.Errorf("sent is %v, want a series of 27 labels with %d", sent.DataPoints, 8*28)
	}
	if builds := metrics["istio_build"].GetGauge().GetDataPoints(); len(builds) != 1 || builds[0].GetAsInt() != 1 {
		t.Errorf("istio_build is %v, want 1", builds)
	}
}

// What the environment says to the exporters does not count.
func TestPush_NotTheEnvironment(t *testing.T) {
	for protocol, start := range map[string]func(*testing.T) *collector{
		"grpc":          newGRPCCollector,
		"http/protobuf": func(t *testing.T) *collector { return newHTTPCollector(t) },
	} {
		t.Run(protocol, func(t *testing.T) {
			s := httptest.NewTLSServer(http.NotFoundHandler())
			defer s.Close()
			roots := filepath.Join(t.TempDir(), "roots.pem")
			if err := os.WriteFile(roots, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: s.Certificate().Raw}), 0o600); err != nil {
				t.Fatal(err)
			}
			for name, value := range map[string]string{
				"OTEL_EXPORTER_OTLP_ENDPOINT": "https://127.0.0.1:1", "OTEL_EXPORTER_OTLP_METRICS_ENDPOINT": "https://127.0.0.1:1/x",
				"OTEL_EXPORTER_OTLP_CERTIFICATE": roots, "OTEL_EXPORTER_OTLP_HEADERS": "x-token=environment", "OTEL_EXPORTER_OTLP_COMPRESSION": "gzip",
				"OTEL_EXPORTER_OTLP_METRICS_TEMPORALITY_PREFERENCE":        "delta",
				"OTEL_EXPORTER_OTLP_METRICS_DEFAULT_HISTOGRAM_AGGREGATION": "base2_exponential_bucket_histogram",
				"OTEL_SERVICE_NAME":        "environment",
				"OTEL_RESOURCE_ATTRIBUTES": "k8s.node.name=environment,team=environment,service.version=environment",
			} {
				t.Setenv(name, value)
			}
			c := start(t)
			tel := setup(t, Config{
				Build:    Build{Version: "1.2.3"},
				Resource: Resource{Node: "node1", Pod: "ztunnel-x", Namespace: "istio-system", Cluster: "Kubernetes", More: map[string]string{"team": "mesh"}},
				OTLP:     OTLP{Enabled: true, Protocol: protocol, Endpoint: c.url, Interval: 20 * time.Millisecond, Headers: map[string]string{"x-token": "secret"}},
			})
			traffic(recorder(t, tel))
			h, err := tel.Meter("x").Float64Histogram("istio_x_seconds", metric.WithExplicitBucketBoundaries(1, 2))
			if err != nil {
				t.Fatal(err)
			}
			h.Record(t.Context(), 1)
			metrics, p := c.fresh(t, "istio_x_seconds")
			checkPush(t, metrics, p)
			if got := metrics["istio_x_seconds"].GetHistogram(); len(got.GetDataPoints()) != 1 {
				t.Errorf("the histogram is %v, want one with buckets", metrics["istio_x_seconds"])
			}
			if p.encoding == "gzip" {
				t.Error("the push is compressed")
			}
		})
	}
}

// What came after the last push is pushed at the end.
func TestPush_Flush(t *testing.T) {
	c := newHTTPCollector(t)
	tel, err := Setup(t.Context(), Config{OTLP: OTLP{Enabled: true, Protocol: "http/protobuf", Endpoint: c.url, Interval: time.Hour}})
	if err != nil {
		t.Fatal(err)
	}
	fill(recorder(t, tel), 1)
	if err := tel.Shutdown(context.Background()); err != nil {
		t.Fatalf("Shutdown() = %v", err)
	}
	c.wait(t, "istio_tcp_connections_opened_total")
}

// More series than fit into one request go into several.
func TestPush_Batches(t *testing.T) {
	c := newGRPCCollector(t)
	tel, err := Setup(t.Context(), Config{OTLP: OTLP{Enabled: true, Protocol: "grpc", Endpoint: c.url, Interval: time.Hour}})
	if err != nil {
		t.Fatal(err)
	}
	const pairs = 1500 // 7,500 series, about 8 MB
	fill(recorder(t, tel), pairs)
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	if err := tel.Shutdown(ctx); err != nil {
		t.Fatalf("Shutdown() = %v", err)
	}
	opened := 0
	for len(c.pushes) > 0 {
		p := <-c.pushes
		if size := proto.Size(p.ExportMetricsServiceRequest); size > 4<<20 {
			t.Errorf("a request has %d bytes, more than servers accept", size)
		}
		for _, rm := range p.ResourceMetrics {
			for _, sm := range rm.ScopeMetrics {
				for _, m := range sm.Metrics {
					if m.Name == "istio_tcp_connections_opened_total" {
						opened += len(m.GetSum().GetDataPoints())
					}
				}
			}
		}
	}
	if opened != pairs {
		t.Errorf("%d series of opened arrived, want %d", opened, pairs)
	}
}

// A collector that refuses, or never answers, disturbs neither scrapes nor
// connections, is counted, and holds up the end no longer than it may.
func TestPush_DeadCollector(t *testing.T) {
	for name, dial := range map[string]func(ctx context.Context, network, address string) (net.Conn, error){
		"refuses": func(context.Context, string, string) (net.Conn, error) { return nil, io.ErrClosedPipe },
		"is silent": func(context.Context, string, string) (net.Conn, error) {
			ours, theirs := net.Pipe()
			t.Cleanup(func() { theirs.Close() })
			return ours, nil
		},
	} {
		for _, protocol := range []string{"grpc", "http/protobuf"} {
			t.Run(name+" "+protocol, func(t *testing.T) {
				var log lockedBuffer
				tel, err := Setup(t.Context(), Config{
					Log: slog.New(slog.NewTextHandler(&log, nil)),
					OTLP: OTLP{
						Enabled: true, Protocol: protocol, Endpoint: "http://127.0.0.1:4317/v1/metrics", Dial: dial,
						Interval: 5 * time.Millisecond, Timeout: 20 * time.Millisecond, CollectTimeout: 50 * time.Millisecond,
					},
				})
				if err != nil {
					t.Fatal(err)
				}
				r := recorder(t, tel)
				failed := func() float64 {
					fill(r, 10)
					for _, m := range parse(t, scrape(t, tel).Body.String())["istio_ztunnel_telemetry_pushes_total"].GetMetric() {
						if strings.Contains(m.String(), "error") {
							return m.GetCounter().GetValue()
						}
					}
					return 0
				}
				for deadline := time.Now().Add(30 * time.Second); failed() < 3; {
					if time.Now().After(deadline) {
						t.Fatal("failed pushes are not counted")
					}
				}
				ctx, cancel := context.WithTimeout(context.Background(), 100*time.Millisecond)
				defer cancel()
				began := time.Now()
				_ = tel.Shutdown(ctx) // whether the last push was lost is counted, not returned
				if d := time.Since(began); d > 5*time.Second {
					t.Errorf("Shutdown took %v, want about 100ms", d)
				}
				if n := strings.Count(log.String(), "push metrics"); n != 1 {
					t.Errorf("the outage is logged %d times, want once:\n%s", n, log.String())
				}
			})
		}
	}
}

// A collector that comes back is pushed to again.
func TestPush_Recovers(t *testing.T) {
	c := newHTTPCollector(t)
	var mu sync.Mutex
	n := 0
	c.answer = func() int {
		mu.Lock()
		defer mu.Unlock()
		if n++; n < 4 {
			return http.StatusBadRequest // which is not retried
		}
		return http.StatusOK
	}
	var log lockedBuffer
	tel := setup(t, Config{
		Log:  slog.New(slog.NewTextHandler(&log, nil)),
		OTLP: OTLP{Enabled: true, Protocol: "http/protobuf", Endpoint: c.url, Interval: 5 * time.Millisecond},
	})
	recorder(t, tel)
	c.wait(t, "istio_build")
	c.wait(t, "istio_build")
	if got := log.String(); strings.Count(got, "push metrics") != 1 || strings.Count(got, "pushed again") != 1 {
		t.Errorf("log, want one line for the outage and one for its end:\n%s", got)
	}
}

// With https the server is verified, by the authorities of a file if there is
// one.
func TestPush_TLS(t *testing.T) {
	c := &collector{pushes: make(chan push, 100)}
	s := httptest.NewUnstartedServer(c)
	s.Config.ErrorLog = slog.NewLogLogger(slog.DiscardHandler, slog.LevelError)
	s.TLS = &tls.Config{MinVersion: tls.VersionTLS12}
	s.StartTLS()
	t.Cleanup(s.Close)
	file := filepath.Join(t.TempDir(), "ca.pem")
	if err := os.WriteFile(file, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: s.Certificate().Raw}), 0o600); err != nil {
		t.Fatal(err)
	}
	for name, test := range map[string]struct {
		certificate string
		arrives     bool
	}{"trusted": {file, true}, "not trusted": {"", false}} {
		t.Run(name, func(t *testing.T) {
			tel, err := Setup(t.Context(), Config{OTLP: OTLP{
				Enabled: true, Protocol: "http/protobuf", Endpoint: s.URL + "/v1/metrics", Interval: time.Hour, Certificate: test.certificate,
			}})
			if err != nil {
				t.Fatal(err)
			}
			_ = tel.Shutdown(context.Background()) // pushes once
			if got := len(c.pushes) > 0; got != test.arrives {
				t.Errorf("a push arrived: %v, want %v", got, test.arrives)
			}
			for len(c.pushes) > 0 {
				<-c.pushes
			}
		})
	}
}

func TestPush_BadConfig(t *testing.T) {
	empty := filepath.Join(t.TempDir(), "empty")
	if err := os.WriteFile(empty, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	for name, c := range map[string]OTLP{
		"protocol":       {Protocol: "http/json", Endpoint: "http://x:4318"},
		"endpoint":       {Protocol: "grpc", Endpoint: "x:4317"},
		"no endpoint":    {Protocol: "grpc"},
		"no certificate": {Protocol: "grpc", Endpoint: "https://x:4317", Certificate: filepath.Join(t.TempDir(), "none")},
		"empty file":     {Protocol: "grpc", Endpoint: "https://x:4317", Certificate: empty},
	} {
		c.Enabled = true
		if _, err := Setup(t.Context(), Config{OTLP: c}); err == nil {
			t.Errorf("%s: Setup succeeded, want an error", name)
		}
	}
}

// Two ways of reading at once see the same totals.
func TestPush_AndScrapes(t *testing.T) {
	c := newHTTPCollector(t)
	tel := setup(t, Config{OTLP: OTLP{Enabled: true, Protocol: "http/protobuf", Endpoint: c.url, Interval: time.Millisecond}})
	r := recorder(t, tel)
	for range 20 {
		rec := r.Open(&connection.Details{})
		rec.Sent.Add(1)
		scrape(t, tel)
		rec.Close(nil)
	}
	metrics, _ := c.wait(t, "istio_tcp_sent_bytes_total")
	for metrics["istio_tcp_sent_bytes_total"].GetSum().DataPoints[0].GetAsInt() < 20 {
		metrics, _ = c.wait(t, "istio_tcp_sent_bytes_total")
	}
	if f := parse(t, scrape(t, tel).Body.String())["istio_tcp_sent_bytes_total"]; f.GetMetric()[0].GetCounter().GetValue() != 20 {
		t.Errorf("scrape says %v, want 20", f)
	}
}

// lockedBuffer is a buffer that several goroutines write to.
type lockedBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *lockedBuffer) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *lockedBuffer) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}
