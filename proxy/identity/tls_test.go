package identity_test

import (
	"crypto/tls"
	"crypto/x509"
	"encoding/binary"
	"fmt"
	"log/slog"
	"net"
	"strings"
	"sync"
	"testing"

	"ztunnel/proxy/identity"
	"ztunnel/proxy/identity/identitytest"
	"ztunnel/proxy/spiffe"
)

// helloConn changes the cipher suites in the ClientHello, the first record that is written.
type helloConn struct {
	net.Conn
	once sync.Once
	drop map[uint16]bool
}

func (c *helloConn) Write(b []byte) (int, error) {
	c.once.Do(func() {
		const session = 5 + 4 + 2 + 32 // record header, handshake header, version, random
		at := session + 1 + int(b[session])
		n := int(binary.BigEndian.Uint16(b[at:]))
		for i := at + 2; i < at+2+n; i += 2 {
			if c.drop[binary.BigEndian.Uint16(b[i:])] {
				binary.BigEndian.PutUint16(b[i:], 0x0a0a) // GREASE, which means nothing
			}
		}
	})
	return c.Conn.Write(b)
}

func TestServerConfig_ChaCha20AloneIsRefused(t *testing.T) {
	ca := identitytest.NewCA(t)
	without := func(suites ...uint16) pair {
		return func(tb testing.TB) (client, server net.Conn) {
			client, server = loopback(tb) // in memory both sides would write and nobody read
			drop := make(map[uint16]bool)
			for _, s := range suites {
				drop[s] = true
			}
			return &helloConn{Conn: client, drop: drop}, server
		}
	}
	client, server := ca.Workload(t, clientURI), ca.Workload(t, serverURI)
	const want = "peer is incompatible: NoCipherSuitesInCommon (TLS_CHACHA20_POLY1305_SHA256 is not allowed)"
	o := handshake(t, without(tls.TLS_AES_128_GCM_SHA256, tls.TLS_AES_256_GCM_SHA384), whom(t, client), server.ServerConfig())
	if o.serverErr == nil || o.serverErr.Error() != want {
		t.Errorf("offering ChaCha20 alone: %v, want %s", o.serverErr, want)
	}
	// With AES-256 it goes on, up to where the client notices that its hello was changed.
	o = handshake(t, without(tls.TLS_AES_128_GCM_SHA256), whom(t, client), server.ServerConfig())
	if o.serverErr == nil || strings.Contains(o.serverErr.Error(), "incompatible") {
		t.Errorf("offering AES-256 and ChaCha20: %v, want no refusal for the suite", o.serverErr)
	}
	allowing := ca.Issue(t, identitytest.Leaf{URIs: []string{serverURI}, TLS: &identity.TLSOptions{AllowChaCha20: true}})
	o = handshake(t, without(tls.TLS_AES_128_GCM_SHA256, tls.TLS_AES_256_GCM_SHA384), whom(t, client), allowing.ServerConfig())
	if o.serverErr == nil || strings.Contains(o.serverErr.Error(), "incompatible") {
		t.Errorf("offering ChaCha20 where it is allowed: %v, want no refusal for the suite", o.serverErr)
	}
}

func TestChaCha20NegotiatedIsRefused(t *testing.T) {
	ca := identitytest.NewCA(t)
	for _, tt := range []struct {
		allow bool
		suite uint16
		ok    bool
	}{
		{false, tls.TLS_CHACHA20_POLY1305_SHA256, false},
		{true, tls.TLS_CHACHA20_POLY1305_SHA256, true},
		{false, tls.TLS_AES_256_GCM_SHA384, true},
	} {
		own := ca.Issue(t, identitytest.Leaf{URIs: []string{clientURI}, TLS: &identity.TLSOptions{AllowChaCha20: tt.allow}})
		peer := ca.Workload(t, serverURI)
		cs := tls.ConnectionState{CipherSuite: tt.suite, PeerCertificates: []*x509.Certificate{peer.Leaf()}}
		if err := whom(t, own).VerifyConnection(cs); (err == nil) != tt.ok {
			t.Errorf("client, allowed %v, %s: %v, want success %v", tt.allow, tls.CipherSuiteName(tt.suite), err, tt.ok)
		}
		if err := own.ServerConfig().VerifyConnection(cs); (err == nil) != tt.ok {
			t.Errorf("server, allowed %v, %s: %v, want success %v", tt.allow, tls.CipherSuiteName(tt.suite), err, tt.ok)
		}
	}
}

// hello returns the ClientHello that a client configuration makes.
func hello(t *testing.T, client *tls.Config) (h tls.ClientHelloInfo) {
	t.Helper()
	ca := identitytest.NewCA(t)
	server := ca.Workload(t, serverURI).ServerConfig().Clone()
	server.GetConfigForClient = func(info *tls.ClientHelloInfo) (*tls.Config, error) {
		h = *info
		return nil, nil
	}
	handshake(t, inMemory, client, server)
	return h
}

func TestClientConfig_Hello(t *testing.T) {
	ca := identitytest.NewCA(t)
	for _, tt := range []struct {
		name    string
		options identity.TLSOptions
		want    string
	}{
		{"default", identity.TLSOptions{}, "[h2] [TLS 1.3] [X25519MLKEM768 X25519 CurveP256 CurveP384]"},
		{"TLS 1.2", identity.TLSOptions{TLS12: true}, "[h2] [TLS 1.3 TLS 1.2] [X25519MLKEM768 X25519 CurveP256 CurveP384]"},
		{"post-quantum", identity.TLSOptions{PQC: true}, "[h2] [TLS 1.3] [X25519MLKEM768]"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			h := hello(t, whom(t, ca.Issue(t, identitytest.Leaf{URIs: []string{clientURI}, TLS: &tt.options})))
			var versions []string
			for _, v := range h.SupportedVersions {
				versions = append(versions, tls.VersionName(v))
			}
			if got := fmt.Sprint(h.SupportedProtos, versions, h.SupportedCurves); got != tt.want {
				t.Errorf("hello = %s, want %s", got, tt.want)
			}
			if h.ServerName != "" {
				t.Errorf("server name = %q, want none", h.ServerName)
			}
			for _, suite := range h.CipherSuites {
				name := tls.CipherSuiteName(suite)
				if suite>>8 != 0x13 && (!tt.options.TLS12 || !strings.Contains(name, "_GCM_") || !strings.Contains(name, "ECDHE")) {
					t.Errorf("hello offers %s, want ECDHE with AES-GCM, and only if TLS 1.2 is allowed", name)
				}
			}
		})
	}
}

func TestClientConfig_Cache(t *testing.T) {
	ca := identitytest.NewCA(t)
	c := ca.Workload(t, clientURI)
	id := func(td, ns, sa string) spiffe.ID {
		return spiffe.ID{TrustDomain: td, Namespace: ns, ServiceAccount: sa}
	}
	lists := [][]spiffe.ID{
		nil,
		{id("a", "b", "c")},
		{id("a", "b", "c"), id("d", "e", "f")},
		{id("d", "e", "f"), id("a", "b", "c")},
		{id("ab", "", "c")},
		{id("a", "b", "cspiffe://d/ns/e/sa/f")},
		{id("", "", ""), id("", "", "")},
		{id("", "", "")},
	}
	seen := make(map[*tls.Config]int)
	for i, list := range lists {
		config := c.ClientConfig(list)
		if j, ok := seen[config]; ok {
			t.Errorf("ClientConfig(%v) is that of %v", list, lists[j])
		}
		seen[config] = i
		if c.ClientConfig(append([]spiffe.ID(nil), list...)) != config {
			t.Errorf("ClientConfig(%v) is not cached", list)
		}
	}
	if got := testing.AllocsPerRun(100, func() { c.ClientConfig(lists[2]) }); got != 0 {
		t.Errorf("ClientConfig() of the cache allocates %v times, want 0", got)
	}
	// The caller may go on with its list.
	list := mustParse(t, serverURI)
	config := c.ClientConfig(list)
	list[0].ServiceAccount = "changed"
	server := ca.Workload(t, serverURI)
	if err := config.VerifyConnection(tls.ConnectionState{PeerCertificates: []*x509.Certificate{server.Leaf()}}); err != nil {
		t.Errorf("VerifyConnection() after the caller changed its list = %v, want success", err)
	}
	var wg sync.WaitGroup
	for i := range 8 {
		wg.Go(func() {
			for j := range 200 {
				if c.ClientConfig([]spiffe.ID{id("x", fmt.Sprint(i), fmt.Sprint(j))}) == nil {
					t.Error("ClientConfig() = nil")
				}
			}
		})
	}
	wg.Wait()
	if n := identity.CachedClientConfigs(c); n > 64 {
		t.Errorf("cached configurations = %d, want at most 64", n)
	}
}

func TestPeerID(t *testing.T) {
	ca := identitytest.NewCA(t)
	for _, tt := range []struct {
		name string
		leaf identitytest.Leaf
		want string // empty for none
	}{
		{"one", identitytest.Leaf{URIs: []string{clientURI}}, clientURI},
		{"first of two", identitytest.Leaf{URIs: []string{foreignURI, clientURI}}, foreignURI},
		{"after others", identitytest.Leaf{DNSNames: []string{"a.example"}, URIs: []string{"https://a/", "spiffe://td/ns/a", clientURI}}, clientURI},
		{"kept as it is", identitytest.Leaf{URIs: []string{"spiffe://TD_x/ns/A%20b\"^/sa/<c>"}}, "spiffe://TD_x/ns/A%20b\"^/sa/<c>"},
		{"empty parts", identitytest.Leaf{URIs: []string{"spiffe://td/ns//sa/"}}, "spiffe://td/ns//sa/"},
		{"none", identitytest.Leaf{DNSNames: []string{"a.example"}, URIs: []string{"https://a/"}}, ""},
		{"no names", identitytest.Leaf{}, ""},
	} {
		t.Run(tt.name, func(t *testing.T) {
			leaf := ca.Issue(t, tt.leaf).Leaf()
			id, ok := identity.PeerID(&tls.ConnectionState{PeerCertificates: []*x509.Certificate{leaf, ca.Root()}})
			if ok != (tt.want != "") || ok && id.String() != tt.want {
				t.Errorf("PeerID() = %v, %v, want %s", id, ok, tt.want)
			}
		})
	}
	for _, cs := range []*tls.ConnectionState{nil, {}} {
		if id, ok := identity.PeerID(cs); ok {
			t.Errorf("PeerID(%v) = %v, want none", cs, id)
		}
	}
}

func TestVerify_LogsNamesThatAreNoIdentity(t *testing.T) {
	ca := identitytest.NewCA(t)
	var log strings.Builder
	options := &identity.TLSOptions{Log: slog.New(slog.NewTextHandler(&log, nil))}
	server := ca.Issue(t, identitytest.Leaf{URIs: []string{serverURI}, TLS: options})
	client := ca.Issue(t, identitytest.Leaf{URIs: []string{"https://a/", clientURI}})
	if o := handshake(t, inMemory, whom(t, client), server.ServerConfig()); o.serverErr != nil {
		t.Fatal(o.serverErr)
	}
	const want = `level=WARN msg="SAN https://a/ could not be parsed: invalid spiffe identity: https://a/"`
	if !strings.Contains(log.String(), want) || strings.Count(log.String(), "\n") != 1 {
		t.Errorf("log = %s, want one line with %s", log.String(), want)
	}
}

func BenchmarkHandshake(b *testing.B) {
	ca := identitytest.NewCA(b)
	client, server := ca.Workload(b, clientURI), ca.Workload(b, serverURI)
	expected := mustParse(b, serverURI)
	b.ReportAllocs()
	for b.Loop() {
		if o := handshake(b, inMemory, client.ClientConfig(expected), server.ServerConfig()); o.clientErr != nil || o.serverErr != nil {
			b.Fatal(o.clientErr, o.serverErr)
		}
	}
}

// BenchmarkVerify is what we add to a handshake at the client.
func BenchmarkVerify(b *testing.B) {
	ca := identitytest.NewCA(b)
	client, server := ca.Workload(b, clientURI), ca.Workload(b, serverURI)
	config := client.ClientConfig(mustParse(b, serverURI))
	cs := tls.ConnectionState{PeerCertificates: []*x509.Certificate{server.Leaf()}}
	b.ReportAllocs()
	for b.Loop() {
		if err := config.VerifyConnection(cs); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkPeerID(b *testing.B) {
	ca := identitytest.NewCA(b)
	cs := &tls.ConnectionState{PeerCertificates: []*x509.Certificate{ca.Workload(b, clientURI).Leaf()}}
	b.ReportAllocs()
	for b.Loop() {
		if _, ok := identity.PeerID(cs); !ok {
			b.Fatal("PeerID() = none")
		}
	}
}
