package measure

import (
	"fmt"
	"io"
	"sync"
	"time"

	"github.com/HdrHistogram/hdrhistogram-go"

	"ztunnel/loadtest/app"
)

// late is from when on a connection counts as delayed: a client whose first
// segment is not heard tries again after a second.
const late = 500 * time.Millisecond

// tally counts what becomes of connections during upgrades. Its methods may be
// called concurrently, but for those that say otherwise.
type tally struct {
	out io.Writer

	mu      sync.Mutex
	drain   string // the ztunnel that drains, or the last one that did
	begun   time.Time
	expired time.Time // when its connections may be cut, or zero
	over    time.Time // when it ended; zero while it drains

	calls      *hdrhistogram.Histogram // short exchanges that worked, µs
	lost       int                     // short exchanges
	delayed    int                     // of calls
	idle       int                     // uses of an idle tunnel
	idleLost   int
	sessions   int // connections that stay
	pings      int
	forced     int // sessions that ended at the deadline
	cut        int // sessions that ended at another time
	unopened   int // sessions that could not begin
	questions  int
	unanswered int
	told       map[string]int // failures, by what failed
	reads      [readKinds]int
	unreadable [readKinds]int
	blindness  [readKinds]time.Duration // the longest between a failed read and the end

	forcedDrains, forcedTold int // of the goroutine that upgrades
}

// What is read of a ztunnel that drains.
const (
	readAdmin = iota
	readMetrics
	readKinds
)

var readNames = [readKinds]string{"admin", "metrics"}

func newTally(out io.Writer) *tally {
	return &tally{out: out, calls: newHistogram(), told: map[string]int{}}
}

// drainBegins notes that a ztunnel gets SIGTERM.
func (t *tally) drainBegins(name string, now time.Time) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.drain, t.begun, t.expired, t.over = name, now, now.Add(upgradeDrain), time.Time{}
}

func (t *tally) drainEnds(now time.Time) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.over = now
}

// cutLag is how long after the end of a ztunnel the end of a connection may be
// noticed: when it is used next.
const cutLag = callEvery + 200*time.Millisecond

// mayCut tells whether a connection whose end is noticed now may have been cut at
// the deadline. t.mu is held.
func (t *tally) mayCut(now time.Time) bool {
	return !t.expired.IsZero() && !now.Before(t.expired) && (t.over.IsZero() || now.Before(t.over.Add(cutLag)))
}

// short makes a short exchange and counts it.
func (t *tally) short(exchange func() error) {
	start := time.Now()
	err := exchange()
	took := time.Since(start)
	t.mu.Lock()
	defer t.mu.Unlock()
	if err != nil {
		t.lost++
		t.fail("a short exchange", start, err)
		return
	}
	_ = t.calls.RecordValue(max(1, min(slowest, took).Microseconds())) // is in its range
	if took > late {
		t.delayed++
	}
}

// use counts a use of an idle tunnel.
func (t *tally) use(when string, err error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.idle++
	if err != nil {
		t.idleLost++
		t.fail("an exchange "+when, time.Now(), err)
	}
}

// question counts a question for a name that was asked at start.
func (t *tally) question(start time.Time, err error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.questions++
	if err != nil {
		t.unanswered++
		t.fail("a question for a name", start, err)
	}
}

// opened counts a session, and tells whether it exists.
func (t *tally) opened(err error) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	if err != nil {
		t.unopened++
		t.fail("opening a connection that stays", time.Now(), err)
		return false
	}
	t.sessions++
	return true
}

// ended counts the end of a session; err is nil if it was ended in order.
func (t *tally) ended(s *app.Session, err error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.pings += s.Pings
	switch {
	case err == nil:
	case t.mayCut(time.Now()):
		t.forced++
	default:
		t.cut++
		t.fail("a connection that stays", time.Now(), err)
	}
}

// read counts a look at a ztunnel that drains.
func (t *tally) read(kind int, err error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.reads[kind]++
	if err != nil {
		t.unreadable[kind]++
		t.fail("reading "+readNames[kind], time.Now(), err)
	}
}

// blind notes how long before its end a ztunnel could not be read any more.
func (t *tally) blind(kind int, before time.Duration) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.blindness[kind] = max(t.blindness[kind], before)
}

// fail tells of a failure, of what began at start. t.mu is held.
func (t *tally) fail(what string, start time.Time, err error) {
	if t.told[what]++; t.told[what] > maxFailures/2 {
		return
	}
	when := "before the first upgrade"
	if t.drain != "" {
		when = fmt.Sprintf("begun %d ms after SIGTERM to %s", start.Sub(t.begun).Milliseconds(), t.drain)
		if !t.over.IsZero() {
			when += fmt.Sprintf(" and %d ms after its end", start.Sub(t.over).Milliseconds())
		}
	}
	fmt.Fprintf(t.out, "  %s, %s: %v\n", what, when, err)
}

func (t *tally) summary() string {
	t.mu.Lock()
	defer t.mu.Unlock()
	return fmt.Sprintf("%d short exchanges, %d lost, %d later than %s (p50 %d µs, p99 %d µs, max %d ms); %d uses of idle tunnels, %d lost; "+
		"%d connections that stay, %d pings, %d forced at the deadline, %d cut before, %d not opened; %d questions for a name, %d not answered; admin read %d times, %d failed, metrics %d, %d",
		t.calls.TotalCount(), t.lost, t.delayed, late, t.calls.ValueAtQuantile(50), t.calls.ValueAtQuantile(99), t.calls.Max()/1000,
		t.idle, t.idleLost, t.sessions, t.pings, t.forced, t.cut, t.unopened,
		t.questions, t.unanswered, t.reads[readAdmin], t.unreadable[readAdmin], t.reads[readMetrics], t.unreadable[readMetrics])
}

// result is what was counted. It is called when nothing counts any more.
func (t *tally) result() *Result {
	figures := map[string]float64{
		"short": float64(t.calls.TotalCount()), "short_lost": float64(t.lost), "short_delayed": float64(t.delayed),
		"short_p50_us": float64(t.calls.ValueAtQuantile(50)), "short_p99_us": float64(t.calls.ValueAtQuantile(99)), "short_max_us": float64(t.calls.Max()),
		"idle": float64(t.idle), "idle_lost": float64(t.idleLost),
		"sessions": float64(t.sessions), "pings": float64(t.pings), "sessions_forced": float64(t.forced),
		"sessions_lost": float64(t.cut), "sessions_unopened": float64(t.unopened),
		"questions": float64(t.questions), "questions_lost": float64(t.unanswered),
		"forced_drains": float64(t.forcedDrains), "forced_told": float64(t.forcedTold),
	}
	ok := t.lost+t.idleLost+t.cut+t.unopened+t.unanswered == 0 && t.calls.TotalCount() > 0
	for kind, name := range readNames {
		figures[name+"_reads"], figures[name+"_unreadable"] = float64(t.reads[kind]), float64(t.unreadable[kind])
		figures[name+"_blind_ms"] = float64(t.blindness[kind].Milliseconds())
		ok = ok && t.unreadable[kind] == 0
	}
	return &Result{OK: ok, Figures: figures}
}
