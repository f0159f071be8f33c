package hbone

import (
	"maps"
	"net"
	"slices"
	"sync/atomic"

	"golang.org/x/net/http2"
)

// Relaying is a stream that was joined with an application's socket.
type Relaying struct{ r *relayState }

// Join is the first half of Relay, for a caller who can run the second on several
// goroutines, one after the other: most of what an idle connection costs is its
// stack, which a new goroutine has a small one of. The caller must call Run,
// and may leave the stream's handler before its end; the request and the
// response's header are gone from then on. [Stream.Cancel] takes
// the place of Relay's context.
func (s *Stream) Join(app *net.TCPConn, toTunnel, fromTunnel *atomic.Uint64, dir Direction) Relaying {
	if sc := s.c.server; sc != nil && !s.joined {
		s.joined = true
		sc.handlers.Add(1)
	}
	s.head = nil // an idle stream holds nothing that it does not need
	r := s.newRelay(app, toTunnel, fromTunnel, dir)
	r.stack.Store(stackGrown)
	return Relaying{r}
}

// Run is the second half of Relay. If it returns with again set, the stream is
// idle and [Trim] wants the stack of the goroutine back: the caller must call Run
// again, on a new goroutine, and end this one. Otherwise the error is Relay's.
func (j Relaying) Run() (again bool, err error) {
	again, err = j.r.run()
	if s := j.r.s; s.joined && !again {
		s.c.server.handled(s)
	}
	return again, err
}

// Cancel resets the stream with CANCEL, closes the socket that it was joined
// with, and makes cause the result of the relay. It does not wait, and may be
// called at any time.
func (s *Stream) Cancel(cause error) {
	s.mu.Lock()
	if s.cancelled == nil {
		s.cancelled = cause
	}
	r := s.relay // attach closes one that comes later
	s.mu.Unlock()
	s.reset(http2.ErrCodeCancel, cause)
	if r != nil {
		r.app.Close()
	}
}

// Cancel cancels all streams of the tunnel with a cause and drops the tunnel at
// once: nothing that it carried goes on.
func (cc *ClientConn) Cancel(cause error) {
	cc.c.cancelStreams(cause)
	cc.c.drop(cause)
}

// Cancel cancels all streams of the tunnel with a cause and ends the tunnel as
// [ServerConn.Abort] does: nothing that it carried goes on.
func (sc *ServerConn) Cancel(cause error) {
	sc.c.cancelStreams(cause)
	sc.c.abort(cause)
}

func (c *conn) cancelStreams(cause error) {
	c.mu.Lock()
	c.closing = true // no more of them
	streams := slices.Collect(maps.Values(c.streams))
	c.mu.Unlock()
	for _, s := range streams {
		s.Cancel(cause)
	}
}
