package hbone

import (
	"syscall"

	"golang.org/x/net/http2"

	"ztunnel/proxy/relay"
)

// deliver takes payload that has just arrived. Only the reader calls it. The
// bytes go straight to the application's socket, or to the queue if there is
// none or it is full.
func (s *Stream) deliver(p []byte) {
	s.mu.Lock()
	if s.discard || s.fin {
		s.mu.Unlock()
		return
	}
	if r := s.relay; r != nil && !s.draining && s.q.empty() {
		// Only the reader starts a drain, so nobody else writes meanwhile.
		s.mu.Unlock()
		n, err := r.tryWrite(p)
		if n > 0 {
			s.consumed(n)
		}
		if err != nil {
			s.appFailed(err)
			return
		}
		if p = p[n:]; len(p) == 0 {
			return
		}
		s.mu.Lock()
		if s.discard {
			s.mu.Unlock()
			return
		}
		s.draining = true
		s.enqueue(p)
		s.mu.Unlock()
		go r.drain()
		return
	}
	s.enqueue(p)
	s.mu.Unlock()
	s.wakeReader()
}

// finish says that nothing follows: END_STREAM, a reset, or the tunnel's end
// (err). Only the reader calls it.
func (s *Stream) finish(err error) {
	s.mu.Lock()
	if s.fin {
		s.mu.Unlock()
		return
	}
	s.fin, s.finErr = true, err
	r := s.relay
	idle := r != nil && !s.draining && s.q.empty()
	s.mu.Unlock()
	if idle {
		r.endDown(err)
	}
	s.wakeReader()
}

// appFailed ends the way to the application, whose socket takes no more. What
// arrives from now on is dropped.
func (s *Stream) appFailed(err error) {
	s.mu.Lock()
	s.discard = true
	dropped := s.q.drop()
	r := s.relay
	s.mu.Unlock()
	s.c.dequeued(dropped)
	r.endDown(err)
}

// tryWrite writes to the application's socket without waiting.
func (r *relayState) tryWrite(p []byte) (int, error) { return r.write(p, false) }

func (r *relayState) write(p []byte, block bool) (int, error) {
	r.wp, r.werr, r.wblock = p, 0, block
	err := r.rc.Write(r.writeFn)
	if err == nil && r.werr != 0 {
		err = r.werr
	}
	n := len(p) - len(r.wp)
	r.wp = nil
	if n > 0 {
		r.fromTunnel.Add(uint64(n))
	}
	return n, err
}

// writeReady writes until everything is gone or the socket is full.
func (r *relayState) writeReady(fd uintptr) bool {
	for len(r.wp) > 0 {
		n, errno := relay.RawWrite(fd, r.wp)
		if errno == syscall.EAGAIN {
			return !r.wblock
		}
		if errno != 0 {
			r.werr = errno
			return true
		}
		r.wp = r.wp[n:]
	}
	return true
}

// drain is the temporary goroutine that writes the queue to the application's
// socket while that is full. Relay waits for it: it ends with the queue, the
// socket's failure or its close.
func (r *relayState) drain() { r.empty(true) }

// empty writes the queue to the application's socket. The caller has set
// draining. It reports false if that would need waiting and block is not set.
func (r *relayState) empty(block bool) bool {
	s := r.s
	for {
		s.mu.Lock()
		if s.q.empty() || s.discard {
			dropped := s.q.drop()
			s.draining = false
			fin, err := s.fin, s.finErr
			s.mu.Unlock()
			s.c.dequeued(dropped)
			if fin {
				r.endDown(err)
			}
			return true
		}
		b := s.q.take()
		s.mu.Unlock()
		n, err := r.write(b.b[b.r:b.w], block)
		if n > 0 && s.consumed(n) {
			s.c.kick()
		}
		s.c.dequeued(n)
		if b.r += n; err == nil && b.r < b.w {
			s.mu.Lock()
			s.q.untake(b)
			s.mu.Unlock()
			return false
		}
		s.c.dequeued(b.w - b.r)
		b.release()
		if err != nil {
			s.mu.Lock()
			s.draining = false
			s.mu.Unlock()
			s.appFailed(err)
			return true
		}
	}
}

// endDown half-closes the application's socket after the last byte, or the
// failure, and tells Relay. Later calls do nothing.
//
// If the application has ended its side, Relay waits for nothing else and closes
// the socket at once: that ends it as well, because there is nothing unread in
// it for which the kernel would make a reset of the close.
func (r *relayState) endDown(err error) {
	if !r.down.CompareAndSwap(downOpen, downEnding) {
		return
	}
	r.downErr = err
	if !r.upEnded.Load() {
		r.downCloseErr = r.app.CloseWrite()
	}
	r.down.Store(downEnded)
	r.s.signal()
}

// peerEnded notes the peer's END_STREAM. Only the reader calls it.
func (c *conn) peerEnded(s *Stream) {
	c.mu.Lock()
	s.recvClosed = true
	if s.sendClosed {
		c.forgetLocked(s)
	}
	c.mu.Unlock()
	s.finish(nil)
	c.finishIfIdle()
}

// streamError resets a stream for a fault of the peer. It returns the tunnel's
// error if there were too many.
func (c *conn) streamError(id uint32, code http2.ErrCode) error {
	c.mu.Lock()
	s := c.streams[id]
	end := endOf(&frameError{code: code})
	if s != nil {
		c.removeLocked(s, end)
	}
	c.closed.giveUp(id) // at most one answer for each stream
	c.mu.Unlock()
	c.putReset(id, code)
	if s != nil {
		s.finish(end.read)
		c.finishIfIdle()
		return c.wasted(s)
	}
	return c.countReset()
}
