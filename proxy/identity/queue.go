package identity

import (
	"container/heap"
	"time"

	"ztunnel/proxy/spiffe"
)

// item is an identity in the queue for the CA.
type item struct {
	id       spiffe.ID
	priority Priority
	at       time.Time // when it is due, with a monotonic reading
	seq      uint64    // breaks ties: first come, first served
	index    int       // in the heap
}

// queue orders the identities that want a certificate: higher priority first, then the earlier time. Only those of
// Background priority are ever scheduled for the future, so that the top is always the next one due. The zero queue is
// empty. The Manager's lock guards it.
type queue struct {
	items heapOfItems
	byID  map[spiffe.ID]*item
	seq   uint64
}

// pushIncrease puts an identity in. If it is in already it only ever moves forward: it takes the priority and the time if
// the priority is higher, or the same and the time is earlier.
func (q *queue) pushIncrease(id spiffe.ID, priority Priority, at time.Time) {
	if it, ok := q.byID[id]; ok {
		if priority > it.priority || priority == it.priority && at.Before(it.at) {
			it.priority, it.at = priority, at
			heap.Fix(&q.items, it.index)
		}
		return
	}
	if q.byID == nil {
		q.byID = make(map[spiffe.ID]*item)
	}
	q.seq++
	it := &item{id: id, priority: priority, at: at, seq: q.seq}
	q.byID[id] = it
	heap.Push(&q.items, it)
}

// top is the item that is next, nil if there is none.
func (q *queue) top() *item {
	if len(q.items) == 0 {
		return nil
	}
	return q.items[0]
}

// pop takes the top out.
func (q *queue) pop() *item {
	it := heap.Pop(&q.items).(*item)
	delete(q.byID, it.id)
	return it
}

// remove takes an identity out, if it is in.
func (q *queue) remove(id spiffe.ID) {
	if it, ok := q.byID[id]; ok {
		heap.Remove(&q.items, it.index)
		delete(q.byID, id)
	}
}

// reschedule sets the time of an identity that is in, and its place.
func (q *queue) reschedule(it *item, at time.Time) {
	it.at = at
	heap.Fix(&q.items, it.index)
}

// heapOfItems implements heap.Interface.
type heapOfItems []*item

func (h heapOfItems) Len() int { return len(h) }

func (h heapOfItems) Less(i, j int) bool {
	a, b := h[i], h[j]
	if a.priority != b.priority {
		return a.priority > b.priority
	}
	if !a.at.Equal(b.at) {
		return a.at.Before(b.at)
	}
	return a.seq < b.seq
}

func (h heapOfItems) Swap(i, j int) {
	h[i], h[j] = h[j], h[i]
	h[i].index, h[j].index = i, j
}

func (h *heapOfItems) Push(x any) {
	it := x.(*item)
	it.index = len(*h)
	*h = append(*h, it)
}

func (h *heapOfItems) Pop() any {
	old := *h
	it := old[len(old)-1]
	old[len(old)-1] = nil
	*h = old[:len(old)-1]
	return it
}
