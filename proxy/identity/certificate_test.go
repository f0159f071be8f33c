package identity_test

import (
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"log/slog"
	"math/big"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"ztunnel/proxy/identity"
	"ztunnel/proxy/identity/identitytest"
	"ztunnel/proxy/spiffe"
	"ztunnel/telemetry/connection"
)

// oneExtension is the value of a subjectAltName with one URI.
func oneExtension(t *testing.T, uri string) string {
	t.Helper()
	san, err := identitytest.SubjectAltName(nil, []string{uri})
	if err != nil {
		t.Fatal(err)
	}
	return string(san)
}

func TestNewCSR(t *testing.T) {
	id := spiffe.ID{TrustDomain: "td.example", Namespace: "ns", ServiceAccount: "with space"}
	text, key, err := identity.NewCSR(id)
	if err != nil {
		t.Fatal(err)
	}
	block, rest := pem.Decode(text)
	if block == nil || block.Type != "CERTIFICATE REQUEST" || len(rest) != 0 {
		t.Fatalf("NewCSR() = %s, want one PEM block CERTIFICATE REQUEST", text)
	}
	csr, err := x509.ParseCertificateRequest(block.Bytes)
	if err != nil {
		t.Fatal(err)
	}
	if err := csr.CheckSignature(); err != nil || csr.SignatureAlgorithm != x509.ECDSAWithSHA256 {
		t.Errorf("signature = %v, %v, want a good one with ECDSA and SHA-256", csr.SignatureAlgorithm, err)
	}
	public, ok := csr.PublicKey.(*ecdsa.PublicKey)
	if !ok || public.Curve != elliptic.P256() || !public.Equal(key.Public()) {
		t.Errorf("public key = %v, want that of the key on P-256", csr.PublicKey)
	}
	if subject := csr.Subject.ToRDNSequence(); len(subject) != 0 {
		t.Errorf("subject = %v, want none", subject)
	}
	if len(csr.Extensions) != 1 {
		t.Fatalf("extensions = %v, want exactly one", csr.Extensions)
	}
	e := csr.Extensions[0]
	if e.Id.String() != "2.5.29.17" || !e.Critical || string(e.Value) != oneExtension(t, id.String()) {
		t.Errorf("extension = %+v, want a critical subjectAltName with %s", e, id)
	}
	if _, _, err := identity.NewCSR(spiffe.ID{TrustDomain: "tü"}); err == nil || !strings.HasPrefix(err.Error(), "failed to create CSR: ") {
		t.Errorf("NewCSR(not ASCII) = %v, want an error", err)
	}
	_, other, err := identity.NewCSR(id)
	if err != nil || public.Equal(other.Public()) {
		t.Error("NewCSR() used a key twice")
	}
}

// answer is what a CA may answer to a request with a certain key.
func answer(t *testing.T, id spiffe.ID) (key *ecdsa.PrivateKey, leaf, intermediate, root string) {
	t.Helper()
	ca := identitytest.NewCA(t)
	below := ca.Intermediate(t)
	c := below.Workload(t, id.String())
	return c.ServerConfig().Certificates[0].PrivateKey.(*ecdsa.PrivateKey), identitytest.PEM(c.Leaf()),
		identitytest.PEM(c.Intermediates()...), identitytest.PEM(ca.Root())
}

func TestParseChain(t *testing.T) {
	id := account("a")
	key, leaf, intermediate, root := answer(t, id)
	_, _, _, root2 := answer(t, id)
	otherKey, _, _, _ := answer(t, id)
	private := string(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: []byte("x")}))
	broken := string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: []byte("x")}))
	const csr = "failed to create CSR: "
	for _, tt := range []struct {
		name                 string
		key                  *ecdsa.PrivateKey
		chain                []string
		err                  string // a prefix; empty for success
		intermediates, roots int
		log                  string
	}{
		{"as istiod answers", key, []string{leaf, intermediate, root}, "", 1, 1, ""},
		{"no intermediates", key, []string{leaf, root}, "", 0, 1, ""},
		{"two roots", key, []string{leaf, intermediate, root + "\n" + root2}, "", 1, 2, ""},
		{"only the first block of an intermediate", key, []string{leaf, intermediate + root, root}, "", 1, 1, ""},
		{"text around", key, []string{"# leaf\n" + leaf + "\n# end", root}, "", 0, 1, ""},
		{"a bad root among good ones", key, []string{leaf, root + broken}, "", 0, 1, "warning: found 1 invalid root certs"},
		{"nothing", key, nil, "chain returned from CA is empty for: " + id.String(), 0, 0, ""},
		{"leaf alone", key, []string{leaf}, csr + "invalid root certificate: no root certificate present", 0, 0, "no chain certs for: " + id.String()},
		{"no leaf", key, []string{"", root}, csr + "certificate: no certificate", 0, 0, ""},
		{"a key as leaf", key, []string{private + leaf, root}, csr + "certificate: no certificate", 0, 0, ""},
		{"broken leaf", key, []string{broken, root}, csr + "certificate parse: ", 0, 0, ""},
		{"no intermediate", key, []string{leaf, "x", root}, csr + "certificate: no certificate", 0, 0, ""},
		{"broken intermediate", key, []string{leaf, broken, root}, csr + "certificate parse: ", 0, 0, ""},
		{"no root", key, []string{leaf, intermediate, ""}, csr + "invalid root certificate: no root certificate present", 0, 0, ""},
		{"only bad roots", key, []string{leaf, broken}, csr + "invalid root certificate: no root certificate present", 0, 0, "warning: found 1 invalid root certs"},
		{"a key among the roots", key, []string{leaf, root + private}, csr + "certificate: no certificate", 0, 0, ""},
		{"another key", otherKey, []string{leaf, root}, csr + "certificate: the key is not that of the certificate", 0, 0, ""},
	} {
		t.Run(tt.name, func(t *testing.T) {
			var log strings.Builder
			c, err := identity.ParseChain(id, tt.key, tt.chain, identity.TLSOptions{Log: slog.New(slog.NewTextHandler(&log, nil))})
			if !strings.Contains(log.String(), tt.log) || tt.log == "" && log.String() != "" {
				t.Errorf("log = %q, want %q", log.String(), tt.log)
			}
			if tt.err != "" {
				if err == nil || !strings.HasPrefix(err.Error(), tt.err) || connection.FlagOf(err) != connection.FlagIdentity {
					t.Errorf("ParseChain() = %v, want %s with IDENTITY_ERROR", err, tt.err)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			if i, r := len(c.Intermediates()), len(c.Roots()); i != tt.intermediates || r != tt.roots {
				t.Errorf("ParseChain() = %d intermediates, %d roots, want %d, %d", i, r, tt.intermediates, tt.roots)
			}
			if err := c.CheckID(id); err != nil {
				t.Errorf("CheckID(%v) = %v", id, err)
			}
			if err := c.CheckID(account("b")); err == nil || err.Error() != "did not find expected SAN: "+account("b").String() {
				t.Errorf("CheckID(b) = %v, want a SANError", err)
			}
		})
	}
}

func FuzzParseChain(f *testing.F) {
	ca, err := identity.NewFakeCA(identity.FakeCAConfig{})
	if err != nil {
		f.Fatal(err)
	}
	c, err := ca.Sign(context.Background(), account("a"))
	if err != nil {
		f.Fatal(err)
	}
	leaf, root := identitytest.PEM(c.Leaf()), identitytest.PEM(c.Roots()...)
	key := c.ServerConfig().Certificates[0].PrivateKey.(*ecdsa.PrivateKey)
	f.Add(leaf, root, root)
	f.Add(leaf+leaf, "", root+root)
	f.Add("-----BEGIN CERTIFICATE-----\n-----END CERTIFICATE-----\n", "-----BEGIN X-----", root[:len(root)/2]+leaf)
	f.Fuzz(func(t *testing.T, first, middle, last string) {
		for _, chain := range [][]string{{first}, {first, last}, {first, middle, last}} {
			c, err := identity.ParseChain(account("a"), key, chain, identity.TLSOptions{})
			if (c == nil) == (err == nil) {
				t.Fatalf("ParseChain() = %v, %v, want one of them", c, err)
			}
			if c != nil && (len(c.Roots()) == 0 || len(c.Intermediates()) != max(0, len(chain)-2)) {
				t.Fatalf("ParseChain() = %d intermediates, %d roots of %d elements", len(c.Intermediates()), len(c.Roots()), len(chain))
			}
		}
	})
}

func TestCertificate_Times(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ca, now := identitytest.NewCA(t), time.Now()
		for _, tt := range []struct {
			name          string
			before, after time.Duration // from now
			renew         time.Duration
			expired       bool
		}{
			{"fresh", 0, 1000 * time.Second, 500 * time.Second, false},
			{"of istiod", -2 * time.Minute, 24 * time.Hour, 11*time.Hour + 59*time.Minute, false},
			{"past half", -3 * time.Hour, time.Hour, -time.Hour, false},
			{"no life", 0, 0, 0, true},
			{"negative life", time.Hour, time.Minute, time.Minute, false},
			{"expired", -2 * time.Hour, -time.Hour, -90 * time.Minute, true},
		} {
			c := ca.Issue(t, identitytest.Leaf{NotBefore: now.Add(tt.before), NotAfter: now.Add(tt.after)})
			if got := c.RenewAt().Sub(now); got != tt.renew {
				t.Errorf("%s: RenewAt() is in %v, want %v", tt.name, got, tt.renew)
			}
			if got := c.Expired(now); got != tt.expired {
				t.Errorf("%s: Expired() = %v, want %v", tt.name, got, tt.expired)
			}
		}
	})
}

func TestFakeCA(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		one, err := identity.NewFakeCA(identity.FakeCAConfig{})
		if err != nil {
			t.Fatal(err)
		}
		two, err := identity.NewFakeCA(identity.FakeCAConfig{TTL: time.Minute})
		if err != nil {
			t.Fatal(err)
		}
		server, err := one.Sign(t.Context(), mustParse(t, serverURI)[0])
		if err != nil {
			t.Fatal(err)
		}
		client, err := two.Sign(t.Context(), mustParse(t, clientURI)[0])
		if err != nil {
			t.Fatal(err)
		}
		if o := handshake(t, inMemory, whom(t, client), server.ServerConfig()); o.clientErr != nil || o.serverErr != nil {
			t.Errorf("handshake of two fake CAs: client %v, server %v, want success", o.clientErr, o.serverErr)
		}
		if got := server.NotAfter().Sub(server.NotBefore()); got != 24*time.Hour {
			t.Errorf("life = %v, want 24h", got)
		}
		if got := time.Until(client.NotAfter()); got != time.Minute {
			t.Errorf("life left = %v, want 1m", got)
		}
		leaf := server.Leaf()
		if got := leaf.Subject.String(); got != "O=cluster.local" {
			t.Errorf("subject = %s, want O=cluster.local", got)
		}
		if leaf.KeyUsage != x509.KeyUsageDigitalSignature|x509.KeyUsageKeyEncipherment ||
			fmt.Sprint(leaf.ExtKeyUsage) != fmt.Sprint([]x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth}) {
			t.Errorf("usages = %v, %v", leaf.KeyUsage, leaf.ExtKeyUsage)
		}
		if server.Serial().Cmp(client.Serial()) == 0 || server.Serial().Cmp(new(big.Int).Lsh(big.NewInt(1), 100)) < 0 {
			t.Errorf("serials = %v, %v, want random ones", server.Serial(), client.Serial())
		}
		if root := server.Roots()[0]; !strings.Contains(root.Subject.String(), "DEVELOPMENT ONLY") || root.KeyUsage&x509.KeyUsageCRLSign == 0 {
			t.Errorf("root = %s with usage %v, want it marked and able to sign a CRL", root.Subject, root.KeyUsage)
		}
		if err := server.CheckID(mustParse(t, serverURI)[0]); err != nil {
			t.Error(err)
		}
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		if _, err := one.Sign(ctx, account("a")); !errors.Is(err, context.Canceled) {
			t.Errorf("Sign() with an ended context = %v, want %v", err, context.Canceled)
		}
		if _, err := one.Sign(t.Context(), account("ä")); err == nil {
			t.Error("Sign() of an identity that is not ASCII = nil error")
		}
		if _, err := identity.NewFakeCA(identity.FakeCAConfig{TTL: -1}); err == nil {
			t.Error("NewFakeCA() with a negative life = nil error")
		}
	})
}

func TestNewCertificate_NoRoot(t *testing.T) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	leaf := identitytest.NewCA(t).Workload(t, serverURI).Leaf()
	if _, err := identity.NewCertificate(key, leaf, nil, nil, identity.TLSOptions{}); err == nil {
		t.Error("NewCertificate() without roots = nil error")
	}
}

// info is the text of a workload.
type info string

func (i info) String() string { return string(i) }

func TestErrors(t *testing.T) {
	cause := errors.New("cause")
	id := mustParse(t, serverURI)[0]
	for _, tt := range []struct {
		err  error
		want string
		flag connection.Flag
		is   error
	}{
		{&identity.CSRError{Err: cause}, "failed to create CSR: cause", connection.FlagIdentity, cause},
		{
			&identity.RequestError{Code: "Unauthenticated", Status: "The request does not have valid authentication credentials", Message: "m", Err: cause},
			"signing gRPC error (The request does not have valid authentication credentials): m", connection.FlagIdentity, cause,
		},
		{&identity.RequestError{Code: "Aborted", Message: "m"}, "signing gRPC error (Aborted): m", connection.FlagIdentity, nil},
		{&identity.SANError{ID: id}, "did not find expected SAN: " + serverURI, connection.FlagIdentity, nil},
		{&identity.EmptyChainError{ID: id}, "chain returned from CA is empty for: " + serverURI, connection.FlagIdentity, nil},
		{&identity.UnknownWorkloadError{Workload: info("sa.ns (pod)")}, "workload is unknown: sa.ns (pod)", connection.FlagIdentity, nil},
		{identity.ErrForgotten, "the identity is no longer needed", connection.FlagIdentity, nil},
		{identity.ErrStopped, "the certificate manager has stopped", connection.FlagIdentity, nil},
		{identity.ErrTooMany, "too many identities", connection.FlagIdentity, nil},
		{&identity.WaitError{ID: id, Err: cause}, "waiting for the certificate of " + serverURI + ": cause", connection.FlagIdentity, cause},
		{&identity.OutboundError{Err: identity.ErrForgotten}, "identity error: the identity is no longer needed", connection.FlagIdentity, identity.ErrForgotten},
		{&identity.PeerError{Err: cause}, "invalid peer certificate: Other(OtherError(cause))", connection.FlagTLS, cause},
		{&identity.RevokedError{}, "Revoked", connection.FlagTLS, nil},
		{
			&identity.TrustDomainError{TrustDomain: "td"},
			`Custom { kind: InvalidData, error: InvalidCertificate(Other(OtherError(SanTrustDomainError("td", [])))) }`, connection.FlagTLS, nil,
		},
	} {
		if got := tt.err.Error(); got != tt.want {
			t.Errorf("%T.Error() = %s, want %s", tt.err, got, tt.want)
		}
		if got := connection.FlagOf(fmt.Errorf("wrapped: %w", tt.err)); got != tt.flag {
			t.Errorf("FlagOf(%v) = %s, want %s", tt.err, got, tt.flag)
		}
		if tt.is != nil && !errors.Is(tt.err, tt.is) {
			t.Errorf("errors.Is(%v, %v) = false, want true", tt.err, tt.is)
		}
	}
}

func TestDump_JSON(t *testing.T) {
	entry := identity.DumpEntry{
		Identity: "spiffe://td/ns/n/sa/s", State: "Available", RootCerts: []identity.DumpCertificate{},
		CertChain: []identity.DumpCertificate{{PEM: []byte("pem text"), SerialNumber: "1234", ValidFrom: "2000-01-01T00:00:00Z", ExpirationTime: "2000-01-02T00:00:00Z"}},
	}
	got, err := json.Marshal(entry)
	const want = `{"identity":"spiffe://td/ns/n/sa/s","state":"Available","certChain":[{"pem":"cGVtIHRleHQ=","serialNumber":"1234",` +
		`"validFrom":"2000-01-01T00:00:00Z","expirationTime":"2000-01-02T00:00:00Z"}],"rootCerts":[]}`
	if err != nil || string(got) != want {
		t.Errorf("Marshal(DumpEntry) = %s, %v, want %s", got, err, want)
	}
}

// parseKey reads a private key in PEM.
func parseKey(t *testing.T, text []byte) crypto.Signer {
	t.Helper()
	block, _ := pem.Decode(text)
	if block == nil {
		t.Fatal("no PEM")
	}
	key, err := x509.ParsePKCS8PrivateKey(block.Bytes)
	if err != nil {
		t.Fatal(err)
	}
	return key.(crypto.Signer)
}
