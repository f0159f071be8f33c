// Package relay copies bytes both ways between two TCP connections, and owns the results of a two-way copy: which ends
// are normal, which error is reported when several happened, and the reference's words for it. The HBONE engine, which
// moves the bytes of tunnelled connections itself, shares Result and the error types.
//
// It dials nothing, knows no addresses, logs nothing; inbound and outbound call Copy with two connected sockets. Idle
// connections hold no buffer: a buffer is taken from a pool when a socket is readable.
//
// Small messages pass through buffers, which costs least for them. A direction that moves much goes over to splice(2),
// by which the kernel passes pages on without a copy: that takes less than half of the processor time in here. A slow
// receiver keeps what is in its pipe, as it would keep a buffer, and both are limited in number.
package relay

import (
	"context"
	"net"
	"sync"
	"sync/atomic"
)

// Counters are the live byte counters of one connection, added to after each successful write. Both must be set.
type Counters struct {
	// Received counts bytes read from the downstream and written to the upstream.
	Received *atomic.Uint64
	// Sent counts bytes read from the upstream and written to the downstream.
	Sent *atomic.Uint64
}

// Copy relays between the client's connection down and the destination's connection up until both directions have
// ended, and closes both. At the end of one direction, by end of file or by error, the write end of its destination is
// closed and the other direction goes on, for as long as it takes.
//
// The result is that of Result. When ctx ends first, both connections are closed at once and the result is
// context.Cause(ctx). Nobody else may read or write the connections meanwhile. One direction runs on the caller's
// goroutine and one on a goroutine that has ended when Copy returns.
func Copy(ctx context.Context, down, up *net.TCPConn, c Counters) error {
	s := &session{down: down, up: up}
	defer s.close()
	if err := s.init(c); err != nil {
		return err
	}
	s.aborting.Add(1)
	stop := context.AfterFunc(ctx, s.abort)

	s.receiving.Add(1)
	go s.receive()
	s.send.run()
	s.receiving.Wait()

	if !stop() {
		s.aborting.Wait()
		return context.Cause(ctx)
	}
	return Result(s.send.err, s.send.closeErr, s.recv.err, s.recv.closeErr)
}

// session is one call of Copy.
type session struct {
	down, up   *net.TCPConn
	send, recv half           // down → up on the caller's goroutine, up → down on the goroutine receive
	receiving  sync.WaitGroup // the goroutine receive
	aborting   sync.WaitGroup // abort, which runs on a goroutine of the context's end
}

func (s *session) init(c Counters) error {
	down, err := s.down.SyscallConn()
	if err != nil {
		return sendError(err)
	}
	up, err := s.up.SyscallConn()
	if err != nil {
		return sendError(err)
	}
	s.send.init(down, up, s.up, c.Received, &s.recv)
	s.recv.init(up, down, s.down, c.Sent, &s.send)
	return nil
}

func (s *session) receive() {
	defer s.receiving.Done()
	s.recv.run()
}

func (s *session) abort() {
	defer s.aborting.Done()
	s.close()
}

// close ends both connections; reads and writes under way return at once.
func (s *session) close() {
	s.down.Close()
	s.up.Close()
}
