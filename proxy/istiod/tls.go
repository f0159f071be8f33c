package istiod

import (
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"log/slog"
	"net"
)

// maxRootsFile bounds the file of root certificates, in bytes.
const maxRootsFile = 4 << 20

// Roots are the certificates that the server's must descend from. The first field that is set counts; with none, nobody is
// trusted.
type Roots struct {
	// File has certificates in PEM. It is read at each handshake and may come later; while it is missing no handshake
	// succeeds.
	File string
	// System trusts what the operating system trusts.
	System bool
	// PEM are the certificates themselves.
	PEM []byte
}

// errNoRoots says that there is nobody to trust.
var errNoRoots = errors.New("invalid root certificate: no root certificate present")

// pool returns the roots to verify by; nil stands for those of the system.
func (r *Roots) pool() (*x509.CertPool, error) {
	if r.File == "" {
		if r.System {
			return nil, nil
		}
		return parseRoots(r.PEM)
	}
	text, err := readFile(r.File, maxRootsFile)
	if err != nil {
		return nil, fmt.Errorf("read root certificates: %w", err)
	}
	pool, err := parseRoots(text)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", r.File, err)
	}
	return pool, nil
}

// parseRoots reads all certificates of a PEM text. Those that cannot be parsed are passed over, as in the reference.
func parseRoots(text []byte) (*x509.CertPool, error) {
	pool, found := x509.NewCertPool(), false
	for {
		var block *pem.Block
		if block, text = pem.Decode(text); block == nil {
			break
		}
		if block.Type != "CERTIFICATE" {
			continue
		}
		if cert, err := x509.ParseCertificate(block.Bytes); err == nil {
			pool.AddCert(cert)
			found = true
		}
	}
	if !found {
		return nil, errNoRoots
	}
	return pool, nil
}

// RootsVersion identifies the content of the file of root certificates: who keeps a connection compares it to know that the
// roots changed, and makes a new one. It is the zero value for roots that never change. The error is that of reading the
// file.
func (c *Channel) RootsVersion() ([sha256.Size]byte, error) {
	if c.cfg.Roots.File == "" {
		return [sha256.Size]byte{}, nil
	}
	text, err := readFile(c.cfg.Roots.File, maxRootsFile)
	if err != nil {
		return [sha256.Size]byte{}, fmt.Errorf("read root certificates: %w", err)
	}
	return sha256.Sum256(text), nil
}

// suites12 are those of TLS 1.2; those of TLS 1.3 cannot be set.
var suites12 = []uint16{
	tls.TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384, tls.TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256,
	tls.TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384, tls.TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256,
}

// tlsConfig returns the configuration of one connection object. There is no client certificate: the token authenticates us.
// The server name comes from grpc, which takes it from the authority; crypto/tls sends none for an IP address.
func (c *Channel) tlsConfig() *tls.Config {
	config := &tls.Config{
		MinVersion:         tls.VersionTLS13,
		MaxVersion:         tls.VersionTLS13,
		NextProtos:         []string{"h2"},
		CurvePreferences:   []tls.CurveID{tls.X25519, tls.CurveP256, tls.CurveP384, tls.X25519MLKEM768},
		InsecureSkipVerify: true, // verify does all of it: the roots change, and there may be two names
		VerifyConnection:   c.verify,
	}
	if c.cfg.TLS12 {
		config.MinVersion, config.CipherSuites = tls.VersionTLS12, suites12
	}
	if c.cfg.PQC {
		config.CurvePreferences = []tls.CurveID{tls.X25519MLKEM768}
	}
	return config
}

// verify judges the server: its chain and dates first, then its names.
func (c *Channel) verify(cs tls.ConnectionState) error {
	if len(cs.PeerCertificates) == 0 {
		return errors.New("the server has no certificate")
	}
	roots, err := c.cfg.Roots.pool()
	if err != nil {
		return err
	}
	leaf := cs.PeerCertificates[0]
	options := x509.VerifyOptions{
		Roots: roots, Intermediates: x509.NewCertPool(), KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
	}
	for _, intermediate := range cs.PeerCertificates[1:] {
		options.Intermediates.AddCert(intermediate)
	}
	if _, err := leaf.Verify(options); err != nil {
		return fmt.Errorf("invalid peer certificate: %w", err)
	}
	if err := c.verifyName(leaf); err != nil {
		return fmt.Errorf("invalid peer certificate: %w", err)
	}
	c.cfg.Log.Debug("control plane verified", slog.String("address", c.address),
		slog.String("tls", tls.VersionName(cs.Version)), slog.Time("expires", leaf.NotAfter))
	return nil
}

// verifyName accepts the host of the address, or the alternative name. The error is about the former.
func (c *Channel) verifyName(leaf *x509.Certificate) error {
	host, _, err := net.SplitHostPort(c.address)
	if err != nil {
		return err
	}
	err = leaf.VerifyHostname(host)
	if err != nil && c.cfg.AltHostname != "" && leaf.VerifyHostname(c.cfg.AltHostname) == nil {
		return nil
	}
	return err
}
