package hbone

import (
	"errors"
	"net"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/net/http2"

	"ztunnel/proxy/relay"
)

// Stream is one CONNECT. It has two faces, of which one may be used:
// [Stream.Relay] joins it with an application's socket, and the methods of
// net.Conn let code in the process read and write it. A server answers with
// [Stream.Accept] or [Stream.Reject] first.
type Stream struct {
	c      *conn
	id     uint32
	status uint16 // client: of the response; under c.mu

	// Under c.mu.
	queued     bool // in c.windowQueue
	sendClosed bool // we sent END_STREAM
	recvClosed bool // the peer did
	gone       bool // reset, or its tunnel has ended
	handled    bool // server: its handler runs
	busyReset  bool // reset by the peer meanwhile
	payload    bool // a byte was received or sent
	answered   bool // client: response is valid; server: we responded

	joined bool // server: the relay outlives the handler; of the handler

	// Under mu.
	fin      bool // nothing follows what is queued
	discard  bool // nobody wants what arrives
	draining bool // a goroutine empties q

	// Under c.mu.
	sendWin, recvWin int64
	fate             *streamEnd    // once gone
	started          time.Duration // client: of the request, since c.begun
	wake             chan struct{} // see waker; nil if nobody has waited yet
	// head is the request (server), or the fields of the response (client) if
	// there are any.
	head *Request

	unacked atomic.Int64 // taken by the application, not credited yet
	face    atomic.Pointer[face]

	mu sync.Mutex
	// Under mu.
	q         queue
	relay     *relayState
	finErr    error // why nothing follows, nil for an orderly end
	cancelled error // the cause given to Cancel
}

// streamEnd is how the end of a stream looks to its users.
type streamEnd struct {
	cause error // in words of HTTP/2, for a request without a response
	read  error // after the last byte, nil for an end of file
	close error // of a half-close that comes too late, nil if that is no harm
	// unprocessed: the request never reached the peer's application.
	unprocessed bool
}

// endOf maps an error code to the ends that the reference's byte streams have.
func endOf(f *frameError) *streamEnd {
	e := &streamEnd{cause: f, read: f, close: errors.New("protocol error: " + reasonText(f.code))}
	switch f.code {
	case http2.ErrCodeNo:
		e.read, e.close = nil, nil
	case http2.ErrCodeCancel:
		e.read, e.close = nil, errBrokenPipe
	case http2.ErrCodeStreamClosed:
		e.read, e.close = errBrokenPipe, errBrokenPipe
	}
	return e
}

func newStream(c *conn) *Stream {
	return &Stream{c: c, recvWin: int64(c.cfg.StreamWindow)}
}

// waker returns the channel that gets a token when somebody who waits for the
// stream should look again, under c.mu. It must be called between finding that
// one has to wait and unlocking c.mu: before, there may be nobody to tell.
func (s *Stream) waker() <-chan struct{} {
	if s.wake == nil {
		s.wake = make(chan struct{}, 1)
	}
	return s.wake
}

// signalLocked wakes who waits, under c.mu.
func (s *Stream) signalLocked() {
	if s.wake == nil {
		return
	}
	select {
	case s.wake <- struct{}{}:
	default:
	}
}

// signal is signalLocked for others.
func (s *Stream) signal() {
	s.c.mu.Lock()
	s.signalLocked()
	s.c.mu.Unlock()
}

// ID returns the stream's number on its tunnel.
func (s *Stream) ID() uint32 { return s.id }

// Request returns what the client asked for. Nil for a client's own stream.
func (s *Stream) Request() *Request {
	if s.c.client {
		return nil
	}
	return s.head
}

// ResponseHeader returns the fields of the server's response (client).
func (s *Stream) ResponseHeader() Header {
	if !s.c.client || s.head == nil {
		return nil
	}
	return s.head.Header
}

// LocalAddr returns the tunnel's local address.
func (s *Stream) LocalAddr() net.Addr { return s.c.rec.LocalAddr() }

// RemoteAddr returns the tunnel's remote address.
func (s *Stream) RemoteAddr() net.Addr { return s.c.rec.RemoteAddr() }

// Accept answers a request with 200 and the given fields. It fails if the
// client has given up.
func (s *Stream) Accept(h Header) error {
	c := s.c
	var next *Stream
	defer func() { c.server.start(next) }()
	c.lockWrite()
	defer c.unlockWrite()
	c.mu.Lock()
	next = c.server.begunLocked(s)
	gone, cause := s.gone || s.answered, relay.ErrWriteZero
	if s.fate != nil {
		cause = s.fate.cause
	}
	s.answered = true
	c.mu.Unlock()
	if gone {
		_ = c.finishWrite(true)
		return &H2Error{Err: cause}
	}
	b := append(c.scratch[:0], make([]byte, frameHeader)...)
	b = appendResponse(b, 200, h)
	c.scratch = b
	err := c.appendBlock(b, s.id, false)
	if err == nil {
		err = c.finishSoon(true)
	}
	return err
}

// Reject answers a request with another status than 200, which ends the stream.
func (s *Stream) Reject(status int) error {
	c := s.c
	var next *Stream
	defer func() { c.server.start(next) }()
	c.lockWrite()
	c.mu.Lock()
	next = c.server.begunLocked(s)
	if s.gone || s.answered {
		c.mu.Unlock()
		err := c.finishWrite(true)
		c.unlockWrite()
		if err == nil {
			err = relay.ErrWriteZero
		}
		return err
	}
	s.answered = true
	reset := !s.recvClosed
	s.sendClosed = true
	c.removeLocked(s, &streamEnd{cause: relay.ErrWriteZero})
	if reset {
		c.closed.giveUp(s.id)
	}
	c.mu.Unlock()
	b := append(c.scratch[:0], make([]byte, frameHeader)...)
	b = appendResponse(b, status, nil)
	c.scratch = b
	err := c.appendBlock(b, s.id, true)
	if reset {
		c.putReset(s.id, http2.ErrCodeNo)
	}
	if err == nil {
		err = c.finishWrite(true)
	}
	c.unlockWrite()
	s.abandon(nil)
	c.finishIfIdle()
	return err
}

// Reset ends the stream at once with an error code. Data that was not yet
// taken is dropped. It does nothing to a stream that has ended.
func (s *Stream) Reset(code http2.ErrCode) { s.reset(code, relay.ErrWriteZero) }

// reset ends the stream; its users get err.
func (s *Stream) reset(code http2.ErrCode, err error) {
	c := s.c
	c.mu.Lock()
	open := s.openLocked()
	if open {
		c.removeLocked(s, &streamEnd{cause: err, read: err, close: err})
		if !s.recvClosed {
			c.closed.giveUp(s.id)
		}
	}
	c.mu.Unlock()
	if open {
		c.putReset(s.id, code)
		c.kick()
	}
	s.abandon(err)
	c.finishIfIdle()
}

// openLocked reports, under c.mu, whether either side may still use the stream.
func (s *Stream) openLocked() bool { return !s.gone && (!s.sendClosed || !s.recvClosed) }

// removeLocked takes a stream that is open no more out of the table.
func (c *conn) removeLocked(s *Stream, end *streamEnd) {
	if s.openLocked() || end.cause != nil {
		s.loseLocked(end)
	}
	c.forgetLocked(s)
}

// forgetLocked takes a stream out of the table if it is there, under c.mu.
func (c *conn) forgetLocked(s *Stream) {
	if c.streams[s.id] == s {
		delete(c.streams, s.id)
		c.addStreams(-1)
	}
}

// loseLocked marks the stream as ended otherwise than by END_STREAM both ways.
func (s *Stream) loseLocked(end *streamEnd) {
	if !s.gone {
		s.gone, s.fate = true, end
	}
	s.signalLocked()
}

// sentEndLocked notes our END_STREAM, under c.mu.
func (c *conn) sentEndLocked(s *Stream) {
	s.sendClosed = true
	if s.recvClosed {
		c.forgetLocked(s)
	}
}

// sendEnd sends END_STREAM if that has not happened. The error is that of a
// half-close: nil if the stream was reset without error before.
func (s *Stream) sendEnd() error {
	c := s.c
	c.mu.Lock()
	sent := s.sendClosed
	c.mu.Unlock()
	if sent {
		return nil
	}
	c.lockWrite()
	err := s.appendEnd()
	if werr := c.finishSoon(true); err == nil && werr != nil {
		err = c.writeEnd(werr)
	}
	c.unlockWrite()
	c.finishIfIdle()
	return err
}

// appendEnd appends an empty DATA frame with END_STREAM. The caller holds wmu.
func (s *Stream) appendEnd() error {
	c := s.c
	c.mu.Lock()
	if s.gone {
		err := s.fate.close
		c.mu.Unlock()
		return err
	}
	c.sentEndLocked(s)
	c.mu.Unlock()
	c.scratch = appendHeader(c.scratch[:0], 0, http2.FrameData, http2.FlagDataEndStream, s.id)
	if err := c.append(c.scratch); err != nil {
		return c.writeEnd(err)
	}
	return nil
}

// writeEnd gives a failed write to the tunnel the words of a half-close.
func (c *conn) writeEnd(err error) error {
	c.mu.Lock()
	if c.abortCause != nil {
		err = c.abortCause
	}
	c.mu.Unlock()
	return c.fate(err).close
}

// abandon drops what was received and wakes everybody; nothing more is taken.
func (s *Stream) abandon(err error) {
	s.mu.Lock()
	s.discard = true
	if !s.fin {
		s.fin, s.finErr = true, err
	}
	r := s.relay
	idle := r != nil && !s.draining
	dropped := 0
	if !s.draining {
		dropped = s.q.drop()
	}
	s.mu.Unlock()
	s.c.dequeued(dropped)
	if idle {
		r.endDown(err)
	}
	s.wakeReader()
	s.signal()
}
