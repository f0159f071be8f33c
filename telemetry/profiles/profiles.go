// Package profiles serves profiles of the process over HTTP: the pages under
// /debug/pprof/ of the admin server and of the telemetry surface "profiles".
// Paths, parameters and texts are those of Istio's ztunnel where it has them.
//
// It does not push profiles; telemetry/profiling does, and shares the CPU lock.
package profiles

import (
	"bytes"
	"fmt"
	"html/template"
	"io"
	"net/http"
	netpprof "net/http/pprof"
	"os"
	"runtime"
	"runtime/pprof"
	"runtime/trace"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/grafana/pyroscope-go/godeltaprof"

	"ztunnel/telemetry/httpd"
)

// Prefix is where all pages of the handler are.
const Prefix = "/debug/pprof/"

const (
	defaultSeconds = 10
	maxSeconds     = 300
	maxFrequency   = 1000
)

// CPULock is held by whoever takes a CPU profile: Go can take only one at a
// time.
type CPULock interface {
	// TryLock takes the lock if it is free.
	TryLock() bool
	Unlock()
}

// Page is one page of the handler, for an index.
type Page struct{ Path, Description string }

// Handler serves the pages. It may be used concurrently.
type Handler struct {
	cpu   CPULock
	pages map[string]page

	heap     sync.Mutex // held while the rate of heap profiles is changed
	heapRate int        // to go back to

	delta   sync.Mutex // held while a delta profile is made
	deltas  map[string]deltaProfile
	tracing sync.Mutex // held by a trace
}

type page struct {
	description string
	serve       http.HandlerFunc
}

type deltaProfile interface{ Profile(w io.Writer) error }

// New makes a handler that takes CPU profiles under a lock.
func New(cpu CPULock) *Handler {
	h := &Handler{cpu: cpu, heapRate: runtime.MemProfileRate, deltas: map[string]deltaProfile{
		"delta_heap":  godeltaprof.NewHeapProfiler(),
		"delta_mutex": godeltaprof.NewMutexProfiler(),
		"delta_block": godeltaprof.NewBlockProfiler(),
	}}
	h.pages = map[string]page{
		"":               {"this list", h.index},
		"profile":        {"CPU profile (?seconds=1-300)", h.profile},
		"heap":           {"heap profile", named("heap")},
		"heap/profiling": {"heap profiling on or off (?activate=true|false)", h.heapProfiling},
		"allocs":         {"profile of all allocations", named("allocs")},
		"goroutine":      {"stacks of all goroutines (?debug=1|2 for text)", named("goroutine")},
		"mutex":          {"holders of contended mutexes", named("mutex")},
		"block":          {"where goroutines block", named("block")},
		"threadcreate":   {"what created OS threads", named("threadcreate")},
		"trace":          {"execution trace (?seconds=1-300)", h.trace},
		"cmdline":        {"command line", cmdline},
		"symbol":         {"function names of addresses", netpprof.Symbol},
		"delta_heap":     {"heap profile since the previous one", h.deltaPage},
		"delta_mutex":    {"mutex profile since the previous one", h.deltaPage},
		"delta_block":    {"block profile since the previous one", h.deltaPage},
	}
	return h
}

// Pages lists the pages by path.
func (h *Handler) Pages() []Page {
	var pages []Page
	for name, p := range h.pages {
		pages = append(pages, Page{Prefix + name, p.description})
	}
	slices.SortFunc(pages, func(a, b Page) int { return strings.Compare(a.Path, b.Path) })
	return pages
}

// ServeHTTP implements http.Handler for all paths below Prefix; others are not
// found.
func (h *Handler) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	name, ok := strings.CutPrefix(r.URL.Path, Prefix)
	p, known := h.pages[name]
	if !ok || !known {
		w.WriteHeader(http.StatusNotFound)
		return
	}
	p.serve(w, r)
}

var indexTemplate = template.Must(template.New("profiles").Parse(`<!DOCTYPE html>
<html><head><meta charset="utf-8"><title>ztunnel profiles</title></head><body>
<h1>Profiles</h1>
<table>
{{range .}}<tr><td><a href="{{.Path}}">{{.Path}}</a></td><td>{{.Description}}</td></tr>
{{end}}</table>
</body></html>
`))

func (h *Handler) index(w http.ResponseWriter, _ *http.Request) {
	w.Header().Set("Content-Type", "text/html; charset=utf-8")
	_ = indexTemplate.Execute(w, h.Pages()) // the client is gone
}

// profile takes a CPU profile. The frequency is checked as the reference does,
// but not used: that of Go is fixed.
func (h *Handler) profile(w http.ResponseWriter, r *http.Request) {
	seconds, ok := number(r, "seconds", defaultSeconds, maxSeconds)
	if !ok {
		answer(w, http.StatusBadRequest, "invalid seconds value; expected 1-300\n")
		return
	}
	if _, ok := number(r, "frequency", 100, maxFrequency); !ok {
		answer(w, http.StatusBadRequest, "invalid frequency value; expected 1-1000\n")
		return
	}
	httpd.ExtendWrite(w, seconds)
	var b bytes.Buffer
	if err := h.takeCPU(r, seconds, &b); err != nil {
		answer(w, http.StatusConflict, err.Error()+"\n")
		return
	}
	send(w, b.Bytes())
}

// takeCPU takes a CPU profile for some time, or until the server ends. The
// profile is whole before it is sent, so that a slow client does not keep the
// lock.
func (h *Handler) takeCPU(r *http.Request, d time.Duration, b *bytes.Buffer) error {
	if !h.cpu.TryLock() {
		return fmt.Errorf("another CPU profile is being taken")
	}
	defer h.cpu.Unlock()
	if err := pprof.StartCPUProfile(b); err != nil {
		return err
	}
	defer pprof.StopCPUProfile()
	wait(r, d)
	return nil
}

func (h *Handler) trace(w http.ResponseWriter, r *http.Request) {
	seconds, ok := number(r, "seconds", 1, maxSeconds)
	if !ok {
		answer(w, http.StatusBadRequest, "invalid seconds value; expected 1-300\n")
		return
	}
	if !h.tracing.TryLock() {
		answer(w, http.StatusConflict, "another trace is being taken\n")
		return
	}
	defer h.tracing.Unlock()
	httpd.ExtendWrite(w, seconds)
	w.Header().Set("Content-Type", "application/octet-stream")
	if err := trace.Start(w); err != nil {
		answer(w, http.StatusConflict, err.Error()+"\n")
		return
	}
	wait(r, seconds)
	trace.Stop()
}

func wait(r *http.Request, d time.Duration) {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-r.Context().Done():
	}
}

// number reads a parameter from 1 to most. All values of it count: a client
// that gives two has made a mistake.
func number(r *http.Request, name string, byDefault, most int) (time.Duration, bool) {
	n := byDefault
	if values, ok := r.URL.Query()[name]; ok {
		for _, v := range values {
			var err error
			if n, err = strconv.Atoi(v); err != nil || n < 1 || n > most {
				return 0, false
			}
		}
	}
	return time.Duration(n) * time.Second, true
}

// named serves a profile that the runtime keeps, in gzip, or as text if asked
// for by debug=1 or 2.
func named(name string) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		level, err := strconv.Atoi(r.URL.Query().Get("debug"))
		if err != nil || level < 0 || level > 2 {
			level = 0
		}
		if name == "heap" && r.URL.Query().Get("gc") == "1" {
			runtime.GC()
		}
		var b bytes.Buffer
		if err := pprof.Lookup(name).WriteTo(&b, level); err != nil {
			answer(w, http.StatusInternalServerError, err.Error())
			return
		}
		if level > 0 {
			w.Header().Set("Content-Type", "text/plain; charset=utf-8")
			_, _ = w.Write(b.Bytes()) // the client is gone
			return
		}
		send(w, b.Bytes())
	}
}

// heapProfiling switches the heap profile, which in the reference is a matter of
// its allocator: here off means that no allocations are sampled from now on.
func (h *Handler) heapProfiling(w http.ResponseWriter, r *http.Request) {
	h.heap.Lock()
	defer h.heap.Unlock()
	if query := r.URL.Query(); query.Has("activate") {
		switch value := query.Get("activate"); value {
		case "true":
			runtime.MemProfileRate = h.heapRate
		case "false":
			if runtime.MemProfileRate > 0 {
				h.heapRate = runtime.MemProfileRate
			}
			runtime.MemProfileRate = 0
		default:
			answer(w, http.StatusBadRequest, fmt.Sprintf("invalid activate value \"%s\"; expected true or false\n", value))
			return
		}
	}
	answer(w, http.StatusOK, fmt.Sprintf("heap profiling active: %v\n", runtime.MemProfileRate > 0))
}

func (h *Handler) deltaPage(w http.ResponseWriter, r *http.Request) {
	h.delta.Lock()
	defer h.delta.Unlock()
	var b bytes.Buffer
	if err := h.deltas[strings.TrimPrefix(r.URL.Path, Prefix)].Profile(&b); err != nil {
		answer(w, http.StatusInternalServerError, err.Error())
		return
	}
	send(w, b.Bytes())
}

func cmdline(w http.ResponseWriter, _ *http.Request) {
	answer(w, http.StatusOK, strings.Join(os.Args, "\x00"))
}

// send sends a profile, like the reference without a content type.
func send(w http.ResponseWriter, profile []byte) {
	w.Header()["Content-Type"] = nil
	_, _ = w.Write(profile) // the client is gone
}

// answer answers with a text.
func answer(w http.ResponseWriter, status int, text string) {
	w.Header().Set("Content-Type", "text/plain")
	w.WriteHeader(status)
	_, _ = io.WriteString(w, text) // the client is gone
}
