package hbone

import (
	"context"
	"log/slog"
	"sync"
	"time"

	"golang.org/x/net/http2"
)

// keepalivePing and drainPing tell the answers to our PINGs apart.
var (
	keepalivePing = [8]byte{'h', 'b', 'o', 'n', 'e', 'k', 'a', 1}
	drainPing     = [8]byte{'h', 'b', 'o', 'n', 'e', 'd', 'r', 2}
)

// timers are the deadlines of one tunnel. None of them costs a goroutine, and
// none is set per stream.
type timers struct {
	mu        sync.Mutex
	stopped   bool
	handshake *time.Timer
	headers   *time.Timer
	keepalive *time.Timer
	closing   *time.Timer
	sweep     *time.Timer
	pinged    bool // an answer is awaited
}

// start sets the deadline of the peer's preface and SETTINGS and the first PING.
func (t *timers) start(c *conn) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.stopped {
		return
	}
	t.handshake = time.AfterFunc(c.cfg.HandshakeTimeout, c.handshakeTimeout)
	if c.cfg.PingInterval > 0 {
		t.keepalive = time.AfterFunc(c.cfg.PingInterval, c.pingTimer)
	}
}

// stop ends all timers for good.
func (t *timers) stop() {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.stopped = true
	for _, timer := range []*time.Timer{t.handshake, t.headers, t.keepalive, t.closing, t.sweep} {
		if timer != nil {
			timer.Stop()
		}
	}
}

func (t *timers) stopHandshake() {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.handshake != nil {
		t.handshake.Stop()
		t.handshake = nil
	}
}

// closeAfter drops the tunnel if it has not ended by then.
func (t *timers) closeAfter(c *conn, d time.Duration) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.closing == nil && !t.stopped {
		t.closing = time.AfterFunc(d, func() { c.drop(nil) })
	}
}

// startHeaders begins the deadline of a header block in several pieces.
func (t *timers) startHeaders(c *conn) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if !t.stopped {
		t.headers = time.AfterFunc(c.cfg.HeaderTimeout, c.headerTimeout)
	}
}

func (t *timers) stopHeaders() {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.headers != nil {
		t.headers.Stop()
		t.headers = nil
	}
}

func (c *conn) handshakeTimeout() {
	c.cfg.Metrics.HandshakeTimeouts.Add(1)
	c.drop(&HandshakeError{&TimeoutError{"the peer's SETTINGS"}})
}

func (c *conn) headerTimeout() {
	c.cfg.Metrics.HeaderTimeouts.Add(1)
	c.mu.Lock()
	last := c.lastPeerID
	c.shut, c.closing = true, true
	c.mu.Unlock()
	c.lastWords(last, http2.ErrCodeProtocol, func() { c.drop(&TimeoutError{"the rest of a header block"}) })
}

// pingTimer sends a PING, or gives the tunnel up if the last was not answered.
func (c *conn) pingTimer() {
	t := &c.timers
	t.mu.Lock()
	if t.stopped {
		t.mu.Unlock()
		return
	}
	if t.pinged {
		t.mu.Unlock()
		c.pingTimeout()
		return
	}
	t.pinged = true
	t.keepalive.Reset(c.cfg.PingTimeout)
	t.mu.Unlock()
	c.putControl(func(b []byte) []byte { return appendPing(b, false, keepalivePing[:]) })
	c.kick()
}

// pingAcked sets the time of the next PING. It reports false if no answer was
// awaited.
func (t *timers) pingAcked(c *conn) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	if !t.pinged {
		return false
	}
	t.pinged = false
	if !t.stopped {
		t.keepalive.Reset(c.cfg.PingInterval)
	}
	return true
}

func (c *conn) pingTimeout() {
	c.cfg.Metrics.PingTimeouts.Add(1)
	if c.client {
		c.cfg.Log.LogAttrs(context.Background(), slog.LevelWarn, "HBONE ping timeout/error")
		c.drop(ErrAborted)
		return
	}
	c.cfg.Log.LogAttrs(context.Background(), slog.LevelDebug, "HBONE ping timeout/error, peer may have shutdown")
	c.abort(ErrAborted)
}

// abort says GOAWAY(NO_ERROR) if that is possible at once, and drops the tunnel.
func (c *conn) abort(cause error) {
	if cause == nil {
		cause = ErrAborted
	}
	c.mu.Lock()
	last := c.lastPeerID
	if c.abortCause == nil {
		c.abortCause = cause
	}
	c.shut, c.closing = true, true
	c.mu.Unlock()
	c.lastWords(last, http2.ErrCodeNo, func() { c.drop(cause) })
}

// startSweep makes sure that pending requests are looked at when the oldest is
// due. One timer serves all of them, and is not stopped by answers.
func (c *conn) startSweep() {
	c.mu.Lock()
	set := c.sweeping
	c.sweeping = true
	c.mu.Unlock()
	if !set {
		c.armSweep(c.cfg.ConnectTimeout)
	}
}

func (c *conn) armSweep(d time.Duration) {
	t := &c.timers
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.stopped {
		return
	}
	if t.sweep == nil {
		t.sweep = time.AfterFunc(d, c.sweepPending)
	} else {
		t.sweep.Reset(d)
	}
}

// sweepPending gives up requests that have waited too long.
func (c *conn) sweepPending() {
	now := time.Since(c.begun)
	next := time.Duration(-1)
	var late []*Stream
	c.mu.Lock()
	for _, s := range c.streams {
		if s.answered {
			continue
		}
		left := c.cfg.ConnectTimeout - (now - s.started)
		if left <= 0 {
			late = append(late, s)
		} else if next < 0 || left < next {
			next = left
		}
	}
	c.sweeping = next >= 0
	c.mu.Unlock()
	for _, s := range late {
		c.cfg.Metrics.ConnectTimeouts.Add(1)
		s.reset(http2.ErrCodeCancel, &TimeoutError{"the response to CONNECT"})
	}
	if next >= 0 {
		c.armSweep(next)
	}
}
