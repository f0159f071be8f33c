package measure

import (
	"context"
	"encoding/json"
	"errors"
	"net"
	"net/netip"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"ztunnel/loadtest/attack"
)

func TestAttacks(t *testing.T) {
	var out strings.Builder
	c := Config{Binary: testBinary(t), Dir: t.TempDir(), For: 300 * time.Millisecond, Only: "ping flood", Out: &out}
	r, err := Attacks(t.Context(), c) // whether it is well depends on what else the machine does
	if err != nil || r.Figures["ping_flood.rate"] == 0 || r.Figures["ping_flood.attack_p99_us"] == 0 {
		t.Errorf("Attacks = %+v, %v; it printed:\n%s", r, err, &out)
	}
}

func TestPercentile(t *testing.T) {
	values := []int64{5, 1, 4, 2, 3}
	for q, want := range map[int]float64{0: 1, 50: 3, 99: 5, 100: 5} {
		if got := percentile(values, q); got != want {
			t.Errorf("percentile %d of %v = %g, want %g", q, values, got, want)
		}
	}
	if got := percentile(nil, 50); got != 1 {
		t.Errorf("percentile of nothing = %g, want 1", got)
	}
}

func TestStatusSize(t *testing.T) {
	const status = "Name:\tx\nVmHWM:\t   300 kB\nVmRSS:\t   200 kB\n"
	if got, err := statusSize(status, "VmHWM"); got != 300 || err != nil {
		t.Errorf("VmHWM = %d, %v, want 300", got, err)
	}
	if got, err := statusSize(status, "VmPeak"); err == nil {
		t.Errorf("VmPeak = %d, want an error", got)
	}
}

// A turn in which nothing came back is the worst of all, and not the best.
func TestRatio(t *testing.T) {
	a := &attacks{length: time.Second}
	quiet := []int64{100}
	if got := a.ratio([]int64{250}, quiet); got != 2.5 {
		t.Errorf("ratio = %g, want 2.5", got)
	}
	if got := a.ratio(nil, quiet); got != 1e4 {
		t.Errorf("ratio without an answer = %g, want %g", got, 1e4)
	}
}

// Nothing measured is no success.
func TestAttacks_None(t *testing.T) {
	c := Config{Binary: testBinary(t), Dir: t.TempDir(), For: slotTime, Only: "kindness", Out: new(strings.Builder)}
	if r, err := Attacks(t.Context(), c); err == nil {
		t.Errorf("Attacks of no name = %+v, want an error", r)
	}
}

// An outcome is bad if those who behave got slower, failed or saw nothing, or if
// memory grew.
func TestTell(t *testing.T) {
	for name, test := range map[string]struct {
		change func(*outcome)
		ok     bool
	}{
		"well":    {func(*outcome) {}, true},
		"slower":  {func(o *outcome) { o.ratios = []float64{1, mostSlower + 0.1, 9} }, false},
		"failed":  {func(o *outcome) { o.attacked.Failed = 1 }, false},
		"nothing": {func(o *outcome) { o.attacked.Pings = nil }, false},
		"memory":  {func(o *outcome) { o.peak = o.before + mostMemory + 1 }, false},
	} {
		o := &outcome{
			quiet: slot{Pings: []int64{1}}, attacked: slot{Pings: []int64{2}}, ratios: []float64{2}, newRatios: []float64{1}, before: 1000, peak: 2000,
			progress: attack.Progress{Units: 10, Elapsed: time.Second},
		}
		test.change(o)
		var out strings.Builder
		a := &attacks{bed: &bed{out: &out}, figures: map[string]float64{}}
		if ok := a.tell(&attack.All[0], o); ok != test.ok {
			t.Errorf("%s: %t, want %t: %s", name, ok, test.ok, &out)
		}
	}
}

// A witness tells of round trips and of new connections, without a mesh.
func TestWitness(t *testing.T) {
	ln, err := (&net.ListenConfig{}).Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	serverCtx, stopServer := context.WithCancel(t.Context())
	var serving sync.WaitGroup
	serving.Go(func() { _ = serve(serverCtx, ln) })
	defer serving.Wait()
	defer stopServer()
	// Not a deadline, which dialers look at by themselves and a little early.
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	defer time.AfterFunc(4*slotTime, cancel).Stop()
	var out strings.Builder
	w := &witness{to: ln.Addr().(*net.TCPAddr).AddrPort(), out: &out}
	w.run(ctx)
	var all slot
	for line := range strings.Lines(out.String()) {
		var one slot
		if err := json.Unmarshal([]byte(line), &one); err != nil {
			t.Fatal(err)
		}
		all.add(one)
	}
	if len(all.Pings) == 0 || len(all.Connects) == 0 || all.Failed > 0 {
		t.Errorf("the witness saw %+v", all)
	}
	w = &witness{to: netip.MustParseAddrPort("127.0.0.1:1"), out: &out} // nobody listens
	w.saw(&w.now.Pings, time.Millisecond, context.Canceled)
	if w.now.Failed != 1 || w.now.LastErr == "" || len(w.now.Pings) > 0 {
		t.Errorf("after a failure the slot is %+v", w.now)
	}
}

// A long round trip stands for those that would have begun meanwhile.
func TestWitness_Stall(t *testing.T) {
	w := &witness{}
	w.sawPing(5*time.Millisecond, nil)
	w.sawPing(2*time.Millisecond, nil)
	if diff := cmp.Diff([]int64{5000, 3000, 1000, 2000}, w.now.Pings); diff != "" {
		t.Errorf("round trips (-want +got):\n%s", diff)
	}
	w.sawPing(5*time.Millisecond, errors.New("reset"))
	if len(w.now.Pings) != 4 || w.now.Failed != 1 {
		t.Errorf("after a failure there are %d round trips and %d failures, want 4 and 1", len(w.now.Pings), w.now.Failed)
	}
}
