// Package inbound serves the two ports at which connections enter one pod:
// 15008, where other proxies bring them in HBONE tunnels, and 15006, where
// redirected plain text arrives.
//
// A tunnel's life is read from top to bottom in tunnel.go, that of a stream in
// it in stream.go, that of a plain connection in plaintext.go. Who the peer is
// comes from TLS alone; what it says of itself only fills labels that nothing
// else can.
package inbound

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
	"ztunnel/proxy/identity"
	"ztunnel/proxy/live"
	"ztunnel/proxy/rbac"
	"ztunnel/proxy/socket"
	"ztunnel/proxy/spiffe"
	"ztunnel/proxy/workload"
	"ztunnel/telemetry/connection"
)

// Defaults of Config. The first is that of the reference.
const (
	DefaultWorkloadWait   = 5 * time.Second
	DefaultMaxHandshakes  = 512
	DefaultMaxConnections = 32 << 10
)

// Config is what a Server is made of. All fields are needed unless they say
// otherwise. They are not changed afterwards.
type Config struct {
	Workload     workload.Info // whose connections these are
	Network      string        // of this node
	IllegalPorts []uint16      // our own, which nobody may reach through us
	// KeepSource makes applications see the client's address instead of the
	// pod's own. The listeners must be transparent for it.
	KeepSource         bool
	Baggage            bool // tell clients of the workload, and believe what they tell
	LocalhostAppTunnel bool // PROXY protocol goes to the loopback address

	// WorkloadWait bounds how long a connection waits for the record of its
	// pod; zero means DefaultWorkloadWait.
	WorkloadWait time.Duration
	// MaxHandshakes bounds the tunnels whose peer is not yet authenticated, and
	// MaxConnections the sockets of each of the two ports. What exceeds them is
	// closed and counted as rejected. Zero means the default.
	MaxHandshakes, MaxConnections int

	Store        *workload.Store
	Policies     *rbac.Set
	Certificates Certificates
	Sockets      *socket.Factory
	HBONE        *hbone.Config
	Live         *live.Set
	Recorder     *connection.Recorder
	Demand       workload.Demand // gets what Store does not have yet; nil if it has all
	// Span marks the lines of a stream in the log; nil leaves the marks away.
	Span        func(log *slog.Logger, name string, attrs ...slog.Attr) *slog.Logger
	Revocations *identity.CRL // ends tunnels of peers that are revoked; nil ends none
	Surface     Surface       // virtual ports of the pod; nil if there are none
	Panics      *atomic.Int64 // counts recovered panics
	Log         *slog.Logger  // scope proxy::inbound
}

// Certificates gives the certificate of an identity, and waits for it if it
// must.
type Certificates interface {
	Certificate(ctx context.Context, id spiffe.ID, p identity.Priority) (*identity.Certificate, error)
}

// Surface serves virtual ports: streams that end in this process.
type Surface interface {
	// Open returns what serves a virtual port, or nil if the port is an
	// ordinary one. The error refuses a port that is kept for a surface which
	// is not there; to the client it looks like a closed port.
	Open(port uint16) (VirtualPort, error)
}

// VirtualPort serves one of them.
type VirtualPort interface {
	// Authorize is asked after the policies; explicit tells whether a policy
	// allows the reader by a match.
	Authorize(peer string, explicit bool) error
	// Denied records that a reader was refused.
	Denied(src netip.AddrPort, peer string, err error)
	// Serve answers on conn until it ends or ctx does.
	Serve(ctx context.Context, conn net.Conn, src netip.AddrPort, peer string) error
}

// Server serves the inbound ports of one pod. Use New.
type Server struct {
	Config
	tunnels     tunnels
	baggage     atomic.Pointer[baggage] // of the pod's own workload
	handshaking atomic.Int64            // tunnels whose peer is not authenticated
	hbone       atomic.Int64            // sockets of port 15008
	plain       atomic.Int64            // sockets of port 15006
}

// New returns a server that does nothing until ServeHBONE or ServePlaintext.
func New(c Config) *Server {
	c.WorkloadWait = cmp.Or(c.WorkloadWait, DefaultWorkloadWait)
	c.MaxHandshakes = cmp.Or(c.MaxHandshakes, DefaultMaxHandshakes)
	c.MaxConnections = cmp.Or(c.MaxConnections, DefaultMaxConnections)
	return &Server{Config: c}
}

// ServeHBONE takes tunnels from ln until it is closed, and returns when all of
// them and their streams have ended. Cancelling ctx ends them at once.
func (s *Server) ServeHBONE(ctx context.Context, ln *net.TCPListener) error {
	return s.serve(ctx, ln, s.handleTunnel)
}

// ServePlaintext takes redirected connections from ln until it is closed, and
// returns when all of them have ended. Cancelling ctx ends them at once.
func (s *Server) ServePlaintext(ctx context.Context, ln *net.TCPListener) error {
	return s.serve(ctx, ln, s.handlePlaintext)
}

func (s *Server) serve(ctx context.Context, ln *net.TCPListener, handle func(context.Context, *net.TCPConn)) error {
	var handlers sync.WaitGroup
	defer handlers.Wait()
	stop := context.AfterFunc(ctx, func() { s.Live.EndAll(context.Cause(ctx)) })
	defer stop()
	return socket.Accept(ctx, ln, s.Log, func(conn *net.TCPConn) {
		handlers.Go(func() { handle(ctx, conn) })
	})
}

// local finds the record of the pod, which has the given address, waiting for
// it if it must.
func (s *Server) local(ctx context.Context, addr netip.Addr) (*workload.Workload, error) {
	if w := s.Store.Pod(s.Workload, s.Network, addr); w != nil {
		return w, nil
	}
	wait, cancel := context.WithTimeout(ctx, s.WorkloadWait)
	defer cancel()
	w, err := s.Store.WaitLocal(wait, s.Workload)
	if err != nil {
		s.Log.Warn(fmt.Sprintf("timed out waiting for workload '%s' from xds", s.Workload))
		return nil, &unknownWorkloadError{s.Workload}
	}
	return w, nil
}

// reject logs and counts what is refused before it is understood.
func (s *Server) reject(src, dst netip.AddrPort, err error) {
	r := connection.Rejection{Reporter: connection.Destination, Reason: connection.ReasonBadRequest, Src: src, Dst: dst, Err: err}
	var reasoned interface{ RejectReason() string }
	if errors.As(err, &reasoned) {
		r.Reason = connection.Reason(reasoned.RejectReason())
	}
	if local := s.Store.Local(s.Workload); local != nil {
		r.Workload, r.Namespace = local.WorkloadName, local.Namespace
	}
	s.Recorder.Reject(&r)
}

// recovered keeps a panic in one connection from ending the others.
func (s *Server) recovered(end func()) {
	p := recover()
	if p == nil {
		return
	}
	s.Panics.Add(1)
	s.Log.Error("panic while serving a connection", "panic", fmt.Sprint(p), "stack", string(debug.Stack()))
	end()
}
