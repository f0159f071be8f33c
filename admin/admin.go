// Package admin serves what an operator asks a running process: the admin
// pages on loopback (config dump, log levels, profiles, shutdown) and the
// readiness page. Paths, methods, statuses and texts are those of Istio's
// ztunnel, on which istioctl and Kiali rely.
//
// It is a registry: other parts hand in their pages (Handle), their sections of
// the config dump (Section) and the tasks that the process waits for to be
// ready (Readiness.Task). It knows no package of the proxy. cmd/ztunnel calls
// it.
package admin

import (
	"context"
	"html/template"
	"io"
	"log/slog"
	"net"
	"net/http"
	"slices"
	"strings"
	"sync"

	"ztunnel/telemetry/httpd"
	"ztunnel/telemetry/profiles"
)

// LogFilter is the filter of the log, which /logging shows and changes.
type LogFilter interface {
	// Filter is the filter in effect.
	Filter() string
	// AddFilter adds clauses and returns the new filter.
	AddFilter(clauses string) (string, error)
	// SetFilter goes back to the start-up filter, adds clauses, and returns the
	// new filter.
	SetFilter(clauses string) (string, error)
}

// Config is what the pages of an admin server work with.
type Config struct {
	// Log gets the beginning and end of the server, and failed dumps.
	Log *slog.Logger
	// Filter is what /logging changes.
	Filter LogFilter
	// Quit asks the process to shut down and returns when that is accepted. It
	// may be called more than once.
	Quit func(ctx context.Context) error
	// Profiles serves everything under /debug/pprof/.
	Profiles *profiles.Handler
	// Metrics serves /stats/prometheus.
	Metrics http.Handler
	// Version is what /version shows, as JSON.
	Version any
	// Readiness, if not nil, is also served here.
	Readiness *Readiness
}

// Server is the admin server. It may be used concurrently.
type Server struct {
	cfg  Config
	dump dump

	mu    sync.RWMutex // guards pages
	pages map[string]page
}

type page struct {
	path, description string
	handler           http.Handler
}

// New makes an admin server with the pages of its own. It starts nothing.
func New(cfg Config) *Server {
	s := &Server{cfg: cfg, pages: map[string]page{}}
	s.dump.log, s.dump.making = cfg.Log, make(chan struct{}, 1)
	s.Handle("/", "", http.HandlerFunc(s.index))
	s.Handle("/config_dump", "dump the current configuration and state (JSON)", &s.dump)
	s.Handle("/logging", "query or change the log level (POST ?level=, ?reset)", http.HandlerFunc(s.logging))
	s.Handle("/quitquitquit", "shut the process down (POST)", http.HandlerFunc(s.quit))
	s.Handle("/version", "version of this binary (JSON)", http.HandlerFunc(s.version))
	s.Handle("/certs", "certificates and when they expire", http.HandlerFunc(s.certs))
	if cfg.Metrics != nil {
		s.Handle("/stats/prometheus", "metrics, for emergencies: read them through the mesh", cfg.Metrics)
	}
	if cfg.Readiness != nil {
		s.Handle(ReadyPath, "readiness (?verbose for JSON)", cfg.Readiness)
	}
	if cfg.Profiles != nil {
		for _, p := range cfg.Profiles.Pages() {
			s.Handle(p.Path, p.Description, cfg.Profiles)
		}
	}
	return s
}

// Handle adds a page at exactly this path, or replaces it. The description is
// for the index; without one the page is not listed.
func (s *Server) Handle(path, description string, h http.Handler) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.pages[path] = page{path, description, h}
}

// Section adds a top-level key to the config dump, or replaces it. f is called
// for each dump and returns a value that encoding/json can write; what it must
// not contain is credentials. A nil slice is shown as [], a nil map as {}. A
// pointer, struct, map or slice must not be changed after f has returned it.
func (s *Server) Section(name string, f func() (any, error)) { s.dump.add(name, f) }

// ServeHTTP answers a request for a page; there is no other answer than 404 for
// paths that are not registered.
func (s *Server) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	s.mu.RLock()
	p, ok := s.pages[r.URL.Path]
	s.mu.RUnlock()
	if !ok {
		w.WriteHeader(http.StatusNotFound)
		return
	}
	p.handler.ServeHTTP(w, r)
}

// Serve serves the pages on the listeners until ctx ends, and then waits a
// moment for open requests.
func (s *Server) Serve(ctx context.Context, listeners ...net.Listener) error {
	return httpd.New(httpd.Config{Component: "admin", Handler: s, Log: s.cfg.Log}).Serve(ctx, listeners...)
}

var indexTemplate = template.Must(template.New("index").Parse(`<!DOCTYPE html>
<html><head><meta charset="utf-8"><title>ztunnel</title>
<style>body{font-family:sans-serif;margin:2em}td{padding:.3em 1.5em .3em 0}tr+tr td{border-top:1px solid #ddd}</style>
</head><body>
<h1>ztunnel</h1>
<table>
{{range .}}<tr><td><a href="{{.Path}}">{{.Path}}</a></td><td>{{.Description}}</td></tr>
{{end}}</table>
</body></html>
`))

func (s *Server) index(w http.ResponseWriter, _ *http.Request) {
	type row struct{ Path, Description string }
	var rows []row
	s.mu.RLock()
	for _, p := range s.pages {
		if p.description != "" {
			rows = append(rows, row{p.path, p.description})
		}
	}
	s.mu.RUnlock()
	slices.SortFunc(rows, func(a, b row) int { return strings.Compare(a.Path, b.Path) })
	w.Header().Set("Content-Type", "text/html; charset=utf-8")
	_ = indexTemplate.Execute(w, rows) // the client is gone
}

func (s *Server) quit(w http.ResponseWriter, r *http.Request) {
	if r.Method != http.MethodPost {
		w.WriteHeader(http.StatusMethodNotAllowed)
		return
	}
	if err := s.cfg.Quit(r.Context()); err != nil {
		text(w, http.StatusInternalServerError, err.Error())
		return
	}
	text(w, http.StatusOK, "shutdown now\n")
}

func (s *Server) version(w http.ResponseWriter, _ *http.Request) {
	b, err := indent(s.cfg.Version, "")
	if err != nil {
		text(w, http.StatusInternalServerError, err.Error())
		return
	}
	w.Header().Set("Content-Type", "application/json")
	_, _ = w.Write(append(b, '\n')) // the client is gone
}

// text answers with plain text.
func text(w http.ResponseWriter, status int, body string) {
	w.Header().Set("Content-Type", "text/plain")
	w.WriteHeader(status)
	_, _ = io.WriteString(w, body) // the client is gone
}
