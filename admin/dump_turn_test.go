package admin

import (
	"bytes"
	"context"
	"errors"
	"log/slog"
	"net/http/httptest"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

// Who asks for dumps without a pause gets them for a part of the time.
func TestDump_Share(t *testing.T) {
	for _, tc := range []struct{ takes, each time.Duration }{
		{2 * time.Millisecond, 20 * time.Millisecond},
		{20 * time.Millisecond, 120 * time.Millisecond},
		{50 * time.Millisecond, 200 * time.Millisecond},
	} {
		t.Run(tc.takes.String(), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) { askForDumps(t, tc.takes, tc.each) })
		})
	}
}

func askForDumps(t *testing.T, takes, each time.Duration) {
	s := New(Config{Log: slog.New(slog.DiscardHandler)})
	s.Section("slow", func() (any, error) {
		time.Sleep(takes)
		return []int{}, nil
	})
	start := time.Now()
	if _, err := s.dump.make(t.Context()); err != nil || time.Since(start) != takes {
		t.Errorf("the first dump came after %v, %v, want %v", time.Since(start), err, takes)
	}
	var askers sync.WaitGroup
	for range 10 {
		askers.Go(func() {
			if _, err := s.dump.make(t.Context()); err != nil {
				t.Errorf("make = %v", err)
			}
		})
	}
	askers.Wait()
	if got, want := time.Since(start), takes+10*each; got != want {
		t.Errorf("ten more dumps took until %v, want %v", got, want)
	}
	ctx, cancel := context.WithTimeout(t.Context(), takes)
	defer cancel()
	if _, err := s.dump.make(ctx); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("make = %v for a client that is gone, want the end of its context", err)
	}
}

// slowElement is an element of a list that takes its time.
type slowElement struct{}

const slowElementTakes = 300 * time.Microsecond

func (slowElement) MarshalJSON() ([]byte, error) {
	time.Sleep(slowElementTakes)
	return []byte("1"), nil
}

// A large dump is made in slices, which do not count as rest, and only as long as
// somebody waits for it.
func TestDump_Slices(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := New(Config{Log: slog.New(slog.DiscardHandler)})
		const elements = 1000
		s.Section("large", func() (any, error) { return make([]slowElement, elements), nil })
		start := time.Now()
		if _, err := s.dump.make(t.Context()); err != nil {
			t.Fatalf("make = %v", err)
		}
		const work, pauses = elements * slowElementTakes, elements / 4 * dumpSlice // after 4 elements each
		if got, want := time.Since(start), work+pauses; got != want {
			t.Errorf("the dump took %v, want %v", got, want)
		}
		if got, want := time.Until(s.dump.rested), (largeDumpShare-1)*work; got != want {
			t.Errorf("the next may begin after %v, want %v", got, want)
		}
		time.Sleep(time.Until(s.dump.rested))
		start = time.Now()
		ctx, cancel := context.WithTimeout(t.Context(), 10*dumpSlice+dumpSlice/2)
		defer cancel()
		if _, err := s.dump.make(ctx); !errors.Is(err, context.DeadlineExceeded) || time.Since(start) > 12*dumpSlice {
			t.Errorf("make = %v after %v for a client that is gone, want the end of its context", err, time.Since(start))
		}
	})
}

// A client that is gone is no failed dump.
func TestDump_ClientGone(t *testing.T) {
	var log bytes.Buffer
	s := New(Config{Log: slog.New(slog.NewTextHandler(&log, nil))})
	s.Section("fails", func() (any, error) { return nil, errors.New("broken") })
	ctx, cancel := context.WithCancel(t.Context())
	s.ServeHTTP(httptest.NewRecorder(), httptest.NewRequestWithContext(ctx, "GET", "/config_dump", nil))
	if log.Len() == 0 {
		t.Error("nothing was logged of a dump that failed")
	}
	log.Reset()
	cancel()
	s.ServeHTTP(httptest.NewRecorder(), httptest.NewRequestWithContext(ctx, "GET", "/config_dump", nil))
	if log.Len() != 0 {
		t.Errorf("log = %q, want nothing", log.String())
	}
}
