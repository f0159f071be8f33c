package outbound

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"strings"
	"time"

	"ztunnel/proxy/hbone"
	"ztunnel/proxy/identity"
	"ztunnel/proxy/live"
	"ztunnel/proxy/relay"
	"ztunnel/proxy/socket"
	"ztunnel/proxy/spiffe"
	"ztunnel/telemetry/connection"
)

// Certificates gives the certificate of an identity, and waits for it if it
// must.
type Certificates interface {
	Certificate(ctx context.Context, id spiffe.ID, p identity.Priority) (*identity.Certificate, error)
}

// InnerDialer opens the second tunnel of double HBONE through a stream of the
// first.
type InnerDialer interface {
	DialInner(ctx context.Context, outer *hbone.Stream, source spiffe.ID, expected []spiffe.ID) (*hbone.ClientConn, error)
}

// Dialer opens tunnels: certificate, TCP, TLS, HTTP/2. Its methods may be
// called concurrently.
type Dialer struct {
	Certificates Certificates
	Sockets      *socket.Factory
	HBONE        *hbone.Config
	Revocations  *identity.CRL // ends tunnels to peers that are revoked; nil ends none
}

// Dial opens a tunnel for a key of the pool. It is the pool's dial function.
func (d *Dialer) Dial(ctx context.Context, key hbone.Key) (*hbone.ClientConn, error) {
	expected, err := parseIDs(key.Expected)
	if err != nil {
		return nil, fmt.Errorf("identities expected of %s: %w", key.Addr, err)
	}
	certificate, err := d.Certificates.Certificate(ctx, key.Identity, identity.RealTime)
	if err != nil {
		return nil, &identity.OutboundError{Err: err}
	}
	conn, err := d.Sockets.Dial(ctx, netip.Addr{}, key.Addr)
	switch {
	case err == nil:
	case socket.IsTimeout(err):
		return nil, &networkPolicyError{err}
	default:
		return nil, &relay.IOError{Err: err}
	}
	return d.open(ctx, conn, certificate, expected)
}

// open begins a tunnel on a connection, which ends when its peer is revoked.
func (d *Dialer) open(ctx context.Context, conn net.Conn, own *identity.Certificate, expected []spiffe.ID) (*hbone.ClientConn, error) {
	tunnel, err := hbone.Client(ctx, conn, own.ClientConfig(expected), d.HBONE)
	if err != nil || d.Revocations == nil {
		return tunnel, err
	}
	t := identity.Tunnel{State: tunnel.TLS(), Own: own, Reporter: connection.Source, Handshake: time.Now()}
	tunnel.OnDone(d.Revocations.Track(t, func() { tunnel.Cancel(live.ErrCertificateRevoked) }))
	return tunnel, nil
}

// DialInner opens a tunnel through a stream of another one, which it owns from
// now on, also if it fails.
func (d *Dialer) DialInner(ctx context.Context, outer *hbone.Stream, source spiffe.ID, expected []spiffe.ID) (*hbone.ClientConn, error) {
	certificate, err := d.Certificates.Certificate(ctx, source, identity.RealTime)
	if err != nil {
		_ = outer.Close() // it was not used yet
		return nil, &identity.OutboundError{Err: err}
	}
	return d.open(ctx, outer, certificate, expected)
}

// parseIDs is the inverse of [route.Decision.ExpectedKey].
func parseIDs(key string) ([]spiffe.ID, error) {
	var ids []spiffe.ID
	for uri := range strings.SplitSeq(key, "\n") {
		id, err := spiffe.Parse(uri)
		if err != nil {
			return nil, err
		}
		ids = append(ids, id)
	}
	return ids, nil
}
