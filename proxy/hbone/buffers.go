package hbone

import "sync"

// Buffers come in four sizes. Small ones serve cold streams and tunnels and are
// pooled per processor; large ones serve hot ones, and the number kept of them
// is bounded, so that a peak is not paid for until the next garbage collections.
// A buffer is only held while bytes are in it: what waits holds none.
const (
	classCold  = iota // 8 KiB: a cold stream's read
	classWarm         // 32 KiB: at least one whole TLS record
	classBig          // 128 KiB
	classHuge         // 256 KiB and room for the overhead of its records
	numClasses        // not a class
)

// classSize is the length of a class's buffers; usable reads stay below it.
var classSize = [numClasses]int{8 << 10, 32 << 10, 128 << 10, 288 << 10}

// classRead is how many bytes a read into a buffer of the class may take.
var classRead = [numClasses]int{8 << 10, 32 << 10, 128 << 10, 256 << 10}

// keepLarge is how many idle buffers of a large class are kept: 6 MiB and 2.25 MiB.
var keepLarge = [numClasses]int{classBig: 48, classHuge: 8}

// buffer is a pooled piece of memory with one owner at a time.
type buffer struct {
	b     []byte
	class int
	// Of a queue: the bytes in it, b[r:w], and what follows.
	r, w int
	next *buffer
}

// pools are the idle buffers of the process. They hold memory and no state.
var pools struct {
	small [classBig]sync.Pool
	large [numClasses]freeList
}

// freeList is a stack, because the buffer used last is in the cache.
type freeList struct {
	mu   sync.Mutex
	free []*buffer
}

// takeBuffer returns a buffer of the class with unspecified content.
func takeBuffer(class int) *buffer {
	if class < classBig {
		if b, ok := pools.small[class].Get().(*buffer); ok {
			return b
		}
		return &buffer{b: make([]byte, classSize[class]), class: class}
	}
	l := &pools.large[class]
	l.mu.Lock()
	if n := len(l.free); n > 0 {
		b := l.free[n-1]
		l.free[n-1] = nil
		l.free = l.free[:n-1]
		l.mu.Unlock()
		return b
	}
	l.mu.Unlock()
	return &buffer{b: make([]byte, classSize[class]), class: class}
}

// newBuffer returns a buffer for n bytes, of no class if n is too much for any.
func newBuffer(n int) *buffer {
	if n > classSize[classHuge] {
		return &buffer{b: make([]byte, n), class: numClasses}
	}
	return takeBuffer(classFor(n))
}

// release gives the buffer back. The caller must not touch it afterwards.
func (b *buffer) release() {
	if b.class < classBig {
		pools.small[b.class].Put(b)
		return
	}
	if b.class == numClasses {
		return
	}
	l := &pools.large[b.class]
	l.mu.Lock()
	if len(l.free) < keepLarge[b.class] {
		l.free = append(l.free, b)
	}
	l.mu.Unlock()
}

// classFor returns the smallest class that holds n bytes, the largest if none does.
func classFor(n int) int {
	for class, size := range classSize {
		if n <= size {
			return class
		}
	}
	return classHuge
}

// trimBuffers drops the large buffers that are kept for the next use.
func trimBuffers() {
	for i := range pools.large {
		l := &pools.large[i]
		l.mu.Lock()
		clear(l.free)
		l.free = l.free[:0]
		l.mu.Unlock()
	}
}
