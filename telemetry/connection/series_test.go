package connection

import (
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"pgregory.net/rapid"
)

const (
	famSeries   = "istio_ztunnel_metric_series"
	famEvicted  = "istio_ztunnel_metric_series_evicted_total"
	famOverflow = "istio_ztunnel_metric_overflow_total"
)

// to is a connection to a numbered workload.
func to(i int) *Details {
	d := call(Source)
	d.Destination.Name = fmt.Sprintf("server-%d", i)
	return d
}

// All families of a pair disappear together, and only when nothing is open.
func TestEviction(t *testing.T) {
	c := newClock()
	r := NewRecorder(Config{IdleEviction: time.Hour, Now: c.now})
	s := newScraper(t, r)
	r.Open(to(1)).Close(nil)
	r.Open(to(1)).Close(&flagged{FlagDeny, ""})
	held := r.Open(to(2))
	c.advance(time.Hour - 1)
	s.want(t, 2, 1, famOpened, "destination_workload=server-1")
	s.want(t, 2, 2, famClosed)
	c.advance(1)
	for _, f := range []string{famOpened, famReceived, famSent, famClosed, famFailed, famActive} {
		s.want(t, 0, 0, f, "destination_workload=server-1")
	}
	s.want(t, 1, 1, famOpened, "destination_workload=server-2")
	s.want(t, 1, 1, famEvicted, "family="+famOpened)
	s.want(t, 2, 1, famEvicted, "family="+famClosed)
	s.want(t, 1, 1, famEvicted, "family="+famFailed)
	s.want(t, 1, 1, famSeries, "family="+famOpened)
	s.want(t, 0, 1, famSeries, "family="+famClosed)
	c.advance(10 * time.Hour)
	held.Close(nil) // its time begins now
	s.want(t, 1, 1, famClosed)
	r.Open(to(1)).Close(nil) // a pair that comes back begins at 0
	s.want(t, 1, 1, famOpened, "destination_workload=server-1")
}

// Without a scrape new pairs push out old ones.
func TestEviction_WithoutScrape(t *testing.T) {
	c := newClock()
	r := NewRecorder(Config{IdleEviction: time.Hour, Now: c.now})
	for i := range 20_000 {
		if i%200 == 0 {
			c.advance(5 * time.Minute)
		}
		r.Open(to(i)).Close(nil)
	}
	// An hour is 2,400 pairs; sweeps lag by up to an eighth of it.
	if n := r.pairs.Load(); n > 3000 {
		t.Errorf("%d pairs are kept, want about 2,400", n)
	}
}

func TestNoEvictionByDefault(t *testing.T) {
	c := newClock()
	r := NewRecorder(Config{Now: c.now})
	s := newScraper(t, r)
	r.Open(to(1)).Close(nil)
	c.advance(10_000 * time.Hour)
	s.want(t, 1, 1, famOpened)
}

// What is too much is counted in a series that has all labels.
func TestCap(t *testing.T) {
	r := NewRecorder(Config{MaxSeries: 3})
	s := newScraper(t, r)
	for i := range 10 {
		rec := r.Open(to(i))
		rec.Sent.Add(5)
		rec.Close(nil)
	}
	r.Open(to(0)).Close(nil) // which has a series
	s.want(t, 11, 4, famOpened)
	s.want(t, 7, 1, famOpened, "destination_workload=overflow", "source_principal=overflow", "destination_zone=overflow",
		"reporter=source", "connection_security_policy=mutual_tls", "request_protocol=tcp", "response_flags=-")
	s.want(t, 35, 1, famSent, "destination_workload=overflow")
	s.want(t, 11, 4, famClosed)
	s.want(t, 7, 1, famOverflow, "family="+famOpened)
	s.want(t, 3, 1, famSeries, "family="+famOpened)
	for _, p := range s.points(t)[famOpened] {
		if p.Attributes.Len() != 27 {
			t.Errorf("a series has %d labels, want 27", p.Attributes.Len())
		}
	}
	d := to(100)
	d.Reporter, d.MutualTLS = Destination, false
	r.Open(d).Close(nil)
	s.want(t, 1, 1, famOpened, "destination_workload=overflow", "reporter=destination", "connection_security_policy=unknown")
}

// The cap holds for closed too, which has a series for each flag.
func TestCap_Flags(t *testing.T) {
	r := NewRecorder(Config{MaxSeries: 3})
	s := newScraper(t, r)
	for _, f := range flags {
		r.Open(to(1)).Close(&flagged{f, ""})
	}
	s.want(t, 8, 1, famOpened)
	s.want(t, 3, 3, famClosed, "destination_workload=server-1")
	s.want(t, 5, 5, famClosed, "destination_workload=overflow")
	s.want(t, 2, 2, famFailed, "destination_workload=server-1")
	s.want(t, 5, 1, famOverflow, "family="+famClosed)
	s.want(t, 5, 1, famOverflow, "family="+famFailed)
	s.want(t, 3, 1, famSeries, "family="+famClosed)
	s.want(t, 2, 1, famSeries, "family="+famFailed)
	s.want(t, 0, 0, famActive, "destination_workload=overflow")
	r.Open(to(1)).Close(nil)
	s.want(t, 9, 8, famClosed)
}

// Rejections are capped as well.
func TestCap_Rejections(t *testing.T) {
	r := NewRecorder(Config{MaxSeries: 2})
	s := newScraper(t, r)
	for i := range 5 {
		r.Reject(&Rejection{Reason: ReasonLimit, Workload: fmt.Sprint("w", i), Namespace: "n"})
	}
	s.want(t, 3, 1, famRejected, "destination_workload=overflow", "destination_workload_namespace=overflow")
	s.want(t, 5, len(reasons)+3, famRejected)
}

// A value that no scrape could show must not break all scrapes.
func TestInvalidLabel(t *testing.T) {
	r := NewRecorder(Config{})
	s := newScraper(t, r)
	d := call(Source)
	d.Destination.Namespace = "a\xff"
	r.Open(d).Close(nil)
	s.want(t, 1, 1, famOpened, "destination_workload_namespace=overflow")
	r.Reject(&Rejection{Reason: ReasonLimit, Workload: "a\xff"})
	s.want(t, 1, 1, famRejected, "destination_workload=overflow")
}

// A series does not hold on to the text that its first labels were cut from.
func TestSeriesDetaches(t *testing.T) {
	r := NewRecorder(Config{})
	s := newScraper(t, r)
	header := []byte("k8s.namespace.name=claimed")
	d := call(Destination)
	d.Source = &Workload{Namespace: string(header[19:]), Name: strings.Clone("w")}
	r.Open(d).Close(nil)
	s.want(t, 1, 1, famOpened, "source_workload_namespace=claimed")
	for i := range r.shards {
		for k, series := range r.shards[i].series {
			if k.src.namespace != "claimed" || series.key != k {
				t.Errorf("series has the key %v in the map under %v", series.key, k)
			}
		}
	}
}

// Totals never run backwards and lose nothing, whatever happens at once.
func TestConcurrentSafe(t *testing.T) {
	c := newClock()
	r := NewRecorder(Config{MaxSeries: 5, IdleEviction: 0, Now: c.now})
	s := newScraper(t, r)
	const workers, each = 8, 300
	var wg sync.WaitGroup
	for w := range workers {
		wg.Go(func() {
			for i := range each {
				r.SocketOpened(Source)
				rec := r.Open(to((w + i) % 7))
				rec.Received.Add(1)
				rec.Sent.Add(2)
				if i%3 == 0 {
					rec.Close(&flagged{flags[i%len(flags)], ""})
				} else {
					rec.Close(nil)
				}
				r.Reject(&Rejection{Reason: ReasonLimit})
				r.SocketClosed(Source)
			}
		})
	}
	stop := make(chan struct{})
	var scraping sync.WaitGroup
	scraping.Go(func() {
		last := map[string]int64{}
		for {
			for name, points := range s.points(t) {
				if name == famActive || name == famSockets || name == famSeries {
					continue
				}
				for _, p := range points {
					series := name + fmt.Sprint(p.Attributes.Equivalent())
					if p.Value < last[series] {
						t.Errorf("%s went from %d to %d", name, last[series], p.Value)
					}
					last[series] = p.Value
				}
			}
			select {
			case <-stop:
				return
			default:
			}
		}
	})
	wg.Wait()
	close(stop)
	scraping.Wait()
	for family, want := range map[string]int64{
		famOpened: workers * each, famClosed: workers * each, famReceived: workers * each, famSent: 2 * workers * each,
		famRejected: workers * each, famActive: 0, famSockets: 0,
	} {
		if got, _ := s.sum(t, family); got != want {
			t.Errorf("%s = %d in the end, want %d", family, got, want)
		}
	}
}

// Random operations against an obvious model.
func TestModel(t *testing.T) {
	type pair struct{ opened, received, sent, active, closed, failed int64 }
	rapid.Check(t, func(rt *rapid.T) {
		const idle = time.Minute
		c := newClock()
		r := NewRecorder(Config{IdleEviction: idle, Now: c.now})
		s := newScraper(t, r)
		model := map[int]*pair{}
		since := map[int]time.Time{}
		type open struct {
			*Record
			n int
		}
		var live []open
		at := func() int { return rapid.IntRange(0, len(live)-1).Draw(rt, "record") }
		rt.Repeat(map[string]func(*rapid.T){
			"open": func(rt *rapid.T) {
				n := rapid.IntRange(0, 3).Draw(rt, "pair")
				live = append(live, open{r.Open(to(n)), n})
				if model[n] == nil {
					model[n] = &pair{}
				}
				model[n].opened++
				model[n].active++
			},
			"bytes": func(rt *rapid.T) {
				if len(live) == 0 {
					rt.Skip()
				}
				o, n := live[at()], rapid.Uint64Range(0, 1000).Draw(rt, "bytes")
				o.Received.Add(n)
				o.Sent.Add(2 * n)
				model[o.n].received += int64(n)
				model[o.n].sent += int64(2 * n)
			},
			"close": func(rt *rapid.T) {
				if len(live) == 0 {
					rt.Skip()
				}
				i := at()
				o, f := live[i], rapid.SampledFrom(flags[:]).Draw(rt, "flag")
				live = append(live[:i], live[i+1:]...)
				o.Close(&flagged{f, ""})
				o.Close(nil)
				model[o.n].active--
				model[o.n].closed++
				if f != FlagNone {
					model[o.n].failed++
				}
				since[o.n] = c.now()
			},
			"time": func(rt *rapid.T) { c.advance(time.Duration(rapid.IntRange(1, 90).Draw(rt, "seconds")) * time.Second) },
			"": func(rt *rapid.T) {
				for n, p := range model {
					if p.active == 0 && c.now().Sub(since[n]) >= idle {
						delete(model, n)
					}
				}
				got := map[int]*pair{}
				for family, points := range s.points(t) {
					for _, p := range points {
						w, _ := p.Attributes.Value("destination_workload")
						var n int
						if _, err := fmt.Sscanf(w.AsString(), "server-%d", &n); err != nil {
							continue
						}
						if got[n] == nil {
							got[n] = &pair{}
						}
						to := map[string]*int64{
							famOpened: &got[n].opened, famReceived: &got[n].received, famSent: &got[n].sent,
							famActive: &got[n].active, famClosed: &got[n].closed, famFailed: &got[n].failed,
						}[family]
						*to += p.Value
					}
				}
				for n := range 4 {
					if fmt.Sprint(got[n]) != fmt.Sprint(model[n]) {
						rt.Fatalf("pair %d: %+v, want %+v", n, got[n], model[n])
					}
				}
			},
		})
	})
}
