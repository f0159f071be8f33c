package hbone

// queue is received payload that nobody has taken yet, in order. The buffers
// themselves are linked, so that it needs no memory but theirs. Its owner locks.
type queue struct{ head, tail *buffer }

func (q *queue) empty() bool { return q.head == nil }

// add copies p to the end.
func (q *queue) add(p []byte) {
	for len(p) > 0 {
		if t := q.tail; t != nil {
			if n := copy(t.b[t.w:], p); n > 0 {
				t.w += n
				p = p[n:]
				continue
			}
		}
		b := takeBuffer(classFor(min(len(p), classSize[classBig])))
		b.r, b.w, b.next = 0, 0, nil
		if q.tail == nil {
			q.head = b
		} else {
			q.tail.next = b
		}
		q.tail = b
	}
}

// take removes the first buffer, which must exist. Its bytes are b[r:w], and it
// is the caller's to release.
func (q *queue) take() *buffer {
	b := q.head
	q.head, b.next = b.next, nil
	if q.head == nil {
		q.tail = nil
	}
	return b
}

// untake puts back what take has returned, with the bytes that are left.
func (q *queue) untake(b *buffer) {
	b.next = q.head
	q.head = b
	if q.tail == nil {
		q.tail = b
	}
}

// read moves bytes to p and returns how many.
func (q *queue) read(p []byte) (n int) {
	for n < len(p) && q.head != nil {
		b := q.head
		k := copy(p[n:], b.b[b.r:b.w])
		n += k
		if b.r += k; b.r == b.w {
			q.take().release()
		}
	}
	return n
}

// drop releases everything and returns how many bytes it held.
func (q *queue) drop() (n int) {
	for q.head != nil {
		b := q.take()
		n += b.w - b.r
		b.release()
	}
	return n
}
