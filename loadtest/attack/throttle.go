package attack

import (
	"context"
	"time"

	"golang.org/x/sys/unix"
)

const (
	// throttleEvery is how many units are done between two looks at the clock.
	throttleEvery = 16
	// burst is how much processor time may be used at once.
	burst = 5 * time.Millisecond
	// longest bounds the pause, so that the end is noticed.
	longest = 50 * time.Millisecond
)

// throttle keeps the process to a share of a processor's time. It is for one
// goroutine.
type throttle struct {
	share float64
	since time.Time     // when the accounts begin
	used  time.Duration // by then
	n     int
}

// wait waits as long as too much has been used, and reports whether ctx has not
// ended.
func (t *throttle) wait(ctx context.Context) bool {
	if t.n++; t.n%throttleEvery != 0 {
		return ctx.Err() == nil
	}
	if t.since.IsZero() {
		t.since, t.used = time.Now(), processorTime()
	}
	for ctx.Err() == nil {
		pause := debt(time.Since(t.since), processorTime()-t.used, t.share)
		if pause <= 0 {
			return true
		}
		timer := time.NewTimer(min(pause, longest))
		select {
		case <-timer.C:
		case <-ctx.Done():
			timer.Stop()
		}
	}
	return false
}

// debt is how long to wait after so much time, and so much of it used.
func debt(elapsed, used time.Duration, share float64) time.Duration {
	over := used - burst - time.Duration(share*float64(elapsed))
	return time.Duration(float64(over) / share)
}

// processorTime is what the process has used.
func processorTime() time.Duration {
	var usage unix.Rusage
	if err := unix.Getrusage(unix.RUSAGE_SELF, &usage); err != nil {
		return 0 // cannot happen: the arguments are right
	}
	return time.Duration(usage.Utime.Nano() + usage.Stime.Nano())
}
