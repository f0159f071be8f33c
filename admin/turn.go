package admin

import (
	"context"
	"time"
)

// turn is the time in which a dump is made. Dumps are the dearest thing that the
// server has, and traffic must hardly feel them: they are made one at a time, in
// slices with pauses between them, and with a rest after each.
type turn struct {
	d      *dump
	ctx    context.Context // of who asked for the dump
	slice  time.Time       // when the slice began
	worked time.Duration   // in the slices before
}

const (
	// dumpSlice is how long a dump is made without a pause, and each pause. In a
	// pause Go's scheduler looks for what has arrived.
	dumpSlice = time.Millisecond
	// Dumps are made for a tenth of the time at most, or, when they are so large
	// that this would make those wait who ask, for a quarter.
	dumpShare, largeDumpShare = 10, 4
	// smallDumpRest is the longest rest for the sake of dumpShare.
	smallDumpRest = 100 * time.Millisecond
)

// rest is how long no other dump is made after one that took so long.
func rest(worked time.Duration) time.Duration {
	return max((largeDumpShare-1)*worked, min((dumpShare-1)*worked, smallDumpRest))
}

// turn waits until a dump may be made. Its end must be told.
func (d *dump) turn(ctx context.Context) (*turn, error) {
	select {
	case d.making <- struct{}{}:
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	}
	t := &turn{d: d, ctx: ctx}
	if err := t.wait(time.Until(d.rested)); err != nil {
		<-d.making
		return nil, err
	}
	t.slice = time.Now()
	return t, nil
}

// wait lets time pass unless who asked for the dump is gone.
func (t *turn) wait(d time.Duration) error {
	if d <= 0 {
		return nil
	}
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return nil
	case <-t.ctx.Done():
		return context.Cause(t.ctx)
	}
}

// pause makes a pause if it is time. It fails if who asked for the dump is gone.
func (t *turn) pause() error {
	worked := time.Since(t.slice)
	if worked < dumpSlice {
		return nil
	}
	t.worked += worked
	err := t.wait(dumpSlice)
	t.slice = time.Now()
	return err
}

// end lets others have their turn after a rest.
func (t *turn) end() {
	now := time.Now()
	t.d.rested = now.Add(rest(t.worked + now.Sub(t.slice)))
	<-t.d.making
}
