package dns

import (
	"context"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/miekg/dns"
	"go.uber.org/goleak"

	"ztunnel/proxy/proxytest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

var loopback = netip.MustParseAddrPort("127.0.0.1:0")

// resolver answers every query for a name with one address, and none for others.
func resolver(t *testing.T, name, addr string) netip.AddrPort {
	t.Helper()
	return records(t, name+" 5 IN A "+addr)
}

// samePort binds a port that is free for both transports.
func samePort(t *testing.T) (net.PacketConn, net.Listener) {
	t.Helper()
	for range 20 {
		packets, err := net.ListenPacket("udp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		streams, err := net.Listen("tcp", packets.LocalAddr().String())
		if err == nil {
			return packets, streams
		}
		packets.Close()
	}
	t.Fatal("no port is free for both transports")
	return nil, nil
}

// serve starts a server with these resolvers and returns its addresses.
func serve(t *testing.T, upstreams ...netip.AddrPort) (udp, tcp string) {
	t.Helper()
	s, err := Listen(t.Context(), Config{Addrs: []netip.AddrPort{loopback}, Upstreams: Upstreams{Servers: upstreams}, Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- s.Serve(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Errorf("Serve() = %v, want nil", err)
		}
	})
	return s.udp[0].LocalAddr().String(), s.tcp[0].Addr().String()
}

func ask(t *testing.T, network, server, name string) *dns.Msg {
	t.Helper()
	c := dns.Client{Net: network, Timeout: 5 * time.Second}
	answer, _, err := c.Exchange(new(dns.Msg).SetQuestion(name, dns.TypeA), server)
	if err != nil {
		t.Fatalf("%s query for %s: %v", network, name, err)
	}
	return answer
}

func TestForward_BothTransports(t *testing.T) {
	udp, tcp := serve(t, resolver(t, "there.test.", "192.0.2.7"))
	for network, server := range map[string]string{"udp": udp, "tcp": tcp} {
		answer := ask(t, network, server, "there.test.")
		if len(answer.Answer) != 1 || answer.Answer[0].(*dns.A).A.String() != "192.0.2.7" {
			t.Errorf("%s answer = %v, want 192.0.2.7", network, answer.Answer)
		}
		if answer := ask(t, network, server, "missing.test."); answer.Rcode != dns.RcodeNameError {
			t.Errorf("%s answer to an unknown name = %s, want NXDOMAIN", network, dns.RcodeToString[answer.Rcode])
		}
	}
}

func TestForward_AsksTheNextResolver(t *testing.T) {
	gone, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	closed := netip.MustParseAddrPort(gone.LocalAddr().String())
	gone.Close()
	udp, _ := serve(t, closed, resolver(t, "there.test.", "192.0.2.7"))
	if answer := ask(t, "udp", udp, "there.test."); len(answer.Answer) != 1 {
		t.Errorf("answer = %v, want that of the second resolver", answer)
	}
}

func TestForward_WithoutResolverFails(t *testing.T) {
	udp, _ := serve(t)
	if answer := ask(t, "udp", udp, "there.test."); answer.Rcode != dns.RcodeServerFailure {
		t.Errorf("answer = %s, want SERVFAIL", dns.RcodeToString[answer.Rcode])
	}
}

func TestListen_PortTaken(t *testing.T) {
	taken, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer taken.Close()
	addr := netip.MustParseAddrPort(taken.Addr().String())
	if _, err := Listen(t.Context(), Config{Addrs: []netip.AddrPort{addr}, Log: slog.New(slog.DiscardHandler)}); err == nil {
		t.Error("Listen() = nil, want an error for a port that is taken")
	}
}

// silent is a resolver that never answers, and tells how many queries it got.
func silent(t *testing.T) (netip.AddrPort, *atomic.Int64) {
	t.Helper()
	packets, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	got := new(atomic.Int64)
	var reading sync.WaitGroup
	reading.Go(func() {
		for b := make([]byte, 512); ; {
			if _, _, err := packets.ReadFrom(b); err != nil {
				return
			}
			got.Add(1)
		}
	})
	t.Cleanup(func() { packets.Close(); reading.Wait() })
	return netip.MustParseAddrPort(packets.LocalAddr().String()), got
}

// An address that cannot be bound is left out if it does not exist; else nothing is left open.
func TestListen_AbsentAddress(t *testing.T) {
	const foreign = "198.51.100.9:0"
	for _, absent := range []bool{true, false} {
		var asked []string
		s, err := Listen(t.Context(), Config{
			Addrs: []netip.AddrPort{loopback, netip.MustParseAddrPort(foreign)}, Log: slog.New(slog.DiscardHandler),
			Absent: func(addr netip.AddrPort) bool { asked = append(asked, addr.String()); return absent },
		})
		if len(asked) != 1 || asked[0] != foreign {
			t.Errorf("asked about %q, want %s", asked, foreign)
		}
		if !absent {
			if err == nil {
				t.Error("Listen at an address of another host succeeded")
			}
			continue
		}
		if err != nil {
			t.Fatal(err)
		}
		if len(s.udp) != 1 || len(s.tcp) != 1 {
			t.Errorf("%d UDP sockets and %d listeners, want one each", len(s.udp), len(s.tcp))
		}
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	}
}

// A resolver that does not answer holds neither the end of the server nor more
// sockets than it may.
func TestServe_EndsWhileQueriesWait(t *testing.T) {
	mute, got := silent(t)
	s, err := Listen(t.Context(), Config{Addrs: []netip.AddrPort{loopback}, Upstreams: Upstreams{Servers: []netip.AddrPort{mute}}, Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- s.Serve(ctx) }()
	client, err := net.Dial("udp", s.udp[0].LocalAddr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer client.Close()
	sent := 0
	send := func() {
		for range 10 {
			query, err := new(dns.Msg).SetQuestion(fmt.Sprintf("n%d.test.", sent), dns.TypeA).Pack()
			if err != nil {
				t.Fatal(err)
			}
			_, _ = client.Write(query)
			sent++
		}
	}
	proxytest.Until(t, "all sockets to the resolver are in use, and queries wait", func() bool {
		send()
		return s.outstanding.Load() > maxSockets+10
	})
	if n := len(s.forwarder.sockets); n != maxSockets {
		t.Errorf("%d sockets to the resolver, want %d", n, maxSockets)
	}
	proxytest.Until(t, "the limit of queries is reached", func() bool {
		send()
		return s.config.Metrics.Refused() > 0
	})
	start := time.Now()
	cancel()
	if err := <-done; err != nil {
		t.Errorf("Serve() = %v, want nil", err)
	}
	if took := time.Since(start); took > defaultTimeout/2 {
		t.Errorf("Serve took %v to end", took)
	}
	if n := s.outstanding.Load(); n != 0 {
		t.Errorf("%d queries are left", n)
	}
	if n := got.Load(); n > maxSockets {
		t.Errorf("the resolver got %d queries, want at most %d", n, maxSockets)
	}
}

func TestServe_ClosesConnectionsOfClientsAboveTheLimit(t *testing.T) {
	_, tcp := serve(t, resolver(t, "there.test.", "192.0.2.7"))
	var held []net.Conn
	for range maxConns {
		c, err := net.Dial("tcp", tcp)
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		held = append(held, c)
	}
	// The next one is in the kernel's queue until one of the others ends.
	c, err := dns.Dial("tcp", tcp)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	answered := make(chan error, 1)
	go func() {
		_, _, err := new(dns.Client).ExchangeWithConn(new(dns.Msg).SetQuestion("there.test.", dns.TypeA), c)
		answered <- err
	}()
	select {
	case err := <-answered:
		t.Fatalf("a connection above the limit was answered: %v", err)
	case <-time.After(50 * time.Millisecond):
	}
	held[0].Close()
	if err := <-answered; err != nil {
		t.Errorf("after another connection has ended: %v, want an answer", err)
	}
}

// respond is the answer to a message over UDP, which may take its time.
func respond(s *Server, query []byte) []byte {
	answer, rest := s.respond(new(scratch), overUDP, query, netip.Addr{})
	if rest != nil {
		return s.finish(context.Background(), rest)
	}
	return answer
}

// What is no query is not answered, what cannot be forwarded is refused.
func TestRespond(t *testing.T) {
	s, err := Listen(t.Context(), Config{Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	pack := func(change func(*dns.Msg)) []byte {
		m := new(dns.Msg).SetQuestion("there.test.", dns.TypeA)
		change(m)
		b, err := m.Pack()
		if err != nil {
			t.Fatal(err)
		}
		return b
	}
	two := func(m *dns.Msg) { m.Question = append(m.Question, m.Question[0]) }
	for _, tc := range []struct {
		name  string
		query []byte
		code  int // -1: no answer
	}{
		{"nothing", nil, -1},
		{"half a header", make([]byte, 11), -1},
		{"an answer", pack(func(m *dns.Msg) { m.Response = true }), -1},
		{"an unknown operation", pack(func(m *dns.Msg) { m.Opcode = 15 }), dns.RcodeNotImplemented},
		{"two questions", pack(two), dns.RcodeServerFailure},
		{"no question", make([]byte, 12), dns.RcodeServerFailure},
		{"a header without its question", pack(func(*dns.Msg) {})[:12], dns.RcodeFormatError},
		{"a question that is cut off", pack(func(*dns.Msg) {})[:20], dns.RcodeFormatError},
		{"no resolver", pack(func(*dns.Msg) {}), dns.RcodeServerFailure},
	} {
		t.Run(tc.name, func(t *testing.T) {
			answer := respond(s, tc.query)
			if (answer == nil) != (tc.code < 0) {
				t.Fatalf("answer %x, want code %d", answer, tc.code)
			}
			if answer == nil {
				return
			}
			m := new(dns.Msg)
			if err := m.Unpack(answer); err != nil || m.Rcode != tc.code || !m.Response {
				t.Errorf("answer %v, %v, want %s", m, err, dns.RcodeToString[tc.code])
			}
		})
	}
}

// Clients may send several queries on one connection.
func TestServe_SeveralQueriesOnAConnection(t *testing.T) {
	_, tcp := serve(t, resolver(t, "there.test.", "192.0.2.7"))
	c, err := dns.Dial("tcp", tcp)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	for i := range maxTCPQueries {
		if _, _, err := new(dns.Client).ExchangeWithConn(new(dns.Msg).SetQuestion("there.test.", dns.TypeA), c); err != nil {
			t.Fatalf("query %d: %v", i, err)
		}
	}
	if _, err := c.Conn.Read(make([]byte, 1)); err == nil {
		t.Errorf("the connection goes on after %d queries", maxTCPQueries)
	}
}
