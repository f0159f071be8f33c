package logging

import (
	"log/slog"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

func TestLimiter(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := NewLimiter(time.Second, 3)
		count := func(n int) (passed int, suppressed uint64) {
			for range n {
				if s, ok := l.Allow(); ok {
					passed++
					suppressed += s
				}
			}
			return passed, suppressed
		}
		for _, step := range []struct {
			after      time.Duration
			n          int
			passed     int
			suppressed uint64
		}{
			{0, 10, 3, 0},
			{500 * time.Millisecond, 5, 0, 0},
			{500 * time.Millisecond, 5, 1, 12},
			{time.Hour, 5, 3, 4},
		} {
			<-time.After(step.after) // fake time
			if passed, suppressed := count(step.n); passed != step.passed || suppressed != step.suppressed {
				t.Errorf("after %v: %d passed, %d reported, want %d, %d", step.after, passed, suppressed, step.passed, step.suppressed)
			}
		}
	})
}

func TestLimiterLog(t *testing.T) {
	got := written(t, Config{}, func(l *Logging) {
		limiter, log := NewLimiter(time.Hour, 1), l.Logger("proxy")
		limiter.Log(t.Context(), log, slog.LevelDebug, "not enabled, does not count")
		limiter.Log(t.Context(), log, slog.LevelWarn, "accept failed", slog.Int("n", 1))
		limiter.Log(t.Context(), log, slog.LevelWarn, "accept failed", slog.Int("n", 2))
		limiter.next = time.Time{}
		limiter.Log(t.Context(), log, slog.LevelWarn, "accept failed", slog.Int("n", 3))
	})
	lines := strings.Split(got, "\n")
	if len(lines) != 3 || !strings.HasSuffix(lines[0], "\tn=1") || !strings.HasSuffix(lines[1], "\tn=3 suppressed=1") {
		t.Errorf("got %q, want two lines, the second with suppressed=1", got)
	}
}
