package identity

import (
	"crypto"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"math/big"
	"time"

	"ztunnel/proxy/spiffe"
)

// Certificate is a workload's certificate with its key and the roots that came with it: all that is needed to be this
// workload in a TLS handshake and to judge its peer. It is immutable but for caches, and safe for concurrent use.
type Certificate struct {
	id            spiffe.ID // zero if the first URI of the leaf is no identity
	hasID         bool
	leaf          *x509.Certificate
	intermediates []*x509.Certificate
	roots         []*x509.Certificate
	pool          *x509.CertPool  // of roots
	pair          tls.Certificate // leaf, intermediates, key
	options       TLSOptions
	server        *tls.Config
	clients       clientConfigs
}

// NewCertificate makes a certificate of its parts. The intermediates lead from the leaf upwards and do not contain a root.
// The key must be the leaf's; there must be a root. The slices belong to the certificate afterwards.
func NewCertificate(key crypto.Signer, leaf *x509.Certificate, intermediates, roots []*x509.Certificate, options TLSOptions) (*Certificate, error) {
	if len(roots) == 0 {
		return nil, errNoRoot
	}
	public, ok := leaf.PublicKey.(interface{ Equal(crypto.PublicKey) bool })
	if !ok || !public.Equal(key.Public()) {
		return nil, errors.New("certificate: the key is not that of the certificate")
	}
	c := &Certificate{leaf: leaf, intermediates: intermediates, roots: roots, pool: x509.NewCertPool(), options: options}
	c.id, c.hasID = ownID(leaf)
	for _, root := range roots {
		c.pool.AddCert(root)
	}
	c.pair = tls.Certificate{PrivateKey: key, Leaf: leaf, Certificate: [][]byte{leaf.Raw}}
	for _, intermediate := range intermediates {
		c.pair.Certificate = append(c.pair.Certificate, intermediate.Raw)
	}
	c.server = c.newServerConfig()
	return c, nil
}

// ID returns the certificate's identity: its first URI name. The second result is false if that is no SPIFFE identity;
// then the trust domain of inbound peers is not checked, as in the reference.
func (c *Certificate) ID() (spiffe.ID, bool) { return c.id, c.hasID }

// Leaf returns the certificate itself. It must not be changed.
func (c *Certificate) Leaf() *x509.Certificate { return c.leaf }

// Intermediates returns the certificates between the leaf and the root, the leaf's issuer first. Not to be changed.
func (c *Certificate) Intermediates() []*x509.Certificate { return c.intermediates }

// Roots returns the certificates that peers must descend from. Not to be changed.
func (c *Certificate) Roots() []*x509.Certificate { return c.roots }

// Serial returns the serial number of the leaf. Not to be changed.
func (c *Certificate) Serial() *big.Int { return c.leaf.SerialNumber }

// NotBefore is when the leaf becomes valid.
func (c *Certificate) NotBefore() time.Time { return c.leaf.NotBefore }

// NotAfter is when the leaf expires.
func (c *Certificate) NotAfter() time.Time { return c.leaf.NotAfter }

// Expired reports whether the leaf is of no more use at now.
func (c *Certificate) Expired(now time.Time) bool { return !now.Before(c.leaf.NotAfter) }

// RenewAt is the middle of the leaf's validity, when it is renewed.
func (c *Certificate) RenewAt() time.Time {
	life := c.leaf.NotAfter.Sub(c.leaf.NotBefore)
	if life < 0 {
		return c.leaf.NotAfter
	}
	return c.leaf.NotBefore.Add(life / 2)
}
