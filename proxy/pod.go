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
	"ztunnel/proxy/workload"
)

// PodConfig is what is particular to one pod.
type PodConfig struct {
	Workload workload.Info
	Sockets  *socket.Factory // makes sockets in the pod's network namespace
	Surface  inbound.Surface // virtual ports at the pod's address; nil for none
}

// Pod is the listeners of one pod with everything behind them that no other
// pod shares: its tunnels and its open connections. Use [Node.OpenPod].
type Pod struct {
	node     *Node
	info     workload.Info
	inbound  *inbound.Server
	outbound *outbound.Server
	pool     *hbone.Pool
	live     live.Set
	log      *slog.Logger
	parts    []part
}

// part is one listener and what serves it.
type part struct {
	component string
	ln        *net.TCPListener
	serve     func(context.Context, *net.TCPListener) error
	log       *slog.Logger
}

// OpenPod binds the listeners of a pod, in the order of the reference, and
// serves none of them before [Pod.Serve]: connections wait in the kernel.
func (n *Node) OpenPod(ctx context.Context, c PodConfig) (*Pod, error) {
	p := &Pod{node: n, info: c.Workload, log: n.Log("proxy")}
	transparent, err := p.bind(ctx, c)
	if err != nil {
		return nil, errors.Join(err, p.closeListeners())
	}
	dialer := &outbound.Dialer{Certificates: n.Certificates, Sockets: c.Sockets, HBONE: n.ClientHBONE}
	p.pool = hbone.NewPool(hbone.PoolConfig{
		MaxStreams: int(n.Config.PoolMaxStreams), UnusedTimeout: n.Config.PoolUnusedTimeout,
		Dial: dialer.Dial,
	})
	n.pools.add(p.pool)
	p.inbound = inbound.New(inbound.Config{
		Workload: c.Workload, Network: n.Config.Network, IllegalPorts: n.Config.IllegalPorts,
		KeepSource: transparent, Baggage: n.Config.ResponseBaggage, LocalhostAppTunnel: n.Config.LocalhostAppTunnel,
		Store: n.Store, Policies: n.Policies, Certificates: n.Certificates, Sockets: c.Sockets,
		HBONE: n.ServerHBONE, Live: &p.live, Recorder: n.Recorder, Surface: c.Surface,
		Panics: &n.panics, Log: n.Log("proxy::inbound"),
	})
	p.outbound = outbound.New(outbound.Config{
		Workload: c.Workload, Network: n.Config.Network, IllegalPorts: n.Config.IllegalPorts, IPv6: n.Config.IPv6,
		Store: n.Store, Sockets: c.Sockets, Pool: p.pool, Inner: dialer, Resolver: net.DefaultResolver,
		Live: &p.live, Go: n.Go, Recorder: n.Recorder, Panics: &n.panics, Log: n.Log("proxy::outbound"),
	})
	return p, nil
}

// bind opens the listeners. It reports whether those for inbound connections
// are transparent, so that the client's address can be kept.
func (p *Pod) bind(ctx context.Context, c PodConfig) (transparent bool, err error) {
	n := p.node
	for _, l := range []struct {
		component string
		addr      netip.AddrPort
		scope     string
		serve     func(context.Context, *net.TCPListener) error
	}{
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
	} {
		ln, can, err := c.Sockets.Listen(ctx, l.addr, n.Config.OriginalSource)
		if err != nil {
			return false, fmt.Errorf("%s: %w", l.component, err)
		}
		if l.component == "inbound" {
			transparent = can
		}
		log := n.Log(l.scope)
		log.Info("listener established", "address", ln.Addr(), "component", l.component, "transparent", can)
		p.parts = append(p.parts, part{l.component, ln, l.serve, log})
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
	ctx, cut := context.WithCancelCause(context.WithoutCancel(parent))
	defer cut(nil)
	stop := context.AfterFunc(parent, func() { cut(live.ErrDraining) }) // so that the log tells why
	defer stop()
	var serving sync.WaitGroup
	failed := make(chan error, len(p.parts))
	for _, part := range p.parts {
		serving.Go(func() {
			if err := part.serve(ctx, part.ln); err != nil {
				failed <- fmt.Errorf("%s: %w", part.component, err)
			}
		})
	}
	var watching sync.WaitGroup
	watch, stopWatching := context.WithCancel(ctx)
	watching.Go(func() { p.watchPolicies(watch) })
	defer watching.Wait()
	defer stopWatching()

	var err error
	select {
	case <-drain:
	case <-ctx.Done():
	case err = <-failed:
	}
	p.retireListeners(ctx)
	err = errors.Join(err, p.closeListeners())
	ended := make(chan struct{})
	go func() { // ends with what it waits for, which ends at the latest when cut
		serving.Wait()
		close(ended)
	}()
	p.inbound.Drain()
	p.awaitEnd(ctx, ended, deadline, cut)
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
func (p *Pod) awaitEnd(ctx context.Context, ended <-chan struct{}, deadline time.Duration, cut context.CancelCauseFunc) {
	timer := time.NewTimer(deadline)
	defer timer.Stop()
	select {
	case <-ended:
	case <-ctx.Done():
	case <-timer.C:
		p.node.forced.Add(int64(p.live.Len()))
		p.log.Warn("drain duration expired with pending connections, forcefully shutting down")
	}
	cut(live.ErrDraining)
	p.live.EndAll(live.ErrDraining) // before their tunnels end, so that they say why
	p.pool.Close()                  // a connection may wait for a peer of its tunnel that does not read
	<-ended
	p.node.pools.remove(p.pool)
}

// watchPolicies asks all open connections again whenever the policies, or what
// is known of the pod's own workload, change.
func (p *Pod) watchPolicies(ctx context.Context) {
	known := p.node.Store.Local(p.info)
	for {
		policies, store := p.node.Policies.Changed(), p.node.Store.Changed()
		p.recheck()
		for waiting := true; waiting; {
			select {
			case <-ctx.Done():
				return
			case <-policies:
				waiting = false
			case <-store:
				store = p.node.Store.Changed()
				if now := p.node.Store.Local(p.info); now != known {
					known, waiting = now, false
				}
			}
		}
	}
}

// recheck ends the connections that policy does not allow any more.
func (p *Pod) recheck() {
	for _, ended := range p.live.Recheck() {
		c := ended.Facts()
		who := "None"
		if !c.Identity.IsZero() {
			who = c.Identity.String()
		}
		p.log.Info(fmt.Sprintf("connection %s(%s)->%s (%s) closed because it's no longer allowed after a policy update",
			c.Src, who, c.Actual, c.Workload))
	}
}
