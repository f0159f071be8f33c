package dns

import (
	"context"
	"log/slog"
	"net"
	"net/netip"
	"sync"
	"testing"
	"time"

	"github.com/miekg/dns"
	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

var loopback = netip.MustParseAddrPort("127.0.0.1:0")

// resolver answers every query for a name with one address, and none for others.
func resolver(t *testing.T, name, addr string) netip.AddrPort {
	t.Helper()
	packets, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	streams, err := net.Listen("tcp", packets.LocalAddr().String())
	if err != nil {
		t.Fatal(err)
	}
	handler := dns.HandlerFunc(func(w dns.ResponseWriter, q *dns.Msg) {
		m := new(dns.Msg).SetReply(q)
		if q.Question[0].Name != name {
			m.Rcode = dns.RcodeNameError
		} else {
			m.Answer = append(m.Answer, &dns.A{
				Hdr: dns.RR_Header{Name: name, Rrtype: dns.TypeA, Class: dns.ClassINET, Ttl: 5}, A: net.ParseIP(addr),
			})
		}
		w.WriteMsg(m)
	})
	var serving sync.WaitGroup
	t.Cleanup(serving.Wait) // after the shutdowns
	for _, s := range []*dns.Server{{PacketConn: packets, Handler: handler}, {Listener: streams, Handler: handler}} {
		started := make(chan struct{})
		s.NotifyStartedFunc = func() { close(started) }
		serving.Go(func() { s.ActivateAndServe() })
		<-started
		t.Cleanup(func() { s.Shutdown() })
	}
	return netip.MustParseAddrPort(packets.LocalAddr().String())
}

// serve starts a server with these resolvers and returns its addresses.
func serve(t *testing.T, upstreams ...netip.AddrPort) (udp, tcp string) {
	t.Helper()
	s, err := Listen(t.Context(), Config{Addrs: []netip.AddrPort{loopback}, Upstreams: upstreams, Log: slog.New(slog.DiscardHandler)})
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
	return s.sockets[0].PacketConn.LocalAddr().String(), s.sockets[1].Listener.Addr().String()
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
