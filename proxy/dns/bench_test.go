package dns

import (
	"fmt"
	"net"
	"net/netip"
	"sync"
	"testing"

	"github.com/miekg/dns"
)

// The answer for a name of the mesh, without sockets.
func BenchmarkRespond(b *testing.B) {
	s := meshServer(b)
	for name, host := range map[string]string{
		"full":   "productpage.ns1.svc.cluster.local.",
		"short":  "productpage.",
		"search": "www.google.com.ns1.svc.cluster.local.",
	} {
		b.Run(name, func(b *testing.B) {
			query, err := new(dns.Msg).SetQuestion(host, dns.TypeA).SetEdns0(1232, false).Pack()
			if err != nil {
				b.Fatal(err)
			}
			sc := new(scratch)
			b.ReportAllocs()
			for b.Loop() {
				if answer, rest := s.respond(sc, overUDP, query, netip.Addr{}); answer == nil || rest != nil {
					b.Fatal("no answer")
				}
			}
		})
	}
}

// One query after the other over a socket.
func BenchmarkServe(b *testing.B) {
	s := meshServer(b)
	s.Start(func(err error) { b.Error(err) })
	query, err := new(dns.Msg).SetQuestion("productpage.ns1.svc.cluster.local.", dns.TypeA).Pack()
	if err != nil {
		b.Fatal(err)
	}
	c, err := net.Dial("udp", s.udp[0].LocalAddr().String())
	if err != nil {
		b.Fatal(err)
	}
	defer c.Close()
	answer := make([]byte, 512)
	b.ReportAllocs()
	for b.Loop() {
		if _, err := c.Write(query); err != nil {
			b.Fatal(err)
		}
		if _, err := c.Read(answer); err != nil {
			b.Fatal(err)
		}
	}
}

// answering is a resolver that answers every question with one address, at once.
func answering(b *testing.B) netip.AddrPort {
	resolver, err := net.ListenUDP("udp", &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1)})
	if err != nil {
		b.Fatal(err)
	}
	var serving sync.WaitGroup
	b.Cleanup(func() { resolver.Close(); serving.Wait() })
	serving.Go(func() {
		record := []byte{0xc0, headerLen, 0, 1, 0, 1, 0, 0, 0, 60, 0, 4, 192, 0, 2, 1}
		for m := make([]byte, 512); ; {
			n, from, err := resolver.ReadFromUDPAddrPort(m)
			if err != nil {
				return
			}
			m[2], m[7] = m[2]|0x80, 1
			_, _ = resolver.WriteToUDPAddrPort(append(m[:n:n], record...), from)
		}
	})
	return netip.MustParseAddrPort(resolver.LocalAddr().String())
}

// Questions that nobody has asked before, on behalf of this process.
func BenchmarkForward(b *testing.B) {
	f := newForwarder(&Upstreams{Servers: []netip.AddrPort{answering(b)}}, nil)
	n := 0
	b.ReportAllocs()
	for b.Loop() {
		var q question
		if err := q.forAddresses(fmt.Sprintf("host%d.test.", n), false); err != nil {
			b.Fatal(err)
		}
		if r, err := f.ask(b.Context(), &q); err != nil || r.answers() != 1 {
			b.Fatalf("%v, %v", r, err)
		}
		n++
	}
}

// The same of a client over UDP, one after the other.
func BenchmarkServe_Forward(b *testing.B) {
	s := listen(b, Config{Upstreams: Upstreams{Servers: []netip.AddrPort{answering(b)}}})
	s.Start(func(err error) { b.Error(err) })
	c, err := net.Dial("udp", s.udp[0].LocalAddr().String())
	if err != nil {
		b.Fatal(err)
	}
	defer c.Close()
	query, err := new(dns.Msg).SetQuestion("host00000000.test.", dns.TypeA).Pack()
	if err != nil {
		b.Fatal(err)
	}
	answer := make([]byte, 512)
	n := 0
	b.ReportAllocs()
	for b.Loop() {
		copy(query[headerLen+1+len("host"):], fmt.Sprintf("%08d", n))
		n++
		if _, err := c.Write(query); err != nil {
			b.Fatal(err)
		}
		if _, err := c.Read(answer); err != nil {
			b.Fatal(err)
		}
	}
}
