package hbone

import (
	"context"
	"slices"
	"sync"
	"time"
)

// poolEntry holds the tunnels and dials of one key. It leaves the pool's map
// when it has neither.
type poolEntry struct {
	key Key

	// mu guards what follows, and the fields of the entry's tunnels and dials.
	// It is held for moments only.
	mu      sync.Mutex
	dead    bool // not in the map any more; use another
	tunnels []*pooledTunnel
	dials   []*poolDial
	// limit is how many streams the server allowed on a tunnel when it was asked
	// last, 0 if it never was. A new tunnel assumes the same.
	limit int
}

// pooledTunnel is a tunnel with the pool's accounts of it.
type pooledTunnel struct {
	entry *poolEntry
	conn  tunnel
	made  uint64 // by the pool's clock

	use     uint64    // of the last checkout, by the pool's clock
	used    time.Time // the same
	opening int       // requests checked out whose Open has not returned
	// streams is an upper bound of the streams in use and being opened. It
	// grows by one with each checkout and is brought down only when it seems to
	// reach the limit, so that most checkouts need not ask the tunnel.
	streams int
}

// poolDial is a tunnel being made, with the requests that wait for it.
type poolDial struct {
	cancel  context.CancelFunc
	waiters int           // 0: given up, and no longer in the entry
	done    chan struct{} // closed when the rest is set

	tunnel  *pooledTunnel
	granted int // streams reserved for waiters that have not collected theirs
	err     error
}

// take reserves a stream on a tunnel made after a time of the clock. If none has a free
// one it joins a dial, which the caller must collect or leave, or begins one.
// If the entry is dead it returns neither. The tunnels in gone were found to be
// of no use and are no longer in the entry.
func (e *poolEntry) take(p *Pool, after uint64) (t *pooledTunnel, d *poolDial, gone []*pooledTunnel) {
	now := time.Now()
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.dead {
		return nil, nil, nil
	}
	for i := 0; i < len(e.tunnels); {
		t := e.tunnels[i]
		if !t.conn.Usable() {
			e.tunnels = slices.Delete(e.tunnels, i, i+1)
			gone = append(gone, t)
			continue
		}
		if t.made > after && t.reserve(p.cfg.MaxStreams) {
			t.use, t.used = p.clock.Add(1), now
			return t, nil, gone
		}
		i++
	}
	return nil, e.join(p), gone
}

// join adds a waiter to a dial, a new one if the others have as many waiters as
// a tunnel is known to take streams. e.mu is held.
func (e *poolEntry) join(p *Pool) *poolDial {
	most := p.cfg.MaxStreams
	if e.limit > 0 {
		most = min(most, e.limit)
	}
	for _, d := range e.dials {
		if d.waiters < most {
			d.waiters++
			return d
		}
	}
	d := &poolDial{waiters: 1, done: make(chan struct{})}
	var ctx context.Context
	ctx, d.cancel = context.WithCancel(p.ctx)
	e.dials = append(e.dials, d)
	p.wg.Go(func() { p.runDial(ctx, e, d) })
	return d
}

// finish ends a dial with a tunnel or an error and reserves streams for the
// waiters. It reports whether the tunnel is now in the entry; one for which
// nobody waits is not. made is the time of the pool's clock.
func (e *poolEntry) finish(d *poolDial, conn tunnel, err error, made uint64) (kept bool) {
	e.mu.Lock()
	defer e.mu.Unlock()
	defer close(d.done)
	e.dials = slices.DeleteFunc(e.dials, func(x *poolDial) bool { return x == d })
	d.err = err
	if err != nil || d.waiters == 0 {
		return false
	}
	if e.limit > 0 {
		conn.Assume(e.limit)
	}
	d.granted = d.waiters
	// A peer that allows no streams at all is left to refuse them: else its
	// waiters would dial for ever.
	if limit := conn.PeerMaxStreams(); limit > 0 {
		d.granted = min(d.granted, limit)
	}
	d.tunnel = &pooledTunnel{
		entry: e, conn: conn, made: made, use: made, used: time.Now(),
		opening: d.granted, streams: d.granted,
	}
	e.tunnels = append(e.tunnels, d.tunnel)
	return true
}

// collect takes what a dial that is done has for one of its waiters: a tunnel
// with a stream reserved, the dial's error, or neither if the peer allows fewer
// streams than there were waiters.
func (e *poolEntry) collect(d *poolDial) (*pooledTunnel, error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	d.waiters--
	if d.err != nil || d.granted == 0 {
		return nil, d.err
	}
	d.granted--
	return d.tunnel, nil
}

// leave removes a waiter that does not collect. A dial without waiters is
// cancelled and leaves the entry. It reports whether the entry is then empty.
func (e *poolEntry) leave(d *poolDial) (empty bool) {
	e.mu.Lock()
	defer e.mu.Unlock()
	d.waiters--
	if d.granted > d.waiters { // the dial is done and has reserved for all
		d.granted--
		d.tunnel.opening--
		d.tunnel.streams--
	}
	if d.waiters == 0 {
		d.cancel()
		e.dials = slices.DeleteFunc(e.dials, func(x *poolDial) bool { return x == d })
	}
	return e.empty()
}

// checkin ends a checkout, when the stream is open or has failed.
func (e *poolEntry) checkin(t *pooledTunnel) {
	e.mu.Lock()
	defer e.mu.Unlock()
	t.opening--
}

// expire removes the tunnels that nobody has asked for during the timeout and
// those of no use, and returns them and the earliest time at which another one
// may expire.
func (e *poolEntry) expire(now time.Time, timeout time.Duration) (gone []*pooledTunnel, next time.Time) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.tunnels = slices.DeleteFunc(e.tunnels, func(t *pooledTunnel) bool {
		end := t.used.Add(timeout)
		if !t.conn.Usable() || t.opening == 0 && !now.Before(end) {
			gone = append(gone, t)
			return true
		}
		if !now.Before(end) {
			end = now.Add(timeout) // a request is under way on it
		}
		if next.IsZero() || end.Before(next) {
			next = end
		}
		return false
	})
	return gone, next
}

// kill makes the entry unusable and returns its tunnels.
func (e *poolEntry) kill() []*pooledTunnel {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.dead = true
	tunnels := e.tunnels
	e.tunnels = nil
	return tunnels
}

// remove takes a tunnel out and reports whether it was there. e.mu is held.
func (e *poolEntry) remove(t *pooledTunnel) bool {
	i := slices.Index(e.tunnels, t)
	if i < 0 {
		return false
	}
	e.tunnels = slices.Delete(e.tunnels, i, i+1)
	return true
}

// empty reports whether nothing keeps the entry. e.mu is held.
func (e *poolEntry) empty() bool { return len(e.tunnels) == 0 && len(e.dials) == 0 }

// reserve takes one stream if fewer than the configured and the peer's limit
// are in use. The entry's lock is held.
func (t *pooledTunnel) reserve(limit int) bool {
	if peer := t.conn.PeerMaxStreams(); peer < limit {
		limit = peer
	}
	if limit > 0 {
		t.entry.limit = limit
	}
	if t.streams >= limit {
		// The tunnel counts the streams that are open, of which some belong to
		// the requests under way, so the sum is never too low.
		t.streams = min(t.streams, t.conn.Active()+t.opening)
	}
	if t.streams >= limit {
		return false
	}
	t.streams++
	t.opening++
	return true
}
