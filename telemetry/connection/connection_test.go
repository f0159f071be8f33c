package connection

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"go.opentelemetry.io/otel/attribute"
	sdkmetric "go.opentelemetry.io/otel/sdk/metric"
	"go.opentelemetry.io/otel/sdk/metric/metricdata"
)

// flagged is an error with a flag.
type flagged struct {
	flag Flag
	text string
}

func (e *flagged) Error() string     { return e.text }
func (e *flagged) FailureFlag() Flag { return e.flag }

// clock is a clock that tests set.
type clock struct {
	mu sync.Mutex
	t  time.Time
}

func newClock() *clock { return &clock{t: time.Date(2026, 8, 1, 0, 0, 0, 0, time.UTC)} }

func (c *clock) now() time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.t
}

func (c *clock) advance(d time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.t = c.t.Add(d)
}

// scraper collects what a recorder reports, as "name{label="value",…}" → value.
type scraper struct {
	reader *sdkmetric.ManualReader
}

func newScraper(t testing.TB, r *Recorder) *scraper {
	t.Helper()
	s := &scraper{sdkmetric.NewManualReader()}
	provider := sdkmetric.NewMeterProvider(sdkmetric.WithReader(s.reader), sdkmetric.WithCardinalityLimit(0))
	if err := r.Register(provider.Meter("connection")); err != nil {
		t.Fatalf("Register() = %v", err)
	}
	return s
}

// points are all series with their labels.
func (s *scraper) points(t testing.TB) map[string][]metricdata.DataPoint[int64] {
	t.Helper()
	var rm metricdata.ResourceMetrics
	if err := s.reader.Collect(context.Background(), &rm); err != nil {
		t.Fatalf("Collect() = %v", err)
	}
	all := map[string][]metricdata.DataPoint[int64]{}
	for _, scope := range rm.ScopeMetrics {
		for _, m := range scope.Metrics {
			switch d := m.Data.(type) {
			case metricdata.Sum[int64]:
				all[m.Name] = append(all[m.Name], d.DataPoints...)
			case metricdata.Gauge[int64]:
				all[m.Name] = append(all[m.Name], d.DataPoints...)
			default:
				t.Fatalf("%s is a %T", m.Name, m.Data)
			}
		}
	}
	return all
}

// sum adds up the series of a family that have the labels, given as
// name=value, and says how many they are.
func (s *scraper) sum(t testing.TB, family string, labels ...string) (total int64, series int) {
	t.Helper()
points:
	for _, p := range s.points(t)[family] {
		for _, l := range labels {
			name, value, _ := strings.Cut(l, "=")
			if v, _ := p.Attributes.Value(attribute.Key(name)); v.AsString() != value {
				continue points
			}
		}
		total += p.Value
		series++
	}
	return total, series
}

func (s *scraper) want(t testing.TB, total int64, series int, family string, labels ...string) {
	t.Helper()
	if gotTotal, gotSeries := s.sum(t, family, labels...); gotTotal != total || gotSeries != series {
		t.Errorf("%s%v: sum %d in %d series, want %d in %d", family, labels, gotTotal, gotSeries, total, series)
	}
}

// lines is a slog handler of another package, which keeps lines in the notation
// of the text log.
type lines struct {
	level slog.Level
	mu    sync.Mutex
	all   []string
}

func (h *lines) Enabled(_ context.Context, level slog.Level) bool { return level >= h.level }
func (h *lines) WithAttrs([]slog.Attr) slog.Handler               { return h }
func (h *lines) WithGroup(string) slog.Handler                    { return h }

func (h *lines) Handle(_ context.Context, r slog.Record) error {
	var b strings.Builder
	fmt.Fprintf(&b, "%s %s", strings.ToLower(r.Level.String()), r.Message)
	r.Attrs(func(a slog.Attr) bool {
		switch v := a.Value.Any().(type) {
		case string:
			fmt.Fprintf(&b, " %s=%q", a.Key, v)
		default: // addresses and numbers
			fmt.Fprintf(&b, " %s=%v", a.Key, v)
		}
		return true
	})
	h.mu.Lock()
	defer h.mu.Unlock()
	h.all = append(h.all, b.String())
	return nil
}

func (h *lines) take() []string {
	h.mu.Lock()
	defer h.mu.Unlock()
	all := h.all
	h.all = nil
	return all
}

// The ends that most tests use.
func client() *Workload {
	return &Workload{
		Pod: "client-7d9c-x1", Name: "client", Namespace: "shop", CanonicalName: "client-app", CanonicalRevision: "v1",
		Cluster: "Kubernetes", Region: "r1", Zone: "z1", Known: true, Principal: "spiffe://cluster.local/ns/shop/sa/shopper",
	}
}

func server() *Workload {
	return &Workload{
		Pod: "server-55-y2", Name: "server", Namespace: "stock", CanonicalName: "server-app", CanonicalRevision: "v2",
		Cluster: "Kubernetes", Region: "r2", Zone: "z2", Known: true, Principal: "spiffe://cluster.local/ns/stock/sa/keeper",
	}
}

func call(by Reporter) *Details {
	return &Details{
		Reporter: by, Protocol: HBONE, MutualTLS: true, Source: client(), Destination: server(),
		SourcePrincipal: "spiffe://cluster.local/ns/shop/sa/shopper",
		Service:         &Service{Hostname: "echo.stock.svc.cluster.local", Name: "echo", Namespace: "stock"},
		Src:             netip.MustParseAddrPort("10.0.0.1:40000"), Dst: netip.MustParseAddrPort("10.0.1.1:15008"), HBONEAddr: "10.0.1.1:7000",
	}
}

const (
	famOpened   = "istio_tcp_connections_opened_total"
	famClosed   = "istio_tcp_connections_closed_total"
	famFailed   = "istio_tcp_connections_failed_total"
	famReceived = "istio_tcp_received_bytes_total"
	famSent     = "istio_tcp_sent_bytes_total"
	famActive   = "istio_tcp_connections_active"
	famSockets  = "istio_tcp_sockets_open"
	famRejected = "istio_tcp_connections_rejected_total"
)

func TestFlagOf(t *testing.T) {
	for _, test := range []struct {
		err  error
		want Flag
	}{
		{nil, FlagNone},
		{errors.New("reset"), FlagConnect},
		{&flagged{FlagDeny, ""}, FlagDeny},
		{fmt.Errorf("wrapped: %w", &flagged{FlagTLS, ""}), FlagTLS},
		{errors.Join(errors.New("x"), &flagged{FlagNetworkPolicy, ""}), FlagNetworkPolicy},
		{&flagged{FlagNone, "drained"}, FlagNone},
		{&flagged{"SOMETHING_NEW", ""}, FlagConnect},
	} {
		if got := FlagOf(test.err); got != test.want {
			t.Errorf("FlagOf(%#v) = %s, want %s", test.err, got, test.want)
		}
	}
}

// Every flag is counted as closed and, but for "-", as failed; opened and bytes
// always carry "-".
func TestFlags(t *testing.T) {
	r := NewRecorder(Config{})
	s := newScraper(t, r)
	for i, f := range flags {
		rec := r.Open(call(Source))
		rec.Received.Add(10)
		rec.Sent.Add(20)
		rec.Close(&flagged{f, "over"})
		s.want(t, int64(i+1), 1, famOpened, "response_flags=-")
		s.want(t, 1, 1, famClosed, "response_flags="+string(f))
		failed := 1
		if f == FlagNone {
			failed = 0
		}
		s.want(t, int64(failed), failed, famFailed, "response_flags="+string(f))
		s.want(t, int64(10*(i+1)), 1, famReceived)
		s.want(t, int64(20*(i+1)), 1, famSent)
	}
	s.want(t, 8, 8, famClosed)
	s.want(t, 7, 7, famFailed)
}

// Both byte series exist from the beginning, move while the connection is
// open, and keep their value when it closes; a second Close is ignored.
func TestCountersMoveWhileOpen(t *testing.T) {
	r := NewRecorder(Config{})
	s := newScraper(t, r)
	if got := s.points(t); len(got[famOpened])+len(got[famActive])+len(got[famRejected])+len(got[famSockets]) != 0 {
		t.Errorf("before the first connection there are %v, want no family of connections", slices.Collect(maps.Keys(got)))
	}
	rec := r.Open(call(Destination))
	s.want(t, 0, 1, famReceived)
	s.want(t, 0, 1, famSent)
	s.want(t, 1, 1, famActive)
	s.want(t, 0, 0, famClosed)
	rec.Received.Add(11)
	rec.Sent.Add(22)
	s.want(t, 11, 1, famReceived, "reporter=destination", "request_protocol=tcp")
	s.want(t, 22, 1, famSent)
	other := r.Open(call(Destination))
	other.Sent.Add(1)
	s.want(t, 23, 1, famSent)
	rec.Close(nil)
	rec.Close(errors.New("again"))
	s.want(t, 23, 1, famSent)
	s.want(t, 1, 1, famClosed)
	s.want(t, 0, 0, famFailed)
	s.want(t, 2, 1, famOpened)
	s.want(t, 1, 1, famActive)
	other.Close(nil)
	s.want(t, 0, 1, famActive)
}

func TestSockets(t *testing.T) {
	r := NewRecorder(Config{})
	s := newScraper(t, r)
	s.want(t, 0, 0, famSockets)
	r.SocketOpened(Source)
	r.SocketOpened(Source)
	s.want(t, 2, 1, famSockets, "reporter=source")
	r.SocketClosed(Source)
	r.SocketClosed(Source)
	s.want(t, 0, 1, famSockets)
	// The reporter is in use, so its reasons are there; the other's are not.
	s.want(t, 0, len(reasons), famRejected, "reporter=source")
	s.want(t, 0, len(reasons), famRejected)
}

func TestReject(t *testing.T) {
	c := newClock()
	h := &lines{}
	r := NewRecorder(Config{Log: slog.New(h), IdleEviction: time.Hour, Now: c.now})
	s := newScraper(t, r)
	j := &Rejection{
		Reporter: Destination, Reason: ReasonIPMismatch, Workload: "server", Namespace: "stock", Err: errors.New("ip mismatch: 10.0.0.1 != 10.0.0.2"),
		Src: netip.MustParseAddrPort("10.0.0.1:40000"), Dst: netip.MustParseAddrPort("[fd00::1]:15008"),
	}
	r.Reject(j)
	r.Reject(&Rejection{Reporter: Destination, Reason: ReasonSelfCall, Src: j.Src, Dst: j.Dst})
	r.Reject(&Rejection{Reporter: Destination, Reason: "made up by a client"})
	s.want(t, 1, 1, famRejected, "reason=ip_mismatch", "destination_workload=server", "destination_workload_namespace=stock")
	s.want(t, 1, 1, famRejected, "reason=self_call", "destination_workload=unknown", "destination_workload_namespace=unknown")
	s.want(t, 1, 1, famRejected, "reason=bad_request")
	s.want(t, 3, len(reasons)+1, famRejected, "reporter=destination")
	want := []string{
		`warn connection failed src.addr=10.0.0.1:40000 dst.addr=[fd00::1]:15008 direction="inbound" error="ip mismatch: 10.0.0.1 != 10.0.0.2"`,
		`warn connection failed src.addr=10.0.0.1:40000 dst.addr=[fd00::1]:15008 direction="inbound"`,
	}
	if got := h.take(); !slices.Equal(got[:2], want) {
		t.Errorf("log:\n%s\nwant:\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
	c.advance(time.Hour)
	s.want(t, 0, 0, famRejected, "destination_workload=server")
	s.want(t, 1, 1, famRejected, "reason=self_call")
}

// Whoever provokes refusals cannot fill the log with them.
func TestReject_LogFlood(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := &lines{}
		r := NewRecorder(Config{Log: slog.New(h)})
		s := newScraper(t, r)
		reject := func(n int) {
			for range n {
				r.Reject(&Rejection{Reporter: Destination, Reason: ReasonTLSHandshake})
			}
		}
		reject(rejectBurst + 500)
		if got := len(h.take()); got != rejectBurst {
			t.Errorf("%d lines, want %d", got, rejectBurst)
		}
		time.Sleep(time.Second)
		reject(1)
		if got := h.take(); len(got) != 1 || !strings.HasSuffix(got[0], " suppressed=500") {
			t.Errorf("log: %q, want a line that tells of 500", got)
		}
		s.want(t, rejectBurst+501, 1, famRejected, "reason=tls_handshake")
	})
}

// The stages and the policy of a record can be read back.
func TestRecordFacts(t *testing.T) {
	c := newClock()
	r := NewRecorder(Config{Now: c.now})
	c.advance(time.Hour)
	rec := r.Open(call(Source))
	rec.Mark(StageDNS)
	c.advance(3 * time.Millisecond)
	rec.Mark(StageTCP)
	rec.Mark(Stage(200))
	if d, ok := rec.Stage(StageTCP); !ok || d != 3*time.Millisecond {
		t.Errorf("Stage(tcp) = %v, %v, want 3ms, true", d, ok)
	}
	if d, ok := rec.Stage(StageDNS); !ok || d != time.Microsecond {
		t.Errorf("Stage(dns) = %v, %v, want 1µs, true", d, ok)
	}
	if _, ok := rec.Stage(StageTLS); ok {
		t.Error("Stage(tls) was reached, want not")
	}
	c.advance(100 * time.Hour)
	rec.Mark(StageConnect)
	if d, ok := rec.Stage(StageConnect); !ok || d < time.Hour {
		t.Errorf("Stage(connect) = %v, %v, want more than an hour, true", d, ok)
	}
	rec.Decided("stock/allow")
	if rec.Policy() != "stock/allow" {
		t.Errorf("Policy() = %q, want that noted", rec.Policy())
	}
	if got := fmt.Sprint(StageWorkloadWait, StageUpstreamTCP, Stage(99)); got != "workload_wait upstream_tcp unknown" {
		t.Errorf("names of stages: %s", got)
	}
}

// Telemetry switched off still gives records to count in.
func TestNilRecorder(t *testing.T) {
	var r *Recorder
	r.SocketOpened(Source)
	r.Reject(&Rejection{})
	rec := r.Open(call(Source))
	rec.Received.Add(1)
	rec.Mark(StageTCP)
	rec.Close(errors.New("x"))
	r.SocketClosed(Source)
	if err := r.Register(nil); err != nil || rec.Received.Load() != 1 {
		t.Errorf("Register() = %v, bytes %d, want nil, 1", err, rec.Received.Load())
	}
}
