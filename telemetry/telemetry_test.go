package telemetry

import (
	"context"
	"errors"
	"flag"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/prometheus/client_golang/prometheus/testutil/promlint"
	dto "github.com/prometheus/client_model/go"
	"github.com/prometheus/common/expfmt"
	"github.com/prometheus/common/model"
	"go.opentelemetry.io/otel/metric"
	"go.uber.org/goleak"

	"ztunnel/telemetry/catalog"
	"ztunnel/telemetry/connection"
	"ztunnel/telemetry/logging"
	"ztunnel/telemetry/surface"
)

var update = flag.Bool("update", false, "rewrite the golden files")

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func setup(t testing.TB, cfg Config) *Telemetry {
	t.Helper()
	tel, err := Setup(t.Context(), cfg)
	if err != nil {
		t.Fatalf("Setup() = %v", err)
	}
	t.Cleanup(func() {
		if err := tel.Shutdown(context.Background()); err != nil {
			t.Errorf("Shutdown() = %v", err)
		}
	})
	return tel
}

func recorder(t testing.TB, tel *Telemetry) *connection.Recorder {
	t.Helper()
	r := connection.NewRecorder(connection.Config{})
	if err := r.Register(tel.Meter("connection")); err != nil {
		t.Fatalf("Register() = %v", err)
	}
	return r
}

// scrape asks the handler once; header are pairs of names and values.
func scrape(t testing.TB, tel *Telemetry, header ...string) *httptest.ResponseRecorder {
	t.Helper()
	req := httptest.NewRequest(http.MethodGet, "/metrics", nil)
	for i := 0; i < len(header); i += 2 {
		req.Header.Add(header[i], header[i+1])
	}
	w := httptest.NewRecorder()
	tel.Handler().ServeHTTP(w, req)
	if w.Code != http.StatusOK {
		t.Fatalf("scrape: %d %s", w.Code, w.Body)
	}
	return w
}

func parse(t testing.TB, body string) map[string]*dto.MetricFamily {
	t.Helper()
	p := expfmt.NewTextParser(model.LegacyValidation)
	families, err := p.TextToMetricFamilies(strings.NewReader(body))
	if err != nil {
		t.Fatalf("the scrape cannot be parsed: %v\n%s", err, body)
	}
	return families
}

type failure struct{ flag connection.Flag }

func (f *failure) Error() string                { return "failed: " + string(f.flag) }
func (f *failure) FailureFlag() connection.Flag { return f.flag }

// traffic makes connections with every flag, in both directions, known and
// unknown, and refusals.
func traffic(r *connection.Recorder) {
	client := &connection.Workload{
		Pod: "client-7d9c-x1", Name: "client", Namespace: "shop", CanonicalName: "client-app", CanonicalRevision: "v1",
		Cluster: "Kubernetes", Region: "r1", Zone: "z1", Known: true,
	}
	server := &connection.Workload{
		Pod: "server-55-y2", Name: "server", Namespace: "stock", CanonicalName: "server-app", CanonicalRevision: "v2",
		Cluster: "Kubernetes", Region: "r2", Zone: "z2", Known: true, Principal: "spiffe://cluster.local/ns/stock/sa/keeper",
	}
	details := func(by connection.Reporter) *connection.Details {
		return &connection.Details{
			Reporter: by, Protocol: connection.HBONE, MutualTLS: true, Source: client, Destination: server,
			SourcePrincipal: "spiffe://cluster.local/ns/shop/sa/shopper",
			Service:         &connection.Service{Hostname: "echo.stock.svc.cluster.local", Name: "echo", Namespace: "stock"},
			Src:             netip.MustParseAddrPort("10.0.0.1:40000"), Dst: netip.MustParseAddrPort("10.0.1.1:15008"),
		}
	}
	exchange := func(d *connection.Details, err error) {
		r.SocketOpened(d.Reporter)
		defer r.SocketClosed(d.Reporter)
		rec := r.Open(d)
		rec.Received.Add(11)
		rec.Sent.Add(28)
		rec.Close(err)
	}
	exchange(details(connection.Source), nil)
	exchange(details(connection.Destination), nil)
	for _, f := range []connection.Flag{
		connection.FlagDeny, connection.FlagConnect, connection.FlagTLS, connection.FlagH2,
		connection.FlagNetworkPolicy, connection.FlagIdentity, connection.FlagRevoked,
	} {
		exchange(details(connection.Source), &failure{f})
	}
	strange := details(connection.Source)
	strange.MutualTLS, strange.Destination, strange.Service = false, nil, nil
	exchange(strange, errors.New("reset"))
	quoted := details(connection.Destination)
	quoted.Source = &connection.Workload{Name: "a\"b\\c\nd", App: "a"}
	exchange(quoted, nil)
	r.SocketOpened(connection.Source) // one stays open
	r.Open(details(connection.Source)).Received.Add(1_000_000)
	r.Reject(&connection.Rejection{Reporter: connection.Source, Reason: connection.ReasonNoHealthyUpstream})
	r.Reject(&connection.Rejection{Reporter: connection.Destination, Reason: connection.ReasonIPMismatch, Workload: "server", Namespace: "stock"})
}

// volatile is what differs between two runs or machines: the samples of the
// process, and the Go runtime altogether.
var volatile = regexp.MustCompile(`(?m)^((# (HELP|TYPE|UNIT) )?go_.*|(process_|ztunnel_build_info|istio_ztunnel_uptime).*)\n`)

func TestScrape_Golden(t *testing.T) {
	tel := setup(t, Config{IstioVersion: "1.30.0-test"})
	traffic(recorder(t, tel))
	for file, accept := range map[string]string{"scrape.golden": "", "scrape.openmetrics.golden": "application/openmetrics-text"} {
		got := volatile.ReplaceAllString(scrape(t, tel, "Accept", accept).Body.String(), "")
		path := filepath.Join("testdata", file)
		if *update {
			if err := os.WriteFile(path, []byte(got), 0o644); err != nil {
				t.Fatal(err)
			}
		}
		want, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(strings.Split(string(want), "\n"), strings.Split(got, "\n")); diff != "" {
			t.Errorf("%s, want (-) and got (+); -update rewrites it:\n%s", file, diff)
		}
	}
}

// At the start there are the build and the process, but no family of
// connections.
func TestScrape_First(t *testing.T) {
	tel := setup(t, Config{})
	recorder(t, tel)
	families := parse(t, scrape(t, tel).Body.String())
	for _, name := range []string{"istio_build", "process_open_fds", "process_max_fds", "ztunnel_build_info", "istio_ztunnel_uptime_seconds"} {
		f := families[name]
		if len(f.GetMetric()) != 1 || f.GetMetric()[0].GetGauge().GetValue() <= 0 {
			t.Errorf("%s is %v, want one series above 0", name, f)
		}
	}
	if got := families["istio_build"].GetMetric()[0].String(); !strings.Contains(got, `"ztunnel"`) || !strings.Contains(got, `"unknown"`) {
		t.Errorf("istio_build is %s, want component ztunnel and tag unknown", got)
	}
	for name := range families {
		if strings.HasPrefix(name, "istio_tcp_") {
			t.Errorf("there is %s before any connection", name)
		}
	}
}

// registerOthers registers the other packages of telemetry, with something to
// report.
func registerOthers(t *testing.T, tel *Telemetry) {
	t.Helper()
	log, err := logging.New(logging.Config{Output: io.Discard})
	if err != nil {
		t.Fatal(err)
	}
	var running sync.WaitGroup
	ctx, cancel := context.WithCancel(context.Background())
	running.Go(func() {
		if err := log.Run(ctx); err != nil {
			t.Errorf("log: %v", err)
		}
	})
	t.Cleanup(func() { cancel(); running.Wait() })
	s, err := surface.New(surface.Config{Metrics: tel.Handler(), Log: log.Logger("telemetry")})
	if err != nil {
		t.Fatal(err)
	}
	for _, register := range []func(metric.Meter) error{log.Register, s.Register} {
		if err := register(tel.Meter("x")); err != nil {
			t.Fatal(err)
		}
	}
	r := httptest.NewRequest(http.MethodGet, "/metrics", nil)
	s.Loopback().ServeHTTP(httptest.NewRecorder(), r)
	body := scrape(t, tel).Body.String()
	for _, want := range []string{catalog.LogLines, catalog.LogQueueLength, catalog.LogWriteErrors, catalog.SurfaceRequests, catalog.SurfaceExposure, catalog.SurfaceReady} {
		if !strings.Contains(body, "\n"+want) {
			t.Errorf("the scrape has no %s", want)
		}
	}
}

// A scrape has nothing but what the catalog lists, with its type and labels,
// declared once, and with "unstable" in HELP unless it is a promise.
func TestScrape_IsInCatalog(t *testing.T) {
	tel := setup(t, Config{OTLP: OTLP{Enabled: true, Protocol: "http/protobuf", Endpoint: newHTTPCollector(t).url, Interval: time.Hour}})
	traffic(recorder(t, tel))
	registerOthers(t, tel)
	stable := map[string]bool{
		"istio_build": true, "istio_tcp_connections_opened_total": true, "istio_tcp_connections_closed_total": true,
		"istio_tcp_received_bytes_total": true, "istio_tcp_sent_bytes_total": true,
	}
	for name, f := range parse(t, scrape(t, tel).Body.String()) {
		m, ok := catalog.Find(name)
		if !ok {
			t.Errorf("%s is not in the catalog", name)
			continue
		}
		if got := catalog.Type(strings.ToLower(f.GetType().String())); got != m.Type {
			t.Errorf("%s is a %s, in the catalog a %s", name, got, m.Type)
		}
		known := map[string]bool{}
		for _, l := range m.Labels {
			known[l] = true
		}
		for _, series := range f.Metric {
			for _, l := range series.Label {
				if !known[l.GetName()] {
					t.Errorf("%s has the label %s, which is not in the catalog", name, l.GetName())
				}
			}
		}
		promise := stable[name] || strings.HasPrefix(name, "go_") || strings.HasPrefix(name, "process_")
		if strings.Contains(f.GetHelp(), "unstable") == promise {
			t.Errorf("HELP of %s says %q", name, f.GetHelp())
		}
	}
	declared := map[string]bool{}
	body := scrape(t, tel, "Accept", "application/openmetrics-text").Body.String()
	for _, found := range regexp.MustCompile(`(?m)^# TYPE (\S+) `).FindAllStringSubmatch(body, -1) {
		if declared[found[1]] {
			t.Errorf("OpenMetrics declares %s twice", found[1])
		}
		declared[found[1]] = true
	}
}

// The linter of Prometheus finds nothing.
func TestScrape_Lint(t *testing.T) {
	tel := setup(t, Config{})
	traffic(recorder(t, tel))
	var own []*dto.MetricFamily
	for name, f := range parse(t, scrape(t, tel).Body.String()) {
		if !strings.HasPrefix(name, "go_") {
			own = append(own, f)
		}
	}
	problems, err := promlint.NewWithMetricFamilies(own).Lint()
	if err != nil || len(problems) != 0 {
		t.Errorf("Lint() = %v, %v, want none", problems, err)
	}
}

// HELP of a family that the catalog does not have says that it is unstable.
func TestHelp_Unknown(t *testing.T) {
	tel := setup(t, Config{})
	c, err := tel.Meter("x").Int64Counter("some_total")
	if err != nil {
		t.Fatal(err)
	}
	c.Add(t.Context(), 1)
	if body := scrape(t, tel).Body.String(); !strings.Contains(body, "# HELP some_total (unstable)\n# TYPE some_total counter\nsome_total 1\n") {
		t.Errorf("scrape has no unstable some_total:\n%s", body)
	}
}

// Families can be switched off by name.
func TestDisable(t *testing.T) {
	tel := setup(t, Config{Disable: []string{"istio_tcp_connections_(active|rejected_total)", "istio_tcp_sent"}})
	traffic(recorder(t, tel))
	families := parse(t, scrape(t, tel).Body.String())
	for name, want := range map[string]bool{
		"istio_tcp_connections_active": false, "istio_tcp_connections_rejected_total": false,
		"istio_tcp_sent_bytes_total": true, "istio_tcp_connections_opened_total": true,
	} {
		if got := families[name] != nil; got != want {
			t.Errorf("%s is there: %v, want %v", name, got, want)
		}
	}
	if _, err := Setup(t.Context(), Config{Disable: []string{"("}}); err == nil {
		t.Error("Setup with a broken expression succeeded, want an error")
	}
}

// More series than the SDK's default limit stay as they are.
func TestNoSDKOverflow(t *testing.T) {
	tel := setup(t, Config{})
	fill(recorder(t, tel), 2500)
	f := parse(t, scrape(t, tel).Body.String())["istio_tcp_connections_opened_total"]
	if len(f.GetMetric()) != 2500 {
		t.Errorf("%d series, want 2500", len(f.GetMetric()))
	}
	for _, m := range f.GetMetric() {
		if len(m.Label) != 27 {
			t.Fatalf("a series has %d labels, want 27: %v", len(m.Label), m)
		}
	}
}

// Descriptors are counted without the one for counting.
func TestOpenFDs(t *testing.T) {
	log := slog.New(slog.DiscardHandler)
	before := openFDs(log)
	f, err := os.Open(os.DevNull)
	if err != nil {
		t.Fatal(err)
	}
	after := openFDs(log)
	f.Close()
	entries, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Fatal(err)
	}
	if after != before+1 || before != int64(len(entries)-1) {
		t.Errorf("openFDs() = %d, with one more file %d; the directory has %d entries with itself", before, after, len(entries))
	}
	if maxFDs(log) <= 0 {
		t.Errorf("maxFDs() = %d, want more than 0", maxFDs(log))
	}
}

// After the end a scrape says so.
func TestShutdown(t *testing.T) {
	tel, err := Setup(t.Context(), Config{})
	if err != nil {
		t.Fatal(err)
	}
	if err := tel.Shutdown(t.Context()); err != nil {
		t.Fatalf("Shutdown() = %v", err)
	}
	w := httptest.NewRecorder()
	tel.Handler().ServeHTTP(w, httptest.NewRequest(http.MethodGet, "/metrics", nil))
	if w.Code != http.StatusInternalServerError {
		t.Errorf("scrape after Shutdown: %d, want 500", w.Code)
	}
}
