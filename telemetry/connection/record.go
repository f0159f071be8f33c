package connection

import (
	"net/netip"
	"sync/atomic"
	"time"
)

// Record is one open connection. Its two counters are all that the byte path
// touches, one atomic add for each chunk written; everything else is set by
// the connection's handler. A Record is made by [Recorder.Open] and must be
// closed exactly once, best by a defer right after Open.
//
// There is one for as long as a connection is open, however idle, so it holds
// only what its end needs and neither the series nor the pair of ends knows: 192
// bytes, and 64 more if it shares its ends with no other.
type Record struct {
	// series is nil if telemetry is off.
	series     *series
	prev, next *Record // in series.live, under series.mu
	ends       *ends
	began      time.Duration // of Recorder.since

	hboneAddr string
	policy    string

	// Received counts the bytes of the client that were written towards the
	// server: the request. Payload only, without the overhead of TLS or HTTP/2.
	Received atomic.Uint64

	// The fields between the two counters keep them in different cache lines,
	// because two goroutines write them; those around them do so for the
	// counters of other records.

	src, dst netip.AddrPort

	// Sent counts the bytes of the server that were written towards the
	// client: the response.
	Sent atomic.Uint64

	marks  [stages]atomic.Uint32 // microseconds from began, 0 unmarked
	closed bool                  // under series.mu
}

// Decided notes the authorization policy, as namespace/name, that decided
// about the connection; empty if none did. Only the connection's handler may
// call it.
func (r *Record) Decided(policy string) { r.policy = policy }

// Policy returns what was given to Decided last, for the handler.
func (r *Record) Policy() string { return r.policy }

// Close ends the record with the connection's result: it counts the end, with
// the flag of err, and writes the line of the access log. Later calls are
// ignored. The byte counters must not be added to afterwards.
func (r *Record) Close(err error) {
	if r.series == nil {
		return
	}
	flag, recorder := FlagOf(err), r.series.recorder
	now := recorder.now()
	if r.series.close(r, flag.index(), now) {
		recorder.logComplete(r, now, err)
	}
}
