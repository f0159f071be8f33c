package hbone

import (
	"context"
	"errors"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

// poolTest is a pool over fake tunnels inside a synctest bubble, which also
// proves that no goroutine of the pool is left behind.
type poolTest struct {
	*testing.T
	net  *fakeNet
	pool *Pool
}

// testPool runs a test in a bubble and closes its pool at the end.
func testPool(t *testing.T, cfg PoolConfig, net *fakeNet, fn func(*poolTest)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		p := &poolTest{T: t, net: net, pool: newPool(cfg, net.dial)}
		net.most = p.pool.cfg.MaxStreams
		fn(p)
		p.pool.Close()
		net.check(t)
		for i, f := range net.list() {
			if !f.ended() {
				t.Errorf("tunnel %d has not ended after Close of the pool", i)
			}
		}
	})
}

// open opens n streams for a key at once and fails the test unless all succeed.
func (p *poolTest) open(key Key, n int) {
	p.Helper()
	for _, err := range p.try(key, n) {
		if err != nil {
			p.Fatalf("Open = %v, want a stream", err)
		}
	}
}

// try opens n streams at once and returns the errors.
func (p *poolTest) try(key Key, n int) []error {
	p.Helper()
	errs := make([]error, n)
	var wg sync.WaitGroup
	for i := range n {
		wg.Go(func() {
			var s *Stream
			s, errs[i] = p.pool.Open(p.Context(), key, &Request{})
			if (s == nil) == (errs[i] == nil) {
				errs[i] = errors.New("neither or both of stream and error")
			}
		})
	}
	wg.Wait()
	return errs
}

// wantTunnels checks the number of tunnels dialled so far and returns them.
func (p *poolTest) wantTunnels(n int) []*fakeTunnel {
	p.Helper()
	tunnels := p.net.list()
	if len(tunnels) != n || p.net.dialled() != n {
		p.Fatalf("%d tunnels, %d dials, want %d of each", len(tunnels), p.net.dialled(), n)
	}
	return tunnels
}

func (p *poolTest) wantEnded(f *fakeTunnel, want bool) {
	p.Helper()
	synctest.Wait() // tunnels are closed after their requests have what they wanted
	if got := f.ended(); got != want {
		p.Fatalf("tunnel ended = %v, want %v", got, want)
	}
}

func TestPoolShares(t *testing.T) {
	testPool(t, PoolConfig{MaxStreams: 3}, &fakeNet{}, func(p *poolTest) {
		p.open(testKey(1), 2)
		f := p.wantTunnels(1)[0]
		f.end(2)
		p.open(testKey(1), 2)
		p.wantTunnels(1)
		if s := p.pool.Stats(); s.Active != 1 || s.Streams != 2 || s.Idle != 0 || s.Hits+s.Misses != 4 || s.Hits < 2 {
			t.Errorf("Stats() = %+v, want one active tunnel with 2 streams, 4 hits and misses, 2 or 3 of them hits", s)
		}
		p.pool.Close()
		p.wantEnded(f, true)
	})
}

func TestPoolSeparatesKeys(t *testing.T) {
	testPool(t, PoolConfig{MaxStreams: 101}, &fakeNet{}, func(p *poolTest) {
		p.open(testKey(0), 100)
		p.wantTunnels(1)
		var wg sync.WaitGroup
		for i := range 100 {
			wg.Go(func() { p.open(testKey(1+i), 1) })
		}
		wg.Wait()
		p.wantTunnels(101)
		for i := range 3 {
			wg.Go(func() { p.open(testKey(1000+i), 100) })
		}
		wg.Wait()
		p.wantTunnels(104)
	})
}

func TestPoolSecondTunnelWhenFull(t *testing.T) {
	testPool(t, PoolConfig{MaxStreams: 2, UnusedTimeout: time.Minute}, &fakeNet{}, func(p *poolTest) {
		p.open(testKey(1), 4)
		for _, f := range p.wantTunnels(2) {
			if f.peak != 2 {
				t.Errorf("a tunnel had %d streams, want 2", f.peak)
			}
			f.end(2)
		}
		p.open(testKey(1), 5) // four of them on the old ones
		for _, f := range p.wantTunnels(3) {
			f.end(f.Active())
		}
		time.Sleep(time.Minute)
		synctest.Wait()
		for _, f := range p.wantTunnels(3) {
			p.wantEnded(f, true)
		}
	})
	testPool(t, PoolConfig{MaxStreams: 1}, &fakeNet{}, func(p *poolTest) {
		p.open(testKey(1), 2)
		p.wantTunnels(2)
	})
}

func TestPoolHeedsPeerLimit(t *testing.T) {
	testPool(t, PoolConfig{MaxStreams: 100}, &fakeNet{limit: 2}, func(p *poolTest) {
		p.open(testKey(1), 5)
		p.wantTunnels(3)
		p.net.list()[0].setLimit(5)
		p.open(testKey(1), 4) // three on the first, one on the third
		p.wantTunnels(3)
	})
}

// A new tunnel to a server whose limit is known gets no more streams than that
// before its SETTINGS have come.
func TestPoolRemembersPeerLimit(t *testing.T) {
	testPool(t, PoolConfig{MaxStreams: 10}, &fakeNet{untold: true}, func(p *poolTest) {
		p.open(testKey(1), 1)
		p.net.list()[0].setLimit(3)
		p.open(testKey(1), 6)
		for i, f := range p.wantTunnels(3) {
			if want := 3; i > 0 && f.assumed != want {
				t.Errorf("tunnel %d assumes %d streams, want %d", i, f.assumed, want)
			}
			if peak := f.get(func(f *fakeTunnel) int { return f.peak }); peak > 3 {
				t.Errorf("tunnel %d had %d streams, want at most 3", i, peak)
			}
		}
	})
}

func TestPoolPeerWithoutStreams(t *testing.T) {
	net := &fakeNet{limit: -1} // allows none
	net.onDial = func(context.Context, int, Key) error { time.Sleep(time.Millisecond); return nil }
	testPool(t, PoolConfig{}, net, func(p *poolTest) {
		for _, err := range p.try(testKey(1), 20) {
			if !Unprocessed(err) {
				p.Fatalf("Open = %v, want it refused", err)
			}
		}
		p.wantTunnels(2)
		if s := p.pool.Stats(); s.Idle != 0 {
			t.Errorf("%d useless tunnels kept, want 0", s.Idle)
		}
	})
}

func TestPoolLeavesGoingTunnel(t *testing.T) {
	testPool(t, PoolConfig{}, &fakeNet{}, func(p *poolTest) {
		p.open(testKey(1), 2)
		first := p.wantTunnels(1)[0]
		first.fail()
		p.open(testKey(1), 1)
		p.wantTunnels(2)
		p.wantEnded(first, false) // its streams go on
		first.end(2)
		p.wantEnded(first, true)
		if s := p.pool.Stats(); s.Active != 1 || s.Idle != 0 {
			t.Errorf("Stats() = %+v, want the second tunnel only", s)
		}
	})
}

func TestPoolUnused(t *testing.T) {
	const timeout = 100 * time.Millisecond
	testPool(t, PoolConfig{UnusedTimeout: timeout}, &fakeNet{}, func(p *poolTest) {
		p.open(testKey(1), 1)
		f := p.wantTunnels(1)[0]
		f.end(1)
		time.Sleep(timeout / 2)
		p.open(testKey(1), 1) // starts the time anew
		f.end(1)
		time.Sleep(timeout - 1)
		synctest.Wait()
		p.wantEnded(f, false)
		time.Sleep(time.Nanosecond)
		synctest.Wait()
		p.wantEnded(f, true)
	})
	testPool(t, PoolConfig{UnusedTimeout: timeout, MaxStreams: 4}, &fakeNet{}, func(p *poolTest) {
		p.open(testKey(1), 4)
		first := p.wantTunnels(1)[0]
		p.open(testKey(1), 1)
		second := p.wantTunnels(2)[1]
		first.end(3) // one long stream remains
		second.end(1)
		time.Sleep(timeout)
		synctest.Wait()
		p.wantEnded(first, false)
		p.wantEnded(second, true)
		p.open(testKey(1), 1) // the first has left the pool
		p.wantTunnels(3)
		first.end(1)
		p.wantEnded(first, true)
	})
}

func TestPoolDropsLeastRecentlyUsed(t *testing.T) {
	testPool(t, PoolConfig{MaxEntries: 3}, &fakeNet{}, func(p *poolTest) {
		for i := range 3 {
			p.open(testKey(i), 1)
			time.Sleep(time.Second)
		}
		tunnels := p.wantTunnels(3)
		p.open(testKey(0), 1) // 1 is the oldest now
		tunnels[1].end(1)
		p.open(testKey(3), 1)
		p.wantEnded(tunnels[1], true)
		p.open(testKey(0), 1)
		p.open(testKey(2), 1)
		p.wantTunnels(4)
	})
}

func TestPoolSharesDial(t *testing.T) {
	net := &fakeNet{onDial: func(_ context.Context, _ int, key Key) error {
		if key == testKey(1) {
			time.Sleep(time.Second)
		}
		return nil
	}}
	testPool(t, PoolConfig{}, net, func(p *poolTest) {
		begun := time.Now()
		var wg sync.WaitGroup
		wg.Go(func() { p.open(testKey(1), 10) })
		synctest.Wait()
		p.open(testKey(2), 1)
		if d := time.Since(begun); d != 0 {
			t.Errorf("a request for another key waited %v, want 0", d)
		}
		if s := p.pool.Stats(); s.Dials != 1 || s.Misses != 11 {
			t.Errorf("Stats() = %+v, want 1 dial, 11 misses", s)
		}
		wg.Wait()
		p.wantTunnels(2)
	})
}

func TestPoolDialFailure(t *testing.T) {
	refused := errors.New("refused")
	net := &fakeNet{}
	net.onDial = func(_ context.Context, n int, _ Key) error {
		if n == 1 {
			time.Sleep(time.Second)
			return refused
		}
		return nil
	}
	testPool(t, PoolConfig{}, net, func(p *poolTest) {
		for _, err := range p.try(testKey(1), 5) {
			if !errors.Is(err, refused) {
				t.Errorf("Open = %v, want %v", err, refused)
			}
		}
		if n := len(p.pool.entries); n != 0 {
			t.Errorf("%d entries after a failed dial, want 0", n)
		}
		p.open(testKey(1), 1)
	})
}

func TestPoolCancel(t *testing.T) {
	var dialEnd error
	slow := func(ctx context.Context, n int, _ Key) error {
		select {
		case <-ctx.Done():
			dialEnd = ctx.Err()
			return dialEnd
		case <-time.After(time.Second):
			return nil
		}
	}
	gone := errors.New("application closed")
	testPool(t, PoolConfig{}, &fakeNet{onDial: slow}, func(p *poolTest) {
		ctx, cancel := context.WithCancelCause(p.Context())
		var wg sync.WaitGroup
		wg.Go(func() {
			if _, err := p.pool.Open(ctx, testKey(1), &Request{}); !errors.Is(err, gone) {
				t.Errorf("Open = %v, want %v", err, gone)
			}
		})
		wg.Go(func() { p.open(testKey(1), 1) }) // waits for the same dial
		synctest.Wait()
		cancel(gone)
		wg.Wait()
		p.wantTunnels(1)
	})
	testPool(t, PoolConfig{}, &fakeNet{onDial: slow}, func(p *poolTest) { // nobody else waits
		ctx, cancel := context.WithTimeoutCause(p.Context(), time.Millisecond, gone)
		defer cancel()
		if _, err := p.pool.Open(ctx, testKey(1), &Request{}); !errors.Is(err, gone) {
			t.Errorf("Open = %v, want %v", err, gone)
		}
		synctest.Wait()
		if dialEnd != context.Canceled {
			t.Errorf("the dial without waiters ended with %v, want %v", dialEnd, context.Canceled)
		}
		p.open(testKey(1), 1) // does not get the cancelled dial's failure
	})
}

func TestPoolRetries(t *testing.T) {
	plain := errors.New("stream lost")
	for _, tc := range []struct {
		name  string
		fails []error // of the first, second, … Open; then success
		want  error
		dials int
	}{
		{"unprocessed is sent again", []error{unprocessed("goaway")}, nil, 2},
		{"but once only", []error{unprocessed("1"), unprocessed("2")}, unprocessed("2"), 2},
		{"processed is not", []error{plain}, plain, 1},
		{"full tunnel", []error{ErrTunnelFull}, nil, 2},
		{"closing tunnel", []error{ErrTunnelClosing}, nil, 2},
	} {
		t.Run(tc.name, func(t *testing.T) {
			opens := 0
			net := &fakeNet{onOpen: func(*fakeTunnel) func(context.Context) error {
				return func(context.Context) error {
					opens++
					if opens <= len(tc.fails) {
						return tc.fails[opens-1]
					}
					return nil
				}
			}}
			testPool(t, PoolConfig{}, net, func(p *poolTest) {
				_, err := p.pool.Open(p.Context(), testKey(1), &Request{})
				if (err == nil) != (tc.want == nil) || err != nil && err.Error() != tc.want.Error() {
					t.Errorf("Open = %v, want %v", err, tc.want)
				}
				p.wantTunnels(tc.dials)
			})
		})
	}
}

// A retry must not land on another tunnel that is as old as the dead one, and
// all who fail together share the fresh one.
func TestPoolRetriesOnFreshTunnel(t *testing.T) {
	var dead []*fakeTunnel
	net := &fakeNet{onOpen: func(f *fakeTunnel) func(context.Context) error {
		return func(context.Context) error {
			if slices.Contains(dead, f) {
				return unprocessed("connection lost")
			}
			return nil
		}
	}}
	net.onDial = func(context.Context, int, Key) error { time.Sleep(time.Millisecond); return nil }
	testPool(t, PoolConfig{MaxStreams: 10}, net, func(p *poolTest) {
		p.open(testKey(1), 20)
		tunnels := p.wantTunnels(2)
		for _, f := range tunnels {
			f.end(10)
		}
		dead = tunnels
		p.open(testKey(1), 8)
		p.wantTunnels(3)
	})
}

func TestPoolLeavesStalledTunnel(t *testing.T) {
	net := &fakeNet{}
	net.onOpen = func(f *fakeTunnel) func(context.Context) error {
		return func(ctx context.Context) error {
			if net.list()[0] == f && f.opened > 0 {
				time.Sleep(30 * time.Second)
				return &H2Error{Err: &TimeoutError{Stage: "response"}}
			}
			return nil
		}
	}
	testPool(t, PoolConfig{}, net, func(p *poolTest) {
		p.open(testKey(1), 1)
		if err := p.try(testKey(1), 1)[0]; err == nil {
			t.Error("Open on a stalled tunnel succeeded, want its timeout")
		}
		p.open(testKey(1), 1)
		first := p.wantTunnels(2)[0]
		p.wantEnded(first, false) // the stream that is open goes on
		first.end(1)
		p.wantEnded(first, true)
	})
}

func TestPoolClose(t *testing.T) {
	net := &fakeNet{}
	net.onDial = func(ctx context.Context, n int, _ Key) error {
		if n < 3 {
			return nil
		}
		<-ctx.Done()
		return ctx.Err()
	}
	testPool(t, PoolConfig{UnusedTimeout: time.Second}, net, func(p *poolTest) {
		p.open(testKey(1), 1)
		time.Sleep(time.Minute) // has left the pool, with its stream
		p.open(testKey(1), 1)
		var wg sync.WaitGroup
		wg.Go(func() {
			if err := p.try(testKey(2), 1)[0]; !errors.Is(err, ErrPoolDraining) {
				t.Errorf("Open = %v while the pool is closed, want %v", err, ErrPoolDraining)
			}
		})
		synctest.Wait()
		p.pool.Close()
		wg.Wait()
		if err := p.try(testKey(1), 1)[0]; !errors.Is(err, ErrPoolDraining) {
			t.Errorf("Open = %v after Close, want %v", err, ErrPoolDraining)
		}
		for i, f := range net.list() {
			if !f.aborted {
				t.Errorf("tunnel %d is not aborted", i)
			}
		}
	})
}

// The pool keeps nothing of keys and tunnels that are gone.
func TestPoolForgets(t *testing.T) {
	testPool(t, PoolConfig{UnusedTimeout: time.Second}, &fakeNet{}, func(p *poolTest) {
		for i := range 50 {
			p.open(testKey(i), 1)
		}
		for _, f := range p.net.list() {
			f.end(1)
		}
		time.Sleep(2*leavingSweep + time.Second)
		synctest.Wait()
		p.pool.mu.Lock()
		defer p.pool.mu.Unlock()
		if len(p.pool.entries) != 0 || len(p.pool.leaving) != 0 || p.pool.count != 0 || !p.pool.sweepAt.IsZero() {
			t.Errorf("pool keeps %d entries, %d leaving, count %d, sweep at %v, want nothing",
				len(p.pool.entries), len(p.pool.leaving), p.pool.count, p.pool.sweepAt)
		}
	})
}

// Real goroutines and time, for the race detector.
func TestPoolStress(t *testing.T) {
	net := &fakeNet{most: 4}
	p := newPool(PoolConfig{MaxStreams: 4, MaxEntries: 3, UnusedTimeout: time.Millisecond}, net.dial)
	var mu sync.Mutex
	var wg sync.WaitGroup
	for w := range 8 {
		wg.Go(func() {
			for i := range 300 {
				ctx, cancel := context.WithCancel(t.Context())
				if i%7 == w {
					cancel()
				}
				_, err := p.Open(ctx, testKey((i*w)%5), &Request{})
				if err != nil && !errors.Is(err, context.Canceled) && !Unprocessed(err) {
					t.Errorf("Open = %v", err)
				}
				cancel()
				mu.Lock()
				for _, f := range net.list() {
					if i%3 == 0 && f.Active() > 0 {
						f.end(1)
					}
					if i%50 == 7 {
						f.fail()
					}
				}
				p.Stats()
				mu.Unlock()
			}
		})
	}
	wg.Wait()
	p.Close()
	net.check(t)
}
