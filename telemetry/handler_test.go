package telemetry

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/klauspost/compress/gzip"
	"github.com/klauspost/compress/zstd"
	"go.opentelemetry.io/otel/metric"

	"ztunnel/telemetry/connection"
)

func TestContentType(t *testing.T) {
	tel := setup(t, Config{})
	const om, text = contentOpenMetrics, contentText
	for name, test := range map[string]struct {
		accept []string
		want   string
	}{
		"nothing":      {nil, text},
		"anything":     {[]string{"*/*"}, text},
		"JSON":         {[]string{"application/json"}, text},
		"text":         {[]string{"text/plain;version=0.0.4"}, text},
		"OpenMetrics":  {[]string{"Application/OpenMetrics-Text; version=1.0.0"}, om},
		"two headers":  {[]string{"text/plain", "application/openmetrics-text; other stuff"}, om},
		"Prometheus's": {[]string{"application/vnd.google.protobuf;proto=io.prometheus.client.MetricFamily;encoding=delimited;q=0.6,application/openmetrics-text;version=1.0.0;q=0.5,text/plain;version=0.0.4;q=0.2,*/*;q=0.1"}, om},
	} {
		t.Run(name, func(t *testing.T) {
			var header []string
			for _, a := range test.accept {
				header = append(header, "Accept", a)
			}
			w := scrape(t, tel, header...)
			if got := w.Header().Get("Content-Type"); got != test.want {
				t.Errorf("Content-Type = %q, want %q", got, test.want)
			}
			if got := strings.HasSuffix(w.Body.String(), "\n# EOF\n"); got != (test.want == om) {
				t.Errorf("the body ends with # EOF: %v", got)
			}
		})
	}
}

func TestPickEncoding(t *testing.T) {
	for accept, want := range map[string]string{
		"": "", "identity": "", "gzip": "gzip", "zstd": "zstd", "br": "", "gzip, zstd": "zstd", "zstd;q=0.1,gzip;q=0.9": "gzip",
		"gzip;q=0": "", "gzip;q=0, zstd;q=0": "", "GZIP; Q=0.5": "gzip", "*": "gzip", "gzip;q=x": "", "gzip;q=NaN": "", "deflate, gzip, br, zstd": "zstd",
		"gzip;level=1": "gzip",
	} {
		if got := pickEncoding([]string{accept}); got != want {
			t.Errorf("pickEncoding(%q) = %q, want %q", accept, got, want)
		}
	}
	if got := pickEncoding([]string{"br", "gzip"}); got != "gzip" {
		t.Errorf("pickEncoding of two headers = %q, want gzip", got)
	}
}

// The same text comes out of every encoding, also when compressors are used
// again.
func TestCompression(t *testing.T) {
	tel := setup(t, Config{})
	fill(recorder(t, tel), 100)
	plain := volatile.ReplaceAllString(scrape(t, tel).Body.String(), "")
	for range 3 {
		for encoding, open := range map[string]func(io.Reader) (io.Reader, error){
			"gzip": func(r io.Reader) (io.Reader, error) { return gzip.NewReader(r) },
			"zstd": func(r io.Reader) (io.Reader, error) {
				z, err := zstd.NewReader(r, zstd.WithDecoderConcurrency(1))
				if err != nil {
					return nil, err
				}
				t.Cleanup(z.Close)
				return z, nil
			},
		} {
			w := scrape(t, tel, "Accept-Encoding", encoding)
			if got := w.Header().Get("Content-Encoding"); got != encoding {
				t.Fatalf("Content-Encoding = %q, want %s", got, encoding)
			}
			if w.Body.Len() > len(plain)/2 {
				t.Errorf("%s makes %d bytes of %d", encoding, w.Body.Len(), len(plain))
			}
			r, err := open(w.Body)
			if err != nil {
				t.Fatal(err)
			}
			got, err := io.ReadAll(r)
			if err != nil {
				t.Fatal(err)
			}
			if volatile.ReplaceAllString(string(got), "") != plain {
				t.Errorf("%s gives another text", encoding)
			}
		}
	}
}

// gone is a reader that went away.
type gone struct{ http.ResponseWriter }

func (gone) Write([]byte) (int, error) { return 0, io.ErrClosedPipe }

func TestReaderGone(t *testing.T) {
	tel := setup(t, Config{})
	fill(recorder(t, tel), 200)
	for _, encoding := range []string{"", "gzip", "zstd"} {
		r := httptest.NewRequest(http.MethodGet, "/metrics", nil)
		r.Header.Set("Accept-Encoding", encoding)
		tel.Handler().ServeHTTP(gone{httptest.NewRecorder()}, r)
		if body := scrape(t, tel).Body.String(); !strings.Contains(body, "istio_build{") {
			t.Errorf("after a broken scrape with %q the next has no istio_build", encoding)
		}
	}
}

// Too many scrapes at once are refused after a while, and none of them stays.
func TestTooManyScrapes(t *testing.T) {
	tel := setup(t, Config{})
	tel.scrapeWait = 10 * time.Millisecond
	g, err := tel.Meter("x").Int64ObservableGauge("istio_slow")
	if err != nil {
		t.Fatal(err)
	}
	release := make(chan struct{})
	reg, err := tel.Meter("x").RegisterCallback(func(context.Context, metric.Observer) error { <-release; return nil }, g)
	if err != nil {
		t.Fatal(err)
	}
	get := func() int {
		w := httptest.NewRecorder()
		tel.Handler().ServeHTTP(w, httptest.NewRequest(http.MethodGet, "/metrics", nil))
		return w.Code
	}
	var all sync.WaitGroup
	for range maxScrapes {
		all.Go(func() {
			if got := get(); got != http.StatusOK {
				t.Errorf("a scrape got %d, want 200", got)
			}
		})
	}
	for len(tel.scrapes) < maxScrapes {
		runtime.Gosched()
	}
	if got := get(); got != http.StatusServiceUnavailable {
		t.Errorf("one scrape more got %d, want 503", got)
	}
	tel.scrapeWait = time.Minute
	all.Go(func() {
		if got := get(); got != http.StatusOK {
			t.Errorf("a scrape that waited got %d, want 200", got)
		}
	})
	close(release)
	all.Wait()
	if err := reg.Unregister(); err != nil {
		t.Error(err)
	}
	if got := get(); got != http.StatusOK {
		t.Errorf("a scrape afterwards got %d, want 200", got)
	}
}

func TestConcurrentScrapes(t *testing.T) {
	tel := setup(t, Config{})
	r := recorder(t, tel)
	var all sync.WaitGroup
	for i := range maxScrapes {
		all.Go(func() {
			for range 10 {
				fill(r, 10)
				encoding := []string{"", "gzip", "zstd"}[i%3]
				if w := scrape(t, tel, "Accept-Encoding", encoding); w.Body.Len() == 0 {
					t.Error("an empty scrape")
				}
			}
		})
	}
	all.Wait()
}

// fill makes a number of pairs, each with one closed connection: five series.
func fill(r *connection.Recorder, pairs int) {
	for i := range pairs {
		name := fmt.Sprint("server-", i)
		rec := r.Open(&connection.Details{
			Reporter: connection.Source, MutualTLS: true, SourcePrincipal: "spiffe://cluster.local/ns/default/sa/client",
			Source: &connection.Workload{Name: "client", Namespace: "default", CanonicalName: "client", CanonicalRevision: "v1", Region: "r", Zone: "z", Known: true},
			Destination: &connection.Workload{
				Name: name, Namespace: "default", CanonicalName: name, CanonicalRevision: "v1", Region: "r", Zone: "z", Known: true,
				Principal: "spiffe://cluster.local/ns/default/sa/" + name,
			},
			Service: &connection.Service{Hostname: name + ".default.svc.cluster.local", Name: name, Namespace: "default"},
		})
		rec.Sent.Add(uint64(i))
		rec.Close(nil)
	}
}

func BenchmarkScrape10kSeries(b *testing.B) {
	const pairs = 2000
	for _, encoding := range []string{"identity", "gzip", "zstd"} {
		b.Run(encoding, func(b *testing.B) {
			tel := setup(b, Config{})
			fill(recorder(b, tel), pairs)
			r := httptest.NewRequest(http.MethodGet, "/metrics", nil)
			r.Header.Set("Accept-Encoding", encoding)
			w := &sink{header: http.Header{}}
			tel.Handler().ServeHTTP(w, r)
			b.ReportAllocs()
			w.n = 0
			for b.Loop() {
				tel.Handler().ServeHTTP(w, r)
			}
			b.ReportMetric(float64(w.n)/float64(b.N), "bytes/scrape")
			b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N)/(5*pairs), "ns/series")
		})
	}
}

// sink is a response that is only measured.
type sink struct {
	header http.Header
	n      int
}

func (s *sink) Header() http.Header         { return s.header }
func (s *sink) WriteHeader(int)             {}
func (s *sink) Write(p []byte) (int, error) { s.n += len(p); return len(p), nil }

// The exporter and the registry allocate for each label of each series. This
// holds them to what they cost today, so that an update that costs more shows.
func TestScrapeAllocations(t *testing.T) {
	tel := setup(t, Config{})
	const pairs = 1000 // opened, closed, received, sent, active
	fill(recorder(t, tel), pairs)
	r := httptest.NewRequest(http.MethodGet, "/metrics", nil)
	if n := testing.AllocsPerRun(5, func() { tel.Handler().ServeHTTP(&sink{header: http.Header{}}, r) }) / (5 * pairs); n > 140 {
		t.Errorf("a scrape allocates %.1f times for each series, want at most 140", n)
	}
}

// A scrape under way, and one that its reader takes slowly, do not hold up
// connections: nothing of the data path is locked while families are written.
func TestScrapeLetsConnectionsPass(t *testing.T) {
	tel := setup(t, Config{})
	r := recorder(t, tel)
	fill(r, 100)
	reading, proceed := make(chan struct{}), make(chan struct{})
	var scraping sync.WaitGroup
	scraping.Go(func() {
		w := &slow{sink: sink{header: http.Header{}}, reading: reading, proceed: proceed}
		tel.Handler().ServeHTTP(w, httptest.NewRequest(http.MethodGet, "/metrics", nil))
	})
	<-reading
	fill(r, 200) // would wait for ever
	if w := scrape(t, tel); w.Body.Len() == 0 {
		t.Error("a scrape beside a slow one is empty")
	}
	close(proceed)
	scraping.Wait()
}

// slow takes nothing until it may proceed.
type slow struct {
	sink
	reading, proceed chan struct{}
	once             sync.Once
}

func (s *slow) Write(p []byte) (int, error) {
	s.once.Do(func() { close(s.reading) })
	<-s.proceed
	return s.sink.Write(p)
}
