package logging

import (
	"context"
	"log/slog"
	"slices"
	"sync"
	"time"
)

// Limiter lets through a bounded number of lines of one message that can repeat
// without end, such as a failing accept. The next line that gets through tells
// how many did not. It may be used concurrently; make one per message.
type Limiter struct {
	interval time.Duration
	burst    int

	mu         sync.Mutex
	next       time.Time // when the bucket is empty again if nothing gets through
	suppressed uint64
}

// NewLimiter lets through burst lines at once (at least one), and one more each
// interval.
func NewLimiter(interval time.Duration, burst int) *Limiter {
	return &Limiter{interval: interval, burst: max(burst, 1)}
}

// Allow tells whether a line may be written now, and if so how many were
// suppressed since the one before it.
func (l *Limiter) Allow() (suppressed uint64, ok bool) {
	now := time.Now()
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.next.Before(now) {
		l.next = now
	}
	if next := l.next.Add(l.interval); next.Sub(now) <= time.Duration(l.burst)*l.interval {
		l.next = next
		suppressed, l.suppressed = l.suppressed, 0
		return suppressed, true
	}
	l.suppressed++
	return 0, false
}

// Log writes a line if it may, with a field "suppressed" if lines were
// suppressed before it.
func (l *Limiter) Log(ctx context.Context, log *slog.Logger, level slog.Level, message string, attrs ...slog.Attr) {
	if !log.Enabled(ctx, level) {
		return
	}
	suppressed, ok := l.Allow()
	if !ok {
		return
	}
	if suppressed > 0 {
		attrs = append(slices.Clip(attrs), slog.Uint64("suppressed", suppressed))
	}
	log.LogAttrs(ctx, level, message, attrs...)
}
