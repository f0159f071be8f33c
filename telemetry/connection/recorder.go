package connection

import (
	"hash/maphash"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"ztunnel/telemetry/logging"
)

// DefaultMaxSeries is the limit of label sets per family unless configured.
const DefaultMaxSeries = 50_000

// Config configures a [Recorder].
type Config struct {
	// Log receives the access log; its scope is "access". Nil writes none.
	Log *slog.Logger
	// MaxSeries limits the label sets of each traffic family. What exceeds it
	// is counted in a fully labelled series whose values read "overflow". Zero
	// means [DefaultMaxSeries].
	MaxSeries int
	// IdleEviction is after how long without a connection a pair of ends
	// disappears from all families at once. Zero keeps pairs forever.
	IdleEviction time.Duration
	// Now is the clock; nil is time.Now.
	Now func() time.Time
}

const shards = 64

// shard is a part of the map of series.
type shard struct {
	mu     sync.RWMutex
	series map[key]*series
	swept  time.Time // when idle series were last looked for
}

// Recorder makes the records of all connections of a process and keeps their
// series. It is safe for concurrent use. A nil Recorder is telemetry switched
// off: its records only hold their byte counters.
type Recorder struct {
	log          *slog.Logger
	now          func() time.Time
	since        time.Time // what records count their beginning from
	maxSeries    int
	idleEviction time.Duration

	seed   maphash.Seed
	known  pairs
	shards [shards]shard

	pairs          atomic.Int64 // series in the shards
	closedVariants atomic.Int64 // label sets of closed
	failedVariants atomic.Int64 // label sets of failed

	evictedPairs, evictedClosed, evictedFailed     atomic.Int64
	openedOverflow, closedOverflow, failedOverflow atomic.Int64

	sockets [reporters]socketGauge
	rejects rejects

	overflowMu sync.Mutex
	overflow   map[key]*series // at most one for each reporter and security policy

	collecting sync.Mutex // one collection at a time; guards scratch and series.options
	scratch    []*series
}

// socketGauge counts the accepted sockets of a reporter. Its families appear
// when the first socket does.
type socketGauge struct {
	used atomic.Bool
	open atomic.Int64
}

// NewRecorder returns a recorder without any series. It starts nothing.
func NewRecorder(cfg Config) *Recorder {
	r := &Recorder{
		log: cfg.Log, now: cfg.Now, maxSeries: cfg.MaxSeries, idleEviction: cfg.IdleEviction,
		seed: maphash.MakeSeed(), overflow: map[key]*series{},
	}
	if r.log == nil {
		r.log = slog.New(slog.DiscardHandler)
	}
	if r.now == nil {
		r.now = time.Now
	}
	if r.maxSeries <= 0 {
		r.maxSeries = DefaultMaxSeries
	}
	r.rejects.counts = map[rejectKey]*rejectCount{}
	r.rejects.lines = logging.NewLimiter(rejectLines, rejectBurst)
	now := r.now()
	r.since = now
	for i := range r.shards {
		r.shards[i].series, r.shards[i].swept = map[key]*series{}, now
	}
	return r
}

// SocketOpened counts an accepted downstream socket. At the destination these
// are TCP connections, each of which may carry many tunnels.
func (r *Recorder) SocketOpened(by Reporter) {
	if r != nil {
		r.use(by).open.Add(1)
	}
}

// SocketClosed takes back one SocketOpened, when the socket's handler ends.
func (r *Recorder) SocketClosed(by Reporter) {
	if r != nil {
		r.use(by).open.Add(-1)
	}
}

func (r *Recorder) use(by Reporter) *socketGauge {
	g := &r.sockets[by%reporters]
	if !g.used.Load() {
		g.used.Store(true)
	}
	return g
}

// Open counts a connection as opened and returns its record. Everything that
// its labels need must be in the details; later changes do not move it to
// another series.
func (r *Recorder) Open(d *Details) *Record {
	if r == nil {
		return &Record{}
	}
	start := d.Start
	if start.IsZero() {
		start = r.now()
	}
	rec := &Record{src: d.Src, dst: d.Dst, hboneAddr: d.HBONEAddr, began: start.Sub(r.since)}
	slot := r.known.slot(r.seed, d)
	if slot == nil || !r.known.open(slot, rec, d) {
		r.openByLabels(rec, d)
		r.known.remember(slot, rec, d)
	}
	r.logOpened(rec, d.Reporter)
	return rec
}

// openByLabels opens a record in the series that the labels lead to.
func (r *Recorder) openByLabels(rec *Record, d *Details) {
	var k key
	keyOf(&k, d)
	sh := &r.shards[k.shard(r.seed)]
	sh.mu.RLock()
	if s := sh.series[k]; s != nil {
		s.open(rec)
		sh.mu.RUnlock()
		return
	}
	sh.mu.RUnlock()
	r.openNew(sh, k, rec)
}

// openNew opens a record whose series does not exist yet. It takes the key by
// value so that the key of the usual case stays on the stack.
func (r *Recorder) openNew(sh *shard, k key, rec *Record) {
	sh.mu.Lock()
	defer sh.mu.Unlock()
	s := sh.series[k]
	if s == nil {
		now := r.now()
		// Series grow only here, so sweeping here bounds them even if
		// nobody ever scrapes.
		if r.idleEviction > 0 && now.Sub(sh.swept) > r.idleEviction/8 {
			r.sweep(sh, now)
		}
		s = r.add(sh, &k)
	}
	s.open(rec)
}

// add makes a series, or returns the overflow series. The caller holds the
// shard's lock.
func (r *Recorder) add(sh *shard, k *key) *series {
	if !k.valid() {
		r.openedOverflow.Add(1)
		return r.overflowSeries(k)
	}
	if r.pairs.Add(1) > int64(r.maxSeries) {
		r.pairs.Add(-1)
		r.openedOverflow.Add(1)
		return r.overflowSeries(k)
	}
	s := &series{recorder: r, key: *k}
	s.key.detach()
	sh.series[s.key] = s
	return s
}

// overflowSeries returns the series that stands for all that k could not get
// one of its own for.
func (r *Recorder) overflowSeries(k *key) *series {
	o := *k
	o.collapse()
	r.overflowMu.Lock()
	defer r.overflowMu.Unlock()
	s := r.overflow[o]
	if s == nil {
		s = &series{recorder: r, key: o, overflow: true}
		r.overflow[o] = s
	}
	return s
}

// endInOverflow counts the end of a connection whose own series may not have
// another flag.
func (r *Recorder) endInOverflow(k *key, flag int) {
	s := r.overflowSeries(k)
	s.mu.Lock()
	s.closed[flag]++
	s.mu.Unlock()
}

// sweep evicts the idle series of a shard. The caller holds the shard's lock.
func (r *Recorder) sweep(sh *shard, now time.Time) {
	sh.swept = now
	for k, s := range sh.series {
		closed, failed, ok := s.evict(now, r.idleEviction)
		if !ok {
			continue
		}
		delete(sh.series, k)
		r.pairs.Add(-1)
		r.closedVariants.Add(int64(-closed))
		r.failedVariants.Add(int64(-failed))
		r.evictedPairs.Add(1)
		r.evictedClosed.Add(int64(closed))
		r.evictedFailed.Add(int64(failed))
	}
}

// snapshot evicts what is idle and appends all series to buf.
func (r *Recorder) snapshot(buf []*series) []*series {
	now := r.now()
	for i := range r.shards {
		sh := &r.shards[i]
		if r.idleEviction > 0 {
			sh.mu.Lock()
			r.sweep(sh, now)
			sh.mu.Unlock()
		}
		sh.mu.RLock()
		for _, s := range sh.series {
			buf = append(buf, s)
		}
		sh.mu.RUnlock()
	}
	r.overflowMu.Lock()
	defer r.overflowMu.Unlock()
	for _, s := range r.overflow {
		buf = append(buf, s)
	}
	return buf
}
