package logging

import (
	"errors"
	"io"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"
)

const (
	defaultQueueLines = 10_000
	// maxQueueBytes bounds the memory of the queue whatever the lines are.
	maxQueueBytes = 16 << 20
	// chunkLines is how many lines go out with one write.
	chunkLines = 64
	// freeChunks is how many empty chunks are kept for later, each with a buffer
	// of at most freeChunkBytes.
	freeChunks     = 8
	freeChunkBytes = 64 << 10
	// chunkBytes is the size of the buffer of a first chunk.
	chunkBytes = 4 << 10

	// writeDelay is how long the first of some lines waits for more, and
	// busyDelay how long the next do while lines keep coming. They are what makes
	// a line cheap under load: one wake-up and one write for all lines of that time.
	// A line waits for about ten milliseconds at most.
	writeDelay = 4 * time.Millisecond
	busyDelay  = 10 * time.Millisecond
	// kickLines is how many waiting lines end that delay.
	kickLines = 8 * chunkLines
	// stallPatience is how long lines that may wait do so when the queue is
	// full, counted from when it became full: a stalled output costs the callers
	// together this much, not each of them for each line.
	stallPatience = 100 * time.Millisecond
	// retryDelay is the pause when an output in non-blocking mode takes nothing.
	retryDelay = 5 * time.Millisecond
)

// Why a line was dropped; the index of scope.dropped.
const (
	dropFull    = iota // the queue was full, and the scope never waits
	dropStalled        // the queue stayed full for too long
	dropClosed         // the log was closed
	numReasons
)

var reasonNames = [numReasons]string{"queue_full", "stalled", "closed"}

// chunk is some whole lines that are written together.
type chunk struct {
	lines int
	bytes []byte
}

// queue holds formatted lines between the callers of put and the one caller of
// run.
type queue struct {
	output   io.Writer
	maxLines int
	block    bool

	timer       *time.Timer   // fires when lines have waited for writeDelay
	kick        chan struct{} // room for one: many lines wait
	writeErrors atomic.Uint64

	mu     sync.Mutex
	chunks []*chunk // lines in order; put fills the last
	free   []*chunk
	lines  int // lines in chunks and those being written
	bytes  int
	armed  bool // the timer or the kick will wake run
	closed bool
	// fullSince is when the queue became full; zero since lines were written.
	fullSince time.Time
	// room is closed when lines were written or the queue closed; nil when
	// nobody waits for that.
	room chan struct{}
}

func newQueue(output io.Writer, maxLines int, block bool) *queue {
	if maxLines <= 0 {
		maxLines = defaultQueueLines
	}
	timer := time.NewTimer(time.Hour)
	timer.Stop()
	return &queue{output: output, maxLines: maxLines, block: block, timer: timer, kick: make(chan struct{}, 1)}
}

func (q *queue) length() int {
	q.mu.Lock()
	defer q.mu.Unlock()
	return q.lines
}

// put queues a copy of a line, or drops and counts it.
func (q *queue) put(s *scope, level int, line []byte) {
	q.mu.Lock()
	defer q.mu.Unlock()
	for q.closed || q.full(len(line)) {
		if reason, wait := q.mayWait(s); !wait {
			s.dropped[reason].Add(1)
			return
		}
		q.waitForRoom()
	}
	last := len(q.chunks) - 1
	if last < 0 || q.chunks[last].lines == chunkLines {
		size := chunkBytes
		if last >= 0 { // as much as the lines of these days need
			size = cap(q.chunks[last].bytes)
		}
		q.chunks = append(q.chunks, q.newChunk(size))
		last++
	}
	c := q.chunks[last]
	c.bytes = append(c.bytes, line...)
	c.lines++
	q.lines++
	q.bytes += len(line)
	s.lines[level].Add(1)
	q.wake()
}

// full tells whether there is no room for a line. The first line always has
// room.
func (q *queue) full(size int) bool {
	return q.lines >= q.maxLines || (q.lines > 0 && q.bytes+size > maxQueueBytes)
}

// mayWait tells whether a line that has no room may wait for it, else why it is
// dropped.
func (q *queue) mayWait(s *scope) (reason int, wait bool) {
	switch {
	case q.closed:
		return dropClosed, false
	case q.block:
		return 0, true
	case s.lossy:
		return dropFull, false
	case q.fullSince.IsZero():
		q.fullSince = time.Now()
		return 0, true
	case time.Since(q.fullSince) < stallPatience:
		return 0, true
	default:
		return dropStalled, false
	}
}

// waitForRoom waits until there may be room, or patience is at its end. It
// gives the lock away meanwhile.
func (q *queue) waitForRoom() {
	if q.room == nil {
		q.room = make(chan struct{})
	}
	room, patience := q.room, stallPatience-time.Since(q.fullSince)
	q.mu.Unlock()
	defer q.mu.Lock()
	if q.block {
		<-room
		return
	}
	timer := time.NewTimer(patience)
	defer timer.Stop()
	select {
	case <-room:
	case <-timer.C:
	}
}

// wake sees to it that run comes for the lines: soon, or now if they are many.
func (q *queue) wake() {
	if !q.armed {
		q.armed = true
		q.timer.Reset(writeDelay)
	}
	if q.lines == kickLines || q.lines == q.maxLines {
		select {
		case q.kick <- struct{}{}:
		default: // it is about to come
		}
	}
}

// newChunk is an empty chunk, with a buffer of some size if it is not one of
// those that were written.
func (q *queue) newChunk(size int) *chunk {
	if n := len(q.free); n > 0 {
		c := q.free[n-1]
		q.free = q.free[:n-1]
		return c
	}
	return &chunk{bytes: make([]byte, 0, min(size, freeChunkBytes))}
}

// run writes lines until one of the channels is closed. Then it closes the
// queue and writes what is left in it.
func (q *queue) run(stop, stop2 <-chan struct{}) {
	for open := true; open; {
		select {
		case <-q.timer.C:
		case <-q.kick:
		case <-stop:
			open = false
		case <-stop2:
			open = false
		}
		if !open {
			q.close()
		}
		q.writeAll()
	}
}

func (q *queue) close() {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.closed = true
	q.signalRoom()
}

// writeAll writes the lines that are there now. If others came meanwhile, it
// arms the timer for them, so that under load there is a write per writeDelay,
// not per line.
func (q *queue) writeAll() {
	for {
		chunks := q.take()
		for _, c := range chunks {
			q.write(c.bytes)
			q.release(c)
		}
		if q.rest() {
			return
		}
	}
}

func (q *queue) take() []*chunk {
	q.mu.Lock()
	defer q.mu.Unlock()
	chunks := q.chunks
	q.chunks = nil
	return chunks
}

// rest tells whether run may wait for the next wake-up, which it arms if there
// are lines.
func (q *queue) rest() bool {
	q.mu.Lock()
	defer q.mu.Unlock()
	switch {
	case q.lines == 0:
		q.armed = false
		q.timer.Stop()
		return true
	case q.closed || q.lines >= kickLines:
		return false
	default:
		q.timer.Reset(busyDelay)
		return true
	}
}

// release gives the room of a written chunk to others.
func (q *queue) release(c *chunk) {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.lines -= c.lines
	q.bytes -= len(c.bytes)
	q.fullSince = time.Time{}
	q.signalRoom()
	if len(q.free) < freeChunks && cap(c.bytes) <= freeChunkBytes {
		c.lines, c.bytes = 0, c.bytes[:0]
		q.free = append(q.free, c)
	}
}

func (q *queue) signalRoom() {
	if q.room != nil {
		close(q.room)
		q.room = nil
	}
}

// write writes all of b, whatever parts the output takes. An error is counted,
// and what is left of b is lost: there is no place to report it.
func (q *queue) write(b []byte) {
	for len(b) > 0 {
		n, err := q.output.Write(b)
		if n < 0 || n > len(b) {
			q.writeErrors.Add(1)
			return
		}
		b = b[n:]
		switch {
		case err == nil && n > 0, errors.Is(err, unix.EINTR):
		case err == nil, errors.Is(err, unix.EAGAIN), errors.Is(err, io.ErrShortWrite) && n > 0:
			time.Sleep(retryDelay) //nolint:forbidigo // the output does not tell when it takes more
		default:
			q.writeErrors.Add(1)
			return
		}
	}
}
