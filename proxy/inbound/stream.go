package inbound

import (
	"context"
	"errors"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"strings"
	"time"

	"golang.org/x/net/http2"

	"ztunnel/proxy/hbone"
	"ztunnel/proxy/live"
	"ztunnel/proxy/rbac"
	"ztunnel/proxy/route"
	"ztunnel/proxy/workload"
	"ztunnel/telemetry/connection"
)

// handle serves one stream of a tunnel to its end.
func (t *tunnel) handle(ctx context.Context, hs *hbone.Stream) {
	start := time.Now()
	defer t.recovered(func() { hs.Reset(http2.ErrCodeInternal) })
	t.tell(ctx, hs.Request())
	local, destination, err := t.destination(ctx, hs.Request())
	if err != nil {
		status := http.StatusServiceUnavailable
		var answer interface{ Status() int }
		if errors.As(err, &answer) {
			status = answer.Status()
		}
		t.refuse(hs, status)
		t.reject(t.src, t.dst, err)
		return
	}
	s := &stream{tunnel: t, hs: hs, local: local, to: destination}
	if t.Surface != nil {
		s.virtual, err = t.Surface.Open(destination.Target.Port())
		if err != nil {
			t.refuse(hs, http.StatusServiceUnavailable)
			t.reject(t.src, t.dst, &noSurfaceError{err})
			return
		}
	}
	s.serve(ctx, start)
}

// tell logs a request, marked with the trace id under which the other end logs
// too.
func (t *tunnel) tell(ctx context.Context, r *hbone.Request) {
	if t.Span == nil || !t.Log.Enabled(ctx, slog.LevelDebug) {
		return
	}
	trace, ok := hbone.ParseTraceparent(r.Header.Get(hbone.HeaderTraceparent))
	if !ok {
		trace = hbone.NewTraceparent()
	}
	t.Span(t.Log, "inbound", slog.String("id", trace.ID()), slog.Any("peer", t.src)).LogAttrs(ctx, slog.LevelDebug, "received request",
		slog.String("method", r.Method), slog.String("authority", r.Authority))
}

// refuse answers a request with a status.
func (t *tunnel) refuse(hs *hbone.Stream, status int) {
	if err := hs.Reject(status); err != nil {
		t.Log.Warn("failed to send HTTP response", "error", err)
	}
}

// destination finds out where a request wants to go, and whether it may ask
// for that here.
func (t *tunnel) destination(ctx context.Context, r *hbone.Request) (*workload.Workload, route.InboundDecision, error) {
	if r.Method != http.MethodConnect {
		return nil, route.InboundDecision{}, &methodError{r.Method}
	}
	asked, ok := route.ParseAuthority(r.Authority)
	if !ok {
		return nil, route.InboundDecision{}, route.NoValidAuthority(r.Authority)
	}
	local, err := t.local(ctx, t.dst.Addr())
	if err != nil {
		return nil, route.InboundDecision{}, err
	}
	t.need(ctx, asked, local)
	d, refused := route.Inbound(t.Store, &route.InboundRequest{
		Local: local, Destination: t.dst, Authority: r.Authority, Network: t.Network, IllegalPorts: t.IllegalPorts,
	})
	if refused != nil {
		return local, d, refused
	}
	return local, d, nil
}

// need gets what a request is about, unless that is known.
func (t *tunnel) need(ctx context.Context, asked route.Authority, local *workload.Workload) {
	if t.Demand == nil {
		return
	}
	t.Demand.NeedAddress(ctx, t.Network, t.src.Addr())
	switch {
	case !asked.Addr.IsValid():
		t.Demand.NeedHostname(ctx, workload.NamespacedHostname{Namespace: local.Namespace, Hostname: asked.Host})
	case asked.Addr.Addr() != t.dst.Addr():
		t.Demand.NeedAddress(ctx, t.Network, asked.Addr.Addr())
	}
}

// stream is one request whose destination is understood.
type stream struct {
	*tunnel
	hs      *hbone.Stream
	local   *workload.Workload
	to      route.InboundDecision
	virtual VirtualPort // what serves it in this process; nil for an application
	record  *connection.Record
}

// served is what is left of a stream once its application is connected. Most
// are idle most of the time, so it holds nothing else.
type served struct {
	live.Conn
	tunnel   *tunnel
	virtual  VirtualPort
	port     uint16 // of the application
	host     string // the service that the client named, or ""
	workload string // UID
	app      *net.TCPConn
	record   *connection.Record
	relaying hbone.Relaying
}

// target is where the application is: always at the address that the tunnel
// came to.
func (v *served) target() netip.AddrPort { return netip.AddrPortFrom(v.tunnel.dst.Addr(), v.port) }

// Facts are for the config dump and for messages.
func (v *served) Facts() live.Facts {
	f := live.Facts{
		Inbound: true, Src: v.tunnel.src, Actual: v.target(), Host: v.host, Protocol: live.HBONE,
		Identity: v.tunnel.peer, Workload: v.workload,
	}
	if f.Identity.IsZero() {
		f.Protocol = live.TCP
	}
	return f
}

// run relays to the end of the stream and records how it ended, on another
// goroutine whenever that is wanted.
func (v *served) run() {
	again, err := false, errPanicked
	defer func() {
		if again {
			go v.run() // in the place of this one
			return
		}
		v.record.Close(err)
		v.Remove()
		v.tunnel.relays.Done()
	}()
	defer v.tunnel.recovered(func() { v.app.Close() })
	again, err = v.relaying.Run()
	err = relayed(err)
}

// authorize asks the policies, and those who serve in this process after them,
// whether the peer may reach the workload. It also names the policy that
// decided, if one did.
func (v *served) authorize(w *workload.Workload) (policy string, err error) {
	t := v.tunnel
	d := t.Policies.Authorize(target(w), &rbac.Connection{
		Src: t.src, Dst: v.target(), DstNetwork: t.Network, Identity: t.peer, HasIdentity: !t.peer.IsZero(),
	})
	switch {
	case !d.Allowed:
		return d.Policy, &deniedError{d.Err}
	case v.virtual != nil:
		return d.Policy, v.virtual.Authorize(v.tunnel.peerName, d.Explicit)
	}
	return d.Policy, nil
}

// Recheck asks again about the open stream, with the pod's record of today.
func (v *served) Recheck() error {
	w := v.tunnel.Store.Pod(v.tunnel.Workload, v.tunnel.Network, v.tunnel.dst.Addr())
	if w == nil {
		return nil // the record may come back; the CNI agent tells when the pod goes
	}
	if w.TrustDomain != v.tunnel.trustDomain {
		return live.ErrTrustChanged
	}
	_, err := v.authorize(w)
	return err
}

// serve authorises the request, connects it with its application, relays, and
// records how that ended. An idle relay goes on, after serve has returned, on a
// goroutine whose stack has not grown here: the tunnel waits for what was joined.
func (s *stream) serve(ctx context.Context, start time.Time) {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	host := hbone.ParseForwardedHost(s.hs.Request().Header.Get(hbone.HeaderForwarded))
	v := &served{
		tunnel: s.tunnel, virtual: s.virtual, port: s.to.Target.Port(), host: strings.Clone(host), workload: s.local.UID,
	}
	v.OnEnd(cancel)
	s.Live.Add(&v.Conn, v)
	s.record = s.Recorder.Open(s.details(start, host))
	err := errPanicked
	defer func() {
		if v.app == nil {
			s.record.Close(err)
			v.Remove()
		}
	}()
	err = s.carry(ctx, v)
	if v.app == nil {
		return
	}
	v.record = s.record
	v.relaying = s.hs.Join(v.app, &s.record.Sent, &s.record.Received, hbone.Upstream)
	v.OnEnd(s.hs.Cancel) // which ctx does no more
	s.relays.Add(1)
	v.run()
}

// carry asks the policies and hands the stream to what serves it: this process,
// or the application, which is then connected.
func (s *stream) carry(ctx context.Context, v *served) error {
	policy, err := v.authorize(s.local)
	s.record.Decided(policy)
	if err != nil {
		s.refuse(s.hs, http.StatusUnauthorized)
		if s.virtual != nil {
			s.virtual.Denied(s.src, s.peerName, err)
		}
		return err
	}
	if s.virtual != nil {
		return s.here(ctx)
	}
	v.app, err = s.toApplication(ctx)
	return err
}

// here serves the stream in this process.
func (s *stream) here(ctx context.Context) error {
	if err := s.hs.Accept(s.answer()); err != nil {
		return cause(ctx, &answerError{err})
	}
	conn := &counted{Stream: s.hs, record: s.record}
	return cause(ctx, s.virtual.Serve(ctx, conn, s.src, s.peerName))
}

// toApplication connects the stream with the application.
func (s *stream) toApplication(ctx context.Context) (*net.TCPConn, error) {
	from, to := s.upstream()
	app, err := s.Sockets.Dial(ctx, from, to)
	if err != nil {
		s.refuse(s.hs, http.StatusServiceUnavailable)
		return nil, cause(ctx, &connectError{err})
	}
	s.record.Mark(connection.StageUpstreamTCP)
	if err := s.hs.Accept(s.answer()); err != nil {
		app.Close()
		return nil, cause(ctx, &answerError{err})
	}
	if s.to.Tunnel.Protocol == workload.AppTunnelProxy {
		if err := writeProxyHeader(app, s.src, s.to.Tunnel.Target, s.peerName); err != nil {
			app.Close()
			s.hs.Reset(http2.ErrCodeInternal)
			return nil, err
		}
	}
	return app, nil
}

// upstream is the application's address, and the one that it shall see.
func (s *stream) upstream() (from netip.Addr, to netip.AddrPort) {
	to = s.to.Target
	if s.to.Tunnel.Protocol == workload.AppTunnelProxy && s.LocalhostAppTunnel {
		loopback := netip.IPv6Unspecified().Next()
		if to.Addr().Is4() {
			loopback = netip.AddrFrom4([4]byte{127, 0, 0, 1})
		}
		return loopback, netip.AddrPortFrom(loopback, to.Port())
	}
	if s.KeepSource {
		from = s.src.Addr()
	}
	return from, to
}

// answer is the header of a 200: who the destination is.
func (s *stream) answer() hbone.Header {
	if !s.Baggage {
		return nil
	}
	b := s.baggage.Load()
	if b == nil || b.of != s.local {
		b = newBaggage(s.local)
		s.baggage.Store(b)
	}
	return b.header
}

// baggage is the answer's header of one record of the pod's workload.
type baggage struct {
	of     *workload.Workload
	header hbone.Header
}

func newBaggage(w *workload.Workload) *baggage {
	return &baggage{of: w, header: hbone.Header{{Name: hbone.HeaderBaggage, Value: claims(w)}}}
}

// details are what is known of the connection when it opens. It is small enough
// to be inlined, so that they need not be allocated.
func (s *stream) details(start time.Time, host string) *connection.Details {
	d := new(connection.Details)
	s.describe(d, start, host)
	return d
}

func (s *stream) describe(d *connection.Details, start time.Time, host string) {
	*d = connection.Details{
		Reporter: connection.Destination, Protocol: connection.HBONE, MutualTLS: true, Start: start,
		Src: s.src, Dst: s.dst, HBONEAddr: strings.Clone(s.hs.Request().Authority), // not the whole block of headers

		SourcePrincipal: s.peerName, SourceIdentity: s.peerName,
		Destination: s.local.Telemetry(),
		Source:      s.client(),
	}
	if svc := route.GuessService(s.Store, s.local, s.to.Services, host, s.to.Target.Port()); svc != nil {
		d.Service = svc.Telemetry()
	}
}

// client is who the request comes from: its record, if its address has one in
// our network, else what it says of itself.
func (s *stream) client() *connection.Workload {
	header := s.hs.Request().Header
	networks := header.Values(hbone.HeaderForwardedNetwork)
	if len(networks) == 0 || strings.EqualFold(networks[0], s.Network) {
		if w := s.Store.Workload(s.Network, s.src.Addr()); w != nil {
			return w.Telemetry()
		}
	}
	if !s.Baggage {
		return nil
	}
	said, ok := hbone.ParseBaggage(header)
	if !ok {
		return nil
	}
	return claimed(said)
}
