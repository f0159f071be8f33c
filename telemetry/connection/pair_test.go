package connection

import (
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"go.opentelemetry.io/otel/attribute"
)

// sameEnds are connections whose workloads and service are the same objects, and
// that differ in something else which labels or the log show.
func sameEnds() []*Details {
	var all []*Details
	first := call(Source)
	for _, change := range []func(d *Details){
		func(*Details) {},
		func(d *Details) { d.Reporter = Destination },
		func(d *Details) { d.MutualTLS = false },
		func(d *Details) { d.SourcePrincipal = "spiffe://other/ns/a/sa/b" },
		func(d *Details) { d.DestinationPrincipal = "spiffe://other/ns/c/sa/d" },
		func(d *Details) { d.SourceIdentity = "spiffe://other/ns/e/sa/f" },
		func(d *Details) { d.DestinationIdentity = "spiffe://other/ns/g/sa/h" },
		func(d *Details) { d.Service = nil },
		func(d *Details) { d.Source = nil },
		func(d *Details) { d.Destination = nil },
		func(d *Details) { d.Source, d.Destination = d.Destination, d.Source },
		func(d *Details) { d.HBONEAddr, d.Src = "", d.Dst },
	} {
		d := *first
		change(&d)
		all = append(all, &d)
	}
	return all
}

// record opens and closes each connection three times, with one recorder or each
// with its own, and returns the lines of the log and the last recorder.
func record(t *testing.T, ds []*Details, json, together bool) (lines []string, r *Recorder) {
	t.Helper()
	l, c := newLog(t, "debug", json), newClock()
	for range 3 {
		for _, d := range ds {
			if r == nil || !together {
				r = NewRecorder(Config{Log: l.log.Logger("access"), Now: c.now})
			}
			r.Open(d).Close(nil)
		}
	}
	return l.take(t), r
}

// A connection is logged and counted the same whether others between the same
// two ends went before or not.
func TestPairs(t *testing.T) {
	ds := sameEnds()
	var shared *Recorder
	for _, json := range []bool{false, true} {
		want, _ := record(t, ds, json, false)
		var got []string
		got, shared = record(t, ds, json, true)
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("JSON %v: lines of connections that are alone (-) and among others (+):\n%s", json, diff)
		}
	}
	series := func(r *Recorder) (names []string) {
		for _, p := range newScraper(t, r).points(t)[famClosed] {
			names = append(names, p.Attributes.Encoded(attribute.DefaultEncoder()))
		}
		return names
	}
	var want []string
	for _, d := range ds {
		r := NewRecorder(Config{})
		r.Open(d).Close(nil)
		want = append(want, series(r)...)
	}
	slices.Sort(want)
	want = slices.Compact(want)
	got := series(shared)
	slices.Sort(got)
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("series of connections that are alone (-) and among others (+):\n%s", diff)
	}
	newScraper(t, shared).want(t, int64(3*len(ds)), len(want), famClosed)
}

// Details with anything else in them are another pair, also in the same slot.
func TestPair_Is(t *testing.T) {
	ds := sameEnds()
	ds = ds[:len(ds)-1] // addresses do not matter
	for i, one := range ds {
		p := newPair(one, nil)
		for j, other := range ds {
			if got := p.is(other); got != (i == j) {
				t.Errorf("pair of details %d is that of %d: %v", i, j, got)
			}
		}
	}
}

// A pair whose series was evicted is not used again.
func TestPairs_Evicted(t *testing.T) {
	c := newClock()
	r := NewRecorder(Config{IdleEviction: time.Hour, Now: c.now})
	s := newScraper(t, r)
	d := call(Source)
	for range 3 {
		r.Open(d).Close(nil)
	}
	if slot := r.known.slot(r.seed, d); slot.Load() == nil {
		t.Fatal("the pair is not remembered")
	}
	s.want(t, 3, 1, famOpened)
	c.advance(time.Hour)
	s.want(t, 0, 0, famOpened)
	for range 2 {
		r.Open(d).Close(nil)
	}
	s.want(t, 2, 1, famOpened)
	s.want(t, 2, 1, famClosed)
}

// What could not get a series is looked up each time, as a place may have become
// free, and counted.
func TestPairs_Overflow(t *testing.T) {
	c := newClock()
	r := NewRecorder(Config{MaxSeries: 1, IdleEviction: time.Hour, Now: c.now})
	s := newScraper(t, r)
	d := to(1)
	r.Open(to(0)).Close(nil)
	for range 3 {
		r.Open(d).Close(nil)
	}
	s.want(t, 3, 1, famOverflow, "family="+famOpened)
	c.advance(time.Hour)
	s.want(t, 0, 0, famOpened, "destination_workload=server-0")
	r.Open(d).Close(nil)
	s.want(t, 1, 1, famOpened, "destination_workload=server-1")
}

// More pairs than slots take turns, and every connection counts.
func TestPairs_Many(t *testing.T) {
	const n = 2 * pairSlots
	r := NewRecorder(Config{})
	all := make([]*Details, n)
	for i := range all {
		all[i] = to(i)
	}
	for range 3 {
		for _, d := range all {
			r.Open(d).Close(nil)
		}
	}
	newScraper(t, r).want(t, 3*n, n, famOpened)
	if misses := r.known.misses.Load(); misses < n {
		t.Errorf("%d misses, want at least %d", misses, n)
	}
}

// A peer's claims are not remembered: they are another object each time.
func TestPairs_Claims(t *testing.T) {
	r := NewRecorder(Config{})
	d := call(Destination)
	d.Source = &Workload{Name: strings.Clone("claimed")}
	r.Open(d).Close(nil)
	if r.known.slot(r.seed, d) != nil {
		t.Error("there is a slot for a pair with claims")
	}
	newScraper(t, r).want(t, 1, 1, famOpened, "source_workload=claimed")
}
