package logging

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"golang.org/x/sys/unix"
)

// gate is an output that can be stalled, and keeps what it got. It locks by a
// channel, for which synthetic time goes on.
type gate struct {
	stalled chan struct{} // closed when it is no longer stalled; nil if never
	lock    chan struct{}
	out     bytes.Buffer
	writes  int
}

func newGate(stalled bool) *gate {
	g := &gate{lock: make(chan struct{}, 1)}
	if stalled {
		g.stalled = make(chan struct{})
	}
	return g
}

func (g *gate) Write(b []byte) (int, error) {
	if g.stalled != nil {
		<-g.stalled
	}
	g.lock <- struct{}{}
	defer func() { <-g.lock }()
	g.writes++
	return g.out.Write(b)
}

func (g *gate) text() string {
	g.lock <- struct{}{}
	defer func() { <-g.lock }()
	return g.out.String()
}

// start runs a log until the end of the test.
func start(t *testing.T, cfg Config) *Logging {
	t.Helper()
	l, err := New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan error, 1)
	go func() { done <- l.Run(context.Background()) }()
	t.Cleanup(func() {
		if err := l.Close(context.Background()); err != nil {
			t.Errorf("Close: %v", err)
		}
		if err := <-done; err != nil {
			t.Errorf("Run: %v", err)
		}
	})
	return l
}

func (l *Logging) droppedOf(scope string) [numReasons]uint64 {
	var n [numReasons]uint64
	for i := range n {
		n[i] = l.scope(scope).dropped[i].Load()
	}
	return n
}

// A line alone is written after the delay, and lines of the same time together.
func TestWriterBatches(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		out := newGate(false)
		l := start(t, Config{Output: out})
		log := l.Logger("access")
		log.Info("one")
		synctest.Wait()
		if got := out.text(); got != "" {
			t.Errorf("got %q at once, want nothing yet", got)
		}
		<-time.After(writeDelay) // fake time
		synctest.Wait()
		if got := strings.Count(out.text(), "\n"); got != 1 {
			t.Errorf("%d lines after %v, want 1", got, writeDelay)
		}
		for range 10 * chunkLines / 2 { // 0.1 ms apart, 32 ms
			log.Info("many")
			<-time.After(writeDelay / 40) // fake time
		}
		<-time.After(writeDelay) // fake time
		synctest.Wait()
		if lines, writes := strings.Count(out.text(), "\n"), out.writes; lines != 321 || writes > 12 {
			t.Errorf("%d lines in %d writes, want 321 in at most 12", lines, writes)
		}
	})
}

// Many lines are written at once, 64 per write.
func TestWriterIsKicked(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		out := newGate(false)
		l := start(t, Config{Output: out})
		log := l.Logger("access")
		for range kickLines {
			log.Info("many")
		}
		synctest.Wait()
		if lines := strings.Count(out.text(), "\n"); lines != kickLines || out.writes != kickLines/chunkLines {
			t.Errorf("%d lines in %d writes, want %d in %d", lines, out.writes, kickLines, kickLines/chunkLines)
		}
	})
}

// A stalled output loses access lines at once; other lines wait, but together
// no longer than the patience of one stall.
func TestStalledOutput(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r, w := io.Pipe() // nobody reads
		l := start(t, Config{Output: w, QueueLines: 10})
		access, state := l.Logger("access"), l.Logger("state")
		begin := time.Now()
		for range 25 {
			access.Info("line")
		}
		if took := time.Since(begin); took != 0 {
			t.Errorf("access lines took %v, want none to wait", took)
		}
		for range 1000 {
			state.Info("line")
		}
		if took := time.Since(begin); took != stallPatience {
			t.Errorf("1000 other lines took %v, want %v together", took, stallPatience)
		}
		if got, want := l.droppedOf("access"), [numReasons]uint64{dropFull: 15}; got != want {
			t.Errorf("dropped access lines = %v, want %v", got, want)
		}
		if got, want := l.droppedOf("state"), [numReasons]uint64{dropStalled: 1000}; got != want {
			t.Errorf("dropped state lines = %v, want %v", got, want)
		}
		if got := l.queue.length(); got != 10 {
			t.Errorf("queue length = %d, want 10", got)
		}

		var read bytes.Buffer
		var reading sync.WaitGroup
		reading.Go(func() { _, _ = io.Copy(&read, r) })
		<-time.After(time.Second) // fake time
		state.Info("after the stall")
		<-time.After(time.Second) // fake time
		w.Close()
		reading.Wait()
		if got := strings.Count(read.String(), "\n"); got != 11 || !strings.Contains(read.String(), "after the stall") {
			t.Errorf("%d lines after the stall, want 11 with the last one", got)
		}
	})
}

// A line that waits gets through when there is room in time.
func TestWaitForRoom(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		out := newGate(true)
		l := start(t, Config{Output: out, QueueLines: 1})
		log := l.Logger("state")
		log.Info("one")
		time.AfterFunc(stallPatience/2, func() { close(out.stalled) })
		log.Info("two")
		<-time.After(time.Second) // fake time
		if got := strings.Count(out.text(), "\n"); got != 2 {
			t.Errorf("%d lines, want 2", got)
		}
	})
}

// With BlockOnFull a second line waits for as long as it takes.
func TestBlockOnFull(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		out := newGate(true)
		l := start(t, Config{Output: out, QueueLines: 1, BlockOnFull: true})
		log := l.Logger("access")
		log.Info("one")
		second := make(chan struct{})
		go func() {
			log.Info("two")
			close(second)
		}()
		<-time.After(time.Hour) // fake time
		select {
		case <-second:
			t.Error("the second line did not wait")
		default:
		}
		close(out.stalled)
		<-second
		<-time.After(time.Second) // fake time
		if got := strings.Count(out.text(), "\n"); got != 2 {
			t.Errorf("%d lines, want 2", got)
		}
	})
}

// A real pipe that nobody reads: callers go on, Close gives up in time.
func TestStalledPipe(t *testing.T) {
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	l, err := New(Config{Output: w, QueueLines: 1000})
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan error, 1)
	go func() { done <- l.Run(context.Background()) }()
	access, state := l.Logger("access"), l.Logger("state")
	begin := time.Now()
	const n = 20_000
	var callers sync.WaitGroup
	for range 4 {
		callers.Go(func() {
			for i := range n / 4 {
				access.Info("connection complete", "padding", "0123456789012345678901234567890123456789012345678901234567890123456789")
				if i%100 == 0 {
					state.Info("line")
				}
			}
		})
	}
	callers.Wait()
	if took := time.Since(begin); took > 3*time.Second {
		t.Errorf("%d lines took %v, want them not to wait", n, took)
	}
	if got := l.droppedOf("access"); got[dropFull] == 0 {
		t.Errorf("dropped access lines = %v, want some", got)
	}
	if err := l.Close(t.Context()); err == nil {
		t.Error("Close = nil, want an error because of the lines left")
	}
	go func() { _, _ = io.Copy(io.Discard, r) }() // ends with the pipe
	if err := <-done; err != nil {
		t.Errorf("Run = %v", err)
	}
	w.Close()
	access.Info("too late")
	if got := l.droppedOf("access"); got[dropClosed] != 1 {
		t.Errorf("dropped access lines = %v, want 1 after the end", got)
	}
}

// oddOutput takes parts of lines, is interrupted, and fails for a while.
type oddOutput struct {
	out   bytes.Buffer
	calls int
}

func (o *oddOutput) Write(b []byte) (int, error) {
	o.calls++
	switch o.calls % 4 {
	case 0:
		return 0, fmt.Errorf("write: %w", unix.EINTR)
	case 1:
		return 0, fmt.Errorf("write: %w", unix.EAGAIN)
	default:
		return o.out.Write(b[:(len(b)+2)/3])
	}
}

// Whatever parts the output takes, the lines are whole and in order, and none
// of many writers loses any.
func TestPartialWrites(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		out := &oddOutput{}
		l, err := New(Config{Output: out, QueueLines: 100, BlockOnFull: true})
		if err != nil {
			t.Fatal(err)
		}
		var running, writers sync.WaitGroup
		running.Go(func() { _ = l.Run(t.Context()) })
		for w := range 8 {
			writers.Go(func() {
				log := l.Logger(fmt.Sprint("scope", w))
				for i := range 500 {
					log.Info("line", "i", i)
				}
			})
		}
		writers.Wait()
		// The end of a slow output is not waited for by Close alone.
		_ = l.Close(t.Context())
		running.Wait()
		next := map[string]int{}
		for line := range strings.Lines(out.out.String()) {
			columns := strings.Split(line, "\t")
			if len(columns) != 5 || columns[4] != fmt.Sprintf("i=%d\n", next[columns[2]]) {
				t.Fatalf("line %q, want number %d", line, next[columns[2]])
			}
			next[columns[2]]++
		}
		for w := range 8 {
			if n := next[fmt.Sprint("scope", w)]; n != 500 {
				t.Errorf("%d lines of writer %d, want 500", n, w)
			}
		}
	})
}

// failing is an output that is gone.
type failing struct{}

func (failing) Write([]byte) (int, error) { return 0, errors.New("gone") }

func TestFailedWritesAreCounted(t *testing.T) {
	l, err := New(Config{Output: failing{}})
	if err != nil {
		t.Fatal(err)
	}
	l.Logger("state").Info("line")
	if err := l.Close(t.Context()); err != nil {
		t.Fatal(err)
	}
	if got := l.queue.writeErrors.Load(); got != 1 {
		t.Errorf("write errors = %d, want 1", got)
	}
}

// Run ends with its context, and writes what is queued.
func TestRunEndsWithContext(t *testing.T) {
	out := newGate(false)
	l, err := New(Config{Output: out})
	if err != nil {
		t.Fatal(err)
	}
	l.Logger("state").Info("line")
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := l.Run(ctx); err != nil {
		t.Errorf("Run = %v", err)
	}
	if got := strings.Count(out.text(), "\n"); got != 1 {
		t.Errorf("%d lines, want 1", got)
	}
	if err := l.Run(ctx); err == nil {
		t.Error("second Run = nil, want an error")
	}
	if err := l.Close(t.Context()); err != nil {
		t.Errorf("Close = %v", err)
	}
}

// The memory of the queue is bounded by bytes too.
func TestQueueBytes(t *testing.T) {
	l, err := New(Config{Output: io.Discard})
	if err != nil {
		t.Fatal(err)
	}
	log, big := l.Logger("access"), strings.Repeat("x", maxString)
	for range 2 * maxQueueBytes / maxString {
		log.LogAttrs(t.Context(), slog.LevelInfo, "big", slog.String("s", big))
	}
	if l.queue.bytes > maxQueueBytes || l.droppedOf("access")[dropFull] == 0 {
		t.Errorf("%d bytes queued, %v dropped, want at most %d", l.queue.bytes, l.droppedOf("access"), maxQueueBytes)
	}
	if err := l.Close(t.Context()); err != nil {
		t.Error(err)
	}
}
