package identity_test

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"io"
	"net"
	"slices"
	"strings"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"ztunnel/proxy/identity"
	"ztunnel/proxy/identity/identitytest"
	"ztunnel/proxy/spiffe"
	"ztunnel/telemetry/connection"
)

const (
	clientURI  = "spiffe://cluster.local/ns/shop/sa/client"
	serverURI  = "spiffe://cluster.local/ns/shop/sa/server"
	foreignURI = "spiffe://elsewhere.example/ns/shop/sa/client"
)

func mustParse(t testing.TB, uris ...string) []spiffe.ID {
	t.Helper()
	var list []spiffe.ID
	for _, uri := range uris {
		id, err := spiffe.Parse(uri)
		if err != nil {
			t.Fatal(err)
		}
		list = append(list, id)
	}
	return list
}

// outcome is what both sides made of a handshake and of one byte in each direction after it.
type outcome struct {
	client, server       tls.ConnectionState
	clientErr, serverErr error
}

// pair returns two ends of a connection.
type pair func(t testing.TB) (client, server net.Conn)

func inMemory(testing.TB) (client, server net.Conn) { return net.Pipe() }

func loopback(t testing.TB) (client, server net.Conn) {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	if client, err = net.Dial("tcp", ln.Addr().String()); err != nil {
		t.Fatal(err)
	}
	if server, err = ln.Accept(); err != nil {
		t.Fatal(err)
	}
	return client, server
}

// handshake connects the two configurations. Under TLS 1.3 the client learns what the server thinks of its certificate
// only with the first byte, so that is exchanged too.
func handshake(t testing.TB, connect pair, client, server *tls.Config) outcome {
	t.Helper()
	clientConn, serverConn := connect(t)
	for _, conn := range []net.Conn{clientConn, serverConn} {
		conn.SetDeadline(time.Now().Add(20 * time.Second)) // so that a test that is wrong ends
	}
	var o outcome
	exchange := func(c *tls.Conn, first func() error, state *tls.ConnectionState) error {
		defer c.NetConn().Close()
		if err := c.Handshake(); err != nil {
			return err
		}
		*state = c.ConnectionState()
		return first()
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		c := tls.Server(serverConn, server)
		o.serverErr = exchange(c, func() error { _, err := c.Write([]byte{1}); return err }, &o.server)
	}()
	c := tls.Client(clientConn, client)
	o.clientErr = exchange(c, func() error { _, err := io.ReadFull(c, make([]byte, 1)); return err }, &o.client)
	<-done
	return o
}

// whom is the configuration of a client that expects the usual server.
func whom(t testing.TB, c *identity.Certificate) *tls.Config {
	return c.ClientConfig(mustParse(t, serverURI))
}

func TestHandshake(t *testing.T) {
	ca := identitytest.NewCA(t)
	for name, connect := range map[string]pair{"in memory": inMemory, "loopback": loopback} {
		t.Run(name, func(t *testing.T) {
			server := ca.Intermediate(t).Intermediate(t).Workload(t, serverURI)
			o := handshake(t, connect, whom(t, ca.Workload(t, clientURI)), server.ServerConfig())
			if o.clientErr != nil || o.serverErr != nil {
				t.Fatalf("handshake: client %v, server %v, want success", o.clientErr, o.serverErr)
			}
			for side, cs := range map[string]tls.ConnectionState{"client": o.client, "server": o.server} {
				if cs.Version != tls.VersionTLS13 || cs.NegotiatedProtocol != "h2" || cs.DidResume || cs.CurveID != tls.X25519 ||
					cs.CipherSuite != tls.TLS_AES_128_GCM_SHA256 {
					t.Errorf("%s: %s, protocol %q, resumed %v, group %v, suite %s; want TLS 1.3, h2, not resumed, X25519, AES-128-GCM", side,
						tls.VersionName(cs.Version), cs.NegotiatedProtocol, cs.DidResume, cs.CurveID, tls.CipherSuiteName(cs.CipherSuite))
				}
			}
			if o.server.ServerName != "" {
				t.Errorf("server name = %q, want none", o.server.ServerName)
			}
			if n := len(o.client.PeerCertificates); n != 3 {
				t.Errorf("certificates of the server = %d, want the leaf and 2 intermediates without the root", n)
			}
			if id, ok := identity.PeerID(&o.client); !ok || id.String() != serverURI {
				t.Errorf("PeerID(at the client) = %v, %v, want %s", id, ok, serverURI)
			}
			if id, ok := identity.PeerID(&o.server); !ok || id.String() != clientURI {
				t.Errorf("PeerID(at the server) = %v, %v, want %s", id, ok, clientURI)
			}
		})
	}
}

// Whom the inbound side lets in, and what the log, the metric and the client hear of the others. The clock is that of the
// bubble: midnight of 2000-01-01, 946684800.
func TestServerConfig_Trust(t *testing.T) {
	hour := func(n int) time.Time { return time.Unix(946684800, 0).Add(time.Duration(n) * time.Hour) }
	const invalid = "Custom { kind: InvalidData, error: InvalidCertificate("
	for _, tt := range []struct {
		name   string
		leaf   identitytest.Leaf
		others bool   // of another CA
		text   string // empty if it is let in
		reason connection.Reason
		alert  string
	}{
		{name: "good", leaf: identitytest.Leaf{URIs: []string{clientURI}}},
		{name: "unknown account", leaf: identitytest.Leaf{URIs: []string{"spiffe://cluster.local/ns/no/sa/body"}}},
		{name: "without key usages", leaf: identitytest.Leaf{URIs: []string{clientURI}, Usages: []x509.ExtKeyUsage{}}},
		{name: "our trust domain second", leaf: identitytest.Leaf{URIs: []string{foreignURI, clientURI}}},
		{name: "not SPIFFE first", leaf: identitytest.Leaf{URIs: []string{"https://example.com/", clientURI}}},
		{name: "expires this second", leaf: identitytest.Leaf{URIs: []string{clientURI}, NotBefore: hour(-1), NotAfter: hour(0)}},
		{
			name: "another CA", leaf: identitytest.Leaf{URIs: []string{clientURI}}, others: true,
			text: invalid + "UnknownIssuer) }", reason: "untrusted_cert", alert: "unknown certificate authority",
		},
		{
			name: "expired", leaf: identitytest.Leaf{URIs: []string{clientURI}, NotBefore: hour(-2), NotAfter: hour(0).Add(-time.Second)},
			text:   invalid + "ExpiredContext { time: UnixTime(946684800), not_after: UnixTime(946684799) }) }",
			reason: "expired_cert", alert: "expired certificate",
		},
		{
			name: "not valid yet", leaf: identitytest.Leaf{URIs: []string{clientURI}, NotBefore: hour(0).Add(time.Second), NotAfter: hour(1)},
			text:   invalid + "NotValidYetContext { time: UnixTime(946684800), not_before: UnixTime(946684801) }) }",
			reason: "expired_cert", alert: "expired certificate",
		},
		{
			name: "for servers only", leaf: identitytest.Leaf{URIs: []string{clientURI}, Usages: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}},
			text: invalid + "InvalidPurpose) }", reason: "untrusted_cert", alert: "bad certificate",
		},
		{
			name: "a CA", leaf: identitytest.Leaf{URIs: []string{clientURI}, IsCA: true},
			text: invalid + "Other(OtherError(CaUsedAsEndEntity))) }", reason: "untrusted_cert", alert: "bad certificate",
		},
		{
			name: "another trust domain", leaf: identitytest.Leaf{URIs: []string{foreignURI}},
			text: invalid + `Other(OtherError(SanTrustDomainError("cluster.local", [Spiffe { trust_domain: "elsewhere.example", ` +
				`namespace: "shop", service_account: "client" }])))) }`, reason: "untrusted_cert", alert: "bad certificate",
		},
		{
			name: "two other trust domains", leaf: identitytest.Leaf{URIs: []string{"spiffe://a/ns/b/sa/c", "https://x/", "spiffe://d/ns/e/sa/f"}},
			text: invalid + `Other(OtherError(SanTrustDomainError("cluster.local", [Spiffe { trust_domain: "a", namespace: "b", service_account: "c" }, ` +
				`Spiffe { trust_domain: "d", namespace: "e", service_account: "f" }])))) }`, reason: "untrusted_cert", alert: "bad certificate",
		},
		{
			name: "case of the trust domain", leaf: identitytest.Leaf{URIs: []string{"spiffe://Cluster.Local/ns/b/sa/c"}},
			text: invalid + `Other(OtherError(SanTrustDomainError("cluster.local", [Spiffe { trust_domain: "Cluster.Local", namespace: "b", ` +
				`service_account: "c" }])))) }`, reason: "untrusted_cert", alert: "bad certificate",
		},
		{
			name: "without names", leaf: identitytest.Leaf{},
			text: invalid + `Other(OtherError(SanTrustDomainError("cluster.local", [])))) }`, reason: "untrusted_cert", alert: "bad certificate",
		},
		{
			name: "a DNS name", leaf: identitytest.Leaf{DNSNames: []string{"client.example"}},
			text: invalid + `Other(OtherError(SanTrustDomainError("cluster.local", [])))) }`, reason: "untrusted_cert", alert: "bad certificate",
		},
	} {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				ca := identitytest.NewCA(t)
				issuer := ca
				if tt.others {
					issuer = identitytest.NewCA(t)
				}
				tt.leaf.Roots = []*x509.Certificate{ca.Root()}
				client := issuer.Issue(t, tt.leaf)
				o := handshake(t, inMemory, whom(t, client), ca.Workload(t, serverURI).ServerConfig())
				if tt.text == "" {
					if o.clientErr != nil || o.serverErr != nil {
						t.Errorf("handshake: client %v, server %v, want success", o.clientErr, o.serverErr)
					}
					return
				}
				if o.serverErr == nil {
					t.Fatal("handshake: no error at the server, want the client refused")
				}
				if got := identity.HandshakeText(o.serverErr); got != tt.text {
					t.Errorf("HandshakeText(%v) = %s, want %s", o.serverErr, got, tt.text)
				}
				if got := identity.RejectReason(o.serverErr); got != string(tt.reason) {
					t.Errorf("RejectReason(%v) = %s, want %s", o.serverErr, got, tt.reason)
				}
				if o.clientErr == nil || !strings.HasSuffix(o.clientErr.Error(), "remote error: tls: "+tt.alert) {
					t.Errorf("client heard %v, want the alert %s", o.clientErr, tt.alert)
				}
			})
		})
	}
}

func TestServerConfig_NoClientCertificate(t *testing.T) {
	ca := identitytest.NewCA(t)
	config := whom(t, ca.Workload(t, clientURI)).Clone()
	config.GetClientCertificate = nil
	o := handshake(t, inMemory, config, ca.Workload(t, serverURI).ServerConfig())
	if got := identity.RejectReason(o.serverErr); got != string(connection.ReasonNoClientCert) {
		t.Errorf("RejectReason(%v) = %s, want no_client_cert", o.serverErr, got)
	}
	if got, want := identity.HandshakeText(o.serverErr), "Custom { kind: InvalidData, error: NoCertificatesPresented }"; got != want {
		t.Errorf("HandshakeText(%v) = %s, want %s", o.serverErr, got, want)
	}
	if o.clientErr == nil || !strings.HasSuffix(o.clientErr.Error(), "tls: certificate required") {
		t.Errorf("client heard %v, want the alert certificate required", o.clientErr)
	}
}

// Without an identity of our own there is no trust domain to compare with.
func TestServerConfig_OwnCertificateWithoutIdentity(t *testing.T) {
	ca := identitytest.NewCA(t)
	for _, uris := range [][]string{nil, {"https://example.com/", serverURI}} {
		server := ca.Issue(t, identitytest.Leaf{URIs: uris})
		if id, ok := server.ID(); ok {
			t.Errorf("ID() of a certificate for %q = %v, want none: only the first name counts", uris, id)
		}
		client := ca.Workload(t, foreignURI)
		expected := whom(t, client)
		if uris == nil {
			expected = expected.Clone()
			expected.VerifyConnection = nil
		}
		if o := handshake(t, inMemory, expected, server.ServerConfig()); o.clientErr != nil || o.serverErr != nil {
			t.Errorf("handshake with %q: client %v, server %v, want success", uris, o.clientErr, o.serverErr)
		}
	}
}

// Whom the outbound side talks to, and what its log says of the others.
func TestClientConfig_Trust(t *testing.T) {
	hour := func(n int) time.Time { return time.Unix(946684800, 0).Add(time.Duration(n) * time.Hour) }
	const invalid = "invalid peer certificate: "
	const mismatch = invalid + "Other(OtherError(identity verification error: peer did not present the expected SAN ("
	for _, tt := range []struct {
		name     string
		leaf     identitytest.Leaf
		expected []string
		others   bool
		want     string // the error's text, empty if it is trusted
	}{
		{"good", identitytest.Leaf{URIs: []string{serverURI}}, []string{serverURI}, false, ""},
		{"one of the expected", identitytest.Leaf{URIs: []string{serverURI}}, []string{clientURI, serverURI}, false, ""},
		{"without key usages", identitytest.Leaf{URIs: []string{serverURI}, Usages: []x509.ExtKeyUsage{}}, []string{serverURI}, false, ""},
		{"second name", identitytest.Leaf{URIs: []string{"spiffe://b/ns/c/sa/d", serverURI}}, []string{serverURI}, false, ""},
		{"other trust domain, expected", identitytest.Leaf{URIs: []string{foreignURI}}, []string{foreignURI}, false, ""},
		{"another account", identitytest.Leaf{URIs: []string{clientURI}}, []string{serverURI}, false, mismatch + serverURI + "), got " + clientURI + "))"},
		{
			"another trust domain",
			identitytest.Leaf{URIs: []string{"spiffe://b/ns/shop/sa/server"}},
			[]string{serverURI},
			false,
			mismatch + serverURI + "), got spiffe://b/ns/shop/sa/server))",
		},
		{
			"another namespace",
			identitytest.Leaf{URIs: []string{"spiffe://cluster.local/ns/b/sa/server"}},
			[]string{serverURI},
			false,
			mismatch + serverURI + "), got spiffe://cluster.local/ns/b/sa/server))",
		},
		{
			"two for two",
			identitytest.Leaf{URIs: []string{clientURI, foreignURI}},
			[]string{serverURI, "spiffe://a/ns/b/sa/c"},
			false,
			mismatch + serverURI + ",spiffe://a/ns/b/sa/c), got " + clientURI + "," + foreignURI + "))",
		},
		{"without names", identitytest.Leaf{}, []string{serverURI}, false, mismatch + serverURI + "), got ))"},
		{"none expected", identitytest.Leaf{URIs: []string{serverURI}}, nil, false, mismatch + "), got " + serverURI + "))"},
		{"another CA", identitytest.Leaf{URIs: []string{serverURI}}, []string{serverURI}, true, invalid + "UnknownIssuer"},
		{
			"expired",
			identitytest.Leaf{URIs: []string{serverURI}, NotBefore: hour(-2), NotAfter: hour(-1)},
			[]string{serverURI},
			false,
			invalid + "certificate expired: verification time 946684800 (UNIX), but certificate is not valid after 946681200 (3600 seconds ago)",
		},
		{
			"not valid yet",
			identitytest.Leaf{URIs: []string{serverURI}, NotBefore: hour(1), NotAfter: hour(2)},
			[]string{serverURI},
			false,
			invalid + "certificate not valid yet: verification time 946684800 (UNIX), but certificate is not valid before 946688400 (3600 seconds in future)",
		},
		{
			"for clients only",
			identitytest.Leaf{URIs: []string{serverURI}, Usages: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}},
			[]string{serverURI},
			false,
			invalid + "InvalidPurpose",
		},
		{"a CA", identitytest.Leaf{URIs: []string{serverURI}, IsCA: true}, []string{serverURI}, false, invalid + "Other(OtherError(CaUsedAsEndEntity))"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				ca := identitytest.NewCA(t)
				issuer := ca
				if tt.others {
					issuer = identitytest.NewCA(t)
				}
				tt.leaf.Roots = []*x509.Certificate{ca.Root()}
				client := ca.Workload(t, clientURI)
				o := handshake(t, inMemory, client.ClientConfig(mustParse(t, tt.expected...)), issuer.Issue(t, tt.leaf).ServerConfig())
				if tt.want == "" {
					// A server of another trust domain refuses our client, which is not the matter here.
					if o.clientErr != nil && !strings.Contains(o.clientErr.Error(), "remote error") {
						t.Errorf("handshake at the client = %v, want success", o.clientErr)
					}
					return
				}
				if o.clientErr == nil || o.clientErr.Error() != tt.want {
					t.Errorf("handshake at the client = %v, want %s", o.clientErr, tt.want)
				}
				if got := connection.FlagOf(o.clientErr); got != connection.FlagTLS {
					t.Errorf("FlagOf(%v) = %s, want TLS_FAILURE", o.clientErr, got)
				}
			})
		})
	}
}

// Roots come with each certificate: sides of different CAs work if each trusts the other's, and in a rotation everybody has
// both roots.
func TestHandshake_RootRotation(t *testing.T) {
	before, after := identitytest.NewCA(t), identitytest.NewCA(t)
	both := []*x509.Certificate{before.Root(), after.Root()}
	server := before.Issue(t, identitytest.Leaf{URIs: []string{serverURI}, Roots: both})
	client := after.Issue(t, identitytest.Leaf{URIs: []string{clientURI}, Roots: both})
	if o := handshake(t, inMemory, whom(t, client), server.ServerConfig()); o.clientErr != nil || o.serverErr != nil {
		t.Errorf("both roots: client %v, server %v, want success", o.clientErr, o.serverErr)
	}
	// The client presents its certificate although the server asks for one below another root.
	server = before.Workload(t, serverURI)
	o := handshake(t, inMemory, whom(t, client), server.ServerConfig())
	if got := identity.RejectReason(o.serverErr); got != string(connection.ReasonUntrustedCert) {
		t.Errorf("RejectReason(%v) = %s, want untrusted_cert", o.serverErr, got)
	}
}

func TestHandshake_Versions(t *testing.T) {
	ca := identitytest.NewCA(t)
	options := func(o identity.TLSOptions) (client, server *tls.Config) {
		return whom(t, ca.Issue(t, identitytest.Leaf{URIs: []string{clientURI}, TLS: &o})),
			ca.Issue(t, identitytest.Leaf{URIs: []string{serverURI}, TLS: &o}).ServerConfig()
	}
	client13, server13 := options(identity.TLSOptions{})
	client12, server12 := options(identity.TLSOptions{TLS12: true})
	clientPQ, serverPQ := options(identity.TLSOptions{PQC: true})
	only := func(c *tls.Config, change func(*tls.Config)) *tls.Config {
		c = c.Clone()
		change(c)
		return c
	}
	max12 := func(c *tls.Config) { c.MaxVersion = tls.VersionTLS12 }
	none := func(*tls.ConnectionState) bool { return true }
	version := func(v uint16) func(*tls.ConnectionState) bool {
		return func(cs *tls.ConnectionState) bool {
			return cs.Version == v && !strings.Contains(tls.CipherSuiteName(cs.CipherSuite), "CHACHA")
		}
	}
	group := func(g tls.CurveID) func(*tls.ConnectionState) bool {
		return func(cs *tls.ConnectionState) bool { return cs.CurveID == g }
	}
	offer := func(list ...string) func(*tls.Config) { return func(c *tls.Config) { c.NextProtos = list } }
	groups := func(list ...tls.CurveID) func(*tls.Config) { return func(c *tls.Config) { c.CurvePreferences = list } }
	for _, tt := range []struct {
		name           string
		client, server *tls.Config
		ok             bool
		check          func(*tls.ConnectionState) bool
		alert          string // that the client gets
	}{
		{"1.2 to 1.3", only(client12, max12), server13, false, none, "protocol version not supported"},
		{"1.3 to 1.2", client13, only(server12, func(c *tls.Config) { max12(c); c.GetConfigForClient = nil }), false, none, "protocol version not supported"},
		{"1.2 where it is allowed", only(client12, max12), server12, true, version(tls.VersionTLS12), ""},
		{"both where both are allowed", client12, server12, true, version(tls.VersionTLS13), ""},
		{
			"1.1 where 1.2 is allowed", only(client12, func(c *tls.Config) { c.MinVersion, c.MaxVersion = tls.VersionTLS11, tls.VersionTLS11 }), server12, false, none,
			"protocol version not supported",
		},
		{"post-quantum on both sides", clientPQ, serverPQ, true, group(tls.X25519MLKEM768), ""},
		{"post-quantum client alone", clientPQ, server13, true, group(tls.X25519MLKEM768), ""},
		{"post-quantum server alone", client13, serverPQ, true, group(tls.X25519MLKEM768), ""},
		{"post-quantum server, client without", only(client13, groups(tls.X25519)), serverPQ, false, none, "handshake failure"},
		{"P-256 alone", only(client13, groups(tls.CurveP256)), server13, true, group(tls.CurveP256), ""},
		{"P-384 alone", only(client13, groups(tls.CurveP384)), server13, true, group(tls.CurveP384), ""},
		{"P-521 alone", only(client13, groups(tls.CurveP521)), server13, false, none, "handshake failure"},
		{"no protocol offered", only(client13, offer()), server13, true, func(cs *tls.ConnectionState) bool { return cs.NegotiatedProtocol == "" }, ""},
		{"h2 second", only(client13, offer("istio", "h2")), server13, true, func(cs *tls.ConnectionState) bool { return cs.NegotiatedProtocol == "h2" }, ""},
		{"http/1.1 alone", only(client13, offer("http/1.1")), server13, false, none, "no application protocol"},
		{"istio alone", only(client13, offer("istio")), server13, false, none, "no application protocol"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			o := handshake(t, inMemory, tt.client, tt.server)
			if ok := o.clientErr == nil && o.serverErr == nil; ok != tt.ok {
				t.Fatalf("handshake: client %v, server %v, want success %v", o.clientErr, o.serverErr, tt.ok)
			}
			if tt.ok && !tt.check(&o.client) {
				t.Errorf("negotiated %s, %s, %v, %q", tls.VersionName(o.client.Version), tls.CipherSuiteName(o.client.CipherSuite), o.client.CurveID, o.client.NegotiatedProtocol)
			}
			if tt.alert != "" && !strings.Contains(o.clientErr.Error()+o.serverErr.Error(), "remote error: tls: "+tt.alert) {
				t.Errorf("handshake: client %v, server %v, want the alert %s", o.clientErr, o.serverErr, tt.alert)
			}
			if got := identity.RejectReason(o.serverErr); o.serverErr != nil && got != string(connection.ReasonTLSHandshake) {
				t.Errorf("RejectReason(%v) = %s, want tls_handshake", o.serverErr, got)
			}
		})
	}
}

// Even a client that had a session cache would not resume: the server gives out no tickets.
func TestServerConfig_NoResumption(t *testing.T) {
	ca := identitytest.NewCA(t)
	server := ca.Workload(t, serverURI).ServerConfig()
	client := whom(t, ca.Workload(t, clientURI)).Clone()
	client.SessionTicketsDisabled, client.ClientSessionCache, client.ServerName = false, tls.NewLRUClientSessionCache(1), "server.example"
	for range 2 {
		o := handshake(t, inMemory, client, server)
		if o.clientErr != nil || o.client.DidResume {
			t.Fatalf("handshake = %v, resumed %v, want success, not resumed", o.clientErr, o.client.DidResume)
		}
	}
}

func TestRejectReason(t *testing.T) {
	_, parseErr := x509.ParseCertificate([]byte("no"))
	for _, tt := range []struct {
		name   string
		err    error
		reason connection.Reason
		text   string
	}{
		{"deadline of the context", context.DeadlineExceeded, connection.ReasonHandshakeTimeout, "context deadline exceeded"},
		{"deadline of the connection", &net.OpError{Op: "read", Err: syscall.ETIMEDOUT}, connection.ReasonHandshakeTimeout, "read: connection timed out"},
		{"closed", io.EOF, connection.ReasonTLSHandshake, `Custom { kind: UnexpectedEof, error: "tls handshake eof" }`},
		{
			"reset", &net.OpError{Op: "read", Err: syscall.ECONNRESET}, connection.ReasonTLSHandshake,
			`Os { code: 104, kind: ConnectionReset, message: "Connection reset by peer" }`,
		},
		{"other", parseErr, connection.ReasonTLSHandshake, parseErr.Error()},
		{
			"wrapped", errors.Join(errors.New("x"), &identity.TrustDomainError{TrustDomain: "td"}), connection.ReasonUntrustedCert,
			`Custom { kind: InvalidData, error: InvalidCertificate(Other(OtherError(SanTrustDomainError("td", [])))) }`,
		},
	} {
		t.Run(tt.name, func(t *testing.T) {
			if got := identity.RejectReason(tt.err); got != string(tt.reason) {
				t.Errorf("RejectReason(%v) = %s, want %s", tt.err, got, tt.reason)
			}
			if got := identity.HandshakeText(tt.err); got != tt.text {
				t.Errorf("HandshakeText(%v) = %s, want %s", tt.err, got, tt.text)
			}
			if !slices.Contains(connection.Reasons(), tt.reason) {
				t.Errorf("reason %s is not in the closed set", tt.reason)
			}
		})
	}
}
