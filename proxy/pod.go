package proxy

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"sync"
	"time"

	"ztunnel/proxy/hbone"
	"ztunnel/proxy/inbound"
	"ztunnel/proxy/live"
	"ztunnel/proxy/outbound"
	"ztunnel/proxy/socket"
	"ztunnel/proxy/socks"
	"ztunnel/proxy/workload"
)

// PodConfig is what is particular to one pod.
type PodConfig struct {
	Workload workload.Info
	Sockets  *socket.Factory // makes sockets in the pod's network namespace
	Surface  inbound.Surface // virtual ports at the pod's address; nil for none
	// Resolve finds the addresses of a host, of one family, for SOCKS clients. Nil refuses names.
	Resolve func(ctx context.Context, host string, ipv6 bool) ([]netip.Addr, error)
	// Log returns the logger of a scope for lines about this pod. Nil is that of the node.
	Log func(scope string) *slog.Logger
}

// Pod is the listeners of one pod with everything behind them that no other
// pod shares: its tunnels and its open connections. Use [Node.OpenPod].
type Pod struct {
	node     *Node
	info     workload.Info
	sockets  *socket.Factory
	inbound  *inbound.Server
	outbound *outbound.Server
	socks    *socks.Server // nil unless it is asked for
	pool     *hbone.Pool
	live     live.Set
	log      *slog.Logger
	parts    []part

	serving sync.WaitGroup          // the parts
	cut     context.CancelCauseFunc // ends all connections
	unwatch func()
}

// part is one listener and what serves it.
type part struct {
	component string
	ln        *net.TCPListener
	serve     func(context.Context, *net.TCPListener) error
	log       *slog.Logger
}

// listener is what a part is made of.
type listener struct {
	component string
	addr      netip.AddrPort
	scope     string // of its log
	serve     func(context.Context, *net.TCPListener) error
}

// OpenPod binds the listeners of a pod, in the order of the reference, and
// serves none of them before [Pod.Serve]: connections wait in the kernel.
func (n *Node) OpenPod(ctx context.Context, c PodConfig) (*Pod, error) {
	if c.Log == nil {
		c.Log = n.Log
	}
	p := &Pod{node: n, info: c.Workload, sockets: c.Sockets, log: c.Log("proxy")}
	var transparent bool
	err := c.Sockets.Visit(func(in *socket.Factory) (err error) {
		transparent, err = p.bind(ctx, in, c.Log)
		return err
	})
	if err != nil {
		return nil, errors.Join(err, p.closeListeners())
	}
	dialer := &outbound.Dialer{Certificates: n.Certificates, Revocations: n.Revocations, Sockets: c.Sockets, HBONE: n.ClientHBONE}
	p.pool = hbone.NewPool(hbone.PoolConfig{
		MaxStreams: int(n.Config.PoolMaxStreams), UnusedTimeout: n.Config.PoolUnusedTimeout,
		Dial: dialer.Dial,
	})
	n.pools.add(p.pool)
	p.inbound = inbound.New(inbound.Config{
		Workload: c.Workload, Network: n.Config.Network, IllegalPorts: n.Config.IllegalPorts,
		KeepSource: transparent, Baggage: n.Config.ResponseBaggage, LocalhostAppTunnel: n.Config.LocalhostAppTunnel,
		Store: n.Store, Policies: n.Policies, Certificates: n.Certificates, Sockets: c.Sockets,
		Demand: n.Demand, Span: n.Span, HBONE: n.ServerHBONE, Revocations: n.Revocations, Live: &p.live, Recorder: n.Recorder, Surface: c.Surface,
		Panics: &n.panics, Log: c.Log("proxy::inbound"),
	})
	resolver, resolving := n.resolver()
	p.outbound = outbound.New(outbound.Config{
		Workload: c.Workload, Network: n.Config.Network, IllegalPorts: n.Config.IllegalPorts, IPv6: n.Config.IPv6,
		Store: n.Store, Sockets: c.Sockets, Pool: p.pool, Inner: dialer, Resolver: resolver, Resolving: resolving,
		Demand: n.Demand, Span: n.Span, Live: &p.live, Go: n.Go, Recorder: n.Recorder, Panics: &n.panics, Log: c.Log("proxy::outbound"),
	})
	if n.Config.Socks5 {
		p.socks = p.newSOCKS(&c)
	}
	return p, nil
}

// bind opens the listeners. It reports whether those for inbound connections
// are transparent, so that the client's address can be kept.
func (p *Pod) bind(ctx context.Context, sockets *socket.Factory, log func(scope string) *slog.Logger) (transparent bool, err error) {
	n := p.node
	listeners := []listener{
		{
			"inbound", n.Config.InboundAddr, "proxy::inbound",
			func(ctx context.Context, ln *net.TCPListener) error { return p.inbound.ServeHBONE(ctx, ln) },
		},
		{
			"inbound passthrough", n.Config.InboundPlaintextAddr, "proxy::inbound_passthrough",
			func(ctx context.Context, ln *net.TCPListener) error { return p.inbound.ServePlaintext(ctx, ln) },
		},
		{
			"outbound", n.Config.OutboundAddr, "proxy::outbound",
			func(ctx context.Context, ln *net.TCPListener) error { return p.outbound.Serve(ctx, ln) },
		},
	}
	if n.Config.Socks5 {
		listeners = append(listeners, listener{"socks5", n.Config.Socks5Addr, "proxy::socks5", p.serveSOCKS})
	}
	for _, l := range listeners {
		ln, can, err := sockets.Listen(ctx, l.addr, n.Config.OriginalSource)
		if err != nil {
			return false, fmt.Errorf("%s: %w", l.component, err)
		}
		if l.component == "inbound" {
			transparent = can
		}
		scoped := log(l.scope)
		scoped.Info("listener established", "address", ln.Addr(), "component", l.component, "transparent", can)
		p.parts = append(p.parts, part{l.component, ln, l.serve, scoped})
	}
	return transparent, nil
}

func (p *Pod) closeListeners() error {
	var errs []error
	for _, part := range p.parts {
		if err := part.ln.Close(); err != nil && !errors.Is(err, net.ErrClosed) {
			errs = append(errs, err)
		}
	}
	return errors.Join(errs...)
}

// Close closes the listeners of a pod that is not served. [Pod.Serve] does so
// itself.
func (p *Pod) Close() error { return p.closeListeners() }

// Connections lists the pod's open connections in the form of the config dump.
func (p *Pod) Connections() live.Dump { return p.live.Dump() }

// Serve serves the pod until drain is closed, and then drains: nothing new is
// taken, peers are sent elsewhere, and open connections may finish until the
// deadline, after which they are cut. Cancelling ctx cuts them at once. Serve
// returns when everything of the pod has ended.
func (p *Pod) Serve(parent context.Context, drain <-chan struct{}, deadline time.Duration) error {
	failed := make(chan error, len(p.parts))
	ctx := p.begin(parent, func(err error) { failed <- err })
	stop := context.AfterFunc(parent, func() { p.cut(live.ErrDraining) }) // so that the log tells why
	defer stop()
	var err error
	select {
	case <-drain:
	case <-ctx.Done():
	case err = <-failed:
	}
	return errors.Join(err, p.end(ctx, deadline))
}

// begin begins to serve and returns the context of the pod's connections, which
// only p.cut ends. failed is told if a listener stops for another reason than
// the end; it must not block. Every begin needs one end.
func (p *Pod) begin(parent context.Context, failed func(error)) context.Context {
	ctx, cut := context.WithCancelCause(context.WithoutCancel(parent))
	p.cut = cut
	p.unwatch = p.node.watch(p.info, &p.live, p.log)
	for _, part := range p.parts {
		p.serving.Go(func() {
			if err := part.serve(ctx, part.ln); err != nil && ctx.Err() == nil {
				failed(fmt.Errorf("%s: %w", part.component, err))
			}
		})
	}
	return ctx
}

// end drains the pod, until the deadline or until it is cut, and waits for the
// end of everything.
func (p *Pod) end(ctx context.Context, deadline time.Duration) error {
	p.retireListeners(ctx)
	err := p.closeListeners()
	ended := make(chan struct{})
	go func() { // ends with what it waits for, which ends at the latest when cut
		p.serving.Wait()
		close(ended)
	}()
	p.inbound.Drain()
	p.awaitEnd(ctx, ended, deadline)
	p.unwatch()
	for _, part := range p.parts {
		part.log.Info("shutdown complete", "component", part.component)
	}
	return err
}

// retirement is how long handshakes that are under way may take to complete
// before a listener is closed.
const retirement = 100 * time.Millisecond

// retireListeners gives connections that clients believe to have the time to be
// accepted; the accept loops still run.
func (p *Pod) retireListeners(ctx context.Context) {
	if ctx.Err() != nil {
		return // what is accepted now would be cut
	}
	for _, part := range p.parts {
		if err := socket.Retire(part.ln); err != nil {
			p.log.Debug("a listener is closed without notice", "component", part.component, "error", err)
		}
	}
	timer := time.NewTimer(retirement)
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-ctx.Done():
	}
}

// awaitEnd waits until all connections have ended, and cuts them at the
// deadline or when ctx ends. At the end nothing of the pool is left.
func (p *Pod) awaitEnd(ctx context.Context, ended <-chan struct{}, deadline time.Duration) {
	timer := time.NewTimer(deadline)
	defer timer.Stop()
	select {
	case <-ended:
	case <-ctx.Done():
	case <-timer.C:
		open := p.live.Len()
		p.node.forced.Add(int64(open))
		p.log.Warn("drain duration expired with pending connections, forcefully shutting down", "connections", open)
	}
	p.cut(live.ErrDraining)
	p.live.EndAll(live.ErrDraining) // before their tunnels end, so that they say why
	p.pool.Close()                  // a connection may wait for a peer of its tunnel that does not read
	<-ended
	p.node.pools.remove(p.pool)
}
