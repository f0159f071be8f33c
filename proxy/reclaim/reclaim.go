// Package reclaim gives memory back to the system when a burst is over. The Go
// runtime collects garbage in step with allocation, so a process that falls
// silent after a peak would keep the peak's garbage, and stacks that have grown,
// for minutes. One goroutine of cmd/ztunnel runs it.
//
// It decides by what the runtime counts anyway and touches nothing of the data
// path. A collection is forced only in quiet moments and only for garbage that
// is worth it, so that its cost stays far below that of the traffic that made
// the garbage.
package reclaim

import (
	"context"
	"log/slog"
	"runtime"
	"runtime/debug"
	"runtime/metrics"
	"time"
)

const (
	interval = time.Second
	// quiet is how little must have been allocated in an interval.
	quiet = 256 << 10
	// worth is how much must have been allocated since the last time, in bytes
	// and as a part of the live heap.
	worth     = 4 << 20
	worthPart = 8
)

// sample is what the runtime says at one moment, in bytes.
type sample struct {
	allocated uint64 // since the start of the process
	live      uint64 // found by the last collection
}

// Config says what else is given back.
type Config struct {
	// Trim drops what others keep for the next burst, such as buffers. It is
	// called twice, with a garbage collection in between. Nil is not called.
	Trim func()
	Log  *slog.Logger
}

// Run looks once a second and reclaims when it should, until ctx ends.
func Run(ctx context.Context, c Config) error {
	pages, err := program()
	if err != nil {
		c.Log.Debug("the program's own pages will not be released", "error", err)
	}
	ticks := time.NewTicker(interval)
	defer ticks.Stop()
	var d decider
	read := reader()
	trim := c.Trim
	if trim == nil {
		trim = func() {}
	}
	// At least an interval lies between the steps, so that each finds what the
	// others had to do for the one before done. The first gives most back at once.
	for step := 0; ; {
		select {
		case <-ctx.Done():
			return nil
		case <-ticks.C:
		}
		switch due := d.next(read()); {
		case due:
			trim()
			runtime.GC() // twice in all: what sync.Pool holds goes with the second
			debug.FreeOSMemory()
			release(pages)
			step = 1
		case !d.quiet:
		case step == 1:
			runtime.GC()
			trim()
			step = 2
		case step == 2:
			debug.FreeOSMemory()
			release(pages)
			step = 0
		}
	}
}

// reader returns a function that reads a sample without allocating.
func reader() func() sample {
	values := []metrics.Sample{
		{Name: "/gc/heap/allocs:bytes"}, {Name: "/gc/heap/live:bytes"},
	}
	return func() sample {
		metrics.Read(values)
		return sample{values[0].Value.Uint64(), values[1].Value.Uint64()}
	}
}

// decider tells from successive samples when to reclaim. Its zero value is
// ready.
type decider struct {
	last    sample
	at      uint64 // what had been allocated the last time
	started bool   // the start of the process, a burst of its own, is over
	quiet   bool   // little was allocated in the last interval
}

// next takes the sample of this interval.
func (d *decider) next(now sample) bool {
	before := d.last
	d.last = now
	d.quiet = now.allocated-before.allocated <= quiet
	if !d.quiet {
		return false
	}
	if burst := now.allocated - d.at; d.started && (burst < worth || burst < now.live/worthPart) {
		return false
	}
	d.at, d.started = now.allocated, true
	return true
}
