package connection

import (
	"sync"
	"time"
	"unicode/utf8"

	"ztunnel/telemetry/logging"
)

// rejectKey are the labels of a count of refusals.
type rejectKey struct {
	reporter            Reporter
	reason              Reason
	workload, namespace string
}

type rejectCount struct {
	n    uint64
	last time.Time
}

// The lines about refusals: so many at once, and then one each interval.
const (
	rejectBurst = 1000
	rejectLines = 10 * time.Millisecond
)

// rejects counts refusals. Those of a workload disappear like its series.
type rejects struct {
	lines  *logging.Limiter
	mu     sync.Mutex
	counts map[rejectKey]*rejectCount
}

// Reject counts a connection that is refused before it was understood, and
// writes the line "connection failed". Anybody who can reach a port can cause
// such lines: beyond a rate they are left out, and their number is in the next.
func (r *Recorder) Reject(j *Rejection) {
	if r == nil {
		return
	}
	r.use(j.Reporter)
	r.logRejected(j)
	k := rejectKey{j.Reporter, j.Reason.closed(), or(j.Workload, unknown), or(j.Namespace, unknown)}
	now := r.now()
	r.rejects.mu.Lock()
	defer r.rejects.mu.Unlock()
	c := r.rejects.counts[k]
	if c == nil {
		if len(r.rejects.counts) >= r.maxSeries || !utf8.ValidString(k.workload) || !utf8.ValidString(k.namespace) {
			k.workload, k.namespace = overflow, overflow
			c = r.rejects.counts[k]
		}
		if c == nil {
			c = &rejectCount{}
			r.rejects.counts[k] = c
		}
	}
	c.n++
	c.last = now
}

// snapshot calls f with each count. Each reason of a reporter in use has one,
// zero if need be, so that a first refusal shows as an increase.
func (j *rejects) snapshot(now time.Time, idle time.Duration, used func(Reporter) bool, f func(k rejectKey, n uint64)) {
	j.mu.Lock()
	defer j.mu.Unlock()
	for by := range Reporter(reporters) {
		if !used(by) {
			continue
		}
		for _, reason := range reasons {
			if k := (rejectKey{by, reason, unknown, unknown}); j.counts[k] == nil {
				f(k, 0)
			}
		}
	}
	for k, c := range j.counts {
		if idle > 0 && now.Sub(c.last) >= idle && k.workload != unknown && k.workload != overflow {
			delete(j.counts, k)
			continue
		}
		f(k, c.n)
	}
}
