package profiling

import (
	"context"
	"sync"
)

// CPULock is held by whoever takes a CPU profile, because Go can take one at a
// time. Continuous profiling holds it nearly always, but makes room for
// whoever wants a profile now. The zero value is free.
type CPULock struct {
	mu   sync.Mutex
	held bool
	// yield is open while the holder would make room; closed asks it to.
	yield chan struct{}
	// heir gets the lock when the yielding holder gives it up; nil if nobody
	// asked.
	heir chan struct{}
	// freed is closed when the lock becomes free; nil if nobody waits.
	freed chan struct{}
}

// TryLock takes the lock for one profile. It fails at once if somebody else is
// taking one; from continuous profiling it takes the lock as soon as that has
// stopped, which takes a second or two.
func (l *CPULock) TryLock() bool {
	l.mu.Lock()
	if !l.held {
		l.held = true
		l.mu.Unlock()
		return true
	}
	if l.yield == nil || l.heir != nil {
		l.mu.Unlock()
		return false
	}
	heir := make(chan struct{})
	l.heir = heir
	close(l.yield)
	l.mu.Unlock()
	<-heir
	return true
}

// Unlock gives the lock up. Only its holder may call it.
func (l *CPULock) Unlock() {
	l.mu.Lock()
	defer l.mu.Unlock()
	if !l.held {
		panic("profiling: unlock of a CPULock that is free")
	}
	l.yield = nil
	if l.heir != nil {
		close(l.heir)
		l.heir = nil
		return
	}
	l.held = false
	if l.freed != nil {
		close(l.freed)
		l.freed = nil
	}
}

// lockYielding waits for the lock and returns a channel that is closed when
// somebody else wants it.
func (l *CPULock) lockYielding(ctx context.Context) (<-chan struct{}, error) {
	for {
		l.mu.Lock()
		if !l.held {
			l.held = true
			l.yield = make(chan struct{})
			yield := l.yield
			l.mu.Unlock()
			return yield, nil
		}
		if l.freed == nil {
			l.freed = make(chan struct{})
		}
		freed := l.freed
		l.mu.Unlock()
		select {
		case <-freed:
		case <-ctx.Done():
			return nil, context.Cause(ctx)
		}
	}
}
