package control

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"net/url"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/structpb"

	"ztunnel/proxy/api/caapi"
	"ztunnel/proxy/api/workloadapi"
)

const webID = "spiffe://cluster.local/ns/shop/sa/web"

// csr is a request as a ztunnel makes it, in which the name does not count.
func csr(t *testing.T) string {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	der, err := x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{URIs: []*url.URL{{Scheme: "spiffe", Host: "x"}}}, key)
	if err != nil {
		t.Fatal(err)
	}
	return string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE REQUEST", Bytes: der}))
}

func impersonate(id string) *structpb.Struct {
	return &structpb.Struct{Fields: map[string]*structpb.Value{"ImpersonatedIdentity": structpb.NewStringValue(id)}}
}

// ca serves a plane with the pod shop/a of account web on node-a.
func ca(t *testing.T, cfg Config) (*Plane, caapi.IstioCertificateServiceClient) {
	t.Helper()
	p := newPlane(t, cfg)
	address, _ := serve(t, p, anywhere)
	change(t, p, Update{Workloads: []*workloadapi.Workload{web("node-a", "a", "10.0.0.1")}})
	return p, caapi.NewIstioCertificateServiceClient(dial(t, p, address, "localhost"))
}

func TestCertificate(t *testing.T) {
	p, client := ca(t, Config{})
	ctx := withToken(t.Context(), p.Token("istio-system", "ztunnel", "node-a"))
	before := time.Now().Truncate(time.Second)
	r, err := client.CreateCertificate(ctx, &caapi.IstioCertificateRequest{Csr: csr(t), ValidityDuration: 86400, Metadata: impersonate(webID)})
	if err != nil {
		t.Fatal(err)
	}
	if chain := r.GetCertChain(); len(chain) != 2 || chain[1] != string(p.RootPEM()) || !strings.HasSuffix(chain[0], "\n") {
		t.Fatalf("chain = %q, want a leaf and the root", chain)
	}
	leaf := parse(t, r.GetCertChain()[0])
	if len(leaf.URIs) != 1 || leaf.URIs[0].String() != webID || len(leaf.Subject.Names) > 0 {
		t.Errorf("leaf is for %v and %v, want %s alone", leaf.URIs, leaf.Subject, webID)
	}
	if got := leaf.NotAfter.Sub(leaf.NotBefore); got != 24*time.Hour+2*time.Minute || leaf.NotAfter.Before(before.Add(24*time.Hour)) {
		t.Errorf("leaf is valid from %v to %v, want 24 h from now and 2 min before", leaf.NotBefore, leaf.NotAfter)
	}
	if want := x509.KeyUsageDigitalSignature | x509.KeyUsageKeyEncipherment; leaf.KeyUsage != want || len(leaf.ExtKeyUsage) != 2 {
		t.Errorf("leaf has usages %v %v, want those of istiod", leaf.KeyUsage, leaf.ExtKeyUsage)
	}
	verify(t, p, leaf)
	if s := p.Stats(); s.Certificates != 1 || s.Refused != 0 {
		t.Errorf("Stats() = %+v, want 1 certificate", s)
	}
}

func parse(t *testing.T, text string) *x509.Certificate {
	t.Helper()
	block, rest := pem.Decode([]byte(text))
	if block == nil || len(rest) > 0 {
		t.Fatalf("%q is not one certificate", text)
	}
	c, err := x509.ParseCertificate(block.Bytes)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func verify(t *testing.T, p *Plane, leaf *x509.Certificate) {
	t.Helper()
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM(p.RootPEM())
	if _, err := leaf.Verify(x509.VerifyOptions{Roots: roots, KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}}); err != nil {
		t.Errorf("Verify() = %v, want nil", err)
	}
}

func TestCertificatesRefused(t *testing.T) {
	p, client := ca(t, Config{})
	ztunnel := p.Token("istio-system", "ztunnel", "node-a")
	good := csr(t)
	for _, tt := range []struct {
		name, token, id, csr string
		seconds              int64
		code                 codes.Code
		text                 string
	}{
		{"garbage for a token", "nonsense", webID, good, 0, codes.Unauthenticated, "request authenticate failure"},
		{"no token", "", webID, good, 0, codes.Unauthenticated, "request authenticate failure"},
		{"not of this node", p.Token("istio-system", "ztunnel", "node-b"), webID, good, 0, codes.Unauthenticated, "request impersonation authentication failure"},
		{"of no node", p.Token("shop", "web", ""), webID, good, 0, codes.Unauthenticated, "request impersonation authentication failure"},
		{"another account", ztunnel, webID + "2", good, 0, codes.Unauthenticated, "request impersonation authentication failure"},
		{"no identity", ztunnel, "web", good, 0, codes.Unauthenticated, "request impersonation authentication failure"},
		{"garbage", ztunnel, webID, "garbage", 0, codes.InvalidArgument, "CSR signing error (certificate signing request is not properly encoded)"},
		{"too long", ztunnel, webID, strings.Repeat("x", maxCSR+1), 0, codes.InvalidArgument, "CSR signing error (certificate signing request is too long)"},
		{"too much life", ztunnel, webID, good, 91 * 86400, codes.Internal, "CSR signing error (requested TTL 7862400 s is greater than the max allowed TTL 2160h0m0s)"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			_, err := client.CreateCertificate(withToken(t.Context(), tt.token),
				&caapi.IstioCertificateRequest{Csr: tt.csr, ValidityDuration: tt.seconds, Metadata: impersonate(tt.id)})
			if s := status.Convert(err); s.Code() != tt.code || s.Message() != tt.text {
				t.Errorf("CreateCertificate() = %v, want %v: %s", err, tt.code, tt.text)
			}
		})
	}
	if s := p.Stats(); s.Certificates != 0 || s.Refused != 9 {
		t.Errorf("Stats() = %+v, want 9 refused", s)
	}
	// When the last workload of an account goes, so does the right.
	change(t, p, Update{Remove: Names{Workloads: []string{podA}}})
	_, err := client.CreateCertificate(withToken(t.Context(), ztunnel), &caapi.IstioCertificateRequest{Csr: good, Metadata: impersonate(webID)})
	if status.Code(err) != codes.Unauthenticated {
		t.Errorf("CreateCertificate() after the pod went = %v, want %v", err, codes.Unauthenticated)
	}
}

func TestLives(t *testing.T) {
	for _, tt := range []struct {
		cfg     Config
		seconds int64
		want    time.Duration // from the beginning to the end
	}{
		{Config{}, 0, 24*time.Hour + 2*time.Minute},
		{Config{}, -1, 24*time.Hour + 2*time.Minute},
		{Config{}, 3600, time.Hour + 2*time.Minute},
		{Config{}, 90 * 86400, 90*24*time.Hour + 2*time.Minute},
		{Config{CertTTL: time.Hour}, 0, time.Hour + 2*time.Minute},
		{Config{MaxCertTTL: time.Minute}, 86400, 66 * time.Second}, // its middle is not past
		{Config{MaxCertTTL: time.Hour}, 100, 110 * time.Second},
	} {
		p, client := ca(t, tt.cfg)
		// Without impersonation, the caller's own.
		ctx := withToken(t.Context(), p.Token("shop", "cart", ""))
		r, err := client.CreateCertificate(ctx, &caapi.IstioCertificateRequest{Csr: csr(t), ValidityDuration: tt.seconds})
		if err != nil {
			t.Fatal(err)
		}
		leaf := parse(t, r.GetCertChain()[0])
		if got := leaf.NotAfter.Sub(leaf.NotBefore); got != tt.want {
			t.Errorf("life asked %d s of %+v = %v, want %v", tt.seconds, tt.cfg, got, tt.want)
		}
		if got, want := leaf.URIs[0].String(), "spiffe://cluster.local/ns/shop/sa/cart"; got != want {
			t.Errorf("certificate is for %s, want %s", got, want)
		}
	}
}

// No certificate outlives the root.
func TestLifeEndsWithRoot(t *testing.T) {
	p := newPlane(t, Config{})
	c, _, err := p.Issue(webID, 2*rootLife)
	if err != nil {
		t.Fatal(err)
	}
	if got, want := c.Leaf.NotAfter, p.ca.root.NotAfter; !got.Equal(want) {
		t.Errorf("certificate ends at %v, want %v", got, want)
	}
}

// Two peers with issued certificates trust each other, and a stranger's plane
// does not.
func TestIssue(t *testing.T) {
	p := newPlane(t, Config{TrustDomain: "td"})
	server, roots, err := p.Issue("spiffe://td/ns/n/sa/server", time.Hour)
	if err != nil {
		t.Fatal(err)
	}
	client, _, err := p.Issue("spiffe://td/ns/n/sa/client", 0)
	if err != nil {
		t.Fatal(err)
	}
	stranger, _, err := newPlane(t, Config{TrustDomain: "td"}).Issue("spiffe://td/ns/n/sa/client", 0)
	if err != nil {
		t.Fatal(err)
	}
	verify(t, p, client.Leaf)
	for name, tt := range map[string]struct {
		client tls.Certificate
		want   bool
	}{"own": {client, true}, "stranger": {stranger, false}} {
		if _, err := tt.client.Leaf.Verify(x509.VerifyOptions{Roots: roots}); (err == nil) != tt.want {
			t.Errorf("%s: Verify() = %v, want success %v", name, err, tt.want)
		}
	}
	if got := server.Leaf.URIs[0].String(); got != "spiffe://td/ns/n/sa/server" {
		t.Errorf("certificate is for %s", got)
	}
	if _, _, err := p.Issue("server", 0); err == nil {
		t.Error("Issue(server) succeeded, want an error")
	}
}

func TestNewRefuses(t *testing.T) {
	for _, cfg := range []Config{{CertTTL: -1}, {MaxCertTTL: -1}, {MaxRequest: -1}} {
		if _, err := New(cfg); err == nil {
			t.Errorf("New(%+v) succeeded, want an error", cfg)
		}
	}
}

// Serve returns when its context has ended before it began.
func TestServeEnded(t *testing.T) {
	p := newPlane(t, Config{})
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	ln := listen(t)
	if err := p.Serve(ctx, ln); err != nil {
		t.Errorf("Serve() = %v, want nil", err)
	}
	if _, err := ln.Accept(); err == nil {
		t.Error("listener is still open")
	}
}

func TestToken(t *testing.T) {
	p := newPlane(t, Config{})
	token := p.Token("ns", "sa", "node")
	want := caller{Namespace: "ns", ServiceAccount: "sa", Node: "node"}
	if got, err := p.tokens.check(token); err != nil || got != want {
		t.Errorf("check() = %+v, %v, want %+v", got, err, want)
	}
	header, rest, _ := strings.Cut(token, ".")
	claims, signature, _ := strings.Cut(rest, ".")
	other := strings.Split(p.Token("ns", "other", "node"), ".")[1]
	for _, bad := range []string{
		"", ".", "..", token + "x", token[:len(token)-1], header + "." + claims + ".", header + "." + other + "." + signature,
		"x" + header + "." + claims + "." + signature, strings.Repeat("x", maxToken+1), claims + "." + signature,
	} {
		if got, err := p.tokens.check(bad); err == nil {
			t.Errorf("check(%q) = %+v, want an error", bad, got)
		}
	}
}

func FuzzToken(f *testing.F) {
	known := tokens{key: []byte("a key for the fuzzer")}
	f.Add(known.make(caller{Namespace: "n", ServiceAccount: "s", Node: "node"}))
	f.Add("..")
	f.Fuzz(func(t *testing.T, token string) {
		if c, err := known.check(token); err == nil && known.make(c) != token {
			t.Errorf("check(%q) = %+v, which it was not made of", token, c)
		}
	})
}

func FuzzCSR(f *testing.F) {
	f.Add("-----BEGIN CERTIFICATE REQUEST-----\nMIH+\n-----END CERTIFICATE REQUEST-----\n")
	f.Add("")
	f.Fuzz(func(t *testing.T, text string) {
		if r, err := parseCSR(text); err == nil && r.PublicKey == nil {
			t.Errorf("parseCSR(%q) has no key and no error", text)
		}
	})
}
