package identity

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"log/slog"
	"sync/atomic"
	"time"

	"ztunnel/telemetry/connection"
)

// maxTracked bounds the tunnels that are tracked, far above what a node can have open.
const maxTracked = 1 << 20

// Tunnel is an established tunnel whose peer's certificate may still be revoked.
type Tunnel struct {
	// State is that of its handshake.
	State *tls.ConnectionState
	// Own is our certificate in it, whose roots verified the peer.
	Own *Certificate
	// Reporter is our side: connection.Source of a tunnel that we opened, else connection.Destination.
	Reporter connection.Reporter
	// Handshake is when the handshake ended; zero is now. The peer is judged as of then, so that a certificate that expires
	// meanwhile is still found to be revoked.
	Handshake time.Time
}

// tracked is a tunnel on watch.
type tracked struct {
	chains  [][]*x509.Certificate
	by      connection.Reporter
	revoked func()
	over    atomic.Bool // revoked was called, or need not be any more
}

// Track calls revoked when the certificate of a tunnel's peer is revoked: at most once, from Run or a handshake's goroutine,
// or before Track returns if it is revoked already. It must not block. Whoever opened the tunnel calls stop when it is
// closed; after that no call begins.
//
// A tunnel that cannot be tracked, since its peer does not verify any more, is counted and logged; it stays open.
func (c *CRL) Track(t Tunnel, revoked func()) (stop func()) {
	if c == nil {
		return func() {}
	}
	chains, err := t.chains()
	if err != nil {
		c.untracked(t.Reporter, err)
		return func() {}
	}
	e := &tracked{chains: chains, by: t.Reporter, revoked: revoked}
	if !c.add(e) {
		c.untracked(t.Reporter, errors.New("too many tunnels"))
		return func() {}
	}
	// Lists that come from here on find the tunnel in the index; those from before are seen here. With both, one call wins.
	if c.current().check(chains) != nil {
		c.end(e)
	}
	return func() {
		e.over.Store(true)
		c.remove(e)
	}
}

// chains are the verified chains of the peer, each leaf first and root last: not those that it presented, in which there may
// be anything.
func (t *Tunnel) chains() ([][]*x509.Certificate, error) {
	switch {
	case t.State == nil || len(t.State.PeerCertificates) == 0:
		return nil, errors.New("the peer has no certificate")
	case len(t.State.VerifiedChains) > 0:
		return t.State.VerifiedChains, nil // of a server, crypto/tls has done it
	case t.Own == nil:
		return nil, errors.New("our own certificate is not known")
	}
	usage := x509.ExtKeyUsageServerAuth
	if t.Reporter == connection.Destination {
		usage = x509.ExtKeyUsageClientAuth
	}
	return t.Own.verifyChains(t.State, usage, t.handshakeTime())
}

// handshakeTime is as of when the peer is judged.
func (t *Tunnel) handshakeTime() time.Time {
	if t.Handshake.IsZero() {
		return time.Now()
	}
	return t.Handshake
}

func (c *CRL) untracked(by connection.Reporter, err error) {
	c.lost[by].Add(1)
	c.cfg.Log.Warn("a tunnel is not watched for revocation of its peer's certificate", slog.String("reporter", by.String()), slog.Any("error", err))
}

func (c *CRL) add(e *tracked) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	if len(c.tunnels) >= maxTracked {
		return false
	}
	c.tunnels[e] = struct{}{}
	c.tracking[e.by]++
	return true
}

func (c *CRL) remove(e *tracked) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if _, ok := c.tunnels[e]; ok {
		delete(c.tunnels, e)
		c.tracking[e.by]--
	}
}

// sweep ends the tunnels of peers that the lists in force revoke.
func (c *CRL) sweep() {
	lists := c.lists.Load()
	if lists.entries == 0 {
		return
	}
	var revoked []*tracked
	c.mu.Lock()
	for e := range c.tunnels {
		if lists.check(e.chains) != nil {
			revoked = append(revoked, e)
		}
	}
	c.mu.Unlock()
	for _, e := range revoked {
		c.end(e)
	}
}

// end tells the owner of a tunnel, once, that its peer is revoked.
func (c *CRL) end(e *tracked) {
	c.remove(e)
	if e.over.CompareAndSwap(false, true) {
		c.rejected[e.by].Add(1)
		e.revoked()
	}
}
