package xds

import (
	"maps"
	"time"
)

// Status is how a client stands.
type Status struct {
	Address   string
	Connected bool
	Streams   int              // that came about so far
	Backoff   time.Duration    // before the next attempt; 0 while connected
	Ended     map[string]int64 // streams, by reason
	Types     []TypeStatus     // in the order of Config.Types
}

// TypeStatus is how a client stands with one type.
type TypeStatus struct {
	URL                  string
	Resources            int       // in force, of those that came from the control plane
	Messages, Nacks      int       // responses, and those of them that were rejected
	LastMessage, LastAck time.Time // zero if there was none
}

// Status returns a snapshot.
func (c *Client) Status() Status {
	n := &c.counts
	n.mu.Lock()
	defer n.mu.Unlock()
	s := Status{Address: c.cfg.Address, Connected: n.connected, Streams: n.streams, Backoff: n.backoff, Ended: maps.Clone(n.ends)}
	for _, url := range n.order {
		t := n.types[url]
		s.Types = append(s.Types, TypeStatus{
			URL: url, Resources: int(t.resources), Messages: int(t.messages), Nacks: int(t.nacks),
			LastMessage: t.lastMessage, LastAck: t.lastAck,
		})
	}
	return s
}
