package measure

import (
	"errors"
	"io"
	"os"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"ztunnel/loadtest/app"
)

var errGone = errors.New("connection reset")

// A connection may end at the deadline of a drain and until shortly after it, and
// at no other time.
func TestTally_Sessions(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		y := newTally(io.Discard)
		end := func(after time.Duration) {
			time.Sleep(after)
			y.ended(&app.Session{Pings: 3}, errGone)
		}
		end(0) // before any upgrade
		y.drainBegins("a", time.Now())
		end(upgradeDrain - time.Millisecond) // too early
		end(time.Millisecond)                // at the deadline
		y.drainEnds(time.Now())
		end(cutLag - time.Millisecond) // not noticed earlier
		end(time.Millisecond)          // too late
		y.ended(&app.Session{Pings: 3}, nil)
		if y.forced != 2 || y.cut != 3 || y.pings != 18 {
			t.Errorf("%d forced, %d cut, %d pings, want 2, 3, 18", y.forced, y.cut, y.pings)
		}
	})
}

func TestTally_Result(t *testing.T) {
	for name, test := range map[string]struct {
		do func(*tally)
		ok bool
	}{
		"well":          {func(*tally) {}, true},
		"short":         {func(y *tally) { y.short(func() error { return errGone }) }, false},
		"idle":          {func(y *tally) { y.use("in a test", errGone) }, false},
		"idle, well":    {func(y *tally) { y.use("in a test", nil) }, true},
		"question":      {func(y *tally) { y.question(time.Now(), errGone) }, false},
		"opened":        {func(y *tally) { y.opened(errGone) }, false},
		"cut":           {func(y *tally) { y.ended(&app.Session{}, errGone) }, false},
		"metrics":       {func(y *tally) { y.read(readMetrics, errGone) }, false},
		"metrics, well": {func(y *tally) { y.read(readMetrics, nil) }, true},
	} {
		var out strings.Builder
		y := newTally(&out)
		y.short(func() error { return nil })
		test.do(y)
		if r := y.result(); r.OK != test.ok || r.Figures["short"] != 1 {
			t.Errorf("%s: %+v, want ok %t", name, r, test.ok)
		}
		if told := strings.Contains(out.String(), errGone.Error()); told == test.ok {
			t.Errorf("%s: it printed %q", name, &out)
		}
	}
	y := newTally(io.Discard)
	if y.result().OK {
		t.Error("a tally without a connection is well")
	}
}

func TestTally_Delayed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		y := newTally(io.Discard)
		for _, took := range []time.Duration{late, late + time.Millisecond, 2 * slowest} {
			y.short(func() error { time.Sleep(took); return nil })
		}
		if y.delayed != 2 || y.calls.TotalCount() != 3 {
			t.Errorf("%d delayed of %d, want 2 of 3", y.delayed, y.calls.TotalCount())
		}
	})
}

func TestAlive(t *testing.T) {
	if !alive(os.Getpid()) {
		t.Error("this process is not alive")
	}
	if alive(-1) {
		t.Error("a process that cannot be is alive")
	}
}

func TestForcedConnections(t *testing.T) {
	m := forcedConnections.FindStringSubmatch("drain duration expired with pending connections, forcefully shutting down\tconnections=12")
	if m == nil || m[1] != "12" {
		t.Errorf("connections of the line: %q, want 12", m)
	}
}
