package logging

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"
)

// The scopes that have their literal name also where others are module paths
// of the reference ("ztunnel::…" in JSON and in filters).
const (
	ScopeAccess    = "access"    // one line per connection
	ScopeDNS       = "dns"       // one line per DNS query
	ScopeTelemetry = "telemetry" // one line per read of the telemetry surface
)

// DefaultFilter holds when Config.Filter is empty or cannot be read.
const DefaultFilter = "info"

// closeTimeout bounds the flush at the end of the process.
const closeTimeout = time.Second

// Config says what the log looks like and where it goes.
type Config struct {
	// Filter has the syntax of RUST_LOG: level, target=level or target (= all
	// levels), with commas. Empty is DefaultFilter.
	Filter string
	// JSON chooses JSON lines instead of text lines.
	JSON bool
	// Output gets whole lines, from one goroutine at a time. It must be set.
	Output io.Writer
	// QueueLines is how many lines may wait for the output; 0 is 10000.
	QueueLines int
	// BlockOnFull makes callers wait for the output for as long as it takes,
	// as the reference does, and drops nothing.
	BlockOnFull bool
}

// Logging is the log of the process. All methods may be called concurrently.
type Logging struct {
	json  bool
	queue *queue

	started atomic.Bool
	stop    chan struct{} // closed by Close
	stopped sync.Once
	done    chan struct{} // closed when the writer has ended

	mu      sync.Mutex // guards the fields below
	scopes  map[string]*scope
	initial filter
	current filter
}

// scope is what all loggers of one scope share.
type scope struct {
	name   string // without targetPrefix
	target string // as the reference has it
	lossy  bool   // its lines never wait for room in the queue

	level   atomic.Int64 // slog.Level; the only thing a disabled line looks at
	lines   [numLevels]atomic.Uint64
	dropped [numReasons]atomic.Uint64
}

// New makes a log. Nothing is written before Run is called; lines wait in the
// queue until then. The error says that the filter cannot be read; it is not
// fatal, the result is a log with DefaultFilter (the reference ends the process
// instead, and a typo would take the data plane of a node down).
func New(cfg Config) (*Logging, error) {
	text := cfg.Filter
	if text == "" {
		text = DefaultFilter
	}
	f, err := parseStartFilter(text)
	if err != nil {
		err = fmt.Errorf("log filter %q is invalid, %s is used: %w", cfg.Filter, DefaultFilter, err)
		f, _ = parseStartFilter(DefaultFilter)
	}
	return &Logging{
		json:    cfg.JSON,
		queue:   newQueue(cfg.Output, cfg.QueueLines, cfg.BlockOnFull),
		stop:    make(chan struct{}),
		done:    make(chan struct{}),
		scopes:  map[string]*scope{},
		initial: f,
		current: f,
	}, err
}

// Logger is the logger of a scope, such as "proxy::inbound". Loggers of the
// same scope share a level and counters. Scopes live as long as the log, so
// their names must come from the program, not from input.
func (l *Logging) Logger(name string) *slog.Logger {
	return slog.New(&handler{log: l, scope: l.scope(name)})
}

func (l *Logging) scope(name string) *scope {
	l.mu.Lock()
	defer l.mu.Unlock()
	s := l.scopes[name]
	if s == nil {
		s = &scope{name: name, target: targetPrefix + name}
		switch name {
		case ScopeAccess, ScopeDNS:
			s.target, s.lossy = name, true
		case ScopeTelemetry:
			s.target = name
		}
		s.level.Store(int64(l.current.level(s.name, s.target)))
		l.scopes[name] = s
	}
	return s
}

// Filter is the filter in effect, the most specific targets first, the default
// level last.
func (l *Logging) Filter() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.current.String()
}

// AddFilter adds clauses (level or target=level, with commas) to the filter in
// effect; later ones replace earlier ones of the same target. It returns the
// new filter. If a clause is invalid, nothing is changed.
func (l *Logging) AddFilter(clauses string) (string, error) { return l.change(false, clauses) }

// SetFilter goes back to the start-up filter and then adds clauses as AddFilter
// does.
func (l *Logging) SetFilter(clauses string) (string, error) { return l.change(true, clauses) }

// Reset goes back to the start-up filter and returns it.
func (l *Logging) Reset() string {
	text, _ := l.change(true, "")
	return text
}

func (l *Logging) change(reset bool, clauses string) (string, error) {
	ds, err := parseAddedClauses(clauses)
	if err != nil {
		return "", err
	}
	text, err := l.apply(reset, ds)
	if err != nil {
		return "", err
	}
	l.Logger(ScopeTelemetry).Info("new log filter is " + text)
	return text, nil
}

func (l *Logging) apply(reset bool, ds []directive) (string, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	base := l.current
	if reset {
		base = l.initial
	}
	f := base.with(ds)
	if len(f) > maxDirectives {
		return "", errors.New("too many clauses")
	}
	l.current = f
	for _, s := range l.scopes {
		s.level.Store(int64(f.level(s.name, s.target)))
	}
	return f.String(), nil
}

// Run writes lines until ctx ends or Close is called, then what is still
// queued, and returns nil. Lines that come later are dropped and counted. It
// may be called once. It does not return while the output blocks a write:
// whoever ends the process waits for Close instead.
func (l *Logging) Run(ctx context.Context) error {
	if !l.started.CompareAndSwap(false, true) {
		return errors.New("log writer already started")
	}
	defer close(l.done)
	l.queue.run(ctx.Done(), l.stop)
	return nil
}

// Close ends Run and waits until everything queued is written: until ctx ends,
// and at most a second. If Run was never called, Close writes the queue.
func (l *Logging) Close(ctx context.Context) error {
	l.stopped.Do(func() { close(l.stop) })
	if l.started.CompareAndSwap(false, true) {
		go func() { // ends when the output takes the lines; Close waits for it below
			defer close(l.done)
			l.queue.run(nil, l.stop)
		}()
	}
	timeout := time.NewTimer(closeTimeout)
	defer timeout.Stop()
	select {
	case <-l.done:
		return nil
	case <-ctx.Done():
		return fmt.Errorf("flush the log: %d lines left: %w", l.queue.length(), context.Cause(ctx))
	case <-timeout.C:
		return fmt.Errorf("flush the log: %d lines left after %v", l.queue.length(), closeTimeout)
	}
}
