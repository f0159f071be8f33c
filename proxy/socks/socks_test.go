package socks

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/netip"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"

	"ztunnel/telemetry/connection"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const patience = 10 * time.Second

var (
	greeting  = []byte{5, 1, 0}
	agreed    = []byte{5, 0}
	succeeded = []byte{5, 0, 0, 1, 0, 0, 0, 0, 0, 0}
)

func refusal(code byte) []byte { return []byte{5, code, 0, 1, 0, 0, 0, 0, 0, 0} }

func cat(parts ...any) []byte {
	var b []byte
	for _, p := range parts {
		switch p := p.(type) {
		case int:
			b = append(b, byte(p))
		case string:
			b = append(b, p...)
		case []byte:
			b = append(b, p...)
		}
	}
	return b
}

// served is a Server that has been given one connection.
type served struct {
	app  *net.TCPConn
	done chan struct{}

	mu       sync.Mutex
	log      bytes.Buffer
	targets  []netip.AddrPort
	refusals []error
}

func (s *served) Write(p []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.log.Write(p)
}

// wait returns what the server did, once it is done.
func (s *served) wait(t testing.TB) (targets []netip.AddrPort, refusals []error, log string) {
	t.Helper()
	select {
	case <-s.done:
	case <-time.After(patience):
		t.Fatal("Serve does not return")
	}
	return s.targets, s.refusals, s.log.String()
}

// serve has a server negotiate with the end of a connection that it returns. What is handed over is echoed.
func serve(t testing.TB, ctx context.Context, c Config, client string) *served {
	t.Helper()
	s := &served{done: make(chan struct{})}
	var conn *net.TCPConn
	s.app, conn = pair(t)
	c.Log = slog.New(slog.NewTextHandler(s, nil))
	c.Proxy = func(_ context.Context, conn *net.TCPConn, _, target netip.AddrPort, _ time.Time) {
		s.targets = append(s.targets, target)
		_, _ = io.Copy(conn, conn)
	}
	c.Refused = func(_ netip.AddrPort, err error) { s.refusals = append(s.refusals, err) }
	server := New(c)
	go func() {
		defer close(s.done)
		server.Serve(ctx, conn, netip.MustParseAddrPort(client))
	}()
	return s
}

// pair returns both ends of a connection. The first is closed with the test.
func pair(t testing.TB) (app, accepted *net.TCPConn) {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	c, err := net.Dial("tcp", ln.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Close() })
	_ = c.SetDeadline(time.Now().Add(patience))
	a, err := ln.Accept()
	if err != nil {
		t.Fatal(err)
	}
	return c.(*net.TCPConn), a.(*net.TCPConn)
}

// hosts is a Resolve that knows some names of both families.
func hosts(_ context.Context, host string, ipv6 bool) ([]netip.Addr, error) {
	switch {
	case host == "broken.example":
		return nil, errors.New("no resolver answers")
	case host != "web.example":
		return nil, nil
	case ipv6:
		return []netip.Addr{netip.MustParseAddr("fd00::1"), netip.MustParseAddr("fd00::2")}, nil
	}
	return []netip.Addr{netip.MustParseAddr("10.0.0.1"), netip.MustParseAddr("10.0.0.2")}, nil
}

func TestServe(t *testing.T) {
	request := func(atyp int, rest ...any) []byte { return cat(greeting, 5, 1, 0, atyp, cat(rest...)) }
	name := func(n string) []byte { return request(3, len(n), n, 0, 80) }
	for _, test := range []struct {
		name, client string
		send         []byte
		target       string
	}{
		{"IPv4", "", request(1, 10, 0, 0, 9, 31, 144), "10.0.0.9:8080"},
		{"IPv6", "", request(4, "\xfd\x00", bytes.Repeat([]byte{0}, 13), 9, 0, 80), "[fd00::9]:80"},
		{"IPv4-mapped IPv6 is IPv4", "", request(4, bytes.Repeat([]byte{0}, 10), 255, 255, 127, 0, 0, 1, 58, 153), "127.0.0.1:15001"},
		{"name", "", name("web.example"), "10.0.0.1:80"},
		{"name from IPv6", "[::1]:1", name("web.example"), "[fd00::1]:80"},
		{"an address as a name", "", name("10.9.9.9"), "10.9.9.9:80"},
		{"an IPv6 address as a name", "", name("fe80::1%eth0"), "[fe80::1]:80"},
		{"reserved byte", "", cat(greeting, 5, 1, 0xAA, 1, 10, 0, 0, 9, 0, 80), "10.0.0.9:80"},
		{"several methods", "", cat(5, 3, 2, 0, 1, 5, 1, 0, 1, 10, 0, 0, 9, 0, 80), "10.0.0.9:80"},
		{"most methods", "", cat(5, 255, bytes.Repeat([]byte{9}, 254), 0, 5, 1, 0, 1, 10, 0, 0, 9, 0, 80), "10.0.0.9:80"},
	} {
		t.Run(test.name, func(t *testing.T) {
			client := "127.0.0.1:1"
			if test.client != "" {
				client = test.client
			}
			s := serve(t, t.Context(), Config{Resolve: hosts}, client)
			if _, err := s.app.Write(cat(test.send, "hello")); err != nil { // what follows belongs to the connection
				t.Fatal(err)
			}
			_ = s.app.CloseWrite()
			if got, err := io.ReadAll(s.app); err != nil || !bytes.Equal(got, cat(agreed, succeeded, "hello")) {
				t.Errorf("received % x, %v", got, err)
			}
			targets, refusals, log := s.wait(t)
			if got := fmt.Sprint(targets); got != "["+test.target+"]" || len(refusals) > 0 || log != "" {
				t.Errorf("handed over to %s, refused %v, logged %q; want %s", got, refusals, log, test.target)
			}
		})
	}
}

// Each row of what is refused: the reply, the text, and the reason that is counted.
func TestServe_Refused(t *testing.T) {
	for _, test := range []struct {
		name    string
		send    []byte
		answer  []byte
		text    string
		reason  string
		resolve func(context.Context, string, bool) ([]netip.Addr, error)
	}{
		{"SOCKS4", cat(4, 1), refusal(7), "CommandNotSupported: unsupported version 4", ReasonBadRequest, hosts},
		{"no methods", cat(5, 0), refusal(7), "CommandNotSupported: methods cannot be zero", ReasonBadRequest, hosts},
		{"passwords only", cat(5, 1, 2), refusal(7), "CommandNotSupported: only unauthenticated is supported", ReasonBadRequest, hosts},
		{"other version in the request", cat(greeting, 4, 1), cat(agreed, refusal(7)), "CommandNotSupported: unsupported version 4", ReasonBadRequest, hosts},
		{"bind", cat(greeting, 5, 2), cat(agreed, refusal(7)), "CommandNotSupported: unsupported command 2", ReasonBadRequest, hosts},
		{"UDP, all of the request", cat(greeting, 5, 3, 0, 1, 0, 0, 0, 0, 0, 0), cat(agreed, refusal(7)), "CommandNotSupported: unsupported command 3", ReasonBadRequest, hosts},
		{"address type", cat(greeting, 5, 1, 0, 2), cat(agreed, refusal(7)), "CommandNotSupported: unsupported address type 2", ReasonBadRequest, hosts},
		{"no text", cat(greeting, 5, 1, 0, 3, 2, 0xFF, 7), cat(agreed, refusal(7)), "CommandNotSupported: domain is not a valid utf8 string: [255, 7]", ReasonBadRequest, hosts},
		{"names without DNS", cat(greeting, 5, 1, 0, 3, 9, "localhost"), cat(agreed, refusal(7)), "CommandNotSupported: unsupported hostname lookup, requires DNS enabled", ReasonBadRequest, nil},
		{"unknown name", cat(greeting, 5, 1, 0, 3, 7, "no.such", 0, 80), cat(agreed, refusal(4)), "HostUnreachable: dns response had no valid IP addresses", ReasonUnknownHost, hosts},
		{"no answer", cat(greeting, 5, 1, 0, 3, 14, "broken.example", 0, 80), cat(agreed, refusal(4)), "HostUnreachable: dns lookup: no resolver answers", ReasonUnknownHost, hosts},
		{"nothing", nil, refusal(1), "General: io error: early eof", ReasonBadRequest, hosts},
		{"half a port", cat(greeting, 5, 1, 0, 1, 10, 0, 0, 9, 0), cat(agreed, refusal(1)), "General: io error: early eof", ReasonBadRequest, hosts},
	} {
		t.Run(test.name, func(t *testing.T) {
			s := serve(t, t.Context(), Config{Resolve: test.resolve}, "127.0.0.1:1")
			if _, err := s.app.Write(test.send); err != nil {
				t.Fatal(err)
			}
			if test.reason == ReasonBadRequest && strings.HasPrefix(test.text, "General") {
				_ = s.app.CloseWrite()
			}
			if got, err := io.ReadAll(s.app); err != nil || !bytes.Equal(got, test.answer) {
				t.Errorf("received % x, %v, want % x", got, err, test.answer)
			}
			_ = s.app.Close()
			targets, refusals, log := s.wait(t)
			if len(targets) > 0 || len(refusals) != 1 {
				t.Fatalf("handed over to %v, refused %v, want one refusal", targets, refusals)
			}
			e, ok := errors.AsType[*Error](refusals[0])
			if !ok || e.Error() != test.text || e.RejectReason() != test.reason {
				t.Errorf("refused with %v, reason %v; want %s, reason %s", refusals[0], e, test.text, test.reason)
			}
			if want := "level=WARN msg=\"failed to negotiate socks connection: " + test.text + "\""; !strings.Contains(log, want) {
				t.Errorf("logged %q, want %q", log, want)
			}
		})
	}
}

// A client that goes on sending gets its refusal all the same, and its end.
func TestServe_RefusesAFlood(t *testing.T) {
	s := serve(t, t.Context(), Config{}, "127.0.0.1:1")
	go func() { _, _ = s.app.Write(cat(4, 1, bytes.Repeat([]byte{7}, 2*lingerBytes))) }()
	got := make([]byte, len(refusal(7)))
	if _, err := io.ReadFull(s.app, got); err != nil || !bytes.Equal(got, refusal(7)) {
		t.Errorf("received % x, %v", got, err)
	}
	s.wait(t)
}

// The whole negotiation has one deadline, however slow the parts come.
func TestServe_Timeout(t *testing.T) {
	const timeout = 50 * time.Millisecond
	slow := func(ctx context.Context, _ string, _ bool) ([]netip.Addr, error) {
		<-ctx.Done()
		return nil, ctx.Err()
	}
	for name, send := range map[string][]byte{
		"silence": nil, "half a request": cat(greeting, 5, 1, 0), "a name that nobody knows": cat(greeting, 5, 1, 0, 3, 1, "x"),
	} {
		t.Run(name, func(t *testing.T) {
			s := serve(t, t.Context(), Config{Timeout: timeout, Resolve: slow}, "127.0.0.1:1")
			if _, err := s.app.Write(send); err != nil {
				t.Fatal(err)
			}
			got, err := io.ReadAll(s.app)
			if err != nil || !bytes.HasSuffix(got, refusal(1)) {
				t.Errorf("received % x, %v", got, err)
			}
			_ = s.app.Close()
			_, refusals, _ := s.wait(t)
			const want = "General: io error: the request was not complete within 50ms"
			if e, ok := errors.AsType[*Error](refusals[0]); !ok || e.Error() != want || e.Reason != ReasonTimeout {
				t.Errorf("refused with %v, want %s", refusals, want)
			}
		})
	}
}

// The deadline is that of the negotiation, not of the connection.
func TestServe_NoDeadlineAfterwards(t *testing.T) {
	s := serve(t, t.Context(), Config{Timeout: 100 * time.Millisecond}, "127.0.0.1:1")
	if _, err := s.app.Write(cat(greeting, 5, 1, 0, 1, 10, 0, 0, 9, 0, 80)); err != nil {
		t.Fatal(err)
	}
	for range 4 {
		_ = s.app.SetReadDeadline(time.Now().Add(50 * time.Millisecond)) // what is awaited is time
		_, _ = io.Copy(io.Discard, s.app)
	}
	_ = s.app.SetReadDeadline(time.Now().Add(patience))
	got := make([]byte, 5)
	if _, err := s.app.Write([]byte("hello")); err != nil {
		t.Fatal(err)
	}
	if _, err := io.ReadFull(s.app, got); err != nil || string(got) != "hello" {
		t.Errorf("received %q, %v", got, err)
	}
	_ = s.app.Close()
	s.wait(t)
}

// The end of the pod ends a negotiation at once.
func TestServe_Cancelled(t *testing.T) {
	ctx, cancel := context.WithCancelCause(t.Context())
	s := serve(t, ctx, Config{}, "127.0.0.1:1")
	if _, err := s.app.Write(greeting); err != nil {
		t.Fatal(err)
	}
	if _, err := io.ReadFull(s.app, make([]byte, 2)); err != nil {
		t.Fatal(err)
	}
	cancel(errors.New("the pod ends"))
	_, refusals, _ := s.wait(t)
	if e, ok := errors.AsType[*Error](refusals[0]); !ok || e.Reason != ReasonDraining || e.Error() != "General: the pod ends" {
		t.Errorf("refused with %v", refusals)
	}
}

func TestServe_Limit(t *testing.T) {
	var refused error
	handed, release := make(chan struct{}), make(chan struct{})
	s := New(Config{
		MaxConnections: 1, Log: slog.New(slog.DiscardHandler), Refused: func(_ netip.AddrPort, err error) { refused = err },
		Proxy: func(context.Context, *net.TCPConn, netip.AddrPort, netip.AddrPort, time.Time) {
			close(handed)
			<-release
		},
	})
	first, conn := pair(t)
	done := make(chan struct{})
	go func() { defer close(done); s.Serve(t.Context(), conn, netip.AddrPort{}) }()
	if _, err := first.Write(cat(greeting, 5, 1, 0, 1, 10, 0, 0, 9, 0, 80)); err != nil {
		t.Fatal(err)
	}
	<-handed // it counts also then
	second, conn := pair(t)
	s.Serve(t.Context(), conn, netip.AddrPort{})
	if n, err := second.Read(make([]byte, 1)); !errors.Is(err, io.EOF) {
		t.Errorf("above the limit: read %d, %v, want the end", n, err)
	}
	var reasoned interface{ RejectReason() string }
	if !errors.As(refused, &reasoned) || reasoned.RejectReason() != ReasonLimit ||
		refused.Error() != "too many SOCKS connections: the limit of this pod is 1" {
		t.Errorf("refused with %v", refused)
	}
	close(release)
	<-done
}

// All reasons are those that the metric knows.
func TestReasons(t *testing.T) {
	known := map[connection.Reason]bool{}
	for _, r := range connection.Reasons() {
		known[r] = true
	}
	for _, r := range []string{ReasonBadRequest, ReasonUnknownHost, ReasonTimeout, ReasonDraining, ReasonLimit} {
		if !known[connection.Reason(r)] {
			t.Errorf("reason %q is not known to the metric", r)
		}
	}
}
