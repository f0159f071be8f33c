package identity_test

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"net"
	"os"
	"path/filepath"
	"sync"
	"testing"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/metadata"

	"ztunnel/proxy/api/caapi"
	"ztunnel/proxy/identity"
	"ztunnel/proxy/identity/identitytest"
	"ztunnel/proxy/istiod"
)

// caName is the name in the certificate of the CA's server.
const caName = "istiod.istio-system.svc"

// answering is what the CA makes of a request.
type answering func(context.Context, *caapi.IstioCertificateRequest) ([]string, error)

// caServer is a CA behind gRPC over TLS, as istiod is.
type caServer struct {
	caapi.UnimplementedIstioCertificateServiceServer
	address string

	mu       sync.Mutex
	answer   answering
	cert     *identity.Certificate // of the server itself
	requests []*caapi.IstioCertificateRequest
	headers  metadata.MD // of the last request
	down     bool
	conns    []net.Conn // ever accepted
}

// CreateCertificate implements the service.
func (s *caServer) CreateCertificate(ctx context.Context, req *caapi.IstioCertificateRequest) (*caapi.IstioCertificateResponse, error) {
	md, _ := metadata.FromIncomingContext(ctx)
	s.mu.Lock()
	s.requests = append(s.requests, req)
	s.headers = md
	answer := s.answer
	s.mu.Unlock()
	chain, err := answer(ctx, req)
	if err != nil {
		return nil, err
	}
	return &caapi.IstioCertificateResponse{CertChain: chain}, nil
}

// turnstile turns everybody away while the server is down.
type turnstile struct {
	net.Listener
	s *caServer
}

func (l *turnstile) Accept() (net.Conn, error) {
	for {
		conn, err := l.Listener.Accept()
		if err != nil {
			return nil, err
		}
		l.s.mu.Lock()
		down := l.s.down
		if !down {
			l.s.conns = append(l.s.conns, conn)
		}
		l.s.mu.Unlock()
		if !down {
			return conn, nil
		}
		conn.Close()
	}
}

// setDown takes the server down, with all connections, or up again.
func (s *caServer) setDown(down bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.down = down
	if down {
		for _, conn := range s.conns {
			conn.Close()
		}
	}
}

func (s *caServer) setAnswer(a answering) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.answer = a
}

func (s *caServer) setCert(c *identity.Certificate) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.cert = c
}

// accepted is the number of connections ever made.
func (s *caServer) accepted() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.conns)
}

// last returns the last request.
func (s *caServer) last(t *testing.T) (*caapi.IstioCertificateRequest, metadata.MD) {
	t.Helper()
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.requests) == 0 {
		t.Fatal("the CA got no request")
	}
	return s.requests[len(s.requests)-1], s.headers
}

// serveCA starts a CA whose server is certified by a root.
func serveCA(t testing.TB, root *identitytest.CA, a answering) *caServer {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	s := &caServer{address: "https://" + ln.Addr().String(), answer: a, cert: root.Issue(t, identitytest.Leaf{DNSNames: []string{caName}})}
	server := grpc.NewServer(grpc.Creds(credentials.NewTLS(&tls.Config{
		GetCertificate: func(*tls.ClientHelloInfo) (*tls.Certificate, error) {
			s.mu.Lock()
			defer s.mu.Unlock()
			return &s.cert.ServerConfig().Certificates[0], nil
		},
	})))
	caapi.RegisterIstioCertificateServiceServer(server, s)
	var serving sync.WaitGroup
	serving.Go(func() {
		if err := server.Serve(&turnstile{ln, s}); err != nil {
			t.Errorf("Serve: %v", err)
		}
	})
	t.Cleanup(func() { server.Stop(); serving.Wait() })
	return s
}

// signing answers with good certificates of whom is asked for.
func signing(ca *identitytest.CA) answering {
	return func(_ context.Context, req *caapi.IstioCertificateRequest) ([]string, error) {
		id := req.GetMetadata().GetFields()["ImpersonatedIdentity"].GetStringValue()
		return ca.Certify(req.GetCsr(), identitytest.Leaf{URIs: []string{id}})
	}
}

// rootsFile writes root certificates to a file.
func rootsFile(t testing.TB, roots ...*x509.Certificate) string {
	t.Helper()
	file := filepath.Join(t.TempDir(), "root-cert.pem")
	replaceRoots(t, file, roots...)
	return file
}

func replaceRoots(t testing.TB, file string, roots ...*x509.Certificate) {
	t.Helper()
	if err := os.WriteFile(file+".next", []byte(identitytest.PEM(roots...)), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(file+".next", file); err != nil {
		t.Fatal(err)
	}
}

// client makes a client of a CA in shared mode, which change may change.
func client(t testing.TB, s *caServer, roots string, change func(*istiod.Config, *identity.CAConfig)) *identity.CAClient {
	t.Helper()
	channel := istiod.Config{
		Address: s.address, AltHostname: caName, Roots: istiod.Roots{File: roots},
		Token: istiod.Token{Literal: "secret"}, ClusterID: "Kubernetes",
	}
	cfg := identity.CAConfig{Impersonate: true}
	if change != nil {
		change(&channel, &cfg)
	}
	c, err := istiod.New(channel)
	if err != nil {
		t.Fatal(err)
	}
	cfg.Channel = c
	ca := identity.NewCAClient(cfg)
	t.Cleanup(ca.Close)
	return ca
}
