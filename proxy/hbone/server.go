package hbone

import (
	"context"
	"crypto/tls"
	"errors"
	"net"
	"sync"

	"golang.org/x/net/http2"
)

// ServerConn is the server's end of a tunnel.
type ServerConn struct {
	c        *conn
	ctx      context.Context
	handle   func(context.Context, *Stream)
	handlers sync.WaitGroup

	// Under c.mu.
	pending    int // handlers that run for streams that the peer has reset
	draining   bool
	drainFinal bool // the last GOAWAY is out, no stream is taken any more
	serving    bool
	beginnings beginnings
}

// Server performs TLS on conn as a server. It owns conn from now on, also if it
// fails, with a [*TLSError]. ctx limits this call only.
func Server(ctx context.Context, conn net.Conn, tlsConfig *tls.Config, cfg *Config) (*ServerConn, error) {
	cfg = cfg.withDefaults(false)
	rec, state, err := handshake(ctx, conn, cfg, tlsConfig, false)
	if err != nil {
		return nil, err
	}
	sc := &ServerConn{c: newConn(rec, state, cfg, false)}
	sc.c.server = sc
	sc.beginnings.most = mostBeginnings()
	return sc, nil
}

// TLS returns the state of the tunnel's TLS, to be read only.
func (sc *ServerConn) TLS() *tls.ConnectionState { return sc.c.state }

// LocalAddr returns the local address of the connection below.
func (sc *ServerConn) LocalAddr() net.Addr { return sc.c.rec.LocalAddr() }

// RemoteAddr returns the peer's address of the connection below.
func (sc *ServerConn) RemoteAddr() net.Addr { return sc.c.rec.RemoteAddr() }

// Serve reads the tunnel and calls handle for each request, in a goroutine of
// its own. handle answers with [Stream.Accept] or [Stream.Reject]; a stream that
// it leaves open is reset with CANCEL. Serve returns when the tunnel has ended
// and all handlers have: nil after an orderly end. When ctx ends, the tunnel is
// aborted with its cause. Serve must be called once.
func (sc *ServerConn) Serve(ctx context.Context, handle func(ctx context.Context, s *Stream)) error {
	c := sc.c
	sc.ctx, sc.handle = ctx, handle
	c.cfg.Metrics.ServerTunnels.Add(1)
	defer c.cfg.Metrics.ServerTunnels.Add(-1)
	c.mu.Lock()
	sc.serving = true
	drain := sc.draining
	c.mu.Unlock()
	stop := context.AfterFunc(ctx, func() { c.abort(context.Cause(ctx)) })
	defer stop()
	c.timers.start(c)
	if err := c.open(); err != nil {
		c.drop(nil)
	} else if drain {
		sc.startDrain()
	}
	c.read()
	sc.handlers.Wait()
	err := c.closeErr()
	switch {
	case isEOF(err) || errors.Is(err, errPreface):
		return nil
	case err != nil && !c.gotFirst.Load() && !errors.As(err, new(*HandshakeError)):
		return &HandshakeError{err}
	}
	return err
}

// Drain tells the client to open no more streams and lets those that it has
// open run to their end; then the tunnel ends and Serve returns. Streams that
// the client opens before it can know of the drain are served. It does not wait.
func (sc *ServerConn) Drain() {
	c := sc.c
	c.mu.Lock()
	again := sc.draining
	sc.draining = true
	serving, ended := sc.serving, c.ended
	c.mu.Unlock()
	if ended { // and is only held
		c.rec.Close()
		return
	}
	if !again && serving {
		sc.startDrain()
	}
}

func (sc *ServerConn) startDrain() {
	sc.c.putControl(func(b []byte) []byte {
		return appendPing(appendGoAway(b, maxStreamID, http2.ErrCodeNo), false, drainPing[:])
	})
	sc.c.kick()
}

// drainAcked handles the answer to the drain's PING: the client knows, and all
// that it has opened before is here. It reports false if none was awaited.
func (sc *ServerConn) drainAcked() bool {
	c := sc.c
	c.mu.Lock()
	awaited := sc.draining && !sc.drainFinal
	sc.drainFinal = sc.drainFinal || awaited
	last, idle := c.lastPeerID, len(c.streams) == 0
	if awaited {
		c.closing = true
	}
	c.mu.Unlock()
	if !awaited {
		return false
	}
	if !idle { // else the end of the tunnel says it
		c.putControl(func(b []byte) []byte { return appendGoAway(b, last, http2.ErrCodeNo) })
	}
	c.finishIfIdle()
	return true
}

// drained reports, under c.mu, that a drain does not wait for its PING.
func (sc *ServerConn) drained() bool { return !sc.draining || sc.drainFinal }

// Abort sends GOAWAY(NO_ERROR), if that is possible at once, and drops the
// tunnel. Its streams fail with cause, [ErrAborted] if that is nil.
func (sc *ServerConn) Abort(cause error) { sc.c.abort(cause) }

// requested handles a header block from the client.
func (c *conn) requested(id uint32, p []byte, end bool) error {
	b, err := c.decode(p)
	if err != nil {
		return err
	}
	c.mu.Lock()
	if s := c.streams[id]; s != nil {
		closed := s.recvClosed
		c.mu.Unlock()
		if closed {
			return c.streamError(id, http2.ErrCodeStreamClosed)
		}
		return c.trailers(s, b.trailers(), end)
	}
	if id <= c.seenID {
		c.mu.Unlock()
		return c.closedHeaders(id, end)
	}
	c.closed.skip(c.seenID, id)
	c.seenID = id
	bad := http2.ErrCodeNo
	switch last := c.server.drainFinal || c.shut; {
	case last:
		bad = http2.ErrCodeRefusedStream
	case uint32(len(c.streams)) >= c.cfg.MaxConcurrentStreams:
		c.cfg.Metrics.StreamsRefused.Add(1)
		c.lastPeerID, bad = id, http2.ErrCodeRefusedStream
	case b.badRequest():
		c.lastPeerID, bad = id, http2.ErrCodeProtocol
	default:
		c.lastPeerID = id
	}
	if bad != http2.ErrCodeNo && !end {
		c.closed.giveUp(id)
	}
	c.mu.Unlock()
	if bad != http2.ErrCodeNo {
		c.putReset(id, bad)
		return c.countReset()
	}
	c.accept(id, b, end)
	return nil
}

// accept starts the handler of a new stream, or has it wait for its turn.
func (c *conn) accept(id uint32, b *block, end bool) {
	s := newStream(c)
	s.id = id
	s.head = &b.Request
	s.handled, s.recvClosed, s.fin = true, end, end
	c.explained.Add(creditsPerStream)
	c.mu.Lock()
	s.sendWin = c.initWin // with the registration: see register
	c.streams[id] = s
	c.server.handlers.Add(1)
	now := c.server.beginLocked(s)
	c.mu.Unlock()
	c.addStreams(1)
	if now {
		c.server.start(s)
	}
}

// run is the goroutine of a stream's handler.
func (sc *ServerConn) run(s *Stream) {
	defer sc.handlers.Done()
	if sc.abandoned(s) {
		sc.forget(s)
		return
	}
	sc.handle(sc.ctx, s)
	if s.joined {
		return // what was joined ends it
	}
	s.Reset(http2.ErrCodeCancel)
	sc.forget(s)
}

// abandoned reports whether a stream was reset before its handler began, as in a
// flood of resets. Nothing has been done for it, and nothing need be.
func (sc *ServerConn) abandoned(s *Stream) bool {
	sc.c.mu.Lock()
	defer sc.c.mu.Unlock()
	return s.busyReset
}

// handled ends a stream whose relay has outlived its handler.
func (sc *ServerConn) handled(s *Stream) {
	sc.forget(s)
	sc.handlers.Done()
}

// forget notes that nobody works for the stream any more.
func (sc *ServerConn) forget(s *Stream) {
	c := sc.c
	c.mu.Lock()
	s.handled = false
	if s.busyReset {
		sc.pending--
	}
	next := sc.begunLocked(s)
	c.mu.Unlock()
	sc.start(next)
}
