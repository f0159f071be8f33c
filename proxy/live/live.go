// Package live remembers the open connections of one pod: it lists them for
// the admin server, checks them again when policy changes, and ends them with
// a cause. It does not move bytes and knows nothing of routes; the packages
// inbound and outbound register what they serve.
package live

import (
	"context"
	"errors"
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
	// ErrTrustChanged ends a connection whose peer was let in when the workload was in another trust domain.
	ErrTrustChanged error = &cause{"connection closed: the trust domain of the workload has changed", connection.FlagTLS}
)

// cause is why a connection was ended from outside.
type cause struct {
	text string
	flag connection.Flag
}

// CauseOf returns the cause in the chain of err, nil if there is none: an error
// that came of ending a connection says why.
func CauseOf(err error) error {
	if c, ok := errors.AsType[*cause](err); ok {
		return c
	}
	return nil
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

// Facts are what is to be known of an open connection.
type Facts struct {
	Inbound  bool
	Src      netip.AddrPort
	Original netip.AddrPort // outbound: the destination that the application dialled
	Host     string         // inbound: the service that the client named, or ""
	Actual   netip.AddrPort // where the connection really goes
	Protocol Protocol
	Identity spiffe.ID // of the peer; zero if it has none
	Workload string    // UID of the destination workload, for messages
}

// Owner is who serves a connection.
type Owner interface {
	// Facts tells what is to be known of the connection.
	Facts() Facts
	// Recheck tells whether policy still allows the connection: nil if so, and
	// for connections that no policy rules.
	Recheck() error
}

// Conn is the place of one open connection in its set. It belongs into the
// connection's own record.
type Conn struct {
	owner Owner

	mu    sync.Mutex
	end   func(cause error) // see OnEnd
	cause error             // of End

	set        *Set
	shard      *shard
	next, prev *Conn
}

// shards bounds how many connections wait for one another when they open and close.
const shards = 16

type shard struct {
	mu   sync.Mutex
	head *Conn
	_    [48]byte // keeps shards on cache lines of their own
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

// Add registers a connection of owner. Every Add needs one Remove.
func (s *Set) Add(c *Conn, owner Owner) {
	s.count.Add(1)
	sh := &s.shards[s.spread.Add(1)%shards]
	c.owner, c.set, c.shard = owner, s, sh
	sh.mu.Lock()
	c.next = sh.head
	if c.next != nil {
		c.next.prev = c
	}
	sh.head = c
	sh.mu.Unlock()
}

// Facts are those of the owner.
func (c *Conn) Facts() Facts { return c.owner.Facts() }

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
	sh.mu.Unlock()
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

// OnEnd says how the connection is ended from now on, in place of what was said
// before: by cancelling its context while it is set up, by cancelling its stream
// later. If End was called already, it is told at once. f must not block.
func (c *Conn) OnEnd(f func(cause error)) {
	c.mu.Lock()
	c.end = f
	cause := c.cause
	c.mu.Unlock()
	if cause != nil {
		f(cause)
	}
}

// End ends the connection with a cause. The first one counts.
func (c *Conn) End(cause error) {
	c.mu.Lock()
	if c.cause == nil {
		c.cause = cause
	}
	f, cause := c.end, c.cause
	c.mu.Unlock()
	if f != nil {
		f(cause)
	}
}

// EndAll ends all connections with a cause, and returns how many.
func (s *Set) EndAll(cause error) int {
	conns := s.List()
	for _, c := range conns {
		c.End(cause)
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

// Recheck asks every ruled connection whether it is still allowed, and ends
// those that are not, with their cause or with ErrPolicyChanged. It returns these and does not wait
// for them: what a peer can delay must not delay the others.
func (s *Set) Recheck() []*Conn {
	var ended []*Conn
	for _, c := range s.List() {
		err := c.owner.Recheck()
		if err == nil {
			continue
		}
		why := CauseOf(err)
		if why == nil {
			why = ErrPolicyChanged
		}
		c.End(why)
		ended = append(ended, c)
	}
	return ended
}
