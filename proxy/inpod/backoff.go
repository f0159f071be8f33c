package inpod

import (
	"context"
	"math/rand/v2"
	"time"
)

// The pauses between attempts, as in the reference.
const (
	connectFirst  = 20 * time.Millisecond  // after a connection that failed
	announceFirst = 500 * time.Millisecond // after a session that did not begin, before the node was ever ready
	announceAgain = 5 * time.Millisecond   // the same, since it was ready
	retryMax      = 15 * time.Second
	retryJitter   = 0.2
	retryGiveUp   = 15 * time.Minute // from then on all pauses are the longest
)

// backoff is a sequence of pauses that double, each with a jitter to either side.
type backoff struct {
	first    time.Duration
	interval time.Duration // the next one; 0 before the first
	since    time.Time     // of the first one
}

// next returns the pause before the next attempt and advances the sequence.
func (b *backoff) next(now time.Time) time.Duration {
	if b.interval == 0 {
		b.interval, b.since = b.first, now
	}
	if now.Sub(b.since) >= retryGiveUp {
		return retryMax
	}
	d := time.Duration(float64(b.interval) * (1 - retryJitter + 2*retryJitter*rand.Float64()))
	b.interval = min(2*b.interval, retryMax)
	return d
}

// pause waits, and returns false if ctx ends meanwhile.
func pause(ctx context.Context, d time.Duration) bool {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return true
	case <-ctx.Done():
		return false
	}
}
