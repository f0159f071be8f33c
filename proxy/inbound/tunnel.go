package inbound

import (
	"cmp"
	"context"
	"errors"
	"net"
	"net/netip"
	"sync"
	"time"

	"ztunnel/proxy/hbone"
	"ztunnel/proxy/identity"
	"ztunnel/proxy/live"
	"ztunnel/proxy/socket"
	"ztunnel/proxy/spiffe"
	"ztunnel/telemetry/connection"
)

// handleTunnel serves one connection to port 15008 to its end: certificate,
// TLS, streams.
func (s *Server) handleTunnel(ctx context.Context, conn *net.TCPConn) {
	s.Recorder.SocketOpened(connection.Destination)
	defer s.Recorder.SocketClosed(connection.Destination)
	defer conn.Close()
	defer s.recovered(func() {})
	defer s.hbone.Add(-1)
	open := s.hbone.Add(1)
	if err := s.Sockets.Accepted(conn, false); err != nil {
		s.Log.Debug("preparing a connection failed", "error", err)
		return
	}
	src, dst := socket.Peer(conn), socket.Local(conn)
	if open > int64(s.MaxConnections) {
		s.reject(src, dst, &limitError{"HBONE connections", s.MaxConnections})
		return
	}
	tls, own, err := s.handshake(ctx, conn)
	if err != nil {
		s.reject(src, dst, err)
		return
	}
	defer s.Revocations.Track(identity.Tunnel{
		State: tls.TLS(), Own: own.certificate, Reporter: connection.Destination, Handshake: time.Now(),
	}, func() { tls.Cancel(live.ErrCertificateRevoked) })()
	t := &tunnel{Server: s, conn: tls, src: src, dst: dst, trustDomain: own.trustDomain}
	if id, ok := identity.PeerID(tls.TLS()); ok {
		t.peer, t.peerName = id, id.String()
	}
	if !s.tunnels.add(t) { // the drain has begun meanwhile
		tls.Drain()
	}
	defer s.tunnels.remove(t)
	err = tls.Serve(ctx, t.handle)
	t.relays.Wait() // what they record
	_, preface := errors.AsType[*hbone.HandshakeError](err)
	_, timeout := errors.AsType[*hbone.TimeoutError](err)
	switch {
	case err == nil:
	case preface && timeout:
		s.reject(src, dst, &prefaceError{err})
	case hbone.Flood(err):
		s.reject(src, dst, &floodError{err})
	default:
		s.Log.Debug("an HBONE connection ended with an error", "peer", src, "error", err)
	}
}

// handshake proves the pod's identity to the peer and the peer's to us. The
// time for it includes waiting for the pod's record and its certificate.
func (s *Server) handshake(ctx context.Context, conn *net.TCPConn) (*hbone.ServerConn, proof, error) {
	defer s.handshaking.Add(-1)
	if s.handshaking.Add(1) > int64(s.MaxHandshakes) {
		return nil, proof{}, &limitError{"pending TLS handshakes", s.MaxHandshakes}
	}
	local, err := s.local(ctx, socket.Local(conn).Addr())
	if err != nil {
		return nil, proof{}, &unknownIdentityError{s.Workload}
	}
	limited, cancel := context.WithTimeoutCause(ctx, s.handshakeTimeout(), errCertificateTimeout)
	defer cancel()
	certificate, err := s.Certificates.Certificate(limited, local.Identity(), identity.RealTime)
	if err != nil {
		return nil, proof{}, &signingError{err}
	}
	tls, err := hbone.Server(ctx, conn, certificate.ServerConfig(), s.HBONE)
	if err != nil {
		return nil, proof{}, &handshakeError{err}
	}
	return tls, proof{local.TrustDomain, certificate}, nil
}

// proof is who we were in a handshake.
type proof struct {
	trustDomain string // of the workload, as the control plane told it
	certificate *identity.Certificate
}

// errCertificateTimeout ends a handshake that could not begin.
var errCertificateTimeout = &hbone.TimeoutError{Stage: "a certificate for the TLS handshake"}

func (s *Server) handshakeTimeout() time.Duration {
	if s.HBONE == nil {
		return hbone.DefaultHandshakeTimeout
	}
	return cmp.Or(s.HBONE.HandshakeTimeout, hbone.DefaultHandshakeTimeout)
}

// tunnel is one HBONE connection from an authenticated peer.
type tunnel struct {
	*Server
	conn     *hbone.ServerConn
	src, dst netip.AddrPort
	peer     spiffe.ID // zero if the certificate names none
	peerName string    // the same as a SPIFFE URI, or ""
	// trustDomain is that of the pod when it let the peer in.
	trustDomain string
	relays      sync.WaitGroup // of streams whose handlers have ended

	next, prev *tunnel
}

// tunnels are the open HBONE connections of one pod, so that they can be told
// to go elsewhere.
type tunnels struct {
	mu       sync.Mutex
	head     *tunnel
	draining bool
}

// add registers a tunnel, and reports false if a drain has begun.
func (ts *tunnels) add(t *tunnel) bool {
	ts.mu.Lock()
	defer ts.mu.Unlock()
	t.next = ts.head
	if t.next != nil {
		t.next.prev = t
	}
	ts.head = t
	return !ts.draining
}

func (ts *tunnels) remove(t *tunnel) {
	ts.mu.Lock()
	defer ts.mu.Unlock()
	if t.prev != nil {
		t.prev.next = t.next
	} else {
		ts.head = t.next
	}
	if t.next != nil {
		t.next.prev = t.prev
	}
}

// drain makes add report false from now on, and returns the open tunnels.
func (ts *tunnels) drain() []*tunnel {
	ts.mu.Lock()
	defer ts.mu.Unlock()
	ts.draining = true
	var open []*tunnel
	for t := ts.head; t != nil; t = t.next {
		open = append(open, t)
	}
	return open
}

// Drain tells all peers to open new streams elsewhere. Open streams go on, and
// a tunnel ends with its last one. The listeners are the caller's to close.
func (s *Server) Drain() {
	for _, t := range s.tunnels.drain() {
		t.conn.Drain()
	}
}
