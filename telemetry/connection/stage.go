package connection

import (
	"math"
	"time"
)

// Stage is a step of setting up a connection.
type Stage uint8

// The stages, in the order in which an outbound connection passes them. A
// connection skips those that it does not need.
const (
	StageWorkloadWait Stage = iota // the control plane had to be asked
	StageDNS
	StagePoolWait // another connection's dial, or a free stream
	StageTCP
	StageCertificate
	StageTLS
	StageH2
	StageConnect     // CONNECT sent to response received
	StageUpstreamTCP // the destination's dial of the application

	stages = iota
)

var stageNames = [stages]string{"workload_wait", "dns", "pool_wait", "tcp", "certificate", "tls", "h2", "connect", "upstream_tcp"}

// String is the stage's name in metrics and admin pages.
func (s Stage) String() string {
	if int(s) < len(stageNames) {
		return stageNames[s]
	}
	return "unknown"
}

// Mark notes that the stage has just ended. The last mark of a stage counts.
// It is safe for concurrent use.
func (r *Record) Mark(s Stage) {
	if r.series == nil || int(s) >= len(r.marks) {
		return
	}
	recorder := r.series.recorder
	took := (recorder.now().Sub(recorder.since) - r.began).Microseconds()
	r.marks[s].Store(uint32(min(max(1, took), math.MaxUint32))) // an hour and more is all the same
}

// Stage returns when the stage ended, counted from the start of the
// connection, to the microsecond, and whether it was marked at all.
func (r *Record) Stage(s Stage) (time.Duration, bool) {
	if int(s) >= len(r.marks) {
		return 0, false
	}
	d := r.marks[s].Load()
	return time.Duration(d) * time.Microsecond, d > 0
}
