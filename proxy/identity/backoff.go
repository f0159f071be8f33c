package identity

import (
	"math/rand/v2"
	"time"
)

// The retries of a failing identity: 1, 2, 4, ... 128, 150, 150 ... seconds, each with a jitter of a fifth to either side;
// after a quarter of an hour exactly 150 s each.
const (
	backoffFirst  = time.Second
	backoffMax    = 150 * time.Second
	backoffJitter = 0.2
	backoffGiveUp = 15 * time.Minute
)

// backoff is the sequence of delays of one identity, from its first failure to its next success.
type backoff struct {
	interval time.Duration
	since    time.Time
}

func newBackoff(now time.Time) *backoff { return &backoff{interval: backoffFirst, since: now} }

// next returns the delay before the next attempt and advances the sequence.
func (b *backoff) next(now time.Time) time.Duration {
	if now.Sub(b.since) >= backoffGiveUp {
		return backoffMax
	}
	d := time.Duration(float64(b.interval) * (1 - backoffJitter + 2*backoffJitter*rand.Float64()))
	b.interval = min(2*b.interval, backoffMax)
	return d
}
