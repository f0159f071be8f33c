package identity

import (
	"cmp"
	"fmt"
	"slices"
	"testing"
	"time"

	"pgregory.net/rapid"

	"ztunnel/proxy/spiffe"
)

// slowQueue is what a queue does, with a list.
type slowQueue struct {
	list []item
	seq  uint64
}

func (s *slowQueue) find(id spiffe.ID) int {
	return slices.IndexFunc(s.list, func(it item) bool { return it.id == id })
}

func (s *slowQueue) push(id spiffe.ID, p Priority, at time.Time) {
	i := s.find(id)
	if i < 0 {
		s.seq++
		s.list = append(s.list, item{id: id, priority: p, at: at, seq: s.seq})
		return
	}
	if it := &s.list[i]; p > it.priority || p == it.priority && at.Before(it.at) {
		it.priority, it.at = p, at
	}
}

func (s *slowQueue) sort() {
	slices.SortFunc(s.list, func(a, b item) int {
		return cmp.Or(-cmp.Compare(a.priority, b.priority), a.at.Compare(b.at), cmp.Compare(a.seq, b.seq))
	})
}

func TestQueue_Model(t *testing.T) {
	start := time.Now()
	ids := make([]spiffe.ID, 6)
	for i := range ids {
		ids[i] = spiffe.ID{TrustDomain: "td", Namespace: "ns", ServiceAccount: fmt.Sprint(i)}
	}
	rapid.Check(t, func(t *rapid.T) {
		var q queue
		var model slowQueue
		at := func() time.Time {
			return start.Add(time.Duration(rapid.IntRange(0, 5).Draw(t, "at")) * time.Second)
		}
		id := rapid.SampledFrom(ids)
		t.Repeat(map[string]func(*rapid.T){
			"push": func(t *rapid.T) {
				id, p, at := id.Draw(t, "id"), Priority(rapid.IntRange(0, 2).Draw(t, "priority")), at()
				q.pushIncrease(id, p, at)
				model.push(id, p, at)
			},
			"remove": func(t *rapid.T) {
				id := id.Draw(t, "id")
				q.remove(id)
				if i := model.find(id); i >= 0 {
					model.list = slices.Delete(model.list, i, i+1)
				}
			},
			"reschedule": func(t *rapid.T) {
				id, at := id.Draw(t, "id"), at()
				if it := q.byID[id]; it != nil {
					q.reschedule(it, at)
					model.list[model.find(id)].at = at
				}
			},
			"pop": func(t *rapid.T) {
				model.sort()
				if q.top() == nil {
					if len(model.list) != 0 {
						t.Fatalf("top() = nil, want %v", model.list[0])
					}
					t.Skip("empty")
				}
				top, got := q.top(), q.pop()
				want := model.list[0]
				model.list = model.list[1:]
				if top != got || got.id != want.id || got.priority != want.priority || !got.at.Equal(want.at) {
					t.Fatalf("pop() = %+v, want %+v", *got, want)
				}
			},
			"": func(t *rapid.T) {
				if len(q.items) != len(model.list) || len(q.byID) != len(model.list) {
					t.Fatalf("queue holds %d items, %d ids; want %d", len(q.items), len(q.byID), len(model.list))
				}
				for i, it := range q.items {
					if it.index != i || q.byID[it.id] != it {
						t.Fatalf("item %d has index %d", i, it.index)
					}
				}
			},
		})
	})
}

func TestBackoff(t *testing.T) {
	start := time.Now()
	b := newBackoff(start)
	jittered := false
	for i, want := range []time.Duration{1, 2, 4, 8, 16, 32, 64, 128, 150, 150, 150} {
		want *= time.Second
		got := b.next(start.Add(time.Minute))
		if low, high := want*8/10, want*12/10; got < low || got > high {
			t.Errorf("next() number %d = %v, want %v to %v", i, got, low, high)
		}
		jittered = jittered || got != want
	}
	if !jittered {
		t.Error("next() has no jitter")
	}
	for range 3 {
		if got := b.next(start.Add(15 * time.Minute)); got != 150*time.Second {
			t.Errorf("next() after 15 minutes = %v, want 2m30s", got)
		}
	}
	if got := newBackoff(start).next(start.Add(15 * time.Minute)); got != 150*time.Second {
		t.Errorf("next() first after 15 minutes = %v, want 2m30s", got)
	}
}

// A wall clock that is set moves renewals, and does not move retries.
func TestManager_ClockSet(t *testing.T) {
	now := time.Now()
	m := NewManager(nil, Config{})
	renewing, failing, wanted := spiffe.ID{ServiceAccount: "a"}, spiffe.ID{ServiceAccount: "b"}, spiffe.ID{ServiceAccount: "c"}
	ca, err := NewFakeCA(FakeCAConfig{})
	if err != nil {
		t.Fatal(err)
	}
	cert, err := ca.Sign(t.Context(), renewing)
	if err != nil {
		t.Fatal(err)
	}
	retry := now.Add(100 * time.Second)
	m.entries[renewing] = &entry{cert: cert}
	m.entries[failing] = &entry{cert: cert, backoff: newBackoff(now)}
	m.queue.pushIncrease(renewing, Background, now.Add(23*time.Hour)) // as computed 11 hours ago by the wall clock
	m.queue.pushIncrease(failing, Background, retry)
	if due, sleep := m.due(now); len(due) != 0 || sleep != time.Minute {
		t.Fatalf("due() = %v, %v, want none, 1m0s", due, sleep)
	}
	if got := m.queue.byID[renewing].at.Sub(now); got != 23*time.Hour {
		t.Fatalf("renewal is in %v before the clock is set, want 23h", got)
	}
	m.clock.wall = m.clock.wall.Add(-11 * time.Hour) // so now is 11 hours ahead of it
	m.entries[wanted] = &entry{done: make(chan struct{})}
	m.due(now.Add(time.Second))
	if got := m.queue.byID[renewing].at.Sub(now).Round(time.Minute); got != 12*time.Hour {
		t.Errorf("renewal is in %v after the clock was set, want 12h", got)
	}
	if got := m.queue.byID[failing].at; !got.Equal(retry) {
		t.Errorf("retry is in %v after the clock was set, want 1m40s", got.Sub(now))
	}
	m.clock.wall = m.clock.wall.Add(-time.Second)
	m.queue.reschedule(m.queue.byID[renewing], now.Add(23*time.Hour))
	m.due(now.Add(2 * time.Second))
	if got := m.queue.byID[renewing].at.Sub(now); got != 23*time.Hour {
		t.Errorf("renewal is in %v after a second of drift, want it untouched, 23h", got)
	}
}
