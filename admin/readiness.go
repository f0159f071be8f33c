package admin

import (
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"maps"
	"net"
	"net/http"
	"slices"
	"strings"
	"sync"
	"time"

	"ztunnel/telemetry/httpd"
)

// ReadyPath is the only path of the readiness server.
const ReadyPath = "/healthz/ready"

// Readiness tells whether the process is ready: all tasks are complete and it
// is not draining. It never depends on telemetry. It may be used concurrently.
type Readiness struct {
	log   *slog.Logger
	start time.Time

	mu       sync.Mutex // guards the fields below
	tasks    map[string]*task
	draining bool
}

// task is something to wait for. It is kept when it is complete, to be shown.
type task struct {
	pending bool
	since   time.Time // of being pending or complete
	round   int       // how often it was begun
}

// NewReadiness makes a readiness without tasks. start is when the process
// started, for the log.
func NewReadiness(log *slog.Logger, start time.Time) *Readiness {
	return &Readiness{log: log, start: start, tasks: map[string]*task{}}
}

// Task makes the process unready until done is called; calling done again does
// nothing. A task that was complete can be begun again, which makes done
// functions of before void. Names come from the program.
func (r *Readiness) Task(name string) (done func()) {
	r.mu.Lock()
	defer r.mu.Unlock()
	t := r.tasks[name]
	if t == nil {
		t = &task{}
		r.tasks[name] = t
	}
	if !t.pending {
		t.pending, t.since = true, time.Now()
	}
	t.round++
	round := t.round
	return func() { r.complete(name, round) }
}

func (r *Readiness) complete(name string, round int) {
	elapsed, left, ok := r.completed(name, round)
	switch {
	case !ok:
	case left > 0:
		r.log.Info(fmt.Sprintf("Task '%s' complete (%s), still awaiting %d tasks", name, elapsedText(elapsed), left))
	default:
		r.log.Info(fmt.Sprintf("Task '%s' complete (%s), marking server ready", name, elapsedText(elapsed)))
	}
}

// completed marks a task as complete and tells how many are left; it is not ok
// if the task is not the one that was begun in that round.
func (r *Readiness) completed(name string, round int) (elapsed time.Duration, left int, ok bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	t := r.tasks[name]
	if t.round != round || !t.pending {
		return 0, 0, false
	}
	t.pending, t.since = false, time.Now()
	return t.since.Sub(r.start), len(r.pending()), true
}

// elapsedText is a duration without minutes and hours, as the reference has it.
func elapsedText(d time.Duration) string {
	if d < time.Minute {
		return d.String()
	}
	return fmt.Sprintf("%vs", d.Seconds())
}

// Drain makes the process unready for good.
func (r *Readiness) Drain() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.draining = true
}

// Ready tells whether the process is ready.
func (r *Readiness) Ready() bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return !r.draining && len(r.pending()) == 0
}

// pending are the names of the tasks that are not complete, sorted.
func (r *Readiness) pending() []string {
	names := []string{}
	for _, name := range slices.Sorted(maps.Keys(r.tasks)) {
		if r.tasks[name].pending {
			names = append(names, name)
		}
	}
	return names
}

// ServeHTTP answers a GET with 200, 500 while tasks are pending, or 503 while
// draining. With the parameter verbose the body is JSON.
func (r *Readiness) ServeHTTP(w http.ResponseWriter, req *http.Request) {
	if req.Method != http.MethodGet {
		w.WriteHeader(http.StatusMethodNotAllowed)
		return
	}
	status, body, detail := r.state()
	if req.URL.Query().Has("verbose") {
		w.Header().Set("Content-Type", "application/json")
		w.WriteHeader(status)
		e := json.NewEncoder(w)
		e.SetIndent("", "  ")
		_ = e.Encode(detail) // the client is gone
		return
	}
	text(w, status, body)
}

// readyDetail is the verbose answer.
type readyDetail struct {
	Ready         bool         `json:"ready"`
	Draining      bool         `json:"draining"`
	Pending       []string     `json:"pending"`
	Tasks         []taskDetail `json:"tasks"`
	UptimeSeconds float64      `json:"uptimeSeconds"`
}

type taskDetail struct {
	Name  string    `json:"name"`
	State string    `json:"state"` // "pending" or "complete"
	Since time.Time `json:"since"`
}

func (r *Readiness) state() (status int, body string, detail readyDetail) {
	r.mu.Lock()
	defer r.mu.Unlock()
	pending := r.pending()
	detail = readyDetail{
		Ready: !r.draining && len(pending) == 0, Draining: r.draining, Pending: pending,
		Tasks: []taskDetail{}, UptimeSeconds: time.Since(r.start).Seconds(),
	}
	for _, name := range slices.Sorted(maps.Keys(r.tasks)) {
		t, state := r.tasks[name], "complete"
		if t.pending {
			state = "pending"
		}
		detail.Tasks = append(detail.Tasks, taskDetail{name, state, t.since.UTC()})
	}
	switch {
	case r.draining:
		return http.StatusServiceUnavailable, "not ready, draining\n", detail
	case len(pending) > 0:
		return http.StatusInternalServerError, "not ready, pending: " + strings.Join(pending, ", ") + "\n", detail
	default:
		return http.StatusOK, "ready\n", detail
	}
}

// Serve serves the readiness page and nothing else until ctx ends. To say that
// the process drains it must go on until the drain is over.
func (r *Readiness) Serve(ctx context.Context, listeners ...net.Listener) error {
	handler := http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
		if req.URL.Path != ReadyPath {
			w.WriteHeader(http.StatusNotFound)
			return
		}
		r.ServeHTTP(w, req)
	})
	return httpd.New(httpd.Config{Component: "readiness", Handler: handler, Log: r.log}).Serve(ctx, listeners...)
}
