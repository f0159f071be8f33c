// Package httpd serves the HTTP pages of the process about itself, on sockets
// and on tunnels, with the limits of the reference's servers: HTTP/1 only, 2 s
// for the header, 8 KiB for its size. A client that shuts down its sending side
// still gets its answer.
//
// It owns no page; admin and telemetry/surface call it.
package httpd

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"runtime/debug"
	"sync"
	"sync/atomic"
	"time"
)

const (
	headerTimeout = 2 * time.Second
	// maxHeader makes a limit of 8 KiB with the 4 KiB that net/http adds.
	maxHeader = 4 << 10
	// idleTimeout is as long as Prometheus keeps idle connections.
	idleTimeout = 5 * time.Minute
	// bodyTimeout bounds reading a request body that no page is interested in.
	bodyTimeout = 5 * time.Second
	// writeTimeout bounds an answer from the end of its request header on. A
	// page that takes longer extends it by ExtendWrite.
	writeTimeout = time.Minute
	// endTimeout is how long open requests may go on after the end of Serve's
	// context.
	endTimeout = 500 * time.Millisecond

	defaultMaxConns = 256
)

// Config describes one server.
type Config struct {
	// Component names the server in the log: "admin", "stats", "readiness".
	Component string
	// Handler answers all requests.
	Handler http.Handler
	// Log gets the beginning and the end of each listener.
	Log *slog.Logger
	// MaxConns is how many connections may be open. For a further one on a
	// socket, the one that has waited longest for its client to send a request
	// is closed; if there is none, and on tunnels, the new one. Either is
	// counted. 0 is 256.
	MaxConns int
}

// Server serves one handler. It may be used concurrently.
type Server struct {
	cfg     Config
	conns   atomic.Int64
	refused atomic.Uint64
	waiting waiting

	drain    sync.Once
	draining chan struct{} // closed by Drain
}

// New makes a server. It starts nothing.
func New(cfg Config) *Server {
	if cfg.MaxConns <= 0 {
		cfg.MaxConns = defaultMaxConns
	}
	return &Server{cfg: cfg, draining: make(chan struct{})}
}

// Drain ends connections given to ServeConn as soon as they are idle, and from
// now on after one answer: a reader that keeps its connection for the next time
// would hold up a process that wants to end.
func (s *Server) Drain() { s.drain.Do(func() { close(s.draining) }) }

// Refused is how many connections were closed because too many were open, new
// ones and those that waited.
func (s *Server) Refused() uint64 { return s.refused.Load() }

// Listen opens a TCP listener for pages. The wildcard address of IPv6 takes
// IPv4 too.
func Listen(ctx context.Context, addr netip.AddrPort) (net.Listener, error) {
	var lc net.ListenConfig
	lc.SetMultipathTCP(false)
	ln, err := lc.Listen(ctx, "tcp", addr.String())
	if err != nil {
		return nil, fmt.Errorf("bind %s: %w", addr, err)
	}
	return ln, nil
}

// Serve serves all listeners until ctx ends; then it closes them, gives open
// requests a moment, closes all connections and waits for the handlers. It
// returns nil after that, or the error of a listener that failed.
func (s *Server) Serve(ctx context.Context, listeners ...net.Listener) error {
	var conns sync.WaitGroup
	srv := s.server(ctx)
	srv.ConnState = func(conn net.Conn, state http.ConnState) {
		s.waiting.note(conn.(*counted), state == http.StateNew || state == http.StateIdle)
		switch state {
		case http.StateNew: // before Serve of the listener can return
			conns.Add(1)
		case http.StateClosed, http.StateHijacked:
			conns.Done()
		}
	}
	results := make(chan error, len(listeners))
	var serving sync.WaitGroup
	for _, ln := range listeners {
		log := s.cfg.Log.With(slog.String("address", ln.Addr().String()), slog.String("component", s.cfg.Component))
		log.Info("listener established")
		serving.Go(func() {
			results <- srv.Serve(&limited{Listener: ln, server: s})
			log.Info("listener drained")
		})
	}
	var err error
	select {
	case <-ctx.Done():
	case err = <-results:
	}
	end(srv)
	serving.Wait()
	conns.Wait()
	if err == nil || errors.Is(err, http.ErrServerClosed) {
		return nil
	}
	return fmt.Errorf("serve %s: %w", s.cfg.Component, err)
}

// end closes the listeners at once and the connections soon.
func end(srv *http.Server) {
	ctx, cancel := context.WithTimeout(context.Background(), endTimeout)
	defer cancel()
	if srv.Shutdown(ctx) != nil {
		_ = srv.Close() // of listeners that are closed already
	}
}

// ErrTooManyConns says that a connection was closed because too many were open.
var ErrTooManyConns = errors.New("too many connections")

// ServeConn serves one connection of any kind until it ends, which gives nil,
// or ctx ends, which closes it at once and gives the cause. The handlers have
// returned and conn is closed when it returns.
func (s *Server) ServeConn(ctx context.Context, conn net.Conn) error {
	if !s.enter() {
		s.refused.Add(1)
		conn.Close()
		return ErrTooManyConns
	}
	defer s.conns.Add(-1)
	srv := s.server(ctx)
	closed := make(chan struct{})
	srv.ConnState = func(_ net.Conn, state http.ConnState) {
		if state == http.StateClosed || state == http.StateHijacked {
			close(closed)
		}
	}
	cut := context.AfterFunc(ctx, func() { conn.Close() })
	var serving sync.WaitGroup
	serving.Go(func() { _ = srv.Serve(&single{conn: conn, closed: closed}) }) // its end is that of the listener
	select {
	case <-closed: // its handler has returned
	case <-s.draining:
		srv.SetKeepAlivesEnabled(false) // closes it if it is idle
		<-closed
	}
	serving.Wait()
	_ = srv.Close() // of a listener that cannot fail
	if !cut() {
		return context.Cause(ctx)
	}
	return nil
}

func (s *Server) enter() bool {
	if s.conns.Add(1) > int64(s.cfg.MaxConns) {
		s.conns.Add(-1)
		return false
	}
	return true
}

// server is the server of the standard library with our limits.
func (s *Server) server(ctx context.Context) *http.Server {
	var protocols http.Protocols
	protocols.SetHTTP1(true)
	return &http.Server{
		Protocols:         &protocols,
		ReadHeaderTimeout: headerTimeout,
		MaxHeaderBytes:    maxHeader,
		IdleTimeout:       idleTimeout,
		ErrorLog:          log.New(io.Discard, "", 0), // what clients do wrong is not for our log
		Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			// Not the request's context: it ends when the client shuts down its
			// sending side, and the client is to get its answer nevertheless.
			s.serve(w, r.WithContext(ctx))
		}),
	}
}

func (s *Server) serve(w http.ResponseWriter, r *http.Request) {
	defer func() {
		p := recover()
		if p == nil {
			return
		}
		if p != http.ErrAbortHandler { //nolint:errorlint // it is thrown as it is
			s.cfg.Log.Error("page panicked", slog.String("component", s.cfg.Component), slog.String("path", r.URL.Path),
				slog.Any("panic", p), slog.String("stack", string(debug.Stack())))
		}
		panic(http.ErrAbortHandler) // ends the connection
	}()
	if r.ProtoMajor != 1 { // like the preface of HTTP/2: it gets through to handlers
		w.Header().Set("Connection", "close")
		w.WriteHeader(http.StatusBadRequest) // as the reference
		return
	}
	if r.ContentLength != 0 { // nobody reads it, but it must come to an end
		_ = http.NewResponseController(w).SetReadDeadline(time.Now().Add(bodyTimeout)) // a connection without deadlines has none
	}
	ExtendWrite(w, 0)
	s.cfg.Handler.ServeHTTP(w, r)
}

// ExtendWrite gives an answer its time from now on, and extra in addition.
func ExtendWrite(w http.ResponseWriter, extra time.Duration) {
	_ = http.NewResponseController(w).SetWriteDeadline(time.Now().Add(writeTimeout + extra)) // a connection without deadlines has none
}

// single is a listener with one connection; it ends with it.
type single struct {
	conn   net.Conn
	closed <-chan struct{}
	given  bool
}

func (l *single) Accept() (net.Conn, error) {
	if !l.given {
		l.given = true
		return l.conn, nil
	}
	<-l.closed
	return nil, net.ErrClosed
}

func (l *single) Close() error   { return nil }
func (l *single) Addr() net.Addr { return l.conn.LocalAddr() }
