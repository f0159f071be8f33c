package connection

import (
	"context"
	"log/slog"
	"net/netip"
	"time"

	"ztunnel/telemetry/logging"
)

// The messages of the access log.
const (
	msgOpened   = "connection opened"
	msgComplete = "connection complete"
	msgFailed   = "connection failed"
)

// fields is what takes the fields of a line one by one: the encoder of the log,
// or a list of attributes for a handler of another package.
type fields interface {
	String(key, value string)
	Bare(key, value string)
	AddrPort(key string, value netip.AddrPort)
	Uint(key string, value uint64)
	Millis(key string, value time.Duration)
}

// line is a line about a connection. It is one attribute that writes all its
// fields itself, so that a line costs one allocation.
type line struct {
	record   *Record
	reporter Reporter
	complete bool
	took     time.Duration
	err      error
}

// LogFields implements [logging.Fields].
func (l *line) LogFields(e *logging.Encoder) { l.write(e) }

// LogValue implements [slog.LogValuer], for handlers of other packages.
func (l *line) LogValue() slog.Value { return groupOf(l.write) }

func (r *Recorder) logOpened(c *Record, by Reporter) {
	if r.log.Enabled(context.Background(), slog.LevelDebug) {
		r.emit(r.now(), slog.LevelDebug, msgOpened, &line{record: c, reporter: by})
	}
}

func (r *Recorder) logComplete(c *Record, now time.Time, err error) {
	level := slog.LevelInfo
	if err != nil {
		level = slog.LevelError
	}
	if r.log.Enabled(context.Background(), level) {
		took := max(0, now.Sub(r.since)-c.began)
		r.emit(now, level, msgComplete, &line{record: c, reporter: c.series.key.reporter, complete: true, took: took, err: err})
	}
}

func (r *Recorder) logRejected(j *Rejection) {
	if !r.log.Enabled(context.Background(), slog.LevelWarn) {
		return
	}
	if suppressed, ok := r.rejects.lines.Allow(); ok {
		r.emit(r.now(), slog.LevelWarn, msgFailed, &rejectionLine{j.Src, j.Dst, j.Reporter, j.Err, suppressed})
	}
}

func (r *Recorder) emit(now time.Time, level slog.Level, msg string, fields logging.Fields) {
	logging.Emit(context.Background(), r.log, now, level, msg, fields)
}

// write writes the fields in the reference's order. What is unknown is left
// out.
func (l *line) write(f fields) {
	c := l.record
	e, ours := f.(*logging.Encoder)
	common := c.ends.common
	ours = ours && common != nil
	f.AddrPort("src.addr", c.src)
	if source := (*sourceEnd)(c.ends); ours {
		e.Common(&common.source, source)
	} else {
		source.write(f)
	}
	f.AddrPort("dst.addr", c.dst)
	if c.hboneAddr != "" {
		f.Bare("dst.hbone_addr", c.hboneAddr)
	}
	if destination := (*destinationEnd)(c.ends); ours {
		e.Common(&common.destination, destination)
	} else {
		destination.write(f)
	}
	f.String("direction", l.reporter.direction())
	if l.complete {
		l.writeEnd(f)
	}
}

// sourceEnd and destinationEnd write the fields of one end.
type (
	sourceEnd      ends
	destinationEnd ends
)

// LogFields implements [logging.Fields].
func (s *sourceEnd) LogFields(e *logging.Encoder) { s.write(e) }

func (s *sourceEnd) write(f fields) {
	if w := s.source; w != nil {
		known(f, "src.workload", w.Pod)
		known(f, "src.namespace", w.Namespace)
	}
	known(f, "src.identity", s.sourceIdentity)
	known(f, "src.cluster", s.source.logCluster())
}

// LogFields implements [logging.Fields].
func (d *destinationEnd) LogFields(e *logging.Encoder) { d.write(e) }

func (d *destinationEnd) write(f fields) {
	if d.service != nil {
		known(f, "dst.service", d.service.Hostname)
	}
	if w := d.destination; w != nil {
		known(f, "dst.workload", w.Pod)
		known(f, "dst.namespace", w.Namespace)
	}
	known(f, "dst.identity", d.destinationIdentity)
	known(f, "dst.cluster", d.destination.logCluster())
}

// writeEnd writes how the connection ended.
func (l *line) writeEnd(f fields) {
	// The log takes the view of the workload on the reporter's side.
	sent, received := l.record.Received.Load(), l.record.Sent.Load()
	if l.reporter == Destination {
		sent, received = received, sent
	}
	f.Uint("bytes_sent", sent)
	f.Uint("bytes_recv", received)
	f.Millis("duration", l.took)
	if l.err != nil {
		f.String("error", l.err.Error())
	}
}

// rejectionLine is the line about a connection that was refused.
type rejectionLine struct {
	src, dst netip.AddrPort
	reporter Reporter
	err      error
	// suppressed is how many such lines were left out before this one.
	suppressed uint64
}

// LogFields implements [logging.Fields].
func (l *rejectionLine) LogFields(e *logging.Encoder) { l.write(e) }

// LogValue implements [slog.LogValuer], for handlers of other packages.
func (l *rejectionLine) LogValue() slog.Value { return groupOf(l.write) }

func (l *rejectionLine) write(f fields) {
	f.AddrPort("src.addr", l.src)
	f.AddrPort("dst.addr", l.dst)
	f.String("direction", l.reporter.direction())
	if l.err != nil {
		f.String("error", l.err.Error())
	}
	if l.suppressed > 0 {
		f.Uint("suppressed", l.suppressed)
	}
}

// known writes a string unless it is unknown.
func known(f fields, key, value string) {
	if value != "" {
		f.String(key, value)
	}
}

// logCluster is the cluster that the log shows.
func (w *Workload) logCluster() string {
	switch {
	case w == nil:
		return ""
	case w.Known:
		return or(w.Cluster, defaultCluster)
	}
	return w.Cluster
}

// group collects fields as attributes.
type group []slog.Attr

// groupOf is what write writes, as a group.
func groupOf(write func(fields)) slog.Value {
	var g group
	write(&g)
	return slog.GroupValue(g...)
}

func (g *group) String(key, value string) { *g = append(*g, slog.String(key, value)) }
func (g *group) Bare(key, value string)   { *g = append(*g, slog.String(key, value)) }
func (g *group) Uint(key string, value uint64) {
	*g = append(*g, slog.Uint64(key, value))
}

func (g *group) AddrPort(key string, value netip.AddrPort) {
	*g = append(*g, slog.Any(key, value))
}

func (g *group) Millis(key string, value time.Duration) {
	*g = append(*g, slog.String(key, logging.Millis(value)))
}
