// Package dns serves port 15053: the DNS queries that redirection takes from
// the pods. It answers for the services of the mesh from the store, and forwards
// everything else to the resolvers of the system. It also looks up workloads that
// are only known by a hostname, for the outbound path.
//
//	client ─► Server ─► store of the mesh     answered at once, on the goroutine that reads
//	              └───► forwarder ─► cache    likewise
//	                        └──────► resolvers, each query from a socket of its own,
//	                                 the first answers taken by one goroutine
//	outbound ─► Resolver ─► another forwarder, in the process's own namespace
//
// The question of a client and the answer of the mesh are read and written here,
// because nearly all queries are such; messages of resolvers, and whatever else
// clients send, are left to the library.
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
	"time"

	"ztunnel/proxy/workload"
)

// Limits of one server.
const (
	// maxOutstanding is how many queries may wait for an answer; one more is
	// answered SERVFAIL and counted.
	maxOutstanding = 1000
	// workloadWait bounds how long a query waits for the record of the pod that
	// asks, as in the reference.
	workloadWait = 5 * time.Second
	// idleTimeout closes a client's TCP connection without queries.
	idleTimeout = 10 * time.Second
	// writeTimeout closes that of a client that does not take its answer.
	writeTimeout = 5 * time.Second
	// maxTCPQueries bounds the queries of one TCP connection.
	maxTCPQueries = 128
	// maxConns bounds the clients' TCP connections of one listener.
	maxConns = 200
	// maxQuery is the largest message that is read over UDP.
	maxQuery = 4096
)

// Config is what a Server is made of. Addrs, Upstreams and Log are needed.
type Config struct {
	Addrs []netip.AddrPort // where to listen, on UDP and TCP each
	// Workload is the pod whose queries these are, and Store what is known of
	// the mesh. Without a store there are no answers but those of the resolvers.
	Workload workload.Info
	Store    *workload.Store
	Network  string // of this node
	Domain   string // of the cluster, such as cluster.local
	// Search are the domains that the client's resolver puts behind names. Nil:
	// those of Kubernetes for the pod's namespace.
	Search             []string
	IPv6               bool      // names of the mesh have IPv6 addresses
	PreferredNamespace string    // among services of one hostname; empty: none
	Upstreams          Upstreams // are asked what the mesh does not know
	// ListenUDP and ListenTCP open the sockets at Addrs, in the network namespace
	// of a pod for instance. Their errors name the address. Nil opens them in the
	// process's own namespace.
	ListenUDP func(context.Context, netip.AddrPort) (*net.UDPConn, error)
	ListenTCP func(context.Context, netip.AddrPort) (*net.TCPListener, error)
	// Absent is asked when an address cannot be bound, whether it does not exist, and the server is to do without it. Nil: none is.
	Absent func(netip.AddrPort) bool
	// Go starts what waits for a resolver. Nil starts a goroutine.
	Go func(task func())
	// Metrics counts for several servers together. Nil: each counts for itself.
	Metrics *Metrics
	// Panics counts those that were recovered from. Nil: not counted.
	Panics  *atomic.Int64
	Queries *slog.Logger // scope dns: a line at debug for each query; nil: none
	Log     *slog.Logger // scope dns::server
}

// Server answers the DNS queries of one pod. Use Listen. While it has nothing to do, it holds
// one goroutine for each socket and no buffers.
type Server struct {
	config      Config
	udp         []*net.UDPConn
	tcp         []*net.TCPListener
	outstanding atomic.Int64
	domains     domains
	forwarder   *forwarder
	inquiries   inquiries
	recent      atomic.Pointer[addressSeries] // of the pod's workload
	ctx         context.Context
	end         context.CancelFunc // of ctx, which is that of all queries
	serving     sync.WaitGroup     // loops, connections and queries

	mu    sync.Mutex
	conns map[net.Conn]struct{} // of clients; nil while there are none
}

// Listen binds all sockets, and serves none of them yet. If it fails, nothing is
// left open.
func Listen(ctx context.Context, c Config) (*Server, error) {
	if c.ListenUDP == nil {
		c.ListenUDP = listenUDP
	}
	if c.ListenTCP == nil {
		c.ListenTCP = listenTCP
	}
	if c.Metrics == nil {
		c.Metrics = new(Metrics)
	}
	s := &Server{config: c, domains: newDomains(c.Domain, c.Workload.Namespace, c.Search)}
	s.ctx, s.end = context.WithCancel(context.WithoutCancel(ctx))
	s.inquiries.server = s
	s.forwarder = newForwarder(&s.config.Upstreams, s.ctx.Done())
	for _, addr := range c.Addrs {
		packets, err := c.ListenUDP(ctx, addr)
		if err != nil && c.Absent != nil && c.Absent(addr) {
			continue
		}
		if err != nil {
			return nil, errors.Join(err, s.Close())
		}
		s.udp = append(s.udp, packets)
		streams, err := c.ListenTCP(ctx, addr)
		if err != nil {
			return nil, errors.Join(err, s.Close())
		}
		s.tcp = append(s.tcp, streams)
		c.Log.Info("listener established", "address", addr, "component", "dns")
	}
	// They are not needed any more, and hold on to what opened the sockets.
	s.config.ListenUDP, s.config.ListenTCP, s.config.Absent = nil, nil, nil
	return s, nil
}

func listenUDP(ctx context.Context, addr netip.AddrPort) (*net.UDPConn, error) {
	c, err := new(net.ListenConfig).ListenPacket(ctx, "udp", addr.String())
	if err != nil {
		return nil, fmt.Errorf("failed to bind to address %s: %w", addr, err)
	}
	return c.(*net.UDPConn), nil
}

func listenTCP(ctx context.Context, addr netip.AddrPort) (*net.TCPListener, error) {
	ln, err := new(net.ListenConfig).Listen(ctx, "tcp", addr.String())
	if err != nil {
		return nil, fmt.Errorf("failed to bind to address %s: %w", addr, err)
	}
	return ln.(*net.TCPListener), nil
}

// Start begins to answer queries, until Stop or Close. failed is told of an UDP
// socket that cannot be read any more; it must not block. It may be called once.
func (s *Server) Start(failed func(error)) {
	for _, c := range s.udp {
		s.serving.Go(func() {
			if err := s.serveUDP(c); err != nil {
				failed(fmt.Errorf("serve dns over UDP: %w", err))
			}
		})
	}
	for _, ln := range s.tcp {
		s.serving.Go(func() { s.serveTCP(ln) })
	}
}

// start runs a task that Close waits for.
func (s *Server) start(task func()) {
	if s.config.Go == nil {
		s.serving.Go(task)
		return
	}
	s.serving.Add(1)
	s.config.Go(func() {
		defer s.serving.Done()
		task()
	})
}

// Stop closes all sockets and gives up the queries that wait for an answer. It
// does not wait for what that ends.
func (s *Server) Stop() error {
	s.end()
	s.inquiries.stop()
	var errs []error
	for _, c := range s.udp {
		errs = append(errs, ignoreClosed(c.Close()))
	}
	for _, ln := range s.tcp {
		errs = append(errs, ignoreClosed(ln.Close()))
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	for c := range s.conns {
		_ = c.Close()
	}
	s.conns = nil
	return errors.Join(errs...)
}

// Close stops the server and returns when nothing of it is left. It may be
// called without Start.
func (s *Server) Close() error {
	err := s.Stop()
	s.serving.Wait()
	return err
}

func ignoreClosed(err error) error {
	if errors.Is(err, net.ErrClosed) {
		return nil
	}
	return err
}

// Serve answers queries until ctx ends, or a socket fails. Then it closes the
// server.
func (s *Server) Serve(ctx context.Context) error {
	failed := make(chan error, len(s.udp))
	s.Start(func(err error) { failed <- err })
	var err error
	select {
	case <-ctx.Done():
	case err = <-failed:
	}
	return errors.Join(err, s.Close())
}
