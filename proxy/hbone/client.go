package hbone

import (
	"context"
	"crypto/tls"
	"errors"
	"log/slog"
	"net"
	"time"

	"golang.org/x/net/http2"
)

// ClientConn is the client's end of a tunnel. Its methods may be called by any
// number of goroutines. A tunnel ends by [ClientConn.Close], [ClientConn.Abort],
// or by itself: when it breaks, and after a GOAWAY with its last stream.
type ClientConn struct{ c *conn }

// Client performs TLS on conn and sends the preface of HTTP/2. It owns conn from
// now on, also if it fails: with a [*TLSError], or a [*HandshakeError]. It does
// not wait for the server's SETTINGS; a tunnel without them ends after
// cfg.HandshakeTimeout. ctx limits this call only. A *net.TCPConn is read and
// written by system calls of our own, any other connection by its methods.
//
// The tunnel's reader is the only goroutine it costs; it ends with the tunnel,
// see [ClientConn.Done].
func Client(ctx context.Context, conn net.Conn, tlsConfig *tls.Config, cfg *Config) (*ClientConn, error) {
	cfg = cfg.withDefaults(true)
	rec, state, err := handshake(ctx, conn, cfg, tlsConfig, true)
	if err != nil {
		return nil, err
	}
	if p := state.NegotiatedProtocol; p != http2.NextProtoTLS {
		conn.Close()
		return nil, &HandshakeError{errors.New("the server does not speak h2")}
	}
	c := newConn(rec, state, cfg, true)
	if err := c.open(); err != nil {
		conn.Close()
		return nil, &HandshakeError{err}
	}
	c.timers.start(c)
	cfg.Metrics.ClientTunnels.Add(1)
	go c.runClient()
	return &ClientConn{c}, nil
}

// runClient reads until the tunnel ends.
func (c *conn) runClient() {
	c.read()
	c.cfg.Metrics.ClientTunnels.Add(-1)
	if err := c.closeErr(); err != nil && !isEOF(err) && !errors.Is(err, ErrAborted) && !errors.Is(err, net.ErrClosed) {
		c.cfg.Log.LogAttrs(context.Background(), slog.LevelError, "Error in HBONE connection handshake: "+err.Error())
	}
}

// TLS returns the state of the tunnel's TLS, to be read only.
func (cc *ClientConn) TLS() *tls.ConnectionState { return cc.c.state }

// LocalAddr returns the local address of the connection below.
func (cc *ClientConn) LocalAddr() net.Addr { return cc.c.rec.LocalAddr() }

// Active returns the number of open streams.
func (cc *ClientConn) Active() int {
	cc.c.mu.Lock()
	defer cc.c.mu.Unlock()
	return len(cc.c.streams)
}

// PeerMaxStreams returns the server's limit of streams as known now.
func (cc *ClientConn) PeerMaxStreams() int {
	cc.c.mu.Lock()
	defer cc.c.mu.Unlock()
	return int(cc.c.peerMax)
}

// Assume lowers the limit of streams that counts until the server's SETTINGS
// tell its own. It is for a tunnel to a server that was met before: what it
// refuses would have to be sent again.
func (cc *ClientConn) Assume(streams int) {
	cc.c.mu.Lock()
	defer cc.c.mu.Unlock()
	if !cc.c.peerTold {
		cc.c.peerMax = min(cc.c.peerMax, uint32(streams))
	}
}

// Usable reports whether the tunnel takes requests at all: it is alive, not
// closing, and the server has not said GOAWAY. It says nothing about room.
func (cc *ClientConn) Usable() bool {
	cc.c.mu.Lock()
	defer cc.c.mu.Unlock()
	return cc.c.usableLocked()
}

func (c *conn) usableLocked() bool {
	return !c.closing && !c.ended && !c.peerGoAway && c.nextID < maxStreamID
}

// Close ends the tunnel with GOAWAY, close_notify and the end of the connection
// once its last stream has ended. It does not wait, and takes no requests from
// now on.
func (cc *ClientConn) Close() {
	cc.c.mu.Lock()
	cc.c.closing = true
	cc.c.mu.Unlock()
	cc.c.finishIfIdle()
}

// Abort drops the tunnel at once. Its streams fail with cause, [ErrAborted] if
// that is nil.
func (cc *ClientConn) Abort(cause error) {
	if cause == nil {
		cause = ErrAborted
	}
	cc.c.drop(cause)
}

// OnDone has f called when the tunnel has ended, by the goroutine that ends it;
// at once if it has ended already. There is one such function, and it must not
// block.
func (cc *ClientConn) OnDone(f func()) {
	c := cc.c
	c.mu.Lock()
	c.onDone = f
	ended := c.ended
	c.mu.Unlock()
	if ended {
		f()
	}
}

// Done is closed when the tunnel has ended.
func (cc *ClientConn) Done() <-chan struct{} { return cc.c.done }

// Err returns why the tunnel has ended, nil before that and after an orderly end.
func (cc *ClientConn) Err() error { return cc.c.closeErr() }

// Open sends a CONNECT and waits for its answer. The stream that it returns was
// accepted with 200 and must be ended by [Stream.Relay], [Stream.Close] or
// [Stream.Reset]. Errors: [ErrTunnelFull] and [ErrTunnelClosing] before anything
// was sent; [*StatusError]; [*H2Error]; [*TimeoutError] after cfg.ConnectTimeout;
// the cause of ctx. See [Unprocessed] for those after which another tunnel may be
// tried.
func (cc *ClientConn) Open(ctx context.Context, r *Request) (*Stream, error) {
	c := cc.c
	if err := ctx.Err(); err != nil {
		return nil, context.Cause(ctx)
	}
	s, err := c.request(r)
	if err != nil {
		return nil, err
	}
	for {
		c.mu.Lock()
		answered, status, gone, fate := s.answered, int(s.status), s.gone, s.fate
		wake := s.waker()
		c.mu.Unlock()
		switch {
		case answered && status == 200:
			return s, nil
		case answered:
			s.Reset(http2.ErrCodeCancel)
			return nil, &StatusError{status}
		case gone:
			return nil, openError(fate)
		}
		select {
		case <-wake:
		case <-ctx.Done():
			s.Reset(http2.ErrCodeCancel)
			return nil, context.Cause(ctx)
		}
	}
}

// openError is the error of a request that got no response.
func openError(e *streamEnd) error {
	var timeout *TimeoutError
	var shake *HandshakeError
	switch {
	case errors.As(e.cause, &shake):
		return shake
	case errors.As(e.cause, &timeout):
		return timeout
	}
	return &H2Error{Err: e.cause, unprocessed: e.unprocessed}
}

// request writes a request on a new stream.
func (c *conn) request(r *Request) (*Stream, error) {
	s := newStream(c)
	s.started = time.Since(c.begun)
	c.lockWrite()
	id, err := c.register(s)
	if err == nil {
		b := append(c.scratch[:0], make([]byte, frameHeader)...)
		b = appendRequest(b, r)
		c.scratch = b
		if err = c.appendBlock(b, id, false); err == nil {
			err = c.finishSoon(true)
		}
		if err != nil {
			err = c.unsent(s, err)
		}
	} else {
		_ = c.finishWrite(true)
	}
	c.unlockWrite()
	if err == nil {
		c.startSweep()
	}
	return s, err
}

// unsent takes back a request whose write failed. It may have reached the peer
// in part.
func (c *conn) unsent(s *Stream, err error) error {
	end := c.fate(err)
	c.mu.Lock()
	c.removeLocked(s, end)
	c.mu.Unlock()
	return &H2Error{Err: end.cause}
}

// register gives a new stream its number, its send window and its place in the
// table, all at once: a SETTINGS frame in between would miss the stream, which
// would then never get the window that the peer thinks it has. The caller holds
// wmu, which keeps the numbers in order on the wire.
func (c *conn) register(s *Stream) (uint32, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if !c.usableLocked() || c.writeErr != nil {
		return 0, ErrTunnelClosing
	}
	if uint32(len(c.streams)) >= c.peerMax {
		return 0, ErrTunnelFull
	}
	s.id = c.nextID
	c.nextID += 2
	s.sendWin = c.initWin
	c.streams[s.id] = s
	c.explained.Add(creditsPerStream)
	c.addStreams(1)
	return s.id, nil
}

// response handles a header block from the server.
func (c *conn) response(id uint32, p []byte, end bool) error {
	var status int
	var head *Request
	trailers := false
	if len(p) == 1 && p[0] == status200 && !c.frame.onItself {
		status = 200
	} else {
		b, err := c.decode(p)
		if err != nil {
			return err
		}
		status, trailers = b.statusCode(), b.trailers()
		if len(b.Header) > 0 {
			head = &b.Request
		}
	}
	c.mu.Lock()
	s := c.streams[id]
	if s == nil {
		c.mu.Unlock()
		return c.closedHeaders(id, end)
	}
	if s.answered || s.recvClosed {
		closed := s.recvClosed
		c.mu.Unlock()
		if closed {
			return c.streamError(id, http2.ErrCodeStreamClosed)
		}
		return c.trailers(s, trailers, end)
	}
	informational := status >= 100 && status < 200
	if status < 100 || informational && end {
		c.mu.Unlock()
		return c.streamError(id, http2.ErrCodeProtocol)
	}
	if informational {
		c.mu.Unlock()
		return c.countControl()
	}
	s.answered, s.status, s.head = true, uint16(status), head
	c.answered = max(c.answered, id)
	s.signalLocked()
	c.mu.Unlock()
	if end {
		c.peerEnded(s)
	}
	return nil
}
