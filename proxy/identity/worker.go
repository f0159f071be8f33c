package identity

import (
	"context"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"sync"
	"time"

	"ztunnel/proxy/spiffe"
)

const (
	// minRenewal is the least time between two successful requests for an identity, which matters only for certificates
	// that are past half of their life when they come.
	minRenewal = time.Second
	// slowStart is how many successes allow one more request at a time, of those that nobody waits for.
	slowStart = 2
	// maxSleep is how often the worker looks whether somebody set the clock.
	maxSleep = time.Minute
	// maxDrift is how far the clock may run away before renewals are scheduled anew.
	maxDrift = 5 * time.Second
)

// Run asks the CA for what is wanted and renews what is held, until ctx ends. Then it cancels the requests that run, waits
// for them and returns nil; from there on only the certificates at hand are to be had. It must be called once.
func (m *Manager) Run(ctx context.Context) error {
	var calls sync.WaitGroup
	defer calls.Wait()
	defer m.stop()
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-m.wake:
		case <-timer.C:
		}
		due, sleep := m.due(time.Now())
		for _, id := range due {
			calls.Go(func() { m.call(ctx, id) })
		}
		timer.Reset(sleep)
	}
}

// due takes what is due out of the queue, as far as the CA may be asked, and says when to look again. Requests that nobody
// waits for begin slowly, one at first and more with each success: a CA that comes back is not met by the whole backlog of
// every node at once. Those of connections only have the limit of all.
func (m *Manager) due(now time.Time) ([]spiffe.ID, time.Duration) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if drift := m.clock.drift(now); drift.Abs() > maxDrift {
		m.cfg.Log.Info("the clock was set; certificate renewals are scheduled anew", slog.Duration("by", drift))
		m.reschedule(now)
	}
	defer func() {
		if len(m.flights) == 0 {
			m.streak = 0
		}
	}()
	var due []spiffe.ID
	for len(m.flights) < m.cfg.Concurrency {
		top := m.queue.top()
		if top == nil || top.priority != RealTime && len(m.flights) > m.streak/slowStart {
			break // what goes on when a request ends
		}
		if wait := m.heldBack(top.priority, now); wait > 0 {
			return due, wait
		}
		if wait := top.at.Sub(now); wait > 0 {
			return due, min(wait, maxSleep)
		}
		m.queue.pop()
		m.flights[top.id] = true
		due = append(due, top.id)
	}
	return due, maxSleep
}

// heldBack says how long a request has to wait because it begins, or is part of, a burst of those that nobody waits for. The burst is
// over when none of them is in the queue; renewals behind it wait at most as long.
func (m *Manager) heldBack(p Priority, now time.Time) time.Duration {
	switch {
	case p == RealTime:
		return 0
	case p == Background:
		m.heldSince = time.Time{}
		return 0
	case m.heldSince.IsZero():
		m.heldSince = now
	}
	return m.cfg.Hold - now.Sub(m.heldSince)
}

// reschedule computes the time of each renewal anew. Retries count from the failure and stay as they are.
func (m *Manager) reschedule(now time.Time) {
	for id, e := range m.entries {
		it := m.queue.byID[id]
		if it != nil && it.priority == Background && e.cert != nil && e.backoff == nil {
			m.queue.reschedule(it, now.Add(e.renewIn(now)))
		}
	}
}

// spread picks how much before half of its life a certificate is renewed.
func (m *Manager) spread(c *Certificate) time.Duration {
	half := max(c.RenewAt().Sub(c.NotBefore()), 0)
	return time.Duration(rand.Float64() * m.cfg.Spread * float64(half))
}

// call asks the CA once.
func (m *Manager) call(ctx context.Context, id spiffe.ID) {
	callCtx, cancel := context.WithTimeout(ctx, m.cfg.CSRTimeout)
	defer cancel()
	start := time.Now()
	cert, err := m.ca.Sign(callCtx, id)
	switch {
	case err != nil && ctx.Err() == nil && callCtx.Err() != nil:
		err = &RequestError{
			Code: "DeadlineExceeded", Status: "Deadline expired before operation could complete",
			Message: fmt.Sprintf("no answer within %v (CSR_TIMEOUT)", m.cfg.CSRTimeout), Err: err,
		}
	case err == nil && cert == nil:
		err = &EmptyChainError{ID: id}
	}
	m.finish(ctx, id, cert, err, start)
}

// finish takes the result of a request in.
func (m *Manager) finish(ctx context.Context, id spiffe.ID, cert *Certificate, err error, start time.Time) {
	now := time.Now()
	m.mu.Lock()
	defer m.mu.Unlock()
	defer m.notify()
	delete(m.flights, id)
	if err != nil && ctx.Err() != nil {
		return // not the CA's fault: we stop
	}
	m.requestEnded(err, now.Sub(start))
	m.streak++
	if err != nil {
		m.streak = 0
	}
	e, ok := m.entries[id]
	if !ok {
		return // forgotten
	}
	log := m.cfg.Log.With(slog.String("identity", id.String()))
	if err == nil {
		e.backoff, e.early = nil, m.spread(cert)
		e.set(cert, nil)
		delay := e.renewIn(now)
		m.queue.pushIncrease(id, Background, now.Add(delay))
		log.Debug("certificate fetch succeeded", slog.Time("expires", cert.NotAfter()), slog.Duration("renewal_in", delay))
		return
	}
	if e.backoff == nil {
		e.backoff = newBackoff(now)
	}
	delay := e.backoff.next(now)
	if e.cert != nil && !e.cert.Expired(now) {
		delay = min(delay, e.cert.NotAfter().Sub(now))
		log.Info(fmt.Sprintf("certificate renewal failed (%v); retaining existing valid certificate until %s; next retry at %s",
			err, formatTime(e.cert.NotAfter()), formatTime(now.Add(delay))))
	} else {
		e.set(nil, err)
		log.Warn(fmt.Sprintf("certificate fetch failed (%v) and no valid existing certificate; will retry in %v (backoff capped at %v)",
			err, delay.Round(time.Millisecond), backoffMax))
	}
	m.queue.pushIncrease(id, Background, now.Add(delay))
}

// stop releases everybody who waits.
func (m *Manager) stop() {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.stopped = true
	for _, e := range m.entries {
		if e.initializing() {
			e.set(nil, ErrStopped)
		}
	}
}

// clock notices when the wall clock is set. The dates in certificates are of the wall clock, but timers follow the
// monotonic one. The zero clock is ready.
type clock struct {
	last time.Time // with a monotonic reading
	wall time.Time // the same without
}

// drift is how far the wall clock was moved since the last call.
func (c *clock) drift(now time.Time) time.Duration {
	wall := now.Round(0)
	defer func() { c.last, c.wall = now, wall }()
	if c.last.IsZero() {
		return 0
	}
	return wall.Sub(c.wall) - now.Sub(c.last)
}

// formatTime is RFC 3339 in UTC with whole seconds.
func formatTime(t time.Time) string { return t.UTC().Format(time.RFC3339) }
