package identity

import (
	"context"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"ztunnel/proxy/spiffe"
)

// Priority orders requests to the CA: the higher go first.
type Priority uint8

// The priorities.
const (
	Background Priority = iota // renewal and retry
	Warmup                     // a workload appeared and will need its certificate
	RealTime                   // a connection waits
)

// Defaults of Config.
const (
	DefaultConcurrency   = 8
	DefaultCSRTimeout    = 30 * time.Second
	DefaultMaxIdentities = 10_000
	DefaultSpread        = 0.05
)

// Config are the settings of a Manager. The zero value of a field means its default.
type Config struct {
	// Concurrency is how many requests to the CA may run at once.
	Concurrency int
	// CSRTimeout bounds one request to the CA.
	CSRTimeout time.Duration
	// MaxIdentities bounds the identities held; beyond it a new one is refused with ErrTooMany. The default is far above
	// the pods that a node can have.
	MaxIdentities int
	// Spread is how much earlier than at half of a certificate's life its renewal may come, as a fraction of that half. When
	// in it is left to chance, so that the certificates of a fleet that started together are not renewed together. It is
	// never later. Negative means exactly at half of the life, as the reference does.
	Spread float64
	// Hold is how long a burst of requests of Warmup priority is held back from its first one on. The workloads of new pods
	// become known while the node agent adds the pods, and making keys for all of them at once would take the CPU from their
	// start. A connection that needs one of them does not wait for it. The default is none.
	Hold time.Duration
	// Log gets the outcome of each request. Nil logs nothing.
	Log *slog.Logger
}

// Manager holds the certificates of the workloads we serve: at most one request to the CA for an identity at a time, which
// all who wait for it share, renewal in the background, and the last good certificate while the CA fails. It is safe for
// concurrent use.
type Manager struct {
	ca   CA
	cfg  Config
	wake chan struct{} // capacity 1: the worker has something to look at

	mu      sync.Mutex // guards what follows, and the entries
	entries map[spiffe.ID]*entry
	queue   queue
	flights map[spiffe.ID]bool // requests that run
	streak  int                // requests that succeeded since none ran or one failed
	// heldSince is when a burst of Warmup requests has begun; zero if there is none.
	heldSince time.Time
	refused   uint64            // identities beyond MaxIdentities
	results   map[string]uint64 // requests that ended, by code
	duration  histogram
	clock     clock
	stopped   bool
}

// entry is one identity in use. It begins without a result; done is closed with the first one, or when the identity is
// forgotten. After that either cert or err is set: the last good certificate, or why there is none.
type entry struct {
	done    chan struct{}
	cert    *Certificate
	err     error
	early   time.Duration // how much before half of its life cert is renewed
	backoff *backoff      // nil unless the last request failed
}

// renewIn is how long to wait at now before the certificate is renewed.
func (e *entry) renewIn(now time.Time) time.Duration {
	return max(e.cert.RenewAt().Add(-e.early).Sub(now), minRenewal)
}

// set stores a result and wakes those who wait for the first one.
func (e *entry) set(cert *Certificate, err error) {
	e.cert, e.err = cert, err
	select {
	case <-e.done:
	default:
		close(e.done)
	}
}

// initializing reports whether there was no result yet.
func (e *entry) initializing() bool { return e.cert == nil && e.err == nil }

// NewManager returns a Manager that gets its certificates from ca. Nothing happens before Run.
func NewManager(ca CA, cfg Config) *Manager {
	if cfg.Concurrency < 0 {
		panic(fmt.Sprintf("identity: Config.Concurrency is negative: %d", cfg.Concurrency))
	}
	if cfg.Concurrency == 0 {
		cfg.Concurrency = DefaultConcurrency
	}
	if cfg.CSRTimeout <= 0 {
		cfg.CSRTimeout = DefaultCSRTimeout
	}
	if cfg.MaxIdentities <= 0 {
		cfg.MaxIdentities = DefaultMaxIdentities
	}
	if cfg.Spread == 0 {
		cfg.Spread = DefaultSpread
	}
	cfg.Spread = min(max(cfg.Spread, 0), 1)
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	m := &Manager{
		ca: ca, cfg: cfg, wake: make(chan struct{}, 1),
		entries: make(map[spiffe.ID]*entry), flights: make(map[spiffe.ID]bool), results: make(map[string]uint64),
	}
	m.results[csrCode(nil)] = 0
	for code := range csrCodes {
		m.results[code] = 0
	}
	return m
}

// Certificate returns the certificate of id. Available, it is returned at once, even if it has expired meanwhile; if the
// last request failed and no certificate is left, so is that failure, and only the retry in the background changes it. The
// first to ask for an identity, and all others until it is there, wait until the CA answered, ctx ends (*WaitError), the
// identity is forgotten (ErrForgotten) or Run returns (ErrStopped). All who ask get the same certificate.
func (m *Manager) Certificate(ctx context.Context, id spiffe.ID, priority Priority) (*Certificate, error) {
	m.mu.Lock()
	e, err := m.request(id, priority)
	if err != nil || !e.initializing() {
		defer m.mu.Unlock()
		if err != nil {
			return nil, err
		}
		return e.cert, e.err
	}
	m.mu.Unlock()
	select {
	case <-e.done:
	case <-ctx.Done():
		return nil, &WaitError{ID: id, Err: context.Cause(ctx)}
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	return e.cert, e.err
}

// Prefetch sees to it that there will be a certificate of id, and does not wait for it. The error is ErrTooMany or
// ErrStopped; a failure of the CA is logged and retried.
func (m *Manager) Prefetch(id spiffe.ID) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	_, err := m.request(id, Warmup)
	return err
}

// request finds or makes the entry of an identity, and puts it forward in the queue while it has no result. The caller
// holds the lock.
func (m *Manager) request(id spiffe.ID, priority Priority) (*entry, error) {
	e, ok := m.entries[id]
	if ok && !e.initializing() {
		return e, nil
	}
	if m.stopped {
		return nil, ErrStopped
	}
	if !ok {
		if len(m.entries) >= m.cfg.MaxIdentities {
			m.refused++
			return nil, ErrTooMany
		}
		e = &entry{done: make(chan struct{})}
		m.entries[id] = e
	}
	if m.flights[id] {
		return e, nil // also if it was begun before the identity was forgotten and wanted again
	}
	m.queue.pushIncrease(id, priority, time.Now())
	m.notify()
	return e, nil
}

// Forget drops an identity: its certificate is not renewed any more, those who wait for it get ErrForgotten, and the result
// of a request that runs is discarded. Whoever asks for it afterwards begins anew.
func (m *Manager) Forget(id spiffe.ID) {
	m.mu.Lock()
	defer m.mu.Unlock()
	e, ok := m.entries[id]
	if !ok {
		return
	}
	delete(m.entries, id)
	e.set(nil, ErrForgotten)
	m.queue.remove(id)
	m.notify()
}

// notify lets the worker look at the queue.
func (m *Manager) notify() {
	select {
	case m.wake <- struct{}{}:
	default:
	}
}
