package identity

import (
	"context"
	"crypto/tls"
	"encoding/binary"
	"errors"
	"log/slog"
	"slices"
	"sync"

	"ztunnel/proxy/spiffe"
	"ztunnel/telemetry/connection"
)

// TLSOptions are the settings of the process that shape every handshake. The zero value is the reference's default.
type TLSOptions struct {
	// TLS12 also allows TLS 1.2, with ECDHE and AES-GCM. Off, TLS 1.3 is the only version.
	TLS12 bool
	// PQC leaves the post-quantum hybrid X25519MLKEM768 as the only key exchange: a peer without it cannot connect.
	PQC bool
	// AllowChaCha20 accepts TLS_CHACHA20_POLY1305_SHA256, which the reference neither offers nor accepts. crypto/tls
	// always offers it, and chooses it over AES-GCM when one side has no AES instructions and both are of its kind. Off,
	// such a handshake fails.
	AllowChaCha20 bool
	// Revocation refuses peers whose certificate was revoked, with a *RevokedError. Nil refuses nobody.
	Revocation *CRL
	// Log gets a warning about names of a trusted peer that look like an identity and are none. Nil logs nothing.
	Log *slog.Logger
}

// alpn is the only application protocol of a tunnel.
const alpn = "h2"

// noProtocol is offered to a client that offers protocols, but not h2: crypto/tls would let http/1.1 through otherwise.
// Nobody speaks it, so the client gets the alert no_application_protocol.
const noProtocol = "ztunnel-none"

// suites12 are those of TLS 1.2. crypto/tls prefers the one with AES-128 by itself. Those of TLS 1.3 cannot be set.
var suites12 = []uint16{
	tls.TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256, tls.TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256,
	tls.TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384, tls.TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384,
}

// classicGroups and hybridGroup are the key exchanges of the reference, which prefers them in this order. crypto/tls prefers
// a hybrid whenever it may use one and cannot be told otherwise, so a server allows it only to a client without the others.
var classicGroups = []tls.CurveID{tls.X25519, tls.CurveP256, tls.CurveP384}

const hybridGroup = tls.X25519MLKEM768

// newConfig is what both sides have in common. It never resumes a session, so that every connection is verified, and never
// sends the small records that crypto/tls otherwise begins with.
func (c *Certificate) newConfig() *tls.Config {
	config := &tls.Config{
		MinVersion:                  tls.VersionTLS13,
		MaxVersion:                  tls.VersionTLS13,
		NextProtos:                  []string{alpn},
		SessionTicketsDisabled:      true,
		DynamicRecordSizingDisabled: true,
		CurvePreferences:            append(slices.Clone(classicGroups), hybridGroup),
	}
	if c.options.TLS12 {
		config.MinVersion, config.CipherSuites = tls.VersionTLS12, suites12
	}
	if c.options.PQC {
		config.CurvePreferences = []tls.CurveID{hybridGroup}
	}
	return config
}

// ServerConfig returns the configuration of the inbound side: it presents this certificate, requires one of the client and
// verifies it against the roots and the trust domain of this one. A client that offers no protocol at all is accepted. The
// configuration is shared by all callers and must not be changed.
//
// For the meaning of a failed handshake see RejectReason and HandshakeText.
func (c *Certificate) ServerConfig() *tls.Config { return c.server }

func (c *Certificate) newServerConfig() *tls.Config {
	config := c.newConfig()
	config.Certificates = []tls.Certificate{c.pair}
	// The chain is verified by crypto/tls itself: only so does the client get the alert that says what is wrong with it.
	config.ClientAuth, config.ClientCAs = tls.RequireAndVerifyClientCert, c.pool
	config.VerifyConnection = c.verifyClient
	hybrid := config.Clone()
	if !c.options.PQC {
		config.CurvePreferences = classicGroups
	}
	config.GetConfigForClient = func(hello *tls.ClientHelloInfo) (*tls.Config, error) {
		return c.configFor(hello, config, hybrid)
	}
	return config
}

// configFor picks the server's configuration for a client; nil is the usual one.
func (c *Certificate) configFor(hello *tls.ClientHelloInfo, usual, hybrid *tls.Config) (*tls.Config, error) {
	if len(hello.SupportedProtos) > 0 && !slices.Contains(hello.SupportedProtos, alpn) {
		refusing := usual.Clone()
		refusing.GetConfigForClient, refusing.NextProtos = nil, []string{noProtocol}
		return refusing, nil
	}
	if slices.Contains(hello.SupportedVersions, tls.VersionTLS13) && !c.options.AllowChaCha20 &&
		!slices.ContainsFunc(hello.CipherSuites, isAESGCM13) {
		return nil, errSuite
	}
	if !slices.ContainsFunc(hello.SupportedCurves, isClassic) && slices.Contains(hello.SupportedCurves, hybridGroup) {
		return hybrid, nil
	}
	return nil, nil
}

func isAESGCM13(suite uint16) bool {
	return suite == tls.TLS_AES_128_GCM_SHA256 || suite == tls.TLS_AES_256_GCM_SHA384
}

func isClassic(group tls.CurveID) bool { return slices.Contains(classicGroups, group) }

// ClientConfig returns the configuration of the outbound side: it presents this certificate, sends no server name, and
// verifies the server against the roots of this certificate and against the expected identities, of which one has to be
// among the server's names. With none expected every handshake fails. The order matters for the error's text alone.
//
// The configuration may be shared with other callers and must not be changed. The error of a refused server is a
// *PeerError; the peer gets the alert bad_certificate.
func (c *Certificate) ClientConfig(expected []spiffe.ID) *tls.Config {
	return c.clients.get(expected, c.newClientConfig)
}

func (c *Certificate) newClientConfig(expected []spiffe.ID) *tls.Config {
	config := c.newConfig()
	// Not Certificates: then crypto/tls would present nothing to a server whose list of roots lacks ours, where the
	// reference presents its certificate.
	config.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return &c.pair, nil }
	config.InsecureSkipVerify = true // there is no host name to verify; verifyServer does all of it
	expected = slices.Clone(expected)
	config.VerifyConnection = func(cs tls.ConnectionState) error { return c.verifyServer(&cs, expected) }
	return config
}

// maxClientConfigs bounds the cache of one certificate. A workload talks to few identities in the life of a certificate,
// and making a configuration costs next to nothing beside the handshake.
const maxClientConfigs = 64

// clientConfigs are the client configurations of a certificate by the identities expected.
type clientConfigs struct {
	mu sync.Mutex
	m  map[string]*tls.Config
}

// get returns the configuration for the expected identities, made by newConfig if there is none.
func (cc *clientConfigs) get(expected []spiffe.ID, newConfig func([]spiffe.ID) *tls.Config) *tls.Config {
	var buf [256]byte
	key := appendKey(buf[:0], expected)
	cc.mu.Lock()
	defer cc.mu.Unlock()
	if config, ok := cc.m[string(key)]; ok {
		return config
	}
	if len(cc.m) >= maxClientConfigs {
		clear(cc.m)
	}
	if cc.m == nil {
		cc.m = make(map[string]*tls.Config)
	}
	config := newConfig(expected)
	cc.m[string(key)] = config
	return config
}

// appendKey appends an unambiguous form of a list of identities: each part after its length.
func appendKey(b []byte, list []spiffe.ID) []byte {
	for _, id := range list {
		for _, part := range [...]string{id.TrustDomain, id.Namespace, id.ServiceAccount} {
			b = binary.AppendUvarint(b, uint64(len(part)))
			b = append(b, part...)
		}
	}
	return b
}

// tlsError is an error of a handshake with a fixed text.
type tlsError struct{ text string }

func (e *tlsError) Error() string              { return e.text }
func (*tlsError) FailureFlag() connection.Flag { return connection.FlagTLS }

// errSuite refuses a peer whose only common cipher suite is ChaCha20.
var errSuite error = &tlsError{"peer is incompatible: NoCipherSuitesInCommon (TLS_CHACHA20_POLY1305_SHA256 is not allowed)"}

// isTimeout reports whether err says that time ran out.
func isTimeout(err error) bool {
	if errors.Is(err, context.DeadlineExceeded) {
		return true
	}
	timeout, ok := errors.AsType[interface {
		error
		Timeout() bool
	}](err)
	return ok && timeout.Timeout()
}
