// Package dns serves port 15053: the DNS queries that redirection takes from
// the pods. It forwards them to the resolvers of the system and hands the
// answers back.
//
// It does not answer names of the mesh itself yet, so a name that only the
// mesh knows is as unknown as it would be without a proxy.
package dns

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"runtime/debug"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/miekg/dns"
	"golang.org/x/net/netutil"
)

// Limits of one server.
const (
	// maxOutstanding is how many queries may wait for an answer; one more is
	// answered SERVFAIL and counted.
	maxOutstanding = 1000
	// maxSockets is how many of them may have a socket to a resolver; the
	// others wait for one.
	maxSockets = 200
	// upstreamTimeout bounds one try at one resolver, and queryTimeout all that
	// is done for a query. Clients ask again after 5 s, most of them.
	upstreamTimeout = 5 * time.Second
	queryTimeout    = 10 * time.Second
	// idleTimeout closes a client's TCP connection without queries.
	idleTimeout = 10 * time.Second
	// maxTCPQueries bounds the queries of one TCP connection.
	maxTCPQueries = 128
	// maxConns bounds the clients' TCP connections of one listener.
	maxConns = 200
	// maxQuery is the largest query that is read over UDP.
	maxQuery = 4096
)

// Config is what a Server is made of. All fields but Control and Panics are
// needed.
type Config struct {
	Addrs     []netip.AddrPort // where to listen, on UDP and TCP each
	Upstreams []netip.AddrPort // resolvers, in the order in which they are asked
	// Control prepares the sockets to the resolvers, to mark them. Nil leaves
	// them alone.
	Control func(network, address string, c syscall.RawConn) error
	// Panics counts those that were recovered from. Nil: not counted.
	Panics *atomic.Int64
	Log    *slog.Logger // scope dns::server
}

// Server forwards DNS queries. Use Listen.
type Server struct {
	config      Config
	sockets     []*dns.Server
	outstanding atomic.Int64
	refused     atomic.Uint64
	upstream    chan struct{} // holds a token for each socket to a resolver

	ctx context.Context // of all queries; ends with Serve
	end context.CancelFunc
}

// Listen binds all sockets, and serves none of them yet.
func Listen(ctx context.Context, c Config) (*Server, error) {
	s := &Server{config: c, upstream: make(chan struct{}, maxSockets)}
	s.ctx, s.end = context.WithCancel(context.WithoutCancel(ctx))
	var lc net.ListenConfig
	for _, addr := range c.Addrs {
		packets, err := lc.ListenPacket(ctx, "udp", addr.String())
		if err != nil {
			return nil, errors.Join(fmt.Errorf("failed to bind to address %s: %w", addr, err), s.Close())
		}
		s.sockets = append(s.sockets, &dns.Server{
			PacketConn: packets, Handler: s, UDPSize: maxQuery, MsgAcceptFunc: accept,
		})
		streams, err := lc.Listen(ctx, "tcp", addr.String())
		if err != nil {
			return nil, errors.Join(fmt.Errorf("failed to bind to address %s: %w", addr, err), s.Close())
		}
		s.sockets = append(s.sockets, &dns.Server{
			Listener: netutil.LimitListener(streams, maxConns), Handler: s, MaxTCPQueries: maxTCPQueries,
			IdleTimeout: func() time.Duration { return idleTimeout }, MsgAcceptFunc: accept,
		})
		c.Log.Info("listener established", "address", addr, "component", "dns")
	}
	return s, nil
}

// Close closes the sockets of a server that is not served. Serve does so
// itself.
func (s *Server) Close() error {
	s.end()
	var errs []error
	for _, socket := range s.sockets {
		if socket.PacketConn != nil {
			errs = append(errs, socket.PacketConn.Close())
		}
		if socket.Listener != nil {
			errs = append(errs, socket.Listener.Close())
		}
	}
	return errors.Join(errs...)
}

// Refused is how many queries were turned away because too many were waiting.
func (s *Server) Refused() uint64 { return s.refused.Load() }

// Serve answers queries until ctx ends; then it closes all sockets, gives up
// the queries that wait for an answer, and returns when nothing of it is left.
func (s *Server) Serve(ctx context.Context) error {
	var serving sync.WaitGroup
	failed := make(chan error, len(s.sockets))
	for _, socket := range s.sockets {
		serving.Go(func() { failed <- socket.ActivateAndServe() })
	}
	var err error
	select {
	case <-ctx.Done():
	case err = <-failed:
	}
	s.end()
	for _, socket := range s.sockets {
		// Fails for a socket that was not yet served, which the close below ends.
		_ = socket.ShutdownContext(context.WithoutCancel(ctx))
	}
	_ = s.Close() // most are closed already
	serving.Wait()
	if err != nil {
		return fmt.Errorf("serve dns: %w", err)
	}
	return nil
}

// ServeDNS forwards one query.
func (s *Server) ServeDNS(w dns.ResponseWriter, query *dns.Msg) {
	if s.outstanding.Add(1) > maxOutstanding {
		s.outstanding.Add(-1)
		s.refused.Add(1)
		s.fail(w, query)
		return
	}
	defer s.outstanding.Add(-1)
	defer s.recovered()
	answer, err := s.forward(w.LocalAddr().Network(), query)
	if err != nil {
		s.config.Log.Debug("forwarding a query failed", "error", err)
		s.fail(w, query)
		return
	}
	answer.Id = query.Id
	answer.Compress = true // as it came; else it may not fit any more
	if w.LocalAddr().Network() == "udp" {
		answer.Truncate(sizeFor(query))
	}
	if err := w.WriteMsg(answer); err != nil {
		s.config.Log.Debug("answering a query failed", "error", err)
	}
}

// recovered keeps a panic in one query from ending the process.
func (s *Server) recovered() {
	p := recover()
	if p == nil {
		return
	}
	if s.config.Panics != nil {
		s.config.Panics.Add(1)
	}
	s.config.Log.Error("panic while serving a query", "panic", fmt.Sprint(p), "stack", string(debug.Stack()))
}

// accept lets through what can be forwarded: one question, or one zone of an
// update.
func accept(h dns.Header) dns.MsgAcceptAction {
	const response, opcodes = 1 << 15, 0xF
	if h.Bits&response != 0 {
		return dns.MsgIgnore
	}
	switch opcode := int(h.Bits>>11) & opcodes; opcode {
	case dns.OpcodeUpdate:
		if h.Qdcount == 1 {
			return dns.MsgAccept
		}
		return dns.MsgReject
	default:
		return dns.DefaultMsgAcceptFunc(h)
	}
}

// forward asks the resolvers one after the other, over the same transport.
func (s *Server) forward(network string, query *dns.Msg) (*dns.Msg, error) {
	ctx, cancel := context.WithTimeout(s.ctx, queryTimeout)
	defer cancel()
	select {
	case s.upstream <- struct{}{}:
	case <-ctx.Done():
		return nil, fmt.Errorf("wait for a socket: %w", ctx.Err())
	}
	defer func() { <-s.upstream }()
	if err := s.ctx.Err(); err != nil { // of all, because it ends before those of the others do
		return nil, fmt.Errorf("wait for a socket: %w", err)
	}
	errs := []error{}
	for _, upstream := range s.config.Upstreams {
		answer, err := s.ask(ctx, network, upstream, query)
		if err == nil {
			return answer, nil
		}
		errs = append(errs, fmt.Errorf("ask %s: %w", upstream, err))
		if ctx.Err() != nil {
			break
		}
	}
	if len(errs) == 0 {
		return nil, errors.New("no resolver is configured")
	}
	return nil, errors.Join(errs...)
}

// ask asks one resolver. Each query has a socket of its own, and with it a
// random port, which is what makes forged answers improbable.
func (s *Server) ask(ctx context.Context, network string, upstream netip.AddrPort, query *dns.Msg) (*dns.Msg, error) {
	ctx, cancel := context.WithTimeout(ctx, upstreamTimeout)
	defer cancel()
	client := dns.Client{
		Net: network, Timeout: upstreamTimeout, UDPSize: dns.MaxMsgSize,
		Dialer: &net.Dialer{Timeout: upstreamTimeout, Control: s.config.Control},
	}
	conn, err := client.DialContext(ctx, upstream.String())
	if err != nil {
		return nil, err
	}
	defer conn.Close()
	stop := context.AfterFunc(ctx, func() { conn.Close() }) // the exchange heeds the deadline of ctx only
	defer stop()
	answer, _, err := client.ExchangeWithConnContext(ctx, query.Copy(), conn)
	if err != nil {
		return nil, err
	}
	if len(answer.Question) > 0 && !slices.EqualFunc(answer.Question, query.Question, sameQuestion) {
		return nil, errors.New("the answer is to another question")
	}
	return answer, nil
}

func sameQuestion(a, b dns.Question) bool {
	return a.Qtype == b.Qtype && a.Qclass == b.Qclass && strings.EqualFold(a.Name, b.Name)
}

// fail answers that the query could not be served.
func (s *Server) fail(w dns.ResponseWriter, query *dns.Msg) {
	if err := w.WriteMsg(new(dns.Msg).SetRcode(query, dns.RcodeServerFailure)); err != nil {
		s.config.Log.Debug("answering a query failed", "error", err)
	}
}

// sizeFor is the largest answer that the client takes over UDP (RFC 6891).
func sizeFor(query *dns.Msg) int {
	if opt := query.IsEdns0(); opt != nil {
		return max(dns.MinMsgSize, int(opt.UDPSize()))
	}
	return dns.MinMsgSize
}
