package hbone

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"sync"
	"testing"
)

// fakeTunnel is a tunnel whose streams are opened by the pool and ended by the
// test.
type fakeTunnel struct {
	key Key
	// onOpen, if set, decides about a request before it is counted as a stream.
	onOpen func(ctx context.Context) error
	// most is the limit of the pool, which no tunnel may exceed; 0 is not checked.
	most int

	mu      sync.Mutex
	limit   int // PeerMaxStreams
	assumed int // what the pool said it may be
	untold  bool
	active  int
	peak    int
	opened  int
	dead    bool // not usable
	closed  bool
	aborted bool
	done    chan struct{}
	broken  error // a violation of the pool's duties
}

func (f *fakeTunnel) Open(ctx context.Context, _ *Request) (*Stream, error) {
	if f.onOpen != nil {
		if err := f.onOpen(ctx); err != nil {
			return nil, err
		}
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	switch {
	case f.closed || f.dead || f.aborted:
		return nil, ErrTunnelClosing
	case f.active >= f.limit:
		return nil, ErrTunnelFull
	case f.most > 0 && f.active >= f.most:
		f.broken = fmt.Errorf("stream %d on a tunnel of a pool with MaxStreams %d", f.active+1, f.most)
	}
	f.active++
	f.opened++
	f.peak = max(f.peak, f.active)
	return &Stream{}, nil
}

// end ends n streams.
func (f *fakeTunnel) end(n int) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.active -= n
	f.settle()
}

// settle ends a closed tunnel without streams. f.mu is held.
func (f *fakeTunnel) settle() {
	if f.aborted || f.closed && f.active == 0 {
		select {
		case <-f.done:
		default:
			close(f.done)
		}
	}
}

func (f *fakeTunnel) Close() {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.closed = true
	f.settle()
}

func (f *fakeTunnel) Abort(error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.aborted, f.active = true, 0
	f.settle()
}

// fail makes the tunnel unusable, as a GOAWAY does.
func (f *fakeTunnel) fail() {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.dead = true
}

func (f *fakeTunnel) setLimit(n int) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.limit = n
}

func (f *fakeTunnel) get(field func(*fakeTunnel) int) int {
	f.mu.Lock()
	defer f.mu.Unlock()
	return field(f)
}

func (f *fakeTunnel) Active() int { return f.get(func(f *fakeTunnel) int { return f.active }) }

func (f *fakeTunnel) PeerMaxStreams() int { return f.get(func(f *fakeTunnel) int { return f.limit }) }

func (f *fakeTunnel) Assume(n int) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.assumed = n
	if f.untold {
		f.limit = min(f.limit, n)
	}
}

func (f *fakeTunnel) Usable() bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	return !f.dead && !f.closed && !f.aborted
}

func (f *fakeTunnel) Done() <-chan struct{} { return f.done }

// ended reports whether the tunnel is gone.
func (f *fakeTunnel) ended() bool {
	select {
	case <-f.done:
		return true
	default:
		return false
	}
}

// fakeNet dials fake tunnels.
type fakeNet struct {
	// onDial, if set, is asked before a tunnel is made.
	onDial func(ctx context.Context, n int, key Key) error
	// onOpen is that of the tunnels.
	onOpen func(f *fakeTunnel) func(ctx context.Context) error
	limit  int // of the tunnels, 0: 1000
	most   int
	untold bool // the tunnels have no SETTINGS, so what is assumed of them counts

	mu      sync.Mutex
	tunnels []*fakeTunnel
	dials   int
}

func (n *fakeNet) dial(ctx context.Context, key Key) (tunnel, error) {
	n.mu.Lock()
	n.dials++
	number := n.dials
	n.mu.Unlock()
	if n.onDial != nil {
		if err := n.onDial(ctx, number, key); err != nil {
			return nil, err
		}
	}
	f := &fakeTunnel{key: key, limit: n.limit, most: n.most, untold: n.untold, done: make(chan struct{})}
	if f.limit == 0 {
		f.limit = 1000
	}
	if n.onOpen != nil {
		f.onOpen = n.onOpen(f)
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	n.tunnels = append(n.tunnels, f)
	return f, nil
}

// list returns the tunnels made so far, in their order.
func (n *fakeNet) list() []*fakeTunnel {
	n.mu.Lock()
	defer n.mu.Unlock()
	return append([]*fakeTunnel(nil), n.tunnels...)
}

// dialled returns the number of dials begun.
func (n *fakeNet) dialled() int {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.dials
}

// check fails the test if a tunnel was misused.
func (n *fakeNet) check(t *testing.T) {
	t.Helper()
	for i, f := range n.list() {
		f.mu.Lock()
		if f.broken != nil {
			t.Errorf("tunnel %d: %v", i, f.broken)
		}
		f.mu.Unlock()
	}
}

// testKey returns a key that differs in the client's address.
func testKey(client int) Key {
	return Key{Addr: netip.MustParseAddrPort("10.0.0.9:15008"), Client: netip.AddrFrom4([4]byte{10, 1, byte(client >> 8), byte(client)})}
}

// unprocessed is a failure of which the peer's application has seen nothing.
func unprocessed(text string) error { return &H2Error{Err: errors.New(text), unprocessed: true} }
