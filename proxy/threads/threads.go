// Package threads decides how many threads run Go code at once. One goroutine
// of cmd/ztunnel runs it.
//
// A process that could use several threads pays for them while it has no work
// for them: the scheduler wakes one to look for what another is already doing.
// Most proxies relay little most of the time. There a single thread takes less
// CPU for the same traffic and answers sooner; under load every thread counts.
// So the number follows the load: all threads as soon as one is half busy, one
// after a second in which it was not.
package threads

import (
	"context"
	"time"

	"golang.org/x/sys/unix"
)

const (
	// How often a process is looked at that is busy, has a little to do, or is
	// idle. A burst may have to wait for so long; to look more often would wake an
	// idle process for nothing.
	busy   = 20 * time.Millisecond
	slow   = 100 * time.Millisecond
	asleep = 500 * time.Millisecond
	// calm is for how long the load must be low before one thread is left.
	calm = time.Second
	// Loads, in parts of a CPU. Above much, one thread is not enough: what waits
	// for its turn would notice. The two are apart so that a steady load does not
	// change the number all the time.
	much   = 0.5
	little = 0.4
	few    = 0.2
	idle   = 0.02
)

// Config says between how many threads to choose, and how.
type Config struct {
	Max int                           // threads under load; with 1 there is nothing to choose
	Set func(n int)                   // changes the number; runtime.GOMAXPROCS
	CPU func() (time.Duration, error) // what the process has used since its start; nil asks the kernel
}

// Run follows the load until ctx ends. At first all threads run, for the start
// is a burst. If the kernel does not tell the load, they always do, and the
// error says why.
func Run(ctx context.Context, c Config) error {
	if c.Max <= 1 {
		return nil
	}
	if c.CPU == nil {
		c.CPU = used
	}
	before, err := c.CPU()
	if err != nil {
		return err
	}
	d := decider{max: c.Max, now: c.Max}
	last := time.Now()
	timer := time.NewTimer(busy)
	defer timer.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-timer.C:
		}
		cpu, err := c.CPU()
		if err != nil {
			c.Set(c.Max)
			return err
		}
		now := time.Now()
		wait, changed := d.next(cpu-before, now.Sub(last))
		before, last = cpu, now
		if changed {
			c.Set(d.now)
		}
		timer.Reset(wait)
	}
}

// decider chooses the number from successive observations.
type decider struct {
	max, now int
	calm     time.Duration // for how long the load has been low
}

// next takes the CPU time that was used in an interval. It returns when to look
// again, and whether the number has changed.
func (d *decider) next(used, interval time.Duration) (wait time.Duration, changed bool) {
	load := used.Seconds() / max(interval, time.Millisecond).Seconds()
	switch {
	case load < idle:
		wait = asleep
	case load < few:
		wait = slow
	default:
		wait = busy
	}
	if load > little {
		d.calm = 0
	} else {
		d.calm += interval
	}
	switch {
	case d.now < d.max && load > much:
		d.now = d.max
		return wait, true
	case d.now > 1 && d.calm >= calm:
		d.now = 1
		return wait, true
	}
	return wait, false
}

// used is the CPU time of this process.
func used() (time.Duration, error) {
	var u unix.Rusage
	if err := unix.Getrusage(unix.RUSAGE_SELF, &u); err != nil {
		return 0, err
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano()), nil
}
