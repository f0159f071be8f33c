package inbound

import (
	"context"
	"net"
	"net/netip"
	"time"

	"ztunnel/proxy/live"
	"ztunnel/proxy/rbac"
	"ztunnel/proxy/relay"
	"ztunnel/proxy/route"
	"ztunnel/proxy/socket"
	"ztunnel/proxy/workload"
	"ztunnel/telemetry/connection"
)

// handlePlaintext serves one redirected connection to its end.
func (s *Server) handlePlaintext(ctx context.Context, conn *net.TCPConn) {
	start := time.Now()
	s.Recorder.SocketOpened(connection.Destination)
	defer s.Recorder.SocketClosed(connection.Destination)
	defer conn.Close()
	defer s.recovered(func() {})
	defer s.plain.Add(-1)
	open := s.plain.Add(1)
	if err := s.Sockets.Accepted(conn, true); err != nil {
		s.Log.Debug("preparing a connection failed", "error", err)
		return
	}
	src := socket.Peer(conn)
	target, err := socket.OriginalDestination(conn)
	if err != nil {
		s.Log.Warn("failed to read SO_ORIGINAL_DST", "peer", src, "error", err)
	}
	if open > int64(s.MaxConnections) {
		s.reject(src, target, &limitError{"connections", s.MaxConnections})
		return
	}
	if err := route.CheckPlaintext(target, s.IllegalPorts); err != nil {
		s.reject(src, target, err)
		return
	}
	local, err := s.local(ctx, target.Addr())
	if err != nil {
		s.reject(src, target, err)
		return
	}
	p := &plaintext{Server: s, conn: conn, src: src, target: target, local: local}
	p.serve(ctx, start)
}

// plaintext is one redirected connection to a known pod.
type plaintext struct {
	*Server
	live.Conn
	conn        *net.TCPConn
	src, target netip.AddrPort
	local       *workload.Workload
	record      *connection.Record
}

// serve authorises and relays the connection, and records how it ended.
func (p *plaintext) serve(ctx context.Context, start time.Time) {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	p.OnEnd(cancel)
	p.Live.Add(&p.Conn, p)
	defer p.Remove()
	p.record = p.Recorder.Open(p.details(start))
	err := errPanicked
	defer func() { p.record.Close(err) }()
	err = p.carry(ctx)
}

// Facts are for the config dump and for messages.
func (p *plaintext) Facts() live.Facts {
	return live.Facts{Inbound: true, Src: p.src, Actual: p.target, Protocol: live.TCP, Workload: p.local.UID}
}

// authorize asks the policies about the connection, which has no identity.
func (p *plaintext) authorize(w *workload.Workload) rbac.Decision {
	return p.Policies.Authorize(target(w), &rbac.Connection{Src: p.src, Dst: p.target, DstNetwork: p.Network})
}

// Recheck asks the policies of today about the open connection. It looks at
// the pod's record of today too, so that a policy attached to the workload
// later counts as well.
func (p *plaintext) Recheck() error {
	w := p.Store.Pod(p.Workload, p.Network, p.target.Addr())
	if w == nil {
		return nil // the record may come back; the CNI agent tells when the pod goes
	}
	return p.authorize(w).Err
}

// carry asks the policies, dials the application and relays.
func (p *plaintext) carry(ctx context.Context) error {
	decision := p.authorize(p.local)
	p.record.Decided(decision.Policy)
	if !decision.Allowed {
		return &deniedError{decision.Err}
	}
	if socket.Reset(p.conn) {
		return nil // the usual end of a connection; the application need not hear of it
	}
	upstream, err := p.Sockets.Dial(ctx, p.source(), p.target)
	if err != nil {
		return cause(ctx, &connectError{err})
	}
	p.record.Mark(connection.StageUpstreamTCP)
	return relayed(relay.Copy(ctx, p.conn, upstream, relay.Counters{Received: &p.record.Received, Sent: &p.record.Sent}))
}

// source is the address that the application shall see, if not the pod's own.
func (p *plaintext) source() netip.Addr {
	if p.KeepSource {
		return p.src.Addr()
	}
	return netip.Addr{}
}

// details are what is known of the connection when it opens.
func (p *plaintext) details(start time.Time) *connection.Details {
	d := &connection.Details{
		Reporter: connection.Destination, Protocol: connection.TCP, Start: start,
		Src: p.src, Dst: p.target,
		Source:      p.Store.Workload(p.Network, p.src.Addr()).Telemetry(),
		Destination: p.local.Telemetry(),
	}
	if svc := route.GuessService(p.Store, p.local, p.Store.ServicesOf(p.local), "", p.target.Port()); svc != nil {
		d.Service = svc.Telemetry()
	}
	return d
}
