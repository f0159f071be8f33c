package identity

import (
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	_ "embed"
	"encoding/pem"
	"errors"
	"fmt"
	"math/big"
	"time"

	"ztunnel/proxy/spiffe"
)

// The root of every FakeCA. DEVELOPMENT ONLY: its private key is part of the public source code, so whoever trusts this
// root trusts everybody.
var (
	//go:embed devroot.crt.pem
	devRootPEM []byte
	//go:embed devroot.key.pem
	devRootKeyPEM []byte
)

// DefaultTTL is how long the certificates of a FakeCA live if nothing else is set.
const DefaultTTL = 24 * time.Hour

// FakeCAConfig are the settings of a FakeCA.
type FakeCAConfig struct {
	// TTL is the life of a certificate; 0 means DefaultTTL. X.509 counts in whole seconds.
	TTL time.Duration
	// TLS becomes part of every certificate.
	TLS TLSOptions
}

// FakeCA signs the certificates of FAKE_CA in the process itself, without asking anybody, with the development root that is
// part of this program. All processes with a FakeCA therefore trust each other, and also everybody else who has read the
// source code.
type FakeCA struct {
	cfg  FakeCAConfig
	root *x509.Certificate
	key  crypto.Signer
}

var _ CA = (*FakeCA)(nil)

// NewFakeCA returns a CA for development. It gives no security at all, because the key of its root is public. Whoever calls
// it MUST say so loudly: log a warning at start-up and set the gauge istio_ztunnel_fake_ca to 1.
func NewFakeCA(cfg FakeCAConfig) (*FakeCA, error) {
	if cfg.TTL == 0 {
		cfg.TTL = DefaultTTL
	}
	if cfg.TTL < 0 {
		return nil, fmt.Errorf("fake CA: the life of certificates is negative: %v", cfg.TTL)
	}
	root, err := parseOne(string(devRootPEM))
	if err != nil {
		return nil, fmt.Errorf("fake CA: root: %w", err)
	}
	block, _ := pem.Decode(devRootKeyPEM)
	if block == nil {
		return nil, errors.New("fake CA: root key: no PEM")
	}
	key, err := x509.ParsePKCS8PrivateKey(block.Bytes)
	if err != nil {
		return nil, fmt.Errorf("fake CA: root key: %w", err)
	}
	signer, ok := key.(crypto.Signer)
	if !ok {
		return nil, fmt.Errorf("fake CA: root key: unexpected type %T", key)
	}
	return &FakeCA{cfg: cfg, root: root, key: signer}, nil
}

// Sign makes a key and a certificate for it, from now on for the configured life.
func (ca *FakeCA) Sign(ctx context.Context, id spiffe.ID) (*Certificate, error) {
	if ctx.Err() != nil {
		return nil, &WaitError{ID: id, Err: context.Cause(ctx)}
	}
	san, err := uriSAN(id.String())
	if err != nil {
		return nil, &CSRError{Err: err}
	}
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, &CSRError{Err: err}
	}
	serial, err := rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), 159))
	if err != nil {
		return nil, &CSRError{Err: err}
	}
	now := time.Now()
	der, err := x509.CreateCertificate(rand.Reader, &x509.Certificate{
		SerialNumber:    serial.Add(serial, big.NewInt(1)), // 0 is not allowed
		Subject:         pkix.Name{Organization: []string{spiffe.DefaultTrustDomain}},
		NotBefore:       now,
		NotAfter:        now.Add(ca.cfg.TTL),
		KeyUsage:        x509.KeyUsageDigitalSignature | x509.KeyUsageKeyEncipherment,
		ExtKeyUsage:     []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
		ExtraExtensions: []pkix.Extension{{Id: oidSubjectAltName, Value: san}},
	}, ca.root, key.Public(), ca.key)
	if err != nil {
		return nil, &CSRError{Err: err}
	}
	leaf, err := x509.ParseCertificate(der)
	if err != nil {
		return nil, &CSRError{Err: fmt.Errorf("certificate parse: %w", err)}
	}
	c, err := NewCertificate(key, leaf, nil, []*x509.Certificate{ca.root}, ca.cfg.TLS)
	if err != nil {
		return nil, &CSRError{Err: err}
	}
	return c, nil
}
