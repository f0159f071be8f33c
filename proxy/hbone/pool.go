package hbone

import (
	"context"
	"errors"
	"net/netip"
	"sync"
	"sync/atomic"
	"time"

	"ztunnel/proxy/spiffe"
)

// ErrPoolDraining is the error of requests to a pool that is or gets closed.
var ErrPoolDraining = errors.New("pool draining")

// Key says which connections may share a tunnel.
type Key struct {
	// Identity is ours: that of the workload on whose behalf the tunnel is made.
	Identity spiffe.ID
	// Expected is the ordered list of identities the server may have, joined
	// in one string.
	Expected string
	// Addr is the address to dial.
	Addr netip.AddrPort
	// Client is the application's address, without its port.
	Client netip.Addr
}

// PoolConfig describes a pool. It must not be changed after NewPool.
type PoolConfig struct {
	// MaxStreams is the number of streams on one tunnel above which another
	// one is dialled; the peer's limit counts too. 0 means 100.
	MaxStreams int
	// UnusedTimeout is how long after the last request for it the pool keeps a
	// tunnel. The tunnel then closes at the end of its last stream. 0 means
	// 5 minutes.
	UnusedTimeout time.Duration
	// MaxEntries is the number of tunnels in the pool; above it the least
	// recently used one leaves the pool as if unused. 0 means 500.
	MaxEntries int
	// Dial makes a tunnel for a key. It runs on a goroutine of the pool and
	// must return soon after its context ends, which happens when the pool is
	// closed or nobody waits for the tunnel any more.
	Dial func(ctx context.Context, key Key) (*ClientConn, error)
}

const (
	defaultMaxStreams    = 100
	defaultMaxEntries    = 500
	defaultUnusedTimeout = 5 * time.Minute
	// leavingSweep is how often tunnels that have left the pool are looked at,
	// to forget those that have ended.
	leavingSweep = 10 * time.Second
)

// tunnel is what the pool needs of a ClientConn.
type tunnel interface {
	Open(ctx context.Context, r *Request) (*Stream, error)
	Active() int
	PeerMaxStreams() int
	Assume(streams int)
	Usable() bool
	Close()
	Abort(cause error)
	Done() <-chan struct{}
}

// Pool shares tunnels between requests. The waiters of a key share one dial,
// and requests for other keys never wait for it. A tunnel is used again while
// it has free streams; one that is full stays in the pool and takes requests
// again when streams have ended. One that has ended, received a GOAWAY or let a
// request time out leaves the pool, and its streams run to their end.
//
// A request that provably never reached the peer is sent once more, on a tunnel
// dialled since. Safe for concurrent use. Close must be called.
type Pool struct {
	cfg  PoolConfig
	dial func(ctx context.Context, key Key) (tunnel, error)

	hits, misses atomic.Uint64
	// clock counts tunnels made and checkouts. It orders them where time stamps
	// may be equal.
	clock atomic.Uint64

	ctx    context.Context // of all dials
	cancel context.CancelFunc
	wg     sync.WaitGroup // dials and the sweep

	// mu guards what follows. It is held for a map lookup on the way of a
	// request, and never while anything waits. Order: mu, entry.mu, the locks of
	// tunnels.
	mu      sync.Mutex
	closed  bool
	entries map[Key]*poolEntry
	count   int                        // tunnels in entries
	leaving map[*pooledTunnel]struct{} // tunnels that have left the pool and may still have streams
	timer   *time.Timer                // of the next sweep, nil before the first
	sweepAt time.Time                  // when it fires, zero when it is not set
}

// NewPool returns an empty pool. It starts nothing.
func NewPool(cfg PoolConfig) *Pool {
	return newPool(cfg, func(ctx context.Context, key Key) (tunnel, error) {
		c, err := cfg.Dial(ctx, key)
		if err != nil {
			return nil, err // not a nil *ClientConn in an interface
		}
		return c, nil
	})
}

func newPool(cfg PoolConfig, dial func(context.Context, Key) (tunnel, error)) *Pool {
	if cfg.MaxStreams <= 0 {
		cfg.MaxStreams = defaultMaxStreams
	}
	if cfg.MaxEntries <= 0 {
		cfg.MaxEntries = defaultMaxEntries
	}
	if cfg.UnusedTimeout <= 0 {
		cfg.UnusedTimeout = defaultUnusedTimeout
	}
	p := &Pool{
		cfg:     cfg,
		dial:    dial,
		entries: map[Key]*poolEntry{},
		leaving: map[*pooledTunnel]struct{}{},
	}
	p.ctx, p.cancel = context.WithCancel(context.Background())
	return p
}

// Open opens a stream for r on a tunnel of the key, dialling one if need be.
// The error is that of ClientConn.Open or of the dial function, ErrPoolDraining,
// or context.Cause(ctx). ctx covers waiting and opening, not the life of the
// stream; its end does not disturb others that wait for the same tunnel.
func (p *Pool) Open(ctx context.Context, key Key, r *Request) (*Stream, error) {
	begun := p.clock.Load()
	t, err := p.checkout(ctx, key, 0)
	if err != nil {
		return nil, err
	}
	s, err := p.openOn(ctx, t, r)
	if err == nil || !Unprocessed(err) || ctx.Err() != nil {
		return s, err
	}
	if t, err = p.checkout(ctx, key, max(begun, t.made)); err != nil {
		return nil, err
	}
	return p.openOn(ctx, t, r)
}

// openOn opens a stream on a tunnel that was checked out for it.
func (p *Pool) openOn(ctx context.Context, t *pooledTunnel, r *Request) (*Stream, error) {
	s, err := t.conn.Open(ctx, r)
	t.entry.checkin(t)
	if err != nil && p.spoiled(t, err) {
		p.drop(t)
	}
	return s, err
}

// spoiled reports whether a tunnel on which a request failed should take no
// more. One that gave no answer in time may be stalled; waiting on it again
// would cost the next connection as much.
func (p *Pool) spoiled(t *pooledTunnel, err error) bool {
	var timeout *TimeoutError
	switch {
	case errors.As(err, &timeout):
		return true
	case errors.Is(err, ErrTunnelFull):
		return t.conn.PeerMaxStreams() <= 0 // else a stream will end
	}
	return !t.conn.Usable()
}

// checkout returns a tunnel of the key with a stream reserved on it: one from
// the pool that was made after the given time of the clock, or a new one.
func (p *Pool) checkout(ctx context.Context, key Key, after uint64) (*pooledTunnel, error) {
	for waited := false; ; waited = true { // each turn but the last, others got the streams of a dial
		e, err := p.entry(key)
		if err != nil {
			return nil, err
		}
		t, d, gone := e.take(p, after)
		p.retire(gone)
		if t != nil {
			if !waited {
				p.hits.Add(1)
			}
			return t, nil
		}
		if d == nil {
			continue // the entry has left the pool meanwhile
		}
		if !waited {
			p.misses.Add(1)
		}
		select {
		case <-d.done:
		case <-ctx.Done():
			p.leave(e, d)
			return nil, context.Cause(ctx)
		}
		if t, err := e.collect(d); t != nil || err != nil {
			return t, err
		}
	}
}

// entry returns the entry of a key, a new one if there is none.
func (p *Pool) entry(key Key) (*poolEntry, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.closed {
		return nil, ErrPoolDraining
	}
	e := p.entries[key]
	if e == nil {
		e = &poolEntry{key: key}
		p.entries[key] = e
	}
	return e, nil
}

// leave ends the wait for a dial.
func (p *Pool) leave(e *poolEntry, d *poolDial) {
	if e.leave(d) {
		p.mu.Lock()
		defer p.mu.Unlock()
		p.forget(e)
	}
}

// runDial makes a tunnel, puts it in the pool and tells the waiters.
func (p *Pool) runDial(ctx context.Context, e *poolEntry, d *poolDial) {
	defer d.cancel()
	conn, err := p.dial(ctx, e.key)

	p.mu.Lock()
	if p.closed {
		if err == nil {
			conn.Abort(nil)
		}
		conn, err = nil, ErrPoolDraining
	}
	kept := e.finish(d, conn, err, p.clock.Add(1))
	var gone []*pooledTunnel
	if kept {
		p.count++
		if p.count > p.cfg.MaxEntries {
			gone = p.evict()
		}
		p.sweepBy(time.Now().Add(p.cfg.UnusedTimeout))
	} else {
		p.forget(e)
	}
	p.mu.Unlock()
	if err == nil && !kept {
		conn.Close() // nobody waited any more
	}
	closeAll(gone)
}

// evict takes the least recently used tunnel out of the pool, or one that is of
// no use any more and not found yet. p.mu is held.
func (p *Pool) evict() []*pooledTunnel {
	var oldest *pooledTunnel
	var use uint64
	for _, e := range p.entries {
		e.mu.Lock()
		for _, t := range e.tunnels {
			last := t.use
			if !t.conn.Usable() {
				last = 0 // the clock starts at 1
			}
			if t.opening == 0 && (oldest == nil || last < use) {
				oldest, use = t, last
			}
		}
		e.mu.Unlock()
	}
	// Between the search and here the tunnel may have been checked out; then
	// its request is sent again on a fresh one, which is rare and harmless.
	if oldest == nil || !p.detach(oldest) {
		return nil
	}
	return []*pooledTunnel{oldest}
}

// drop takes a tunnel out of the pool and closes it.
func (p *Pool) drop(t *pooledTunnel) {
	p.mu.Lock()
	mine := p.detach(t)
	p.mu.Unlock()
	if mine {
		t.conn.Close()
	}
}

// detach takes a tunnel out of its entry and reports whether it was there; it is
// then the caller's to close. p.mu is held.
func (p *Pool) detach(t *pooledTunnel) bool {
	e := t.entry
	e.mu.Lock()
	found := e.remove(t)
	empty := e.empty()
	e.mu.Unlock()
	if found {
		p.left(t)
	}
	if empty {
		p.forget(e)
	}
	return found
}

// left notes that a tunnel has been taken out of its entry. p.mu is held.
func (p *Pool) left(t *pooledTunnel) {
	p.count--
	p.leaving[t] = struct{}{}
	p.sweepBy(time.Now().Add(min(leavingSweep, p.cfg.UnusedTimeout)))
}

// retire closes tunnels that their entry has given up.
func (p *Pool) retire(gone []*pooledTunnel) {
	if len(gone) == 0 {
		return
	}
	p.mu.Lock()
	closed := p.closed // Close did not see these
	if !closed {
		for _, t := range gone {
			p.left(t)
		}
	}
	p.mu.Unlock()
	if !closed {
		closeAll(gone)
		return
	}
	for _, t := range gone {
		t.conn.Abort(nil)
	}
}

// forget deletes an entry without tunnels and dials. p.mu is held.
func (p *Pool) forget(e *poolEntry) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.empty() && !e.dead {
		e.dead = true
		delete(p.entries, e.key)
	}
}

func closeAll(tunnels []*pooledTunnel) {
	for _, t := range tunnels {
		t.conn.Close()
	}
}

// sweepBy sees to it that a sweep happens at the given time or before. p.mu is
// held.
func (p *Pool) sweepBy(at time.Time) {
	switch {
	case p.closed:
		return
	case p.sweepAt.IsZero():
		p.wg.Add(1)
	case !at.Before(p.sweepAt) || !p.timer.Stop():
		return // early enough, or about to run: then it finds the next time itself
	}
	p.sweepAt = at
	p.timer = time.AfterFunc(time.Until(at), p.sweep)
}

// sweep closes the tunnels that nobody has asked for during UnusedTimeout and
// those that can be used no more, and forgets tunnels that have ended. One
// timer per pool and a time stamp per tunnel take the place of a timer that
// every request would restart.
func (p *Pool) sweep() {
	defer p.wg.Done()
	p.mu.Lock()
	if p.closed {
		p.mu.Unlock()
		return
	}
	now := time.Now()
	p.sweepAt = time.Time{}
	var gone []*pooledTunnel
	next := now.Add(p.cfg.UnusedTimeout)
	for _, e := range p.entries {
		expired, first := e.expire(now, p.cfg.UnusedTimeout)
		gone = append(gone, expired...)
		if !first.IsZero() && first.Before(next) {
			next = first
		}
		p.forget(e)
	}
	for t := range p.leaving {
		select {
		case <-t.conn.Done():
			delete(p.leaving, t)
		default:
		}
	}
	for _, t := range gone {
		p.left(t)
	}
	if len(p.leaving) > 0 {
		p.sweepBy(now.Add(min(leavingSweep, p.cfg.UnusedTimeout)))
	}
	if p.count > 0 {
		p.sweepBy(next)
	}
	p.mu.Unlock()
	closeAll(gone)
}

// Close aborts all dials and all tunnels with their streams, also those that had
// left the pool, and waits for the pool's goroutines. Waiting and later requests
// fail with ErrPoolDraining.
func (p *Pool) Close() {
	p.mu.Lock()
	p.closed = true
	tunnels := make([]*pooledTunnel, 0, p.count+len(p.leaving))
	for _, e := range p.entries {
		tunnels = append(tunnels, e.kill()...)
	}
	for t := range p.leaving {
		tunnels = append(tunnels, t)
	}
	clear(p.entries)
	clear(p.leaving)
	p.count = 0
	if !p.sweepAt.IsZero() && p.timer.Stop() {
		p.wg.Done()
	}
	p.sweepAt = time.Time{}
	p.mu.Unlock()

	p.cancel()
	for _, t := range tunnels {
		t.conn.Abort(nil)
	}
	p.wg.Wait()
}
