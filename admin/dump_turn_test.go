package admin

import (
	"context"
	"errors"
	"log/slog"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

// Who asks for dumps without a pause gets them for a quarter of the time.
func TestDump_Share(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := New(Config{Log: slog.New(slog.DiscardHandler)})
		const takes = 50 * time.Millisecond
		s.Section("slow", func() (any, error) {
			time.Sleep(takes)
			return 1, nil
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
		if got, want := time.Since(start), takes+10*dumpShare*takes; got != want {
			t.Errorf("ten more dumps took until %v, want %v", got, want)
		}
		ctx, cancel := context.WithTimeout(t.Context(), takes)
		defer cancel()
		if _, err := s.dump.make(ctx); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("make = %v for a client that is gone, want the end of its context", err)
		}
	})
}
