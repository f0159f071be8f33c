package hbone

import (
	"time"

	"golang.org/x/net/http2"
)

// budget counts what a peer does for nothing. It belongs to the reader.
type budget struct {
	control window // frames beyond what traffic explains
	resets  window // streams reset before they carried a byte
	// credit is how many control frames the traffic explains.
	credit int
	bytes  int // received since the last credit
}

// window counts events of a period.
type window struct {
	start time.Time
	n     int
}

// add counts an event and reports whether there were more than limit.
func (w *window) add(limit int, period time.Duration) bool {
	now := time.Now()
	if now.Sub(w.start) > period {
		w.start, w.n = now, 0
	}
	w.n++
	return w.n > limit
}

const (
	// What traffic explains: peers answer it by window updates and by PINGs that
	// measure the path.
	bytesPerCredit   = 4 << 10 // received
	creditsPerStream = 8
	maxCredit        = 1000
)

// countControl counts a frame that carries nothing.
func (c *conn) countControl() error {
	b := &c.budget
	if b.credit > 0 {
		b.credit--
		return nil
	}
	if n := c.explained.Swap(0); n > 0 { // what we sent
		b.credit = int(min(n, maxCredit)) - 1
		return nil
	}
	if !b.control.add(c.cfg.Limits.ControlFrames, c.cfg.Limits.Period) {
		return nil
	}
	c.cfg.Metrics.ControlFloods.Add(1)
	return connError(http2.ErrCodeEnhanceYourCalm)
}

// explain grants control frames for received bytes.
func (b *budget) explain(n int) {
	if b.bytes += n; b.bytes >= bytesPerCredit {
		b.credit = min(b.credit+b.bytes/bytesPerCredit, maxCredit)
		b.bytes %= bytesPerCredit
	}
}

// explain grants control frames for sent bytes: window updates, above all.
func (c *conn) explain(n int) { c.explained.Add(int64(1 + n/bytesPerCredit)) }

// countReset counts a stream that was reset for nothing.
func (c *conn) countReset() error {
	if !c.budget.resets.add(c.cfg.Limits.Resets, c.cfg.Limits.Period) {
		return nil
	}
	c.cfg.Metrics.ResetFloods.Add(1)
	return connError(http2.ErrCodeEnhanceYourCalm)
}

// wasted counts a stream that has ended by a reset, the peer's or one for its
// fault.
func (c *conn) wasted(s *Stream) error {
	c.noteBusy(s)
	if c.tooManyPending() {
		c.cfg.Metrics.ResetFloods.Add(1)
		return connError(http2.ErrCodeEnhanceYourCalm)
	}
	return c.countReset()
}

// noteBusy marks a stream that has ended while its handler runs (server).
func (c *conn) noteBusy(s *Stream) {
	if c.server == nil {
		return
	}
	c.mu.Lock()
	if s.handled && !s.busyReset && !c.server.giveUpLocked(s) {
		s.busyReset = true
		c.server.pending++
	}
	c.mu.Unlock()
}

// tooManyPending reports that too many handlers run for streams that have been
// reset.
func (c *conn) tooManyPending() bool {
	if c.server == nil {
		return false
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.server.pending > c.cfg.Limits.PendingResets
}
