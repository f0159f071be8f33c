package hbone

import (
	"net"
	"sync/atomic"

	"golang.org/x/net/http2"
)

// Relaying is a stream that was joined with an application's socket.
type Relaying struct{ r *relayState }

// Join is the first half of Relay, for a caller who wants to run the second on
// another goroutine: one whose stack has not grown while the connection was set
// up, because most of what an idle connection costs is its stack. The caller
// must call Run, and may leave the stream's handler before; the request and the
// response's header are gone from then on. [Stream.Cancel] takes
// the place of Relay's context.
func (s *Stream) Join(app *net.TCPConn, toTunnel, fromTunnel *atomic.Uint64, dir Direction) Relaying {
	if sc := s.c.server; sc != nil && !s.joined {
		s.joined = true
		sc.handlers.Add(1)
	}
	s.head = nil // an idle stream holds nothing that it does not need
	return Relaying{s.newRelay(app, toTunnel, fromTunnel, dir)}
}

// Run is the second half of Relay.
func (j Relaying) Run() error {
	err := j.r.run()
	if s := j.r.s; s.joined {
		s.c.server.handled(s)
	}
	return err
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
