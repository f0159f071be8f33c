// Package outbound serves port 15001 of one pod: it takes the connections that
// leave the pod, decides where each one goes, and carries it there over HBONE
// or in plain TCP.
//
// A connection's life is read from top to bottom in handle and serve: original
// destination, source workload, route, record, dial, relay, close. What is
// decided is package route's, how bytes move is package hbone's and relay's.
package outbound

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"runtime/debug"
	"sync"
	"sync/atomic"
	"time"

	"ztunnel/proxy/hbone"
	"ztunnel/proxy/live"
	"ztunnel/proxy/route"
	"ztunnel/proxy/socket"
	"ztunnel/proxy/workload"
	"ztunnel/telemetry/connection"
)

// Defaults of Config. The first is that of the reference.
const (
	DefaultWorkloadWait   = 5 * time.Second
	DefaultMaxConnections = 64 << 10
)

// resolveTimeout bounds the lookup of a hostname.
const resolveTimeout = 10 * time.Second

// Config is what a Server is made of. All fields are needed unless they say
// otherwise, and are not changed afterwards.
type Config struct {
	Workload     workload.Info                                  // whose connections these are
	Network      string                                         // of this node
	IPv6         bool                                           // look for IPv6 addresses too
	IllegalPorts []uint16                                       // our own, which nobody may reach through us
	Store        *workload.Store                                // what is known of the mesh
	Sockets      *socket.Factory                                // sockets in the pod's namespace
	Pool         *hbone.Pool                                    // tunnels to other proxies
	Inner        InnerDialer                                    // the second tunnel of double HBONE
	Resolver     Resolver                                       // for workloads that are only known by a hostname
	Resolving    func(source *connection.Workload, host string) // counts what Resolver is asked; nil counts nothing
	Live         *live.Set                                      // where open connections are registered
	Recorder     *connection.Recorder
	Demand       workload.Demand // gets what Store does not have yet; nil if it has all
	// Span marks the lines of a connection in the log; nil leaves the marks away.
	Span   func(log *slog.Logger, name string, attrs ...slog.Attr) *slog.Logger
	Go     func(func())  // starts a short task; nil starts a goroutine
	Panics *atomic.Int64 // counts recovered panics
	Log    *slog.Logger  // scope proxy::outbound

	// WorkloadWait bounds how long a connection waits for the record of its
	// pod; zero means DefaultWorkloadWait.
	WorkloadWait time.Duration
	// MaxConnections bounds the open connections. What exceeds it is closed and
	// counted as rejected. Zero means DefaultMaxConnections.
	MaxConnections int
}

// Resolver looks up hosts, as a [net.Resolver] does.
type Resolver interface {
	// LookupNetIP returns the addresses of a host: of both families for the
	// network "ip", of IPv4 alone for "ip4".
	LookupNetIP(ctx context.Context, network, host string) ([]netip.Addr, error)
}

// Server serves the outbound port of one pod. Use New.
type Server struct {
	Config
	baggage atomic.Pointer[baggage] // of the pod's own workload
	open    atomic.Int64            // accepted connections
}

// New returns a server that does nothing until Serve.
func New(c Config) *Server {
	c.WorkloadWait = cmp.Or(c.WorkloadWait, DefaultWorkloadWait)
	c.MaxConnections = cmp.Or(c.MaxConnections, DefaultMaxConnections)
	return &Server{Config: c}
}

// Serve takes connections from ln until it is closed, and returns when all of
// them have ended. Cancelling ctx ends them at once, with ctx's cause as the
// reason in the log; it does not close ln.
func (s *Server) Serve(ctx context.Context, ln *net.TCPListener) error {
	var handlers sync.WaitGroup
	defer handlers.Wait()
	stop := context.AfterFunc(ctx, func() { s.Live.EndAll(context.Cause(ctx)) })
	defer stop()
	return socket.Accept(ctx, ln, s.Log, func(conn *net.TCPConn) {
		handlers.Add(1)
		s.start(func() {
			defer handlers.Done()
			s.handle(ctx, conn, &handlers)
		})
	})
}

// start runs a task that is short.
func (s *Server) start(task func()) {
	if s.Go == nil {
		go task()
		return
	}
	s.Go(task)
}

// handle serves one accepted connection. While that is idle it may go on on
// other goroutines of the same group.
func (s *Server) handle(ctx context.Context, conn *net.TCPConn, handlers *sync.WaitGroup) {
	s.Recorder.SocketOpened(connection.Source)
	rest := s.begin(ctx, conn, s.open.Add(1))
	if rest == nil {
		s.closed(conn)
		return
	}
	s.carryOn(conn, rest, handlers)
}

// carryOn runs what handle has left, on another goroutine whenever that is
// wanted.
func (s *Server) carryOn(conn *net.TCPConn, rest func() (again bool), handlers *sync.WaitGroup) {
	again := false
	defer func() {
		if !again {
			s.closed(conn)
		}
	}()
	defer s.recovered()
	if again = rest(); again {
		handlers.Go(func() { s.carryOn(conn, rest, handlers) })
	}
}

// closed ends what handle began.
func (s *Server) closed(conn *net.TCPConn) {
	s.open.Add(-1)
	conn.Close()
	s.Recorder.SocketClosed(connection.Source)
}

// begin sets a connection up and returns what is left to do.
func (s *Server) begin(ctx context.Context, conn *net.TCPConn, open int64) (rest func() (again bool)) {
	start := time.Now()
	defer s.recovered()
	if err := s.Sockets.Accepted(conn, true); err != nil {
		s.Log.Debug("preparing a connection failed", "error", err)
		return nil
	}
	src := socket.Peer(conn)
	if !src.IsValid() { // reset already
		s.Log.Debug("the client was gone before its connection was served")
		return nil
	}
	target, err := socket.OriginalDestination(conn)
	if err != nil {
		s.Log.Warn("failed to read SO_ORIGINAL_DST", "peer", src, "error", err)
	}
	if open > int64(s.MaxConnections) {
		s.reject(src, target, &limitError{s.MaxConnections})
		return nil
	}
	return s.connect(ctx, conn, src, target, start)
}

// Proxy carries a connection of the pod from src to target, and closes it. It
// is also where SOCKS clients join. ctx must be that of the pod: its end is that
// of all the pod's connections.
func (s *Server) Proxy(ctx context.Context, conn *net.TCPConn, src, target netip.AddrPort, start time.Time) {
	if rest := s.connect(ctx, conn, src, target, start); rest != nil {
		stop := context.AfterFunc(ctx, func() { s.Live.EndAll(context.Cause(ctx)) })
		defer stop()
		for rest() { // nobody waits for a new stack here
		}
	}
}

// connect connects the pod with the target and returns what is left to do.
func (s *Server) connect(ctx context.Context, conn *net.TCPConn, src, target netip.AddrPort, start time.Time) (rest func() (again bool)) {
	source, decision, err := s.decide(ctx, src, target)
	if err != nil {
		s.reject(src, target, err)
		conn.Close()
		return nil
	}
	c := &outgoing{
		Server: s, app: conn, src: src, target: target, source: source, route: decision, start: start,
		trace: hbone.NewTraceparent(),
	}
	c.tell(ctx)
	return c.serve(ctx)
}

// tell logs the route of the connection, marked with its trace id, under which
// the other end logs too.
func (c *outgoing) tell(ctx context.Context) {
	if c.Span == nil || !c.Log.Enabled(ctx, slog.LevelDebug) {
		return
	}
	c.Span(c.Log, "outbound", slog.String("id", c.trace.ID())).LogAttrs(ctx, slog.LevelDebug, "connection has a route",
		slog.Any("src", c.src), slog.Any("dst", c.target), slog.Any("actual", c.route.Dial))
}

// decide finds the pod's own workload and the route of a connection.
func (s *Server) decide(ctx context.Context, src, target netip.AddrPort) (*workload.Workload, route.Decision, error) {
	if err := route.CheckOutbound(target, s.IllegalPorts); err != nil {
		return nil, route.Decision{}, err
	}
	source := s.Store.Pod(s.Workload, s.Network, src.Addr())
	if source == nil {
		wait, cancel := context.WithTimeout(ctx, s.WorkloadWait)
		defer cancel()
		var err error
		if source, err = s.Store.WaitLocal(wait, s.Workload); err != nil {
			s.Log.Warn(fmt.Sprintf("timed out waiting for workload '%s' from xds", s.Workload))
			return nil, route.Decision{}, &unknownWorkloadError{s.Workload}
		}
	}
	if s.Demand != nil {
		s.Demand.NeedAddress(ctx, s.Network, target.Addr())
	}
	decision, err := route.Pick(s.Store, &route.Request{Source: source, Client: src, Target: target, Network: s.Network}, route.Random{})
	if err == nil && decision.Hostname != "" {
		decision, err = s.resolve(ctx, source, decision)
	}
	return source, decision, err
}

// resolve finds an address for a workload that is only known by a hostname.
func (s *Server) resolve(ctx context.Context, source *workload.Workload, d route.Decision) (route.Decision, error) {
	if s.Resolving != nil {
		s.Resolving(source.Telemetry(), d.Hostname)
	}
	network := "ip"
	if !s.IPv6 {
		network = "ip4"
	}
	lookup, cancel := context.WithTimeout(ctx, resolveTimeout)
	defer cancel()
	addrs, err := s.Resolver.LookupNetIP(lookup, network, d.Hostname)
	if err != nil {
		s.Log.Debug("looking up a workload's hostname failed", "hostname", d.Hostname, "error", err)
		return d, d.Unresolved()
	}
	return d.Resolve(addrs)
}

// reject logs and counts a connection that is refused before it has a route.
func (s *Server) reject(src, target netip.AddrPort, err error) {
	r := connection.Rejection{Reporter: connection.Source, Reason: connection.ReasonNoRoute, Src: src, Dst: target, Err: err}
	var reasoned interface{ RejectReason() string }
	if errors.As(err, &reasoned) {
		r.Reason = connection.Reason(reasoned.RejectReason())
	}
	s.Recorder.Reject(&r)
}

// recovered keeps a panic in one connection from ending the others.
func (s *Server) recovered() {
	p := recover()
	if p == nil {
		return
	}
	s.Panics.Add(1)
	s.Log.Error("panic while serving a connection", "panic", fmt.Sprint(p), "stack", string(debug.Stack()))
}
