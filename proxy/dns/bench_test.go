package dns

import (
	"net"
	"net/netip"
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
