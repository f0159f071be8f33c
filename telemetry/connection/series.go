package connection

import (
	"sync"
	"time"

	"go.opentelemetry.io/otel/metric"
)

// series is one pair of ends with everything that is counted for it. Its
// totals at a collection are those of closed connections plus those of live
// records, both read under mu, so that a total never runs backwards while a
// connection moves from one to the other.
type series struct {
	recorder *Recorder
	key      key // not changed after the series is in its shard
	overflow bool

	mu       sync.Mutex
	live     *Record // list of the open records
	active   int     // its length
	opened   uint64
	received uint64 // by closed connections
	sent     uint64
	closed   [len(flags)]uint64
	variants int       // flags with a closed connection
	evicted  bool      // it is in no shard any more
	idle     time.Time // since when there is no live record

	// options are the cached label sets for observing, by flag; the last one
	// is without response_flags. Under Recorder.collecting.
	options [len(flags) + 1][]metric.ObserveOption
}

// open adds a record, unless the series was evicted, which cannot be while the
// caller has found it in a shard and holds the shard's lock.
func (s *series) open(r *Record) bool {
	s.mu.Lock()
	if s.evicted {
		s.mu.Unlock()
		return false
	}
	r.series, r.next = s, s.live
	if s.live != nil {
		s.live.prev = r
	}
	s.live = r
	s.active++
	s.opened++
	s.mu.Unlock()
	return true
}

// close takes a record out and counts its end. It returns false if the record
// was closed before.
func (s *series) close(r *Record, flag int, now time.Time) bool {
	rec := s.recorder
	s.mu.Lock()
	if r.closed {
		s.mu.Unlock()
		return false
	}
	r.closed = true
	if r.prev != nil {
		r.prev.next = r.next
	} else {
		s.live = r.next
	}
	if r.next != nil {
		r.next.prev = r.prev
	}
	r.prev, r.next = nil, nil
	s.received += r.Received.Load()
	s.sent += r.Sent.Load()
	if s.active--; s.active == 0 {
		s.idle = now
	}
	counted := s.countEnd(flag)
	s.mu.Unlock()
	if !counted {
		rec.closedOverflow.Add(1)
		if flag != 0 {
			rec.failedOverflow.Add(1)
		}
		rec.endInOverflow(&s.key, flag)
	}
	return true
}

// countEnd counts a closed connection unless this would make a label set more
// than there may be. The caller holds mu.
func (s *series) countEnd(flag int) bool {
	rec := s.recorder
	if s.closed[flag] == 0 && !s.overflow {
		if rec.closedVariants.Add(1) > int64(rec.maxSeries) {
			rec.closedVariants.Add(-1)
			return false
		}
		if flag != 0 {
			rec.failedVariants.Add(1)
		}
		s.variants++
	}
	s.closed[flag]++
	return true
}

// totals are what a series reports in one collection.
type totals struct {
	active                 int
	opened, received, sent uint64
	closed                 [len(flags)]uint64
}

func (s *series) totals() totals {
	s.mu.Lock()
	defer s.mu.Unlock()
	t := totals{active: s.active, opened: s.opened, received: s.received, sent: s.sent, closed: s.closed}
	for r := s.live; r != nil; r = r.next {
		t.received += r.Received.Load()
		t.sent += r.Sent.Load()
	}
	return t
}

// evict closes the series for good if it has been without connections for so
// long. It also tells how many label sets closed and failed had for it. The
// caller takes it out of its shard, whose lock it holds.
func (s *series) evict(now time.Time, after time.Duration) (closed, failed int, ok bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.active > 0 || s.overflow || now.Sub(s.idle) < after {
		return 0, 0, false
	}
	s.evicted = true
	failed = s.variants
	if s.closed[0] > 0 {
		failed--
	}
	return s.variants, failed, true
}
