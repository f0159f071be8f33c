package hbone

import (
	"errors"
	"os"
	"sync"
	"syscall"
	"time"
)

// tunnels are the tunnels of the process that are being read, so that Trim finds
// their streams.
var tunnels struct {
	mu   sync.Mutex
	open map[*conn]struct{}
}

func (c *conn) enter() {
	tunnels.mu.Lock()
	defer tunnels.mu.Unlock()
	if tunnels.open == nil {
		tunnels.open = map[*conn]struct{}{}
	}
	tunnels.open[c] = struct{}{}
}

func (c *conn) leave() {
	tunnels.mu.Lock()
	defer tunnels.mu.Unlock()
	delete(tunnels.open, c)
}

// Trim gives memory back when a burst is over: it drops the large buffers that
// are kept for the next use, and makes idle streams go on with new stacks, see
// [Relaying.Run]. It does not wait for the latter. Two calls with a garbage
// collection in between give back the most.
func Trim() {
	trimBuffers()
	tunnels.mu.Lock()
	open := make([]*conn, 0, len(tunnels.open))
	for c := range tunnels.open {
		open = append(open, c)
	}
	tunnels.mu.Unlock()
	for _, c := range open {
		c.renewStacks()
	}
}

func (c *conn) renewStacks() {
	c.mu.Lock()
	streams := make([]*Stream, 0, len(c.streams))
	for _, s := range c.streams {
		streams = append(streams, s)
	}
	c.mu.Unlock()
	for _, s := range streams {
		s.mu.Lock()
		r := s.relay
		s.mu.Unlock()
		if r != nil {
			r.renewStack()
		}
	}
}

// What is known of the stack of the goroutine that runs a relay. Encrypting a
// message takes more than the two kilobytes that a stack begins with at least,
// and the runtime never makes a stack of four kilobytes smaller while anything
// is on it. Where a stack begins with more, it is because the last garbage
// collection found much on the others: those that had grown. So a relay is
// moved twice, with a collection in between.
const (
	stackFixed     uint32 = iota // the goroutine is the caller's to keep
	stackGrown                   // probably
	stackLeft                    // grown, and the goroutine has been asked to end
	stackMoved                   // as small as a stack was when others had grown
	stackLeftAgain               // moved, and the goroutine has been asked to end
	stackNew                     // as small as it gets
)

// renewStack makes the goroutine of an idle stream leave its stack: it
// interrupts its wait for the application by a deadline, which nobody else uses.
func (r *relayState) renewStack() {
	if r.stack.CompareAndSwap(stackGrown, stackLeft) || r.stack.CompareAndSwap(stackMoved, stackLeftAgain) {
		_ = r.app.SetReadDeadline(time.Unix(1, 0)) // one that is closed ends anyway
	}
}

// grown notes that the stack has probably grown.
func (r *relayState) grown() {
	if old := r.stack.Load(); old == stackNew || old == stackMoved {
		r.stack.CompareAndSwap(old, stackGrown)
	}
}

// interrupted reports whether the end of a wait was renewStack's doing, and
// prepares the next one.
func (r *relayState) interrupted(err error) bool {
	old := r.stack.Load()
	if old != stackLeft && old != stackLeftAgain || !errors.Is(err, os.ErrDeadlineExceeded) {
		return false
	}
	_ = r.app.SetReadDeadline(time.Time{})
	r.class, r.small, r.peek = classCold, 0, true
	r.stack.Store(old + 1)
	return true
}

// nothingYet reports whether a read would find nothing. To ask needs less stack
// than to try with a buffer.
func nothingYet(fd uintptr) bool {
	_, _, errno := syscall.RawSyscall6(syscall.SYS_RECVFROM, fd, 0, 0, syscall.MSG_PEEK|syscall.MSG_DONTWAIT, 0, 0)
	return errno == syscall.EAGAIN
}
