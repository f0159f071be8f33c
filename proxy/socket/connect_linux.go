package socket

import (
	"context"
	"errors"
	"net/netip"
	"os"
	"runtime"
	"sync/atomic"

	"golang.org/x/sys/unix"
)

// turns are the dials that may make their system calls at once. A connect that does not wait takes long nevertheless: on one machine
// the whole handshake happens in it. The runtime starts a thread whenever a call takes long while other goroutines want to run, and
// never ends it; a flood of requests would leave hundreds. Who has no turn waits without a thread.
var turns = make(chan struct{}, 2*max(2, runtime.GOMAXPROCS(0)))

// turn is one of them.
type turn struct{ held atomic.Bool }

// begin waits for the turn.
func (t *turn) begin(ctx context.Context) error {
	select {
	case turns <- struct{}{}:
	default:
		select {
		case turns <- struct{}{}:
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
	t.held.Store(true)
	return nil
}

// end may be called more than once.
func (t *turn) end() {
	if t.held.Swap(false) {
		<-turns
	}
}

// startConnect begins to connect fd to dst. Package net does the same once more, learns that the connection is made or under
// way, and waits for it.
func startConnect(fd int, dst netip.AddrPort) error {
	if dst.Addr().Zone() != "" { // rare, and only package net knows the number of a zone
		return nil
	}
	var sa unix.Sockaddr
	if dst.Addr().Is4() {
		sa = &unix.SockaddrInet4{Addr: dst.Addr().As4(), Port: int(dst.Port())}
	} else {
		sa = &unix.SockaddrInet6{Addr: dst.Addr().As16(), Port: int(dst.Port())}
	}
	err := unix.Connect(fd, sa)
	for _, fine := range []error{unix.EINPROGRESS, unix.EALREADY, unix.EINTR, unix.EISCONN} {
		if errors.Is(err, fine) {
			return nil
		}
	}
	return os.NewSyscallError("connect", err)
}
