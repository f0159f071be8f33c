// Package identitytest makes certificates for tests: good ones, and bad ones of every kind. Tests of the packages that
// handshake or hold certificates call it; nothing else may. Certificates are made at the current time, which inside a
// synctest bubble is that of the bubble.
package identitytest

import (
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"encoding/pem"
	"errors"
	"fmt"
	"math/big"
	"testing"
	"time"

	"ztunnel/proxy/identity"
	"ztunnel/proxy/spiffe"
)

// CA is a certificate authority with a root of its own. It is safe for concurrent use.
type CA struct {
	// TTL is the life of the certificates that Sign makes; 24 hours if it is 0.
	TTL time.Duration
	// TLS becomes part of every certificate.
	TLS identity.TLSOptions

	root    *x509.Certificate
	between []*x509.Certificate // from the issuing certificate up, without the root
	issuer  *x509.Certificate
	key     crypto.Signer
	above   *CA // that issued the issuer; nil for a root
}

var _ identity.CA = (*CA)(nil)

// Leaf says what a certificate is to be. The zero Leaf has no names, lives for an hour, and is for clients and servers.
type Leaf struct {
	URIs      []string // as they are, also if they are no valid URIs; they must be ASCII
	DNSNames  []string
	NotBefore time.Time            // now if zero
	NotAfter  time.Time            // an hour from now if zero
	Usages    []x509.ExtKeyUsage   // nil is both usages, empty is a certificate without the extension
	IsCA      bool                 // the certificate claims to be a CA
	Roots     []*x509.Certificate  // whom the holder trusts; the CA's own root if nil
	TLS       *identity.TLSOptions // those of the CA if nil
}

// NewCA makes a CA.
func NewCA(tb testing.TB) *CA {
	tb.Helper()
	ca, err := newCA()
	if err != nil {
		tb.Fatalf("identitytest.NewCA: %v", err)
	}
	return ca
}

func newCA() (*CA, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, err
	}
	template, err := authority("identitytest root")
	if err != nil {
		return nil, err
	}
	root, err := create(template, template, key.Public(), key)
	if err != nil {
		return nil, err
	}
	return &CA{root: root, issuer: root, key: key}, nil
}

// Intermediate makes a CA below this one, with the same root and the same settings.
func (ca *CA) Intermediate(tb testing.TB) *CA {
	tb.Helper()
	below, err := ca.intermediate()
	if err != nil {
		tb.Fatalf("CA.Intermediate: %v", err)
	}
	return below
}

func (ca *CA) intermediate() (*CA, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, err
	}
	template, err := authority("identitytest intermediate")
	if err != nil {
		return nil, err
	}
	cert, err := create(template, ca.issuer, key.Public(), ca.key)
	if err != nil {
		return nil, err
	}
	between := append([]*x509.Certificate{cert}, ca.between...)
	return &CA{TTL: ca.TTL, TLS: ca.TLS, root: ca.root, between: between, issuer: cert, key: key, above: ca}, nil
}

// Root returns the root certificate.
func (ca *CA) Root() *x509.Certificate { return ca.root }

// Workload issues a good certificate for an identity, given as a SPIFFE URI.
func (ca *CA) Workload(tb testing.TB, id string) *identity.Certificate {
	tb.Helper()
	return ca.Issue(tb, Leaf{URIs: []string{id}})
}

// Issue issues any certificate.
func (ca *CA) Issue(tb testing.TB, leaf Leaf) *identity.Certificate {
	tb.Helper()
	c, err := ca.issue(leaf)
	if err != nil {
		tb.Fatalf("CA.Issue(%+v): %v", leaf, err)
	}
	return c
}

// Sign issues a good certificate, as a CA does for a Manager.
func (ca *CA) Sign(ctx context.Context, id spiffe.ID) (*identity.Certificate, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	ttl := ca.TTL
	if ttl == 0 {
		ttl = 24 * time.Hour
	}
	return ca.issue(Leaf{URIs: []string{id.String()}, NotAfter: time.Now().Add(ttl)})
}

func (ca *CA) issue(leaf Leaf) (*identity.Certificate, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, err
	}
	template, err := leaf.template()
	if err != nil {
		return nil, err
	}
	cert, err := create(template, ca.issuer, key.Public(), ca.key)
	if err != nil {
		return nil, err
	}
	roots, options := leaf.Roots, ca.TLS
	if roots == nil {
		roots = []*x509.Certificate{ca.root}
	}
	if leaf.TLS != nil {
		options = *leaf.TLS
	}
	return identity.NewCertificate(key, cert, ca.between, roots, options)
}

func (leaf *Leaf) template() (*x509.Certificate, error) {
	serial, err := serialNumber()
	if err != nil {
		return nil, err
	}
	now := time.Now()
	t := &x509.Certificate{
		SerialNumber: serial, NotBefore: leaf.NotBefore, NotAfter: leaf.NotAfter, ExtKeyUsage: leaf.Usages,
		KeyUsage:              x509.KeyUsageDigitalSignature | x509.KeyUsageKeyEncipherment,
		BasicConstraintsValid: leaf.IsCA, IsCA: leaf.IsCA,
	}
	if t.NotBefore.IsZero() {
		t.NotBefore = now
	}
	if t.NotAfter.IsZero() {
		t.NotAfter = now.Add(time.Hour)
	}
	if t.ExtKeyUsage == nil {
		t.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth}
	}
	if len(leaf.URIs)+len(leaf.DNSNames) > 0 {
		san, err := SubjectAltName(leaf.DNSNames, leaf.URIs)
		if err != nil {
			return nil, err
		}
		t.ExtraExtensions = []pkix.Extension{{Id: asn1.ObjectIdentifier{2, 5, 29, 17}, Critical: true, Value: san}}
	}
	return t, nil
}

// SubjectAltName encodes the value of a subjectAltName extension: first the DNS names, then the URIs, all as they are.
func SubjectAltName(dnsNames, uris []string) ([]byte, error) {
	const dnsName, uri = 2, 6 // the tags of GeneralName, RFC 5280 section 4.2.1.6
	var names []asn1.RawValue
	for _, s := range dnsNames {
		names = append(names, asn1.RawValue{Class: asn1.ClassContextSpecific, Tag: dnsName, Bytes: []byte(s)})
	}
	for _, s := range uris {
		names = append(names, asn1.RawValue{Class: asn1.ClassContextSpecific, Tag: uri, Bytes: []byte(s)})
	}
	return asn1.Marshal(names)
}

// PEM returns certificates as PEM text, one after the other.
func PEM(certificates ...*x509.Certificate) string {
	var text []byte
	for _, c := range certificates {
		text = append(text, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: c.Raw})...)
	}
	return string(text)
}

// authority is the template of a CA's certificate, valid from long before the clock of a synctest bubble begins.
func authority(name string) (*x509.Certificate, error) {
	serial, err := serialNumber()
	if err != nil {
		return nil, err
	}
	return &x509.Certificate{
		SerialNumber: serial,
		Subject:      pkix.Name{Organization: []string{spiffe.DefaultTrustDomain}, CommonName: fmt.Sprintf("%s %x", name, serial.Bytes()[:4])},
		NotBefore:    time.Date(1990, 1, 1, 0, 0, 0, 0, time.UTC), NotAfter: time.Date(2100, 1, 1, 0, 0, 0, 0, time.UTC),
		KeyUsage:              x509.KeyUsageCertSign | x509.KeyUsageCRLSign,
		BasicConstraintsValid: true, IsCA: true,
	}, nil
}

func serialNumber() (*big.Int, error) {
	n, err := rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), 158))
	if err != nil {
		return nil, err
	}
	return n.Add(n, new(big.Int).Lsh(big.NewInt(1), 157)), nil // never short
}

func create(template, parent *x509.Certificate, public crypto.PublicKey, key crypto.Signer) (*x509.Certificate, error) {
	der, err := x509.CreateCertificate(rand.Reader, template, parent, public, key)
	if err != nil {
		return nil, err
	}
	return x509.ParseCertificate(der)
}

// Certify answers a certificate request in PEM as istiod does: the leaf, the intermediates one by one, and all roots
// together, as PEM texts. The leaf says what is wanted instead of the names in the request. The request's signature has to
// be good.
func (ca *CA) Certify(csr string, leaf Leaf) ([]string, error) {
	block, _ := pem.Decode([]byte(csr))
	if block == nil {
		return nil, errors.New("no PEM")
	}
	request, err := x509.ParseCertificateRequest(block.Bytes)
	if err != nil {
		return nil, err
	}
	if err := request.CheckSignature(); err != nil {
		return nil, err
	}
	template, err := leaf.template()
	if err != nil {
		return nil, err
	}
	cert, err := create(template, ca.issuer, request.PublicKey, ca.key)
	if err != nil {
		return nil, err
	}
	chain := []string{PEM(cert)}
	for _, c := range ca.between {
		chain = append(chain, PEM(c))
	}
	roots := leaf.Roots
	if roots == nil {
		roots = []*x509.Certificate{ca.root}
	}
	return append(chain, PEM(roots...)), nil
}
