// Package live remembers the open connections of one pod: it lists them for
// the admin server, checks them again when policy changes, and ends them with
// a cause. It does not move bytes and knows nothing of routes; the packages
// inbound and outbound register what they serve.
package live

import (
	"context"
	"net/netip"
	"sync"
	"sync/atomic"

	"ztunnel/proxy/spiffe"
	"ztunnel/telemetry/connection"
)

// Causes with which a connection is ended from outside. Their texts are those
// that the reference writes to the access log.
var (
	// ErrPolicyChanged ends a connection that policy no longer allows.
	ErrPolicyChanged error = &cause{"connection closed due to policy change", connection.FlagDeny}
	// ErrDraining ends a connection that outlives the deadline of a drain. It
	// is an error for the log, but not a failure for the metrics.
	ErrDraining error = &cause{"connection closed due to connection drain", connection.FlagNone}
	// ErrCertificateRevoked ends a connection whose peer's certificate was revoked.
	ErrCertificateRevoked error = &cause{"connection closed: peer certificate revoked by CRL", connection.FlagRevoked}
)

// cause is why a connection was ended from outside.
type cause struct {
	text string
	flag connection.Flag
}

func (c *cause) Error() string                { return c.text }
func (c *cause) FailureFlag() connection.Flag { return c.flag }

// Protocol is how a connection leaves or enters the pod, as the config dump
// names it.
type Protocol string

// The protocols of the config dump.
const (
	TCP         Protocol = "TCP"
	HBONE       Protocol = "HBONE"
	DoubleHBONE Protocol = "DOUBLEHBONE"
)

// Conn is one open connection. Its exported fields are set before Add and not
// changed afterwards.
type Conn struct {
	Inbound  bool
	Src      netip.AddrPort
	Original netip.AddrPort // outbound: the destination that the application dialled
	Host     string         // inbound: the service that the client named, or ""
	Actual   netip.AddrPort // where the connection really goes
	Protocol Protocol
	Identity spiffe.ID // of the peer; zero if it has none
	Workload string    // UID of the destination workload, for messages

	// Cancel ends the connection with a cause. It must not block.
	Cancel context.CancelCauseFunc
	// Recheck tells whether policy still allows the connection: nil if so.
	// Nil for connections that no policy rules.
	Recheck func() error

	set        *Set
	shard      *shard
	next, prev *Conn
	done       chan struct{} // made on demand by Recheck, closed by Remove
}

// shards bounds how many connections wait for one another when they open and close.
const shards = 16

type shard struct {
	mu   sync.Mutex
	head *Conn
	_    [40]byte // keeps shards on cache lines of their own
}

// Set is the connections of one pod. Its zero value is empty and ready. All
// methods may be called concurrently.
type Set struct {
	shards  [shards]shard
	spread  atomic.Uint32
	count   atomic.Int64
	waiters sync.Mutex
	empty   chan struct{} // closed when count falls to 0; nil if nobody waits
}

// Add registers a connection. Every Add needs one Remove.
func (s *Set) Add(c *Conn) {
	s.count.Add(1)
	sh := &s.shards[s.spread.Add(1)%shards]
	c.set, c.shard = s, sh
	sh.mu.Lock()
	c.next = sh.head
	if c.next != nil {
		c.next.prev = c
	}
	sh.head = c
	sh.mu.Unlock()
}

// Remove takes the connection out of its set.
func (c *Conn) Remove() {
	sh := c.shard
	sh.mu.Lock()
	if c.prev != nil {
		c.prev.next = c.next
	} else {
		sh.head = c.next
	}
	if c.next != nil {
		c.next.prev = c.prev
	}
	c.next, c.prev = nil, nil
	done := c.done
	sh.mu.Unlock()
	if done != nil {
		close(done)
	}
	if c.set.count.Add(-1) == 0 {
		c.set.nowEmpty()
	}
}

// Len is the number of open connections.
func (s *Set) Len() int { return int(s.count.Load()) }

func (s *Set) nowEmpty() {
	s.waiters.Lock()
	defer s.waiters.Unlock()
	if s.empty != nil && s.count.Load() == 0 {
		close(s.empty)
		s.empty = nil
	}
}

// Wait returns when no connection is open, or with ctx's cause.
func (s *Set) Wait(ctx context.Context) error {
	s.waiters.Lock()
	if s.count.Load() == 0 {
		s.waiters.Unlock()
		return nil
	}
	if s.empty == nil {
		s.empty = make(chan struct{})
	}
	empty := s.empty
	s.waiters.Unlock()
	select {
	case <-empty:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// CancelAll ends all connections with a cause, and returns how many.
func (s *Set) CancelAll(cause error) int {
	conns := s.List()
	for _, c := range conns {
		c.Cancel(cause)
	}
	return len(conns)
}

// List is the open connections in no particular order. The caller must not
// change them.
func (s *Set) List() []*Conn {
	list := make([]*Conn, 0, s.Len())
	for i := range s.shards {
		sh := &s.shards[i]
		sh.mu.Lock()
		for c := sh.head; c != nil; c = c.next {
			list = append(list, c)
		}
		sh.mu.Unlock()
	}
	return list
}

// Recheck asks every ruled connection whether it is still allowed, ends those
// that are not with ErrPolicyChanged, and waits until these are gone or ctx
// ends. It returns the connections that it ended.
func (s *Set) Recheck(ctx context.Context) []*Conn {
	var ended []*Conn
	for _, c := range s.List() {
		if c.Recheck != nil && c.Recheck() != nil {
			c.Cancel(ErrPolicyChanged)
			ended = append(ended, c)
		}
	}
	for _, c := range ended {
		c.wait(ctx)
	}
	return ended
}

// wait returns when the connection was removed, or ctx ends.
func (c *Conn) wait(ctx context.Context) {
	sh := c.shard
	sh.mu.Lock()
	if c.prev == nil && c.next == nil && sh.head != c {
		sh.mu.Unlock()
		return
	}
	if c.done == nil {
		c.done = make(chan struct{})
	}
	done := c.done
	sh.mu.Unlock()
	select {
	case <-done:
	case <-ctx.Done():
	}
}
