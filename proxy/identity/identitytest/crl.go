package identitytest

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/pem"
	"math/big"
	"testing"
	"time"
)

// CRL returns a revocation list of the CA's issuing certificate in PEM, with the given certificates in it. It is valid as
// long as the CA.
func (ca *CA) CRL(tb testing.TB, revoked ...*x509.Certificate) []byte {
	tb.Helper()
	return CRLPEM(ca.List(tb, &x509.RevocationList{}, revoked...))
}

// List returns a revocation list of the CA's issuing certificate in DER, made of a template and the given certificates. Of
// the template, number and dates are filled in.
func (ca *CA) List(tb testing.TB, template *x509.RevocationList, revoked ...*x509.Certificate) []byte {
	tb.Helper()
	list := *template
	list.Number = big.NewInt(1)
	if list.ThisUpdate.IsZero() {
		list.ThisUpdate = ca.issuer.NotBefore
	}
	if list.NextUpdate.IsZero() {
		list.NextUpdate = ca.issuer.NotAfter
	}
	for _, cert := range revoked {
		list.RevokedCertificateEntries = append(list.RevokedCertificateEntries,
			x509.RevocationListEntry{SerialNumber: cert.SerialNumber, RevocationTime: time.Now()})
	}
	der, err := x509.CreateRevocationList(rand.Reader, &list, ca.issuer, ca.key)
	if err != nil {
		tb.Fatalf("CA.List: %v", err)
	}
	return der
}

// CRLPEM returns revocation lists as PEM text, one after the other.
func CRLPEM(lists ...[]byte) []byte {
	var text []byte
	for _, der := range lists {
		text = append(text, pem.EncodeToMemory(&pem.Block{Type: "X509 CRL", Bytes: der})...)
	}
	return text
}

// Twin makes a CA with the same name and another key: another root, or another intermediate of the same CA.
func (ca *CA) Twin(tb testing.TB) *CA {
	tb.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		tb.Fatalf("CA.Twin: %v", err)
	}
	template, err := authority("")
	if err != nil {
		tb.Fatalf("CA.Twin: %v", err)
	}
	template.Subject = ca.issuer.Subject
	twin := &CA{TTL: ca.TTL, TLS: ca.TLS, root: ca.root, key: key, above: ca.above}
	parent, signer := template, key
	if ca.above != nil {
		parent, signer = ca.above.issuer, ca.above.key.(*ecdsa.PrivateKey)
	}
	cert, err := create(template, parent, key.Public(), signer)
	if err != nil {
		tb.Fatalf("CA.Twin: %v", err)
	}
	twin.issuer = cert
	if ca.above == nil {
		twin.root = cert
	} else {
		twin.between = append([]*x509.Certificate{cert}, ca.above.between...)
	}
	return twin
}

// Issuer returns the certificate that signs what the CA issues: the root, or an intermediate.
func (ca *CA) Issuer() *x509.Certificate { return ca.issuer }

// CrossSign makes a certificate of the CA's issuing key by another CA: a second way up from what the CA issues.
func (ca *CA) CrossSign(tb testing.TB, by *CA) *x509.Certificate {
	tb.Helper()
	template, err := authority("")
	if err != nil {
		tb.Fatalf("CA.CrossSign: %v", err)
	}
	template.Subject = ca.issuer.Subject
	cert, err := create(template, by.issuer, ca.key.Public(), by.key)
	if err != nil {
		tb.Fatalf("CA.CrossSign: %v", err)
	}
	return cert
}
