package outbound

import (
	"context"
	"fmt"
	"net/netip"
	"strings"

	"ztunnel/proxy/hbone"
	"ztunnel/proxy/identity"
	"ztunnel/proxy/relay"
	"ztunnel/proxy/socket"
	"ztunnel/proxy/spiffe"
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
}

// Dial opens a tunnel for a key of the pool. It is the pool's dial function.
func (d *Dialer) Dial(ctx context.Context, key hbone.Key) (*hbone.ClientConn, error) {
	expected, err := parseIDs(key.Expected)
	if err != nil {
		return nil, fmt.Errorf("identities expected of %s: %w", key.Addr, err)
	}
	certificate, err := d.Certificates.Certificate(ctx, key.Identity, identity.RealTime)
	if err != nil {
		return nil, &identityError{err}
	}
	conn, err := d.Sockets.Dial(ctx, netip.Addr{}, key.Addr)
	switch {
	case err == nil:
	case socket.IsTimeout(err):
		return nil, &networkPolicyError{err}
	default:
		return nil, &relay.IOError{Err: err}
	}
	return hbone.Client(ctx, conn, certificate.ClientConfig(expected), d.HBONE)
}

// DialInner opens a tunnel through a stream of another one, which it owns from
// now on, also if it fails.
func (d *Dialer) DialInner(ctx context.Context, outer *hbone.Stream, source spiffe.ID, expected []spiffe.ID) (*hbone.ClientConn, error) {
	certificate, err := d.Certificates.Certificate(ctx, source, identity.RealTime)
	if err != nil {
		_ = outer.Close() // it was not used yet
		return nil, &identityError{err}
	}
	return hbone.Client(ctx, outer, certificate.ClientConfig(expected), d.HBONE)
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
