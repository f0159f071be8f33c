package threads

import (
	"context"
	"errors"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
)

// host is a process whose load the test sets.
type host struct {
	mu      sync.Mutex
	load    float64
	used    time.Duration
	at      time.Time
	changes []int
	err     error
}

func (h *host) cpu() (time.Duration, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	now := time.Now()
	h.used += time.Duration(float64(now.Sub(h.at)) * h.load)
	h.at = now
	return h.used, h.err
}

func (h *host) set(n int) { h.changes = append(h.changes, n) }

// become changes the load from now on.
func (h *host) become(load float64, err error) {
	_, _ = h.cpu() // what came before was under the old load
	h.mu.Lock()
	defer h.mu.Unlock()
	h.load, h.err = load, err
}

// step is a load for some time.
type step struct {
	load float64
	time.Duration
}

// under goes through steps and returns the numbers of threads that were set.
func under(t *testing.T, most int, steps ...step) (changes []int) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		h := &host{at: time.Now()}
		ended := make(chan error, 1)
		go func() { ended <- Run(ctx, Config{Max: most, Set: h.set, CPU: h.cpu}) }()
		synctest.Wait()
		for _, s := range steps {
			h.become(s.load, nil)
			time.Sleep(s.Duration)
			synctest.Wait()
		}
		cancel()
		if err := <-ended; err != nil {
			t.Errorf("Run: %v", err)
		}
		changes = h.changes
	})
	return changes
}

func TestRun(t *testing.T) {
	for _, tc := range []struct {
		name  string
		most  int
		steps []step
		want  []int
	}{
		{"one thread is left after a calm second", 2, []step{{0.3, 1100 * time.Millisecond}}, []int{1}},
		{"and not before", 2, []step{{0.3, 900 * time.Millisecond}}, nil},
		{"a busy process keeps all", 4, []step{{0.45, time.Minute}}, nil},
		{"load brings all back at once", 4, []step{{0, 3 * time.Second}, {0.9, asleep}}, []int{1, 4}},
		{"a little more load does not", 4, []step{{0, 3 * time.Second}, {0.45, time.Minute}}, []int{1}},
		{"load between does not add up", 2, []step{
			{0.2, 900 * time.Millisecond},
			{0.45, 100 * time.Millisecond},
			{0.2, 900 * time.Millisecond},
		}, nil},
		{"a configured single thread stays", 1, []step{{0.9, time.Second}}, nil},
	} {
		t.Run(tc.name, func(t *testing.T) {
			if diff := cmp.Diff(tc.want, under(t, tc.most, tc.steps...)); diff != "" {
				t.Errorf("numbers of threads (-want +got):\n%s", diff)
			}
		})
	}
}

func TestRun_AllThreadsWithoutAMeasure(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := &host{at: time.Now()}
		ended := make(chan error, 1)
		go func() { ended <- Run(t.Context(), Config{Max: 3, Set: h.set, CPU: h.cpu}) }()
		time.Sleep(2 * time.Second)
		synctest.Wait()
		broken := errors.New("no such call")
		h.become(0, broken)
		if err := <-ended; !errors.Is(err, broken) {
			t.Errorf("Run: %v, want %v", err, broken)
		}
		if diff := cmp.Diff([]int{1, 3}, h.changes); diff != "" {
			t.Errorf("numbers of threads (-want +got):\n%s", diff)
		}
	})
}

func TestUsed(t *testing.T) {
	before, err := used()
	if err != nil {
		t.Fatal(err)
	}
	for sum := 0; ; sum++ { // until the clock of this process has moved
		if now, err := used(); err != nil || now > before {
			if err != nil {
				t.Error(err)
			}
			return
		}
	}
}
