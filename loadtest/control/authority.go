package control

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"fmt"
	"net"
	"net/url"
	"time"
)

const (
	rootLife = 10 * 365 * 24 * time.Hour
	// backdate is how long before its making a certificate becomes valid, for
	// clocks that are behind: as istiod's, but a tenth of short lives. Proxies
	// renew in the middle between the two times, which must not be past.
	backdate = 2 * time.Minute
)

// authority signs certificates. It is not changed after it was made.
type authority struct {
	root    *x509.Certificate
	rootPEM []byte
	key     *ecdsa.PrivateKey
}

// newAuthority makes a root like istiod's self-signed one, but with a key on
// P-256 and with the right to sign revocation lists.
func newAuthority(trustDomain string) (*authority, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, fmt.Errorf("make root key: %w", err)
	}
	template := &x509.Certificate{
		Subject:               pkix.Name{Organization: []string{trustDomain}},
		NotBefore:             time.Now().Add(-backdate),
		NotAfter:              time.Now().Add(rootLife),
		KeyUsage:              x509.KeyUsageCertSign | x509.KeyUsageCRLSign,
		BasicConstraintsValid: true,
		IsCA:                  true,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		return nil, fmt.Errorf("make root certificate: %w", err)
	}
	root, err := x509.ParseCertificate(der)
	if err != nil {
		return nil, fmt.Errorf("parse root certificate: %w", err)
	}
	return &authority{root: root, rootPEM: encodePEM(der), key: key}, nil
}

func (a *authority) pool() *x509.CertPool {
	pool := x509.NewCertPool()
	pool.AddCert(a.root)
	return pool
}

// sign makes a certificate that is valid for ttl, at most until the root's end.
func (a *authority) sign(template *x509.Certificate, key crypto.PublicKey, ttl time.Duration) ([]byte, error) {
	now := time.Now()
	template.NotBefore = now.Add(-min(backdate, ttl/10))
	template.NotAfter = now.Add(ttl)
	if template.NotAfter.After(a.root.NotAfter) {
		template.NotAfter = a.root.NotAfter
	}
	template.KeyUsage = x509.KeyUsageDigitalSignature | x509.KeyUsageKeyEncipherment
	template.BasicConstraintsValid = true
	der, err := x509.CreateCertificate(rand.Reader, template, a.root, key, a.key)
	if err != nil {
		return nil, fmt.Errorf("sign certificate: %w", err)
	}
	return der, nil
}

// leaf signs a workload's certificate.
func (a *authority) leaf(key crypto.PublicKey, id string, ttl time.Duration) ([]byte, error) {
	uri, err := url.Parse(id)
	if err != nil {
		return nil, fmt.Errorf("identity %q: %w", id, err)
	}
	return a.sign(&x509.Certificate{
		URIs:        []*url.URL{uri}, // critical, since there is no subject
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
	}, key, ttl)
}

// issue makes a workload's key and certificate.
func (a *authority) issue(id string, ttl time.Duration) (tls.Certificate, error) {
	return withKey(func(key crypto.PublicKey) ([]byte, error) { return a.leaf(key, id, ttl) })
}

// server makes the key and certificate of the gRPC server.
func (a *authority) server(names []string) (tls.Certificate, error) {
	template := &x509.Certificate{ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}}
	for _, name := range names {
		if ip := net.ParseIP(name); ip != nil {
			template.IPAddresses = append(template.IPAddresses, ip)
		} else {
			template.DNSNames = append(template.DNSNames, name)
		}
	}
	return withKey(func(key crypto.PublicKey) ([]byte, error) { return a.sign(template, key, rootLife) })
}

// withKey makes a key and has it certified.
func withKey(certify func(crypto.PublicKey) ([]byte, error)) (tls.Certificate, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return tls.Certificate{}, fmt.Errorf("make key: %w", err)
	}
	der, err := certify(key.Public())
	if err != nil {
		return tls.Certificate{}, err
	}
	leaf, err := x509.ParseCertificate(der)
	if err != nil {
		return tls.Certificate{}, fmt.Errorf("parse own certificate: %w", err)
	}
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key, Leaf: leaf}, nil
}

func encodePEM(der []byte) []byte {
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})
}
