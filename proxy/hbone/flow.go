package hbone

import (
	"golang.org/x/net/http2"

	"ztunnel/proxy/relay"
)

// takeWindow reserves up to want bytes of the stream's and the tunnel's send
// windows. It returns 0 if there are none now, and an error if the stream is no
// longer open for sending.
func (s *Stream) takeWindow(want int) (int, error) {
	s.c.mu.Lock()
	defer s.c.mu.Unlock()
	return s.takeWindowLocked(want)
}

func (s *Stream) takeWindowLocked(want int) (int, error) {
	c := s.c
	if s.gone || s.sendClosed {
		return 0, relay.ErrWriteZero
	}
	n := max(min(int64(want), s.sendWin, c.sendWin), 0)
	s.sendWin -= n
	c.sendWin -= n
	return int(n), nil
}

// takeAll reserves the windows for n bytes that are sent next, or takes nothing.
func (s *Stream) takeAll(n int) bool {
	c := s.c
	c.mu.Lock()
	defer c.mu.Unlock()
	if s.gone || s.sendClosed || int64(n) > min(s.sendWin, c.sendWin) {
		return false
	}
	s.sendWin -= int64(n)
	c.sendWin -= int64(n)
	s.payload = true
	return true
}

// returnWindow gives back what takeWindow reserved and was not sent.
func (s *Stream) returnWindow(n int) {
	if n <= 0 {
		return
	}
	c := s.c
	c.mu.Lock()
	s.sendWin += int64(n)
	c.sendWin += int64(n)
	c.wakeQueueLocked()
	c.mu.Unlock()
}

// wakeQueueLocked wakes the streams that wait for the tunnel's window.
func (c *conn) wakeQueueLocked() {
	for i, s := range c.windowQueue {
		s.queued = false
		s.signalLocked()
		c.windowQueue[i] = nil
	}
	c.windowQueue = c.windowQueue[:0]
}

// hasWindow reports whether a byte could be sent now, or never again.
func (s *Stream) hasWindow() bool {
	c := s.c
	c.mu.Lock()
	ok := s.gone || s.sendWin > 0 && c.sendWin > 0
	c.mu.Unlock()
	return ok
}

// waitWindow waits until a byte can be sent, the stream is no longer open for
// sending, or stop is closed. Nothing is held meanwhile.
func (s *Stream) waitWindow(stop <-chan struct{}) error {
	c := s.c
	for {
		c.mu.Lock()
		switch {
		case s.gone || s.sendClosed:
			c.mu.Unlock()
			return relay.ErrWriteZero
		case s.sendWin > 0 && c.sendWin > 0:
			c.mu.Unlock()
			return nil
		case s.sendWin > 0 && !s.queued:
			s.queued = true
			c.windowQueue = append(c.windowQueue, s)
		}
		wake := s.waker()
		c.mu.Unlock()
		select {
		case <-wake:
		case <-stop:
			return errStopped
		}
	}
}

// growWindow handles the peer's WINDOW_UPDATE. It returns the error of a tunnel.
func (c *conn) growWindow(id uint32, n int64) error {
	c.mu.Lock()
	if id == 0 {
		c.sendWin += n
		over := c.sendWin > maxWindow
		c.wakeQueueLocked()
		c.mu.Unlock()
		if over {
			return connError(http2.ErrCodeFlowControl)
		}
		return nil
	}
	s := c.streams[id]
	if s == nil {
		c.mu.Unlock()
		return nil
	}
	s.sendWin += n
	over := s.sendWin > maxWindow
	s.signalLocked()
	c.mu.Unlock()
	if over {
		return c.streamError(id, http2.ErrCodeFlowControl)
	}
	return nil
}

// setInitialWindow applies the peer's setting to all streams.
func (c *conn) setInitialWindow(n int64) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	delta := n - c.initWin
	c.initWin = n
	for _, s := range c.streams {
		s.sendWin += delta
		if s.sendWin > maxWindow {
			return connError(http2.ErrCodeFlowControl)
		}
		s.signalLocked()
	}
	return nil
}

// creditLocked returns the tunnel's credit for what was received, under c.mu. It
// is 0 while too much of that waits for applications; dequeued sees to it then.
func (c *conn) creditLocked() int64 {
	if c.tooMuchQueued() {
		c.withheld.Store(true)
		if c.tooMuchQueued() { // whoever changes that from now on sees withheld
			return 0
		}
	}
	c.withheld.Store(false)
	credit := c.unacked
	c.unacked = 0
	c.recvWin += credit
	return credit
}

func (c *conn) tooMuchQueued() bool {
	return c.queued.Load() > queueWindows*int64(c.cfg.ConnectionWindow)
}

// enqueue keeps payload until the application takes it, under s.mu.
func (s *Stream) enqueue(p []byte) {
	s.q.add(p)
	s.c.countQueued(len(p))
}

// countQueued changes the number of bytes that wait, here and in the metrics.
func (c *conn) countQueued(n int) {
	c.queued.Add(int64(n))
	if c.client {
		c.cfg.Metrics.ClientQueued.Add(int64(n))
	} else {
		c.cfg.Metrics.ServerQueued.Add(int64(n))
	}
}

// dequeued notes that so many bytes wait no more. No lock may be held.
func (c *conn) dequeued(n int) {
	if n == 0 {
		return
	}
	c.countQueued(-n)
	if !c.withheld.Load() {
		return
	}
	c.mu.Lock()
	credit := c.creditLocked()
	c.mu.Unlock()
	if credit > 0 {
		c.putWindowUpdate(0, credit)
		c.kick()
	}
}

// queueWindows is how many times the tunnel's window may wait for applications
// that take nothing before no more is let in, on any stream of the tunnel. Up to
// there none of them can stop the others: all credit is returned at once.
const queueWindows = 2

// received accounts for a DATA frame of n bytes, padding included, on a stream
// that may be nil. What a stream may leave waiting is bounded by its window, what
// a tunnel may by queueWindows.
func (c *conn) received(s *Stream, n int64) error {
	c.mu.Lock()
	c.recvWin -= n
	over := c.recvWin < 0
	streamOver := false
	if s != nil {
		s.recvWin -= n
		streamOver = s.recvWin < 0
	}
	c.unacked += n
	credit := int64(0)
	if c.unacked >= int64(c.cfg.ConnectionWindow)/4 {
		credit = c.creditLocked()
	}
	c.mu.Unlock()
	if over {
		return connError(http2.ErrCodeFlowControl)
	}
	if credit > 0 {
		c.putWindowUpdate(0, credit)
	}
	if streamOver {
		return c.streamError(s.id, http2.ErrCodeFlowControl)
	}
	return nil
}

// consumed returns the stream's credit for n bytes that the application has
// taken. It reports whether a control frame waits.
func (s *Stream) consumed(n int) bool {
	v := s.unacked.Add(int64(n))
	c := s.c
	if v < int64(c.cfg.StreamWindow)/4 {
		return false
	}
	s.unacked.Add(-v)
	c.mu.Lock()
	open := !s.gone && !s.recvClosed
	s.recvWin += v
	c.mu.Unlock()
	if open {
		c.putWindowUpdate(s.id, v)
	}
	return open
}
