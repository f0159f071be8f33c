package proxy

import (
	"context"
	"fmt"
	"log/slog"
	"net"
	"time"

	"golang.org/x/sync/errgroup"

	"ztunnel/proxy/identity"
	"ztunnel/proxy/inbound"
	"ztunnel/proxy/live"
	"ztunnel/proxy/socket"
	"ztunnel/proxy/workload"
)

// SelfConfig is what is particular to the process as a workload of the mesh.
type SelfConfig struct {
	Workload workload.Info   // the process's own pod
	Sockets  *socket.Factory // makes sockets in the process's own network namespace
	Surface  *Surface        // what is served; all other ports are refused
	// Ready is told whether readers can come: the control plane knows the
	// process as a workload and there is a certificate for it.
	Ready func(bool)
}

// Self is the process as a workload of the mesh: one listener for HBONE in the
// process's own namespace, whose streams end at the telemetry surface and
// nowhere else. It has the policies of its workload like any pod. Use
// [Node.OpenSelf].
type Self struct {
	SelfConfig
	node    *Node
	inbound *inbound.Server
	live    live.Set
	ln      *net.TCPListener
	log     *slog.Logger
}

// OpenSelf binds the listener and serves nothing before [Self.Serve].
func (n *Node) OpenSelf(ctx context.Context, c SelfConfig) (*Self, error) {
	s := &Self{SelfConfig: c, node: n, log: n.Log("proxy::inbound")}
	never := false // applications of our own do not exist, so no client's address is to be kept
	ln, _, err := c.Sockets.Listen(ctx, n.Config.InboundAddr, &never)
	if err != nil {
		return nil, fmt.Errorf("inbound of the process itself: %w", err)
	}
	s.ln = ln
	s.log.Info("listener established", "address", ln.Addr(), "component", "inbound", "transparent", false)
	s.inbound = inbound.New(inbound.Config{
		Workload: c.Workload, Network: n.Config.Network, IllegalPorts: n.Config.IllegalPorts, Baggage: n.Config.ResponseBaggage,
		Store: n.Store, Policies: n.Policies, Certificates: n.Certificates, Sockets: c.Sockets,
		Demand: n.Demand, Span: n.Span, HBONE: n.ServerHBONE, Revocations: n.Revocations, Live: &s.live, Recorder: n.Recorder, Surface: c.Surface,
		Panics: &n.panics, Log: s.log,
	})
	return s, nil
}

// Close closes the listener of what is not served.
func (s *Self) Close() error { return s.ln.Close() }

// Connections lists the open connections in the form of the config dump.
func (s *Self) Connections() live.Dump { return s.live.Dump() }

// Serve serves readers until ctx ends, also while the pods of the node drain,
// so that a drain can be watched. Then it cuts them and returns nil.
func (s *Self) Serve(ctx context.Context) error {
	defer s.node.watch(s.Workload, &s.live, s.log)()
	parts, partsCtx := errgroup.WithContext(ctx)
	stop := context.AfterFunc(partsCtx, func() {
		s.ln.Close()
		s.live.EndAll(live.ErrDraining) // before their tunnels end, so that they say why
	})
	defer stop()
	parts.Go(func() error { return s.inbound.ServeHBONE(partsCtx, s.ln) })
	parts.Go(func() error { s.watchReadiness(partsCtx); return nil })
	if err := parts.Wait(); err != nil && ctx.Err() == nil {
		return fmt.Errorf("serve the process itself: %w", err)
	}
	return nil
}

// askAgain is how long after a failure the certificate is asked for again.
const askAgain = 5 * time.Second

// watchReadiness tells whether readers can come, until ctx ends.
func (s *Self) watchReadiness(ctx context.Context) {
	defer s.Ready(false)
	var known *workload.Workload
	ready := false
	for {
		changed := s.node.Store.LocalChanged()
		if w := s.node.Store.Local(s.Workload); w != known || !ready {
			known, ready = w, s.hasCertificate(ctx, w)
			s.Ready(ready)
		}
		var again <-chan time.Time
		if !ready {
			again = time.After(askAgain)
		}
		select {
		case <-changed:
		case <-again:
		case <-ctx.Done():
		}
		if ctx.Err() != nil {
			return
		}
	}
}

// hasCertificate reports whether the process can prove that it is w.
func (s *Self) hasCertificate(ctx context.Context, w *workload.Workload) bool {
	if w == nil {
		return false
	}
	_, err := s.node.Certificates.Certificate(ctx, w.Identity(), identity.Warmup)
	return err == nil
}
