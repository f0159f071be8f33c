package identity

import (
	"crypto/tls"
	"crypto/x509"
	"log/slog"
	"slices"
	"strings"
	"time"

	"ztunnel/proxy/spiffe"
	"ztunnel/telemetry/connection"
)

// verifyClient judges a client whose chain, validity and extended key usage crypto/tls has verified: its leaf must be no
// CA and must have a name of our trust domain. Which of them may do what is a matter of authorization policies.
func (c *Certificate) verifyClient(cs tls.ConnectionState) error {
	leaf := cs.PeerCertificates[0]
	if err := c.verifyLeaf(&cs, cs.VerifiedChains, connection.Destination); err != nil {
		return err
	}
	if !c.hasID {
		return nil
	}
	for id := range ids(leaf) {
		if id.TrustDomain == c.id.TrustDomain {
			return nil
		}
	}
	return &TrustDomainError{TrustDomain: c.id.TrustDomain, Got: slices.Collect(ids(leaf))}
}

// verifyServer does all there is to verify of a server: the chain to one of our roots, validity (to the second, with no
// tolerance), extended key usage if there is one, the leaf being no CA, and one of the expected identities among its names.
func (c *Certificate) verifyServer(cs *tls.ConnectionState, expected []spiffe.ID) error {
	if len(cs.PeerCertificates) == 0 {
		return &PeerError{Err: errNoCertificate}
	}
	leaf := cs.PeerCertificates[0]
	chains, err := c.verifyChains(cs, x509.ExtKeyUsageServerAuth, time.Time{})
	if err != nil {
		return &PeerError{Err: err}
	}
	if err := c.verifyLeaf(cs, chains, connection.Source); err != nil {
		return err
	}
	for id := range ids(leaf) {
		if slices.Contains(expected, id) {
			return nil
		}
	}
	return &PeerError{Err: &SANMismatchError{Expected: expected, Got: slices.Collect(ids(leaf))}}
}

// verifyChains returns the chains from the peer's leaf to roots of ours that are valid at a time, the zero time being now.
func (c *Certificate) verifyChains(cs *tls.ConnectionState, usage x509.ExtKeyUsage, at time.Time) ([][]*x509.Certificate, error) {
	options := x509.VerifyOptions{Roots: c.pool, KeyUsages: []x509.ExtKeyUsage{usage}, CurrentTime: at}
	if len(cs.PeerCertificates) > 1 {
		options.Intermediates = x509.NewCertPool()
		for _, intermediate := range cs.PeerCertificates[1:] {
			options.Intermediates.AddCert(intermediate)
		}
	}
	return cs.PeerCertificates[0].Verify(options)
}

// verifyLeaf does what both directions have in common after the chain was verified. The reporter is our side.
func (c *Certificate) verifyLeaf(cs *tls.ConnectionState, chains [][]*x509.Certificate, by connection.Reporter) error {
	leaf := cs.PeerCertificates[0]
	if cs.CipherSuite == tls.TLS_CHACHA20_POLY1305_SHA256 && !c.options.AllowChaCha20 {
		return errSuite
	}
	if leaf.IsCA {
		return &PeerError{Err: errLeafIsCA}
	}
	if err := c.options.Revocation.check(chains, by); err != nil {
		return &PeerError{Err: err}
	}
	if c.options.Log != nil {
		for uri := range uris(leaf) {
			if _, err := spiffe.Parse(uri); err != nil {
				c.options.Log.Warn("SAN "+uri+" could not be parsed: "+err.Error(), slog.String("subject", leaf.Subject.String()))
			}
		}
	}
	return nil
}

// Texts of the reference's TLS library.
var (
	errNoCertificate error = &tlsError{"NoCertificatesPresented"}
	errLeafIsCA      error = &tlsError{"CaUsedAsEndEntity"}
)

// PeerError says that the certificate of a peer was refused. It carries the flag TLS_FAILURE.
type PeerError struct {
	Err error // a *SANMismatchError, a *RevokedError, or an error of package x509
}

// Error returns "invalid peer certificate: " and the reason in the words of the reference's TLS library.
func (e *PeerError) Error() string {
	return "invalid peer certificate: " + certificateText(e.Err, false)
}

// Unwrap returns the reason.
func (e *PeerError) Unwrap() error { return e.Err }

// FailureFlag returns TLS_FAILURE.
func (e *PeerError) FailureFlag() connection.Flag { return connection.FlagTLS }

// SANMismatchError says that none of a server's names is an identity that it may have.
type SANMismatchError struct {
	Expected, Got []spiffe.ID
}

// Error returns "identity verification error: peer did not present the expected SAN (A,B), got C,D".
func (e *SANMismatchError) Error() string {
	return "identity verification error: peer did not present the expected SAN (" + join(e.Expected) + "), got " + join(e.Got)
}

// join lists identities, separated by commas alone.
func join(list []spiffe.ID) string {
	var b []byte
	for i, id := range list {
		if i > 0 {
			b = append(b, ',')
		}
		b, _ = id.AppendText(b)
	}
	return string(b)
}

// TrustDomainError says that a client has no name of our trust domain. It carries the flag TLS_FAILURE.
type TrustDomainError struct {
	TrustDomain string      // ours
	Got         []spiffe.ID // all of the client's
}

// Error returns the debug form that this error has in the reference's log.
func (e *TrustDomainError) Error() string {
	return `Custom { kind: InvalidData, error: InvalidCertificate(` + e.debug() + `) }`
}

// FailureFlag returns TLS_FAILURE.
func (e *TrustDomainError) FailureFlag() connection.Flag { return connection.FlagTLS }

func (e *TrustDomainError) debug() string {
	var b strings.Builder
	b.WriteString("Other(OtherError(SanTrustDomainError(" + rustQuote(e.TrustDomain) + ", [")
	for i, id := range e.Got {
		if i > 0 {
			b.WriteString(", ")
		}
		b.WriteString("Spiffe { trust_domain: " + rustQuote(id.TrustDomain) + ", namespace: " + rustQuote(id.Namespace) +
			", service_account: " + rustQuote(id.ServiceAccount) + " }")
	}
	b.WriteString("])))")
	return b.String()
}

// RevokedError says that a certificate in the chain of a peer was revoked.
type RevokedError struct {
	Serial string // decimal, of the revoked certificate
}

// Error returns the word of the reference's TLS library.
func (e *RevokedError) Error() string { return "Revoked" }

// FailureFlag returns TLS_FAILURE: a handshake failed. CERT_REVOKED is for connections that were established.
func (e *RevokedError) FailureFlag() connection.Flag { return connection.FlagTLS }
