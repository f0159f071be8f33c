package identity_test

import (
	"bytes"
	"context"
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"

	"ztunnel/proxy/api/caapi"
	"ztunnel/proxy/identity"
	"ztunnel/proxy/identity/identitytest"
	"ztunnel/proxy/istiod"
	"ztunnel/proxy/spiffe"
)

// recorded reads a file of what a real istiod was asked and answered.
func recorded(t testing.TB, name string) []byte {
	t.Helper()
	content, err := os.ReadFile(filepath.Join("testdata", "ca", name))
	if err != nil {
		t.Fatal(err)
	}
	return content
}

func parseRequest(t *testing.T, text string) *x509.CertificateRequest {
	t.Helper()
	block, rest := pem.Decode([]byte(text))
	if block == nil || block.Type != "CERTIFICATE REQUEST" || len(rest) > 0 {
		t.Fatalf("csr = %q, want one block of PEM", text)
	}
	csr, err := x509.ParseCertificateRequest(block.Bytes)
	if err != nil {
		t.Fatal(err)
	}
	return csr
}

// The request is the one that a real istiod accepted, but for the key.
func TestCAClient_Request(t *testing.T) {
	var want caapi.IstioCertificateRequest
	if err := protojson.Unmarshal(recorded(t, "issued/request.json"), &want); err != nil {
		t.Fatal(err)
	}
	root := identitytest.NewCA(t)
	s := serveCA(t, root, signing(root))
	id := mustParse(t, "spiffe://cluster.local/ns/shop/sa/web")[0]
	for _, impersonate := range []bool{true, false} {
		ca := client(t, s, rootsFile(t, root.Root()), func(_ *istiod.Config, c *identity.CAConfig) { c.Impersonate = impersonate })
		if _, err := ca.Sign(t.Context(), id); err != nil {
			t.Fatalf("Sign() = %v", err)
		}
		got, headers := s.last(t)
		wantCSR, gotCSR := parseRequest(t, want.GetCsr()), parseRequest(t, got.GetCsr())
		if err := gotCSR.CheckSignature(); err != nil {
			t.Errorf("signature of the request: %v", err)
		}
		if !bytes.Equal(gotCSR.RawSubject, wantCSR.RawSubject) || gotCSR.SignatureAlgorithm != wantCSR.SignatureAlgorithm {
			t.Errorf("subject %x signed by %v, want %x by %v", gotCSR.RawSubject, gotCSR.SignatureAlgorithm, wantCSR.RawSubject, wantCSR.SignatureAlgorithm)
		}
		if len(gotCSR.Extensions) != 1 || !bytes.Equal(gotCSR.Extensions[0].Value, wantCSR.Extensions[0].Value) {
			t.Errorf("extensions = %v, want %v", gotCSR.Extensions, wantCSR.Extensions)
		}
		got.Csr = want.GetCsr()
		expected := proto.CloneOf(&want)
		if !impersonate {
			expected.Metadata = nil
		}
		if !proto.Equal(got, expected) {
			t.Errorf("request = %v, want %v", got, expected)
		}
		if a, c := headers.Get("authorization"), headers.Get("clusterid"); len(a) != 1 || a[0] != "Bearer secret" || len(c) != 1 || c[0] != "Kubernetes" {
			t.Errorf("authorization %q, clusterid %q; want the token and Kubernetes", a, c)
		}
	}
}

// The answer of a real istiod is understood.
func TestRecordedAnswer(t *testing.T) {
	var resp caapi.IstioCertificateResponse
	if err := proto.Unmarshal(recorded(t, "issued/response.pb"), &resp); err != nil {
		t.Fatal(err)
	}
	key := parseKey(t, recorded(t, "issued/TEST-ONLY-key.pem"))
	id := mustParse(t, "spiffe://cluster.local/ns/shop/sa/web")[0]
	c, err := identity.ParseChain(id, key, resp.GetCertChain(), identity.TLSOptions{})
	if err != nil {
		t.Fatalf("ParseChain() = %v", err)
	}
	if err := c.CheckID(id); err != nil {
		t.Error(err)
	}
	if got, want := identitytest.PEM(c.Roots()...), string(recorded(t, "root-cert.pem")); len(c.Intermediates()) != 0 || got != want {
		t.Errorf("%d intermediates and the roots %s, want none and %s", len(c.Intermediates()), got, want)
	}
	if got, want := c.NotAfter().Sub(c.NotBefore()), 24*time.Hour+2*time.Minute; got != want {
		t.Errorf("life = %v, want %v", got, want)
	}
}

// A certificate from the CA works, with intermediates and several roots.
func TestCAClient_Certificate(t *testing.T) {
	root, other := identitytest.NewCA(t), identitytest.NewCA(t)
	below := root.Intermediate(t).Intermediate(t)
	s := serveCA(t, root, func(_ context.Context, req *caapi.IstioCertificateRequest) ([]string, error) {
		return below.Certify(req.GetCsr(), identitytest.Leaf{URIs: []string{serverURI}, Roots: []*x509.Certificate{other.Root(), root.Root()}})
	})
	c, err := client(t, s, rootsFile(t, root.Root()), nil).Sign(t.Context(), mustParse(t, serverURI)[0])
	if err != nil {
		t.Fatal(err)
	}
	if len(c.Intermediates()) != 2 || len(c.Roots()) != 2 {
		t.Errorf("%d intermediates, %d roots, want 2 and 2", len(c.Intermediates()), len(c.Roots()))
	}
	if o := shake(t, other.Issue(t, identitytest.Leaf{URIs: []string{clientURI}, Roots: []*x509.Certificate{root.Root()}}), c); o.clientErr != nil {
		t.Errorf("handshake = %v", o.clientErr)
	}
}

// Whatever the CA answers, the error has the reference's text.
func TestCAClient_Answers(t *testing.T) {
	root := identitytest.NewCA(t)
	id := mustParse(t, "spiffe://cluster.local/ns/shop/sa/web")[0]
	good := identitytest.Leaf{URIs: []string{id.String()}}
	// spoil lets a good answer go wrong.
	spoil := func(change func(chain []string) []string) answering {
		return func(_ context.Context, req *caapi.IstioCertificateRequest) ([]string, error) {
			chain, err := root.Intermediate(t).Certify(req.GetCsr(), good)
			return change(chain), err
		}
	}
	issue := func(leaf identitytest.Leaf) answering {
		return func(_ context.Context, req *caapi.IstioCertificateRequest) ([]string, error) {
			return root.Certify(req.GetCsr(), leaf)
		}
	}
	refuse := func(folder string) answering {
		// rpc error: code = Unauthenticated desc = ...
		_, text, _ := strings.Cut(strings.TrimSpace(string(recorded(t, folder+"/error.txt"))), "desc = ")
		return func(context.Context, *caapi.IstioCertificateRequest) ([]string, error) {
			return nil, status.Error(codes.Unauthenticated, text)
		}
	}
	fail := func(code codes.Code, text string) answering {
		return func(context.Context, *caapi.IstioCertificateRequest) ([]string, error) {
			return nil, status.Error(code, text)
		}
	}
	const signingError = "signing gRPC error ("
	const unauthenticated = signingError + "The request does not have valid authentication credentials): "
	key := identitytest.PEM(&x509.Certificate{Raw: []byte("no certificate")})
	for _, tt := range []struct {
		name   string
		answer answering
		want   string // "" is success
	}{
		{"good", spoil(func(c []string) []string { return c }), ""},
		{"empty chain", spoil(func([]string) []string { return nil }), "chain returned from CA is empty for: " + id.String()},
		{"one element", spoil(func(c []string) []string { return c[:1] }), "failed to create CSR: invalid root certificate: no root certificate present"},
		{"empty leaf", spoil(func(c []string) []string { return []string{"", c[1], c[2]} }), "failed to create CSR: certificate: no certificate"},
		{"garbage leaf", spoil(func(c []string) []string { return []string{"garbage", c[1], c[2]} }), "failed to create CSR: certificate: no certificate"},
		{"leaf with garbage inside", spoil(func(c []string) []string { return []string{key, c[1], c[2]} }), "failed to create CSR: certificate parse: "},
		{"garbage intermediate", spoil(func(c []string) []string { return []string{c[0], "garbage", c[2]} }), "failed to create CSR: certificate: no certificate"},
		{"garbage roots", spoil(func(c []string) []string { return []string{c[0], c[1], "garbage"} }), "failed to create CSR: invalid root certificate: no root certificate present"},
		{"one bad root of two", spoil(func(c []string) []string { return []string{c[0], c[1], key + c[2]} }), ""},
		{"certificate for another key", spoil(func(c []string) []string { return []string{c[1], c[1], c[2]} }), "failed to create CSR: certificate: the key is not that of the certificate"},
		{"another identity", issue(identitytest.Leaf{URIs: []string{clientURI}}), "did not find expected SAN: " + id.String()},
		{"identity second", issue(identitytest.Leaf{URIs: []string{clientURI, id.String()}}), "did not find expected SAN: " + id.String()},
		{"no identity", issue(identitytest.Leaf{DNSNames: []string{"web"}}), "did not find expected SAN: " + id.String()},
		{"expired", issue(identitytest.Leaf{URIs: []string{id.String()}, NotBefore: time.Now().Add(-2 * time.Hour), NotAfter: time.Now().Add(-time.Hour)}), ""},
		{"bad token", refuse("refused-bad-token"), unauthenticated + "request authenticate failure"},
		{"caller not trusted", refuse("refused-caller-not-trusted"), unauthenticated + "request impersonation authentication failure"},
		{"not on this node", refuse("refused-not-on-this-node"), unauthenticated + "request impersonation authentication failure"},
		{"busy", fail(codes.Unavailable, "try later"), signingError + "The service is currently unavailable): try later"},
		{"cancelled", fail(codes.Canceled, "x"), signingError + "The operation was cancelled): x"},
		{"a code that there is not", fail(999, "x"), signingError + "Unknown error): x"},
		{"many words", fail(codes.Internal, strings.Repeat("ä", 400)), signingError + "Internal error): " + strings.Repeat("ä", 256)},
	} {
		t.Run(tt.name, func(t *testing.T) {
			s := serveCA(t, root, tt.answer)
			c, err := client(t, s, rootsFile(t, root.Root()), nil).Sign(t.Context(), id)
			switch {
			case tt.want == "" && err != nil:
				t.Errorf("Sign() = %v, want a certificate", err)
			case tt.want == "" && c.CheckID(id) != nil:
				t.Errorf("Sign() = a certificate of somebody else: %v", c.CheckID(id))
			case tt.want != "" && (c != nil || err == nil || !strings.HasPrefix(err.Error(), tt.want) || len(err.Error()) > 700):
				t.Errorf("Sign() = %v, %v, want %s", c, err, tt.want)
			}
		})
	}
}

// In dedicated mode the CA says who we are.
func TestCAClient_Dedicated(t *testing.T) {
	root := identitytest.NewCA(t)
	s := serveCA(t, root, func(_ context.Context, req *caapi.IstioCertificateRequest) ([]string, error) {
		return root.Certify(req.GetCsr(), identitytest.Leaf{URIs: []string{clientURI}})
	})
	ca := client(t, s, rootsFile(t, root.Root()), func(_ *istiod.Config, c *identity.CAConfig) { c.Impersonate, c.TTL = false, 90*time.Minute })
	c, err := ca.Sign(t.Context(), mustParse(t, serverURI)[0])
	if err != nil {
		t.Fatal(err)
	}
	if id, ok := c.ID(); !ok || id.String() != clientURI {
		t.Errorf("identity = %v, want %s", id, clientURI)
	}
	if req, _ := s.last(t); req.GetValidityDuration() != 5400 {
		t.Errorf("validity asked for = %d s, want 5400", req.GetValidityDuration())
	}
}

// All requests share a connection. When it breaks, or the CA comes back, the next request works.
func TestCAClient_Connection(t *testing.T) {
	root := identitytest.NewCA(t)
	s := serveCA(t, root, signing(root))
	ca := client(t, s, rootsFile(t, root.Root()), nil)
	sign := func() error {
		_, err := ca.Sign(t.Context(), mustParse(t, serverURI)[0])
		return err
	}
	var asking sync.WaitGroup
	for range 20 {
		asking.Go(func() {
			if err := sign(); err != nil {
				t.Errorf("Sign() = %v", err)
			}
		})
	}
	asking.Wait()
	if got := s.accepted(); got != 1 {
		t.Errorf("connections for 20 requests = %d, want 1", got)
	}
	s.setDown(true)
	for range 3 {
		if err := sign(); err == nil || !strings.HasPrefix(err.Error(), "signing gRPC error (The service is currently unavailable): ") {
			t.Errorf("Sign() while the CA is down = %v, want it unavailable", err)
		}
	}
	s.setDown(false)
	if err := sign(); err != nil {
		t.Errorf("Sign() right after the CA is back = %v", err)
	}
	ca.Close()
	if err := sign(); err == nil || !strings.Contains(err.Error(), "closed") {
		t.Errorf("Sign() after Close = %v, want an error", err)
	}
}

// When the file of the roots changes the next request has a new connection; one that runs ends on the old one.
func TestCAClient_RootsChange(t *testing.T) {
	first, second := identitytest.NewCA(t), identitytest.NewCA(t)
	s := serveCA(t, first, nil)
	file := filepath.Join(t.TempDir(), "root-cert.pem")
	var log bytes.Buffer
	ca := client(t, s, file, func(_ *istiod.Config, c *identity.CAConfig) { c.Log = slog.New(slog.NewTextHandler(&log, nil)) })
	id := mustParse(t, serverURI)[0]
	s.setAnswer(signing(first))
	for range 2 {
		if _, err := ca.Sign(t.Context(), id); err == nil || !strings.Contains(err.Error(), "read root certificates") {
			t.Fatalf("Sign() without the file = %v, want it named", err)
		}
	}
	if got := strings.Count(log.String(), "cannot be read"); got != 1 {
		t.Errorf("the log names the file %d times, want once:\n%s", got, &log)
	}
	replaceRoots(t, file, first.Root())
	if _, err := ca.Sign(t.Context(), id); err != nil {
		t.Fatalf("Sign() = %v", err)
	}

	begun, end := make(chan struct{}), make(chan struct{})
	s.setAnswer(func(ctx context.Context, req *caapi.IstioCertificateRequest) ([]string, error) {
		close(begun)
		<-end
		return signing(first)(ctx, req)
	})
	slow := make(chan error)
	go func() {
		_, err := ca.Sign(t.Context(), id)
		slow <- err
	}()
	<-begun
	s.setAnswer(signing(first))
	before := s.accepted()
	replaceRoots(t, file, second.Root())
	if _, err := ca.Sign(t.Context(), id); err == nil || !strings.Contains(err.Error(), "unknown authority") {
		t.Errorf("Sign() with the roots of somebody else = %v, want the server refused", err)
	}
	s.setCert(second.Issue(t, identitytest.Leaf{DNSNames: []string{caName}}))
	if _, err := ca.Sign(t.Context(), id); err != nil {
		t.Errorf("Sign() after the server changed too = %v", err)
	}
	if err := os.Remove(file); err != nil {
		t.Fatal(err)
	}
	if _, err := ca.Sign(t.Context(), id); err != nil {
		t.Errorf("Sign() after the file went = %v, want the old connection used", err)
	}
	if got := s.accepted() - before; got != 2 {
		t.Errorf("connections since = %d, want 2", got)
	}
	close(end)
	if err := <-slow; err != nil {
		t.Errorf("Sign() begun before the change = %v, want a certificate", err)
	}
}

// What is wrong with the token is in the error, the token is not.
func TestCAClient_Token(t *testing.T) {
	root := identitytest.NewCA(t)
	s := serveCA(t, root, signing(root))
	file := filepath.Join(t.TempDir(), "istio-token")
	ca := client(t, s, rootsFile(t, root.Root()), func(c *istiod.Config, _ *identity.CAConfig) { c.Token = istiod.Token{File: file} })
	for _, tt := range []struct{ content, want string }{
		{"", "signing gRPC error (Unknown error): token file exists, but was empty"},
		{"sec\x00ret", "signing gRPC error (Unknown error): token file "},
		{"secret\n", ""},
	} {
		if err := os.WriteFile(file, []byte(tt.content), 0o600); err != nil {
			t.Fatal(err)
		}
		_, err := ca.Sign(t.Context(), mustParse(t, serverURI)[0])
		if tt.want == "" && err != nil || tt.want != "" && (err == nil || !strings.HasPrefix(err.Error(), tt.want) || strings.Contains(err.Error(), "sec")) {
			t.Errorf("Sign() with the token %q = %v, want %q", tt.content, err, tt.want)
		}
	}
}

// A CA that does not answer is given up; the next request has another connection.
func TestCAClient_SlowCA(t *testing.T) {
	root := identitytest.NewCA(t)
	s := serveCA(t, root, func(ctx context.Context, _ *caapi.IstioCertificateRequest) ([]string, error) {
		<-ctx.Done()
		return nil, ctx.Err()
	})
	ca := client(t, s, rootsFile(t, root.Root()), nil)
	m := run(t, ca, identity.Config{CSRTimeout: 100 * time.Millisecond})
	_, err := m.Certificate(t.Context(), account("a"), identity.RealTime)
	// Whoever notices first words the rest: the server knows the deadline too.
	const want = "signing gRPC error (Deadline expired before operation could complete): "
	if err == nil || !strings.HasPrefix(err.Error(), want) {
		t.Errorf("Certificate() = %v, want %s", err, want)
	}
	s.setAnswer(signing(root))
	if _, err := ca.Sign(t.Context(), account("a")); err != nil {
		t.Errorf("Sign() = %v", err)
	}
	if got := s.accepted(); got != 2 {
		t.Errorf("connections = %d, want another one after the deadline", got)
	}
}

// A hundred service accounts at once: eight requests run at a time, and nothing waits for TCP.
func TestCAClient_HundredAccounts(t *testing.T) {
	root := identitytest.NewCA(t)
	var mu sync.Mutex
	var running, most int
	count := func(n int) {
		mu.Lock()
		defer mu.Unlock()
		running += n
		most = max(most, running)
	}
	s := serveCA(t, root, func(ctx context.Context, req *caapi.IstioCertificateRequest) ([]string, error) {
		count(1)
		defer count(-1)
		<-time.After(time.Millisecond)
		return signing(root)(ctx, req)
	})
	m := run(t, client(t, s, rootsFile(t, root.Root()), nil), identity.Config{})
	began := time.Now()
	ids := make([]spiffe.ID, 100)
	for i := range ids {
		ids[i] = account(fmt.Sprint(i))
		if err := m.Prefetch(ids[i]); err != nil {
			t.Fatal(err)
		}
	}
	for _, id := range ids {
		if _, err := m.Certificate(t.Context(), id, identity.Warmup); err != nil {
			t.Fatal(err)
		}
	}
	t.Logf("100 certificates took %v", time.Since(began))
	// Without TCP_NODELAY each would take 40 ms, one by one 4 s. The machine may be busy.
	if took := time.Since(began); took > 1400*time.Millisecond {
		t.Errorf("100 certificates took %v, want less than 1.4 s", took)
	}
	mu.Lock()
	defer mu.Unlock()
	if most > 8 || most < 2 {
		t.Errorf("requests at a time = %d at most, want 8", most)
	}
}
