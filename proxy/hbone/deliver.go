package hbone

import (
	"syscall"

	"golang.org/x/net/http2"
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
	if r := s.relay; r != nil && !s.draining && len(s.q) == 0 {
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
	wake := s.readWake
	s.mu.Unlock()
	wakeReader(wake)
}

// enqueue copies p to the queue, under mu. The stream's window bounds it.
func (s *Stream) enqueue(p []byte) {
	s.queuedN += len(p)
	for len(p) > 0 {
		if n := len(s.q); n > 0 {
			last := &s.q[n-1]
			if k := copy(last.buf.b[last.w:], p); k > 0 {
				last.w += k
				p = p[k:]
				continue
			}
		}
		s.q = append(s.q, chunk{buf: takeBuffer(classFor(min(len(p), classSize[classBig])))})
	}
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
	idle := r != nil && !s.draining && len(s.q) == 0
	wake := s.readWake
	s.mu.Unlock()
	if idle {
		r.endDown(err)
	}
	wakeReader(wake)
}

// appFailed ends the way to the application, whose socket takes no more. What
// arrives from now on is dropped.
func (s *Stream) appFailed(err error) {
	s.mu.Lock()
	s.discard = true
	s.dropQueue()
	r := s.relay
	s.mu.Unlock()
	r.endDown(err)
}

// tryWrite writes to the application's socket without waiting.
func (r *relayState) tryWrite(p []byte) (int, error) { return r.write(p, false) }

func (r *relayState) write(p []byte, block bool) (int, error) {
	r.wp, r.wn, r.werr, r.wblock = p, 0, nil, block
	err := r.rc.Write(r.writeFn)
	if err == nil {
		err = r.werr
	}
	r.wp = nil
	if r.wn > 0 {
		r.fromTunnel.Add(uint64(r.wn))
	}
	return r.wn, err
}

// writeReady writes until everything is gone or the socket is full.
func (r *relayState) writeReady(fd uintptr) bool {
	for r.wn < len(r.wp) {
		n, err := rawWrite(fd, r.wp[r.wn:])
		if err == syscall.EAGAIN {
			return !r.wblock
		}
		if err != nil {
			r.werr = err
			return true
		}
		r.wn += n
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
		if len(s.q) == 0 || s.discard {
			s.dropQueue()
			s.draining = false
			fin, err := s.fin, s.finErr
			s.mu.Unlock()
			if fin {
				r.endDown(err)
			}
			return true
		}
		c := s.q[0]
		if len(s.q) == 1 && c.buf != nil {
			s.q = nil
		} else {
			s.q[0] = chunk{}
			s.q = s.q[1:]
		}
		s.queuedN -= c.w - c.r
		s.mu.Unlock()
		n, err := r.write(c.buf.b[c.r:c.w], block)
		if n > 0 && s.consumed(n) {
			s.c.kick()
		}
		if err == nil && c.r+n < c.w {
			s.mu.Lock()
			c.r += n
			s.queuedN += c.w - c.r
			s.q = append([]chunk{c}, s.q...)
			s.mu.Unlock()
			return false
		}
		c.buf.release()
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
func (r *relayState) endDown(err error) {
	if !r.downEnding.CompareAndSwap(false, true) {
		return
	}
	closeErr := r.app.CloseWrite()
	r.downErr, r.downCloseErr = err, closeErr
	r.downDone.Store(true)
	r.s.signal()
}

// ended notes the peer's END_STREAM. Only the reader calls it.
func (c *conn) peerEnded(s *Stream) {
	c.mu.Lock()
	s.recvClosed = true
	if s.sendClosed && c.streams[s.id] == s {
		delete(c.streams, s.id)
		c.addStreams(-1)
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
	if s != nil {
		c.removeLocked(s, endOf(&frameError{code: code}))
	}
	c.mu.Unlock()
	c.putReset(id, code)
	if s != nil {
		s.finish(endOf(&frameError{code: code}).read)
		c.noteBusy(s)
		c.finishIfIdle()
	}
	return c.countReset()
}
