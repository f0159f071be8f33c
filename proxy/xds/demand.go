package xds

import (
	"context"
	"slices"
	"sync"
	"time"
)

// Limits of on-demand mode.
const (
	// DemandTimeout bounds the wait for an answer of the control plane.
	DemandTimeout = 5 * time.Second
	// repeatTimeout bounds it for a key that was asked for before on this stream: a control plane need not answer that.
	repeatTimeout = 250 * time.Millisecond
	// unknownFor is how long a key counts as unknown once the control plane does not know it, or did not answer.
	unknownFor = 10 * time.Second
	// maxPending bounds the keys that wait for an answer, maxAsked those that are remembered as asked.
	maxPending = 1000
	maxAsked   = 8192
)

// DemandResult is how a demand ended.
type DemandResult string

// The results of a demand, which are also values of a label.
const (
	DemandKnown    DemandResult = "known"    // it was there already, or came without being asked for
	DemandFound    DemandResult = "found"    // the control plane sent it
	DemandUnknown  DemandResult = "unknown"  // the control plane does not know it
	DemandCached   DemandResult = "cached"   // it did not know it a moment ago
	DemandTimedOut DemandResult = "timeout"  // no answer in time
	DemandRefused  DemandResult = "refused"  // too many wait already
	DemandCanceled DemandResult = "canceled" // the caller gave up
)

// demandResults are those that are counted: what is known costs nothing and says nothing.
var demandResults = []DemandResult{DemandFound, DemandUnknown, DemandCached, DemandTimedOut, DemandRefused, DemandCanceled}

// demands is the on-demand subscriptions of one type. All its methods may be called concurrently.
type demands struct {
	known func(string) bool
	kick  chan struct{} // has one element when something is to be sent

	mu      sync.Mutex
	pending map[string]*demand
	asked   map[string]asked // keys asked for on this stream, or claimed by it
	order   []string         // of asked, oldest first, as a ring from next on
	next    int
}

// demand is a key that waits for its answer.
type demand struct {
	done    chan struct{} // closed by the answer
	waiters int
	sent    bool // on this stream
}

// asked is what is remembered of a key.
type asked struct {
	unknownUntil time.Time // zero for a key that was answered with something
}

func newDemands(known func(string) bool) *demands {
	if known == nil {
		known = func(string) bool { return false }
	}
	return &demands{
		known: known, kick: make(chan struct{}, 1),
		pending: make(map[string]*demand), asked: make(map[string]asked),
	}
}

// Demand asks the control plane for what a key stands for, and returns when the answer is in force, or at once if that is
// known already or was found to be unknown a moment ago. The wait is bounded by DemandTimeout and by ctx. Any number of
// callers may ask for one key; it is sent once. For a type that is not on demand it returns at once. After any result but
// DemandKnown and DemandFound the state has no answer.
func (c *Client) Demand(ctx context.Context, typeURL, key string) DemandResult {
	t := c.byURL[typeURL]
	if t == nil || t.demands == nil || t.demands.known(key) {
		return DemandKnown
	}
	start := time.Now()
	result := t.demands.wait(ctx, key)
	c.counts.demanded(result, time.Since(start))
	return result
}

func (d *demands) wait(ctx context.Context, key string) DemandResult {
	p, limit, result := d.join(key)
	if p == nil {
		return result
	}
	timer := time.NewTimer(limit)
	defer timer.Stop()
	select {
	case <-p.done:
		result = DemandFound
		if !d.known(key) {
			result = DemandUnknown
		}
	case <-timer.C:
		result = DemandTimedOut
	case <-ctx.Done():
		result = DemandCanceled
	}
	d.leave(key, p, result)
	return result
}

// join registers a caller. It returns nil and the result if there is nothing to wait for.
func (d *demands) join(key string) (*demand, time.Duration, DemandResult) {
	d.mu.Lock()
	defer d.mu.Unlock()
	before, repeated := d.asked[key]
	if repeated && time.Now().Before(before.unknownUntil) {
		return nil, 0, DemandCached
	}
	limit := DemandTimeout
	if repeated {
		limit = repeatTimeout
	}
	p := d.pending[key]
	if p == nil {
		if len(d.pending) >= maxPending {
			return nil, 0, DemandRefused
		}
		p = &demand{done: make(chan struct{})}
		d.pending[key] = p
		d.wake()
	}
	p.waiters++
	return p, limit, ""
}

func (d *demands) wake() {
	select {
	case d.kick <- struct{}{}:
	default:
	}
}

// leave unregisters a caller and remembers what came of it. A key that nobody waits for any more is not asked for again on
// the next stream. If its answer comes later, it is put into force all the same.
func (d *demands) leave(key string, p *demand, result DemandResult) {
	d.mu.Lock()
	defer d.mu.Unlock()
	p.waiters--
	_, before := d.asked[key]
	switch now := time.Now(); {
	case result == DemandUnknown || result == DemandTimedOut:
		d.remember(key, asked{unknownUntil: now.Add(unknownFor)})
	case result == DemandCanceled && p.sent && !before:
		d.remember(key, asked{unknownUntil: now}) // nothing is known of it, but that it was asked for
	}
	if p.waiters == 0 && d.pending[key] == p {
		delete(d.pending, key)
	}
}

// remember notes a key, in place of the oldest one if there are too many.
func (d *demands) remember(key string, a asked) {
	if _, ok := d.asked[key]; ok {
		d.asked[key] = a
		return
	}
	if len(d.order) < maxAsked {
		d.order = append(d.order, key)
	} else {
		delete(d.asked, d.order[d.next])
		d.order[d.next] = key
		d.next = (d.next + 1) % maxAsked
	}
	d.asked[key] = a
}

// matches appends the key to those that a response answers, if somebody waits for it.
func (d *demands) matches(to []string, key []byte) []string {
	d.mu.Lock()
	defer d.mu.Unlock()
	if len(d.pending) == 0 || d.pending[string(key)] == nil {
		return to
	}
	return append(to, string(key))
}

// answer wakes those who wait for the keys. It goes after the response is in force.
func (d *demands) answer(keys []string) {
	if len(keys) == 0 {
		return
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	for _, key := range keys {
		p := d.pending[key]
		if p == nil {
			continue // named twice, or everybody left
		}
		delete(d.pending, key)
		if _, ok := d.asked[key]; !ok {
			d.remember(key, asked{})
		}
		close(p.done)
	}
}

// unsent returns the keys to subscribe to, sorted, and takes them for sent.
func (d *demands) unsent() []string {
	d.mu.Lock()
	defer d.mu.Unlock()
	var keys []string
	for key, p := range d.pending {
		if !p.sent {
			p.sent = true
			keys = append(keys, key)
		}
	}
	slices.Sort(keys)
	return keys
}

// begin prepares for a new stream, on which nothing was asked for: what waits is to be sent again, and what was unknown
// may be known there. It returns the keys that were answered with something; the new stream claims them without a version.
func (d *demands) begin() (found []string) {
	d.mu.Lock()
	defer d.mu.Unlock()
	for _, p := range d.pending {
		p.sent = false
	}
	if len(d.pending) > 0 {
		d.wake()
	}
	d.order, d.next = d.order[:0], 0
	for key, a := range d.asked {
		if !a.unknownUntil.IsZero() {
			delete(d.asked, key)
			continue
		}
		d.order = append(d.order, key)
		found = append(found, key)
	}
	return found
}

// gone notes that what a key stands for is no more: it is no longer worth claiming.
func (d *demands) gone(names []string) {
	d.mu.Lock()
	defer d.mu.Unlock()
	for _, name := range names {
		if a, ok := d.asked[name]; ok && a.unknownUntil.IsZero() {
			d.asked[name] = asked{unknownUntil: time.Now()} // it may be asked for again at once
		}
	}
}
