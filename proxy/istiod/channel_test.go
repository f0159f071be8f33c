package istiod_test

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"io"
	"net"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"ztunnel/proxy/istiod"
)

func TestServerIsVerified(t *testing.T) {
	ca, foreign := newAuthority(t), newAuthority(t)
	past := func(c *x509.Certificate) { c.NotAfter = time.Now().Add(-time.Minute) }
	future := func(c *x509.Certificate) { c.NotBefore = time.Now().Add(time.Minute) }
	noIP := func(c *x509.Certificate) { c.IPAddresses = nil }
	forClients := func(c *x509.Certificate) { c.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth} }
	tests := []struct {
		name   string
		issuer *authority
		change func(*x509.Certificate)
		alt    string
		pem    []byte
		want   string // part of the error; "" is success
	}{
		{name: "good", issuer: ca, pem: ca.pem()},
		{name: "foreign", issuer: foreign, pem: ca.pem(), want: "unknown authority"},
		{name: "one of two roots", issuer: ca, pem: append(foreign.pem(), ca.pem()...)},
		{name: "a root among garbage", issuer: ca, pem: []byte(
			"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n" + string(ca.pem()) + "rest")},
		{name: "garbage alone", issuer: ca, pem: []byte("no PEM"), want: "no root certificate present"},
		{name: "no roots", issuer: ca, want: "no root certificate present"},
		{name: "expired", issuer: ca, change: past, pem: ca.pem(), want: "expired"},
		{name: "not valid yet", issuer: ca, change: future, pem: ca.pem(), want: "not yet valid"},
		{name: "wrong name", issuer: ca, change: noIP, pem: ca.pem(), want: "127.0.0.1"},
		{name: "alternative name", issuer: ca, change: noIP, alt: altName, pem: ca.pem()},
		{name: "alternative name wrong too", issuer: ca, change: noIP, alt: "istiod.other.svc", pem: ca.pem(), want: "127.0.0.1"},
		{name: "alternative name not needed", issuer: ca, alt: "istiod.other.svc", pem: ca.pem()},
		{name: "alternative name of a foreign chain", issuer: foreign, alt: altName, pem: ca.pem(), want: "unknown authority"},
		{name: "certificate for clients", issuer: ca, change: forClients, pem: ca.pem(), want: "incompatible key usage"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			s := serve(t, nil, always(tt.issuer.issue(t, tt.change)))
			err := call(t, istiod.Config{Address: s.address, Roots: istiod.Roots{PEM: tt.pem}, AltHostname: tt.alt})
			switch {
			case tt.want == "" && err != nil:
				t.Errorf("call = %v, want success", err)
			case tt.want != "" && (status.Code(err) != codes.Unavailable || !strings.Contains(err.Error(), tt.want)):
				t.Errorf("call = %v, want Unavailable with %q", err, tt.want)
			}
		})
	}
}

// The settings of TLS are those between proxies: no TLS 1.2 unless asked for, no client certificate, no server name for an
// IP address, only h2.
func TestTLSSettings(t *testing.T) {
	ca := newAuthority(t)
	only12 := func() *tls.Config { return &tls.Config{MaxVersion: tls.VersionTLS12} }
	classic := func() *tls.Config { return &tls.Config{CurvePreferences: []tls.CurveID{tls.X25519}} }
	tests := []struct {
		name   string
		server *tls.Config
		change func(*istiod.Config)
		fails  bool
	}{
		{name: "TLS 1.2 refused", server: only12(), change: func(*istiod.Config) {}, fails: true},
		{name: "TLS 1.2 allowed", server: only12(), change: func(c *istiod.Config) { c.TLS12 = true }},
		{name: "TLS 1.3 preferred", server: nil, change: func(c *istiod.Config) { c.TLS12 = true }},
		{name: "classic", server: classic(), change: func(*istiod.Config) {}},
		{name: "PQC with a classic server", server: classic(), change: func(c *istiod.Config) { c.PQC = true }, fails: true},
		{name: "PQC", server: nil, change: func(c *istiod.Config) { c.PQC = true }},
		{name: "no certificate to show", server: &tls.Config{ClientAuth: tls.RequireAnyClientCert}, change: func(*istiod.Config) {}, fails: true},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			s := serve(t, tt.server, always(ca.issue(t, nil)))
			cfg := istiod.Config{Address: s.address, Roots: istiod.Roots{PEM: ca.pem()}}
			tt.change(&cfg)
			if err := call(t, cfg); (err != nil) != tt.fails {
				t.Errorf("call = %v, want failure %v", err, tt.fails)
			}
			if hello := s.hello.Load(); hello != nil {
				if hello.ServerName != "" {
					t.Errorf("server name = %q, want none for an IP address", hello.ServerName)
				}
				if len(hello.SupportedProtos) != 1 || hello.SupportedProtos[0] != "h2" {
					t.Errorf("ALPN = %q, want h2 alone", hello.SupportedProtos)
				}
			}
		})
	}
}

// The host is looked up and sent as the server name.
func TestHostName(t *testing.T) {
	ca := newAuthority(t)
	s := serve(t, nil, always(ca.issue(t, func(c *x509.Certificate) { c.DNSNames, c.IPAddresses = []string{"localhost"}, nil })))
	address := strings.Replace(s.address, "127.0.0.1", "localhost", 1)
	if err := call(t, istiod.Config{Address: address, Roots: istiod.Roots{PEM: ca.pem()}}); err != nil {
		t.Fatalf("call = %v", err)
	}
	if got := s.hello.Load().ServerName; got != "localhost" {
		t.Errorf("server name = %q, want localhost", got)
	}
	if got := (*s.calls.Load())[":authority"]; len(got) != 1 || !strings.HasPrefix(got[0], "localhost:") {
		t.Errorf(":authority = %q, want host and port", got)
	}
}

// The file of the roots may come after the process, and is read at each handshake.
func TestRootsComeLaterAndRotate(t *testing.T) {
	first, second := newAuthority(t), newAuthority(t)
	var mu sync.Mutex
	current := first.issue(t, nil)
	s := serve(t, nil, func() tls.Certificate {
		mu.Lock()
		defer mu.Unlock()
		return current
	})
	file := filepath.Join(t.TempDir(), "root-cert.pem")
	c, err := istiod.New(istiod.Config{Address: s.address, Roots: istiod.Roots{File: file}})
	if err != nil {
		t.Fatalf("New: %v", err)
	}
	try := func() error {
		conn, err := c.Dial()
		if err != nil {
			t.Fatalf("Dial: %v", err)
		}
		defer conn.Close()
		return callOver(t, c, conn)
	}
	if err := try(); err == nil || !strings.Contains(err.Error(), "read root certificates") {
		t.Fatalf("without the file: call = %v, want it named", err)
	}
	if _, err := c.RootsVersion(); err == nil {
		t.Error("without the file: RootsVersion = nil error, want one")
	}
	write(t, file, first.pem())
	if err := try(); err != nil {
		t.Fatalf("with the file: call = %v", err)
	}
	before, err := c.RootsVersion()
	if err != nil {
		t.Fatalf("RootsVersion: %v", err)
	}
	mu.Lock()
	current = second.issue(t, nil)
	mu.Unlock()
	if err := try(); err == nil {
		t.Fatal("call to a server of another root succeeded")
	}
	write(t, file, second.pem())
	if err := try(); err != nil {
		t.Fatalf("after the rotation: call = %v", err)
	}
	if after, err := c.RootsVersion(); err != nil || after == before {
		t.Errorf("RootsVersion did not change with the file (%v)", err)
	}
	write(t, file, []byte("garbage"))
	if err := try(); err == nil || !strings.Contains(err.Error(), "no root certificate present") {
		t.Errorf("with garbage: call = %v", err)
	}
}

// One connection object finds the server again by itself.
func TestReconnect(t *testing.T) {
	ca := newAuthority(t)
	file := filepath.Join(t.TempDir(), "root-cert.pem")
	s := serve(t, nil, always(ca.issue(t, nil)))
	c, err := istiod.New(istiod.Config{Address: s.address, Roots: istiod.Roots{File: file}})
	if err != nil {
		t.Fatal(err)
	}
	conn, err := c.Dial()
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	if err := callOver(t, c, conn); status.Code(err) != codes.Unavailable {
		t.Fatalf("call = %v, want Unavailable", err)
	}
	write(t, file, ca.pem())
	for {
		state := conn.GetState()
		if callOver(t, c, conn) == nil {
			return
		}
		if !conn.WaitForStateChange(t.Context(), state) {
			t.Fatal("no connection before the test ended")
		}
	}
}

// A server that takes the connection and says nothing does not hold a call for ever.
func TestSilentServer(t *testing.T) {
	t.Parallel() // it takes as long as setting up a connection may
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	var wg sync.WaitGroup
	defer wg.Wait()
	defer ln.Close()
	wg.Go(func() {
		for {
			conn, err := ln.Accept()
			if err != nil {
				return
			}
			wg.Go(func() {
				defer conn.Close()
				_, _ = io.Copy(io.Discard, conn)
			})
		}
	})
	c, err := istiod.New(istiod.Config{Address: "https://" + ln.Addr().String(), Roots: istiod.Roots{System: true}})
	if err != nil {
		t.Fatal(err)
	}
	conn, err := c.Dial()
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	if err := conn.Invoke(ctx, "/test.Service/Call", nil, nil); status.Code(err) != codes.Unavailable {
		t.Errorf("call = %v, want Unavailable before its own deadline", err)
	}
}

func TestGarbageServer(t *testing.T) {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	var wg sync.WaitGroup
	defer wg.Wait()
	defer ln.Close()
	wg.Go(func() {
		for {
			conn, err := ln.Accept()
			if err != nil {
				return
			}
			_, _ = io.WriteString(conn, "HTTP/1.1 400 Bad Request\r\n\r\n")
			conn.Close()
		}
	})
	err = call(t, istiod.Config{Address: "https://" + ln.Addr().String(), Roots: istiod.Roots{System: true}})
	if status.Code(err) != codes.Unavailable {
		t.Errorf("call = %v, want Unavailable", err)
	}
}

func TestPlaintextNeverConnects(t *testing.T) {
	err := call(t, istiod.Config{Address: "http://127.0.0.1:15010"})
	if status.Code(err) != codes.Unavailable || !strings.Contains(err.Error(), "https") {
		t.Errorf("call = %v, want Unavailable for the scheme", err)
	}
}

// A message beyond the limit fails the call.
func TestLargestMessage(t *testing.T) {
	ca := newAuthority(t)
	s := serve(t, nil, always(ca.issue(t, nil)))
	s.answer = strings.Repeat("x", 5000)
	cfg := istiod.Config{Address: s.address, Roots: istiod.Roots{PEM: ca.pem()}, MaxMessage: 4000}
	if err := call(t, cfg); status.Code(err) != codes.ResourceExhausted {
		t.Errorf("call = %v, want ResourceExhausted", err)
	}
	cfg.MaxMessage = 6000
	if err := call(t, cfg); err != nil {
		t.Errorf("call = %v, want success below the limit", err)
	}
	s.answer = strings.Repeat("x", 8<<20)
	cfg.MaxMessage = 200 << 20
	if err := call(t, cfg); err != nil {
		t.Errorf("call = %v, want success above grpc's default", err)
	}
}

func TestNewRefuses(t *testing.T) {
	const good = "https://istiod.istio-system.svc:15012"
	tests := []struct {
		name string
		cfg  istiod.Config
		want string
	}{
		{"no address", istiod.Config{}, "invalid uri"},
		{"not a URI", istiod.Config{Address: "https://a b"}, "invalid uri"},
		{"no host", istiod.Config{Address: "https://:15012"}, "no host"},
		{"port", istiod.Config{Address: "https://istiod:70000"}, "port"},
		{"port 0", istiod.Config{Address: "https://istiod:0"}, "port"},
		{"alternative name", istiod.Config{Address: good, AltHostname: "a/b"}, "invalid alt hostname"},
		{"message", istiod.Config{Address: good, MaxMessage: -1}, "negative"},
		{"header name", istiod.Config{Address: good, Headers: []istiod.Header{{Name: "a b"}}}, `"a b"`},
		{"binary header", istiod.Config{Address: good, Headers: []istiod.Header{{Name: "a-bin"}}}, `"a-bin"`},
		{"reserved header", istiod.Config{Address: good, Headers: []istiod.Header{{Name: "grpc-timeout"}}}, `"grpc-timeout"`},
		{"pseudo header", istiod.Config{Address: good, Headers: []istiod.Header{{Name: ":path"}}}, `":path"`},
		{"header value", istiod.Config{Address: good, Headers: []istiod.Header{{Name: "a", Value: "b\nc"}}}, "header a"},
		{"cluster", istiod.Config{Address: good, Token: istiod.Token{Literal: "t"}, ClusterID: "a\nb"}, "cluster id"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			if _, err := istiod.New(tt.cfg); err == nil || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("New = %v, want an error with %q", err, tt.want)
			}
		})
	}
	for _, address := range []string{good, "https://10.0.0.1", "https://[::1]:15012", "http://istiod:15010"} {
		c, err := istiod.New(istiod.Config{Address: address, AltHostname: "10.0.0.1"})
		if err != nil {
			t.Errorf("New(%s) = %v", address, err)
			continue
		}
		conn, err := c.Dial()
		if err != nil {
			t.Errorf("Dial(%s) = %v", address, err)
			continue
		}
		conn.Close()
	}
}
