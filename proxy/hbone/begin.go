package hbone

import (
	"runtime"
	"slices"
	"time"
)

// beginnings are the handlers of one tunnel that have not answered their requests
// yet. When there are more than maxBeginnings, the others wait, and go on a few at
// a time in the order of their streams: otherwise a tunnel that opens all of its
// streams at once would keep every processor of Go's scheduler busy, which then
// looks for what has arrived on the sockets of others only every 10 ms.
//
// A handler that waits for something, such as an application that does not take
// the connection, must not hold up the others: whenever none has answered for
// beginPatience, those that run count no more, and twice as many as the last time
// begin. It is guarded by conn.mu.
type beginnings struct {
	most    int // run while others wait
	running []*Stream
	waiting []*Stream
	// patience runs while streams wait. answered says that a handler has, since it
	// was set; stuck is how often in a row none had.
	patience *time.Timer
	answered bool
	stuck    int
}

const (
	// maxBeginnings is more than come together in ordinary traffic, where taking
	// turns would cost a tenth more processor time.
	maxBeginnings = 16
	// beginPatience is many times what a handler needs that does not wait.
	beginPatience = 2 * time.Millisecond
)

// mostBeginnings leaves one processor to others if there are two.
func mostBeginnings() int { return max(1, runtime.GOMAXPROCS(0)/2) }

// beginLocked reports whether the handler of a new stream may begin at once, under
// c.mu. Else it begins when its turn has come.
func (sc *ServerConn) beginLocked(s *Stream) bool {
	b := &sc.beginnings
	if len(b.running) < maxBeginnings && len(b.waiting) == 0 {
		b.running = append(b.running, s)
		return true
	}
	b.waiting = append(b.waiting, s)
	if len(b.waiting) > 1 {
		return false
	}
	b.answered, b.stuck = false, 0
	if b.patience == nil {
		b.patience = time.AfterFunc(beginPatience, sc.impatient)
	} else {
		b.patience.Reset(beginPatience)
	}
	return false
}

// begunLocked notes that the handler of a stream has answered or ended, under
// c.mu. It may be called again. The caller must start what it returns, if not nil.
func (sc *ServerConn) begunLocked(s *Stream) (next *Stream) {
	if sc == nil { // a client has no handlers
		return nil
	}
	b := &sc.beginnings
	i := slices.Index(b.running, s)
	if i < 0 {
		return nil
	}
	b.running = slices.Delete(b.running, i, i+1)
	b.answered = true
	if len(b.waiting) == 0 || len(b.running) >= b.most {
		return nil
	}
	return b.nextLocked()
}

// nextLocked takes the first stream that waits.
func (b *beginnings) nextLocked() *Stream {
	s := b.waiting[0]
	b.waiting = slices.Delete(b.waiting, 0, 1)
	b.running = append(b.running, s)
	return s
}

// impatient is called by the timer.
func (sc *ServerConn) impatient() {
	b, c := &sc.beginnings, sc.c
	var start []*Stream
	c.mu.Lock()
	if b.answered {
		b.answered, b.stuck = false, 0
	} else if len(b.waiting) > 0 {
		b.stuck++
		b.running = b.running[:0]
		for range min(b.most<<b.stuck, len(b.waiting)) {
			start = append(start, b.nextLocked())
		}
	}
	if len(b.waiting) > 0 {
		b.patience.Reset(beginPatience)
	}
	c.mu.Unlock()
	for _, s := range start {
		sc.start(s)
	}
}

// giveUpLocked takes a stream out of those that wait, under c.mu. It reports false
// if its handler has begun.
func (sc *ServerConn) giveUpLocked(s *Stream) bool {
	b := &sc.beginnings
	i := slices.Index(b.waiting, s)
	if i < 0 {
		return false
	}
	b.waiting = slices.Delete(b.waiting, i, i+1)
	s.handled = false
	sc.handlers.Done()
	return true
}

// giveUpAll forgets the streams that wait, after the end of the tunnel.
func (sc *ServerConn) giveUpAll() {
	b, c := &sc.beginnings, sc.c
	c.mu.Lock()
	defer c.mu.Unlock()
	for len(b.waiting) > 0 {
		sc.giveUpLocked(b.waiting[len(b.waiting)-1])
	}
	if b.patience != nil {
		b.patience.Stop()
	}
}

// start starts the handler of a stream; nil starts none.
func (sc *ServerConn) start(s *Stream) {
	if s != nil {
		sc.c.cfg.Go(func() { sc.run(s) })
	}
}
