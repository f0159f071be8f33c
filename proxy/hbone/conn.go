package hbone

import (
	"context"
	"crypto/tls"
	"errors"
	"io"
	"net"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"

	"ztunnel/proxy/tls13"
)

// conn is what both ends of a tunnel have in common.
type conn struct {
	cfg    *Config
	begun  time.Time
	client bool
	rec    *records
	state  *tls.ConnectionState
	server *ServerConn // nil for a client

	// wmu is the write lock. waiters counts those who wait for it and will
	// flush; see finishWrite.
	wmu     sync.Mutex
	waiters atomic.Int32
	// Under wmu.
	scratch    []byte // for the frames of requests and responses
	flushing   bool   // a temporary flusher is on its way
	writeErr   error
	postponing postponing

	// ctrl holds control frames until somebody has the write lock.
	ctrlMu  sync.Mutex
	ctrl    []byte
	spare   []byte
	ctrlSet atomic.Bool
	// lastFrame is set once the last frame of an orderly end is in ctrl.
	lastFrame atomic.Bool

	mu sync.Mutex
	// Under mu.
	streams     map[uint32]*Stream
	nextID      uint32 // client: of the next request
	lastPeerID  uint32 // server: the highest stream of the client that was looked at
	seenID      uint32 // server: the same, with those that came after the last GOAWAY
	closed      closedStreams
	sendWin     int64 // of the tunnel
	initWin     int64 // of the peer's new streams
	recvWin     int64
	peerPayload int // of our DATA frames
	peerMax     uint32
	peerTold    bool      // the peer's SETTINGS have come; of clients only
	windowQueue []*Stream // wait for sendWin
	answered    uint32    // client: the highest stream with a response
	peerGoAway  bool
	peerErr     error // of its GOAWAY
	closing     bool  // no new streams; ends when there are none
	shut        bool  // somebody sees to the last frame
	ended       bool  // err is final
	abortCause  error // why we dropped it
	err         error
	sweeping    bool // the timer of pending requests is set

	done   chan struct{} // closed by end
	onDone func()        // called by end; nil for none. Guarded by mu
	timers timers
	// explained is how many control frames of the peer our own traffic explains.
	explained atomic.Int64
	queued    atomic.Int64 // bytes in the queues of streams
	withheld  atomic.Bool  // the tunnel's credit, because of them

	// Of the reader.
	hdec      *hpack.Decoder
	frame     frameState
	unacked   int64 // received on the tunnel, not credited yet; under mu
	lingering bool  // our last words may be on their way
	budget    budget
	gotPrefix bool // server: the preface
	gotFirst  atomic.Bool
	acks      int // of SETTINGS that the peer owes
}

func newConn(rec *records, state *tls.ConnectionState, cfg *Config, client bool) *conn {
	c := &conn{
		cfg: cfg, begun: time.Now(), client: client, rec: rec, state: state,
		streams: map[uint32]*Stream{}, nextID: 1,
		sendWin: initialWindow, initWin: initialWindow, recvWin: int64(cfg.ConnectionWindow),
		peerPayload: payloadFor(minMaxFrame), peerMax: 1<<32 - 1,
		done: make(chan struct{}), acks: 1,
	}
	if client {
		c.peerMax = cfg.AssumedStreams
	}
	c.initDecoder()
	return c
}

// handshake runs TLS over conn, which is closed if it fails.
func handshake(ctx context.Context, nc net.Conn, cfg *Config, config *tls.Config, client bool) (*records, *tls.ConnectionState, error) {
	rec := newRecords(nc)
	config, secrets := overhear(config, client)
	if client {
		rec.tls = tls.Client(rec, config)
	} else {
		rec.tls = tls.Server(rec, config)
	}
	hctx, cancel := context.WithTimeoutCause(ctx, cfg.HandshakeTimeout, &TimeoutError{"the TLS handshake"})
	defer cancel()
	if err := rec.tls.HandshakeContext(hctx); err != nil {
		nc.Close()
		rec.in.discard()
		if cause := context.Cause(hctx); cause != nil {
			err = cause
			if _, ok := errors.AsType[*TimeoutError](cause); ok {
				cfg.Metrics.HandshakeTimeouts.Add(1)
			}
		}
		return nil, nil, &TLSError{err}
	}
	state := rec.tls.ConnectionState()
	rec.blocking, rec.gather = false, true
	if !cfg.CryptoTLS {
		rec.takeOver(&state, secrets, client)
	}
	return rec, &state, nil
}

// open sends our first frames, in one write.
func (c *conn) open() error {
	c.lockWrite()
	c.scratch = appendOpening(c.scratch[:0], c.cfg, c.client)
	err := c.append(c.scratch)
	if err == nil {
		err = c.finishWrite(true)
	}
	c.unlockWrite()
	return err
}

// drop closes the connection below with no more words. The reader notices and
// ends the tunnel. A nil cause leaves it to what the reader sees.
func (c *conn) drop(cause error) {
	c.mu.Lock()
	if c.abortCause == nil {
		c.abortCause = cause
	}
	c.closing = true
	c.mu.Unlock()
	c.rec.Close()
}

// fail is how the reader ends the tunnel for a fault of the peer.
func (c *conn) fail(err error) {
	if fault, ok := errors.AsType[*tls13.Error](err); ok {
		if !fault.Remote {
			c.alert(err)
		}
		return
	}
	var f *frameError
	if !errors.As(err, &f) || f.received || !f.connection {
		return
	}
	if f.code != http2.ErrCodeEnhanceYourCalm {
		c.cfg.Metrics.ProtocolErrors.Add(1)
	}
	c.mu.Lock()
	last := c.lastPeerID
	c.closing, c.shut = true, true
	c.mu.Unlock()
	c.lingering = true
	c.lastWords(last, f.code, func() {})
}

// alert tells the peer of a fault of its records, if that is possible at once.
func (c *conn) alert(err error) {
	if c.blocking() || !c.wmu.TryLock() {
		return
	}
	if c.writeErr == nil {
		c.rec.sealAlert(err)
		c.writeErr = err
		_, _ = c.rec.flush(false)
	}
	c.wmu.Unlock()
	c.lingering = true
}

// lastWords sends a GOAWAY and close_notify without waiting for anything. On a
// connection that can only be written by waiting, a temporary goroutine does;
// then is called once the words are out or nobody can say them. The goroutine
// ends with the connection, which then or a timer closes.
func (c *conn) lastWords(last uint32, code http2.ErrCode, then func()) {
	if !c.wmu.TryLock() { // who has it may still do so
		c.putControl(func(b []byte) []byte { return appendGoAway(b, last, code) })
		c.lastFrame.Store(true)
		c.kick()
		then()
		return
	}
	err := c.append(appendGoAway(nil, last, code))
	if err == nil {
		_ = c.rec.closeWrite()
	}
	if err == nil && c.blocking() {
		c.timers.closeAfter(c, linger)
		go func() {
			_, _ = c.rec.flush(true)
			c.wmu.Unlock()
			then()
		}()
		return
	}
	if err == nil {
		_, _ = c.rec.flush(false)
	}
	c.wmu.Unlock()
	then()
}

// blocking reports whether the connection below cannot be written without
// waiting.
func (c *conn) blocking() bool { _, ok := c.rec.io.(*connIO); return ok }

// linger is how long a tunnel that ended well waits for the peer to close it.
const linger = 250 * time.Millisecond

// finishIfIdle ends the tunnel in good order if it is closing and has no
// streams. It may be called by anybody and does not wait.
func (c *conn) finishIfIdle() {
	c.mu.Lock()
	idle := len(c.streams) == 0 && !c.shut && !c.ended &&
		(c.closing || c.peerGoAway) && (c.server == nil || c.server.drained())
	if !idle {
		c.mu.Unlock()
		return
	}
	c.shut, c.closing = true, true
	last := c.lastPeerID
	c.mu.Unlock()
	c.putControl(func(b []byte) []byte { return appendGoAway(b, last, http2.ErrCodeNo) })
	c.lastFrame.Store(true)
	c.kick()
	c.timers.closeAfter(c, linger)
}

// end is called once, by the reader, when nothing more will be read.
func (c *conn) end(err error) {
	c.kick()
	c.fail(err)
	c.mu.Lock()
	switch {
	case c.abortCause != nil:
		err = c.abortCause
	case c.peerErr != nil && isEOF(err):
		err = c.peerErr
	case c.shut && (errors.Is(err, io.EOF) || errors.Is(err, net.ErrClosed)):
		err = nil
	}
	c.err, c.ended, c.closing = err, true, true
	streams, onDone := c.streams, c.onDone
	c.streams = nil
	fate := c.fate(err)
	for _, s := range streams {
		s.loseLocked(fate)
	}
	c.mu.Unlock()
	for _, s := range streams {
		s.finish(fate.read)
	}
	c.timers.stop()
	if c.server != nil {
		c.server.giveUpAll()
	}
	c.addStreams(-len(streams))
	c.discardInput()
	c.rec.Close()
	c.rec.in.discard()
	if onDone != nil {
		onDone()
	}
	close(c.done)
}

// discardInput reads on for a moment after our last words, because closing a
// socket with unread bytes would destroy them on their way.
func (c *conn) discardInput() {
	const most = 1 << 20
	if !c.lingering {
		return
	}
	if c.server != nil && Flood(c.err) {
		c.hold()
		return
	}
	defer time.AfterFunc(linger, func() { c.rec.Close() }).Stop()
	for n := 0; n < most; {
		if c.rec.io.fill(&c.rec.in) != nil {
			return
		}
		n += c.rec.in.w - c.rec.in.r
		c.rec.in.discard()
	}
}

// fate is what the end of a tunnel means to its streams.
func (c *conn) fate(err error) *streamEnd {
	var f *frameError
	switch {
	case err == nil || errors.Is(err, ErrTunnelClosing) || errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) || errors.Is(err, net.ErrClosed):
		return &streamEnd{cause: ErrAborted, read: ErrAborted, close: ErrAborted}
	case errors.Is(err, ErrAborted):
	case errors.Is(err, syscall.ECONNRESET) || errors.Is(err, syscall.EPIPE):
		return &streamEnd{cause: errConnReset, read: errConnReset, close: errConnReset}
	case errors.As(err, &f):
		return endOf(f)
	}
	return &streamEnd{cause: err, read: err, close: err}
}

// closeErr returns the reason of the tunnel's end, nil before or if it was good.
func (c *conn) closeErr() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.err
}

// addStreams keeps count of open streams.
func (c *conn) addStreams(n int) {
	if c.client {
		c.cfg.Metrics.ClientStreams.Add(int64(n))
	} else {
		c.cfg.Metrics.ServerStreams.Add(int64(n))
	}
}
