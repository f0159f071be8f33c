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
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/miekg/dns"
)

// Limits of one server.
const (
	// maxOutstanding is how many queries may wait for an answer; one more is
	// answered SERVFAIL and counted.
	maxOutstanding = 1000
	// upstreamTimeout bounds one try at one resolver.
	upstreamTimeout = 5 * time.Second
	// idleTimeout closes a client's TCP connection without queries.
	idleTimeout = 10 * time.Second
	// maxTCPQueries bounds the queries of one TCP connection.
	maxTCPQueries = 128
)

// Config is what a Server is made of. All fields but Control are needed.
type Config struct {
	Addrs     []netip.AddrPort // where to listen, on UDP and TCP each
	Upstreams []netip.AddrPort // resolvers, in the order in which they are asked
	// Control prepares the sockets to the resolvers, to mark them. Nil leaves
	// them alone.
	Control func(network, address string, c syscall.RawConn) error
	Log     *slog.Logger // scope dns::server
}

// Server forwards DNS queries. Use Listen.
type Server struct {
	config      Config
	sockets     []*dns.Server
	outstanding atomic.Int64
	refused     atomic.Uint64
}

// Listen binds all sockets, and serves none of them yet.
func Listen(ctx context.Context, c Config) (*Server, error) {
	s := &Server{config: c}
	var lc net.ListenConfig
	for _, addr := range c.Addrs {
		packets, err := lc.ListenPacket(ctx, "udp", addr.String())
		if err != nil {
			return nil, errors.Join(fmt.Errorf("failed to bind to address %s: %w", addr, err), s.close())
		}
		s.sockets = append(s.sockets, &dns.Server{PacketConn: packets, Handler: s})
		streams, err := lc.Listen(ctx, "tcp", addr.String())
		if err != nil {
			return nil, errors.Join(fmt.Errorf("failed to bind to address %s: %w", addr, err), s.close())
		}
		s.sockets = append(s.sockets, &dns.Server{
			Listener: streams, Handler: s, MaxTCPQueries: maxTCPQueries,
			IdleTimeout: func() time.Duration { return idleTimeout },
		})
		c.Log.Info("listener established", "address", addr, "component", "dns")
	}
	return s, nil
}

func (s *Server) close() error {
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

// Serve answers queries until ctx ends, and returns when all sockets are
// closed.
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
	for _, socket := range s.sockets {
		// Fails for a socket that was not yet served, which the close below ends.
		_ = socket.ShutdownContext(context.WithoutCancel(ctx))
	}
	_ = s.close() // most are closed already
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
	answer, err := s.forward(w.LocalAddr().Network(), query)
	if err != nil {
		s.config.Log.Debug("forwarding a query failed", "error", err)
		s.fail(w, query)
		return
	}
	answer.Id = query.Id
	if w.LocalAddr().Network() == "udp" {
		answer.Truncate(sizeFor(query))
	}
	if err := w.WriteMsg(answer); err != nil {
		s.config.Log.Debug("answering a query failed", "error", err)
	}
}

// forward asks the resolvers one after the other, over the same transport.
func (s *Server) forward(network string, query *dns.Msg) (*dns.Msg, error) {
	client := dns.Client{
		Net: network, Timeout: upstreamTimeout, UDPSize: dns.MaxMsgSize,
		Dialer: &net.Dialer{Timeout: upstreamTimeout, Control: s.config.Control},
	}
	errs := []error{}
	for _, upstream := range s.config.Upstreams {
		answer, _, err := client.Exchange(query.Copy(), upstream.String())
		if err == nil {
			return answer, nil
		}
		errs = append(errs, fmt.Errorf("ask %s: %w", upstream, err))
	}
	if len(errs) == 0 {
		return nil, errors.New("no resolver is configured")
	}
	return nil, errors.Join(errs...)
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
