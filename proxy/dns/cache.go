package dns

import (
	"container/list"
	"encoding/binary"
	"errors"
	"sync"
	"time"
)

// Bounds of a cache.
const (
	maxKept      = 4096    // answers
	maxKeptBytes = 2 << 20 // of all answers together
	maxKeptSize  = 8 << 10 // of one; a larger one is asked for again
)

// cache keeps answers for as long as they live. When it is full, those go that
// were not asked for the longest. It also brings together those who ask the same
// at once: each query more would be another chance for a forged answer. An empty
// one has little memory; its zero value is empty.
type cache struct {
	mu      sync.Mutex
	kept    map[string]*list.Element // by key
	order   list.List                // of *keptReply, those used last in front
	bytes   int
	flights map[string]*flight // by key, of what is being asked
}

// flight is one question that is being asked.
type flight struct {
	done  chan struct{} // closed when the others are set
	reply *reply
	err   error
}

type keptReply struct {
	key   string
	reply *reply
}

// size is about how much memory it takes.
func (k *keptReply) size() int { return 256 + len(k.key) + len(k.reply.body) + 6*len(k.reply.records) }

// appendKey appends what two questions must have in common to have the same
// answer.
func (q *question) appendKey(dst []byte) []byte {
	dst = appendLower(dst, q.name.wire)
	dst = binary.BigEndian.AppendUint16(dst, q.qtype)
	dst = binary.BigEndian.AppendUint16(dst, q.qclass)
	var flags byte
	if q.dnssec {
		flags = 1
	}
	if q.flags&flagCheckingDisabled != 0 {
		flags |= 2
	}
	return append(dst, flags)
}

// join returns the answer of a key, or who is asking for it. first says that this
// is the caller, who must go on with lead.
func (c *cache) join(key []byte, now time.Time) (r *reply, same *flight, first bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if r := c.getLocked(key, now); r != nil {
		return r, nil, false
	}
	if same := c.flights[string(key)]; same != nil {
		return nil, same, false
	}
	if c.flights == nil {
		c.flights = make(map[string]*flight)
	}
	same = &flight{done: make(chan struct{}), err: errors.New("asking has failed")}
	c.flights[string(key)] = same
	return nil, same, true
}

// lead asks for an answer on behalf of all that join, and keeps it if it may be
// kept.
func (c *cache) lead(key []byte, same *flight, ask func() (*reply, error)) (*reply, error) {
	defer c.end(key, same) // also after a panic
	same.reply, same.err = ask()
	return same.reply, same.err
}

// end tells all that have joined what came of asking, which the flight has, and
// keeps an answer if it may be kept.
func (c *cache) end(key []byte, same *flight) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if same.err == nil {
		c.putLocked(key, same.reply)
	}
	delete(c.flights, string(key))
	close(same.done)
}

// get returns the answer of a key, or nil.
func (c *cache) get(key []byte, now time.Time) *reply {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.getLocked(key, now)
}

func (c *cache) getLocked(key []byte, now time.Time) *reply {
	e := c.kept[string(key)]
	if e == nil {
		return nil
	}
	k := e.Value.(*keptReply)
	if k.reply.expired(now) {
		c.remove(e)
		return nil
	}
	c.order.MoveToFront(e)
	return k.reply
}

// putLocked keeps an answer, if it may be kept.
func (c *cache) putLocked(key []byte, r *reply) {
	k := &keptReply{key: string(key), reply: r}
	if r.keep <= 0 || k.size() > maxKeptSize {
		return
	}
	if e := c.kept[k.key]; e != nil {
		c.remove(e)
	}
	for e := c.order.Back(); e != nil && (len(c.kept) >= maxKept || c.bytes+k.size() > maxKeptBytes); e = c.order.Back() {
		c.remove(e)
	}
	for range 2 { // so that names which nobody asks for again go some time
		if e := c.order.Back(); e != nil && e.Value.(*keptReply).reply.expired(r.asked) {
			c.remove(e)
		}
	}
	if c.kept == nil { // the last one has gone
		c.kept = make(map[string]*list.Element)
	}
	c.kept[k.key] = c.order.PushFront(k)
	c.bytes += k.size()
}

// remove forgets one answer. The caller holds the lock.
func (c *cache) remove(e *list.Element) {
	k := c.order.Remove(e).(*keptReply)
	delete(c.kept, k.key)
	c.bytes -= k.size()
	if len(c.kept) == 0 {
		c.kept = nil // a map does not shrink
	}
}
