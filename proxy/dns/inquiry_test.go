package dns

import (
	"fmt"
	"net"
	"net/netip"
	"os"
	"sync/atomic"
	"testing"
	"time"

	"github.com/miekg/dns"

	"ztunnel/proxy/needs"
	"ztunnel/proxy/proxytest"
)

// running reports whether there is a goroutine that takes answers.
func (w *inquiries) running() bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.poll != nil
}

// A query whose first answer will do is answered without another goroutine than
// the one that takes answers; that ends when there is nothing to do for a while,
// and leaves neither sockets nor memory.
func TestInquiries_Idle(t *testing.T) {
	var opened atomic.Int64
	s := forwarding(t, func(u *Upstreams) {
		u.OpenUDP = func(dst netip.Addr, fds []int) (int, error) {
			opened.Add(int64(len(fds)))
			return openUDP(dst, fds)
		}
	}, upstream(t, func(_ string, q *dns.Msg) *dns.Msg { return new(dns.Msg).SetReply(q) }))
	s.config.Go = func(func()) { t.Error("a goroutine was asked for") }
	before := descriptors(t)
	for round := range 2 {
		if s.inquiries.running() {
			t.Error("it runs with nothing to do")
		}
		for i := range 6 {
			query(t, s, overUDP, new(dns.Msg).SetQuestion(fmt.Sprintf("n%d.round%d.test.", i, round), dns.TypeA))
		}
		if !s.inquiries.running() {
			t.Error("it does not run after a query")
		}
		if n, want := opened.Swap(0), int64(1+2*maxSpare); n != want {
			t.Errorf("%d sockets for 6 queries, want %d: one, and then several at once", n, want)
		}
		proxytest.Until(t, "it ends", func() bool { return !s.inquiries.running() })
		proxytest.Until(t, "no sockets are left", func() bool { return descriptors(t) <= before })
	}
	if n, held := s.outstanding.Load(), len(s.forwarder.sockets); n != 0 || held != 0 {
		t.Errorf("%d queries and %d sockets are left", n, held)
	}
}

// descriptors is how many the process has open.
func descriptors(t *testing.T) int {
	t.Helper()
	list, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Fatal(err)
	}
	return len(list)
}

// The end of the server is the end of what it waits for.
func TestInquiries_Stop(t *testing.T) {
	mute, asked := silent(t)
	s := forwarding(t, func(u *Upstreams) { u.Timeout = time.Minute }, mute)
	s.Start(func(err error) { t.Error(err) })
	client, err := net.Dial("udp", s.udp[0].LocalAddr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer client.Close()
	for i := range 5 {
		b, err := new(dns.Msg).SetQuestion(fmt.Sprintf("n%d.test.", i), dns.TypeA).Pack()
		if err != nil {
			t.Fatal(err)
		}
		if _, err := client.Write(b); err != nil {
			t.Fatal(err)
		}
	}
	proxytest.Until(t, "all are asked", func() bool { return asked.Load() == 5 })
	if err := s.Close(); err != nil {
		t.Error(err)
	}
	if n, held, flights := s.outstanding.Load(), len(s.forwarder.sockets), len(s.forwarder.cache().flights); n+int64(held+flights) != 0 {
		t.Errorf("%d queries, %d sockets and %d questions are left", n, held, flights)
	}
	if s.inquiries.running() || s.inquiries.spare != nil {
		t.Error("it has not ended")
	}
	if _, err := s.inquiries.socket(mute.Addr()); err == nil {
		t.Error("there are sockets after the end")
	}
}

// Who asks the same meanwhile waits for the same answer.
func TestInquiries_SameQuestion(t *testing.T) {
	s, asked, answer := forwardingSlowly(t)
	got := make(chan *dns.Msg, 3)
	for range cap(got) {
		go func() { got <- query(t, s, overUDP, new(dns.Msg).SetQuestion("there.test.", dns.TypeA)) }()
	}
	proxytest.Until(t, "all wait", func() bool { return s.outstanding.Load() == 3 && asked.Load() == 1 })
	close(answer)
	for range cap(got) {
		if m := <-got; len(m.Answer) != 1 {
			t.Errorf("got %v, want one address", m)
		}
	}
	if n := asked.Load(); n != 1 {
		t.Errorf("the resolver was asked %d times, want once", n)
	}
}

// Where no socket can be had, the query fails; a resolver with IPv6 is asked with
// sockets for that.
func TestInquiries_Sockets(t *testing.T) {
	s := forwarding(t, func(u *Upstreams) {
		u.OpenUDP = func(netip.Addr, []int) (int, error) { return 0, os.ErrPermission }
	}, netip.MustParseAddrPort("127.0.0.1:53"))
	if m := query(t, s, overUDP, new(dns.Msg).SetQuestion("there.test.", dns.TypeA)); m.Rcode != dns.RcodeServerFailure {
		t.Errorf("got %v without a socket, want SERVFAIL", m)
	}
	packets, err := net.ListenPacket("udp", "[::1]:0")
	if err != nil {
		needs.Missing(t, fmt.Sprintf("this test needs a socket for IPv6: %v", err))
	}
	six := &dns.Server{PacketConn: packets, Handler: dns.HandlerFunc(func(w dns.ResponseWriter, q *dns.Msg) { w.WriteMsg(new(dns.Msg).SetReply(q)) })}
	started, ended := make(chan struct{}), make(chan struct{})
	six.NotifyStartedFunc = func() { close(started) }
	go func() { defer close(ended); six.ActivateAndServe() }()
	<-started
	defer func() { six.Shutdown(); <-ended }()
	var gone atomic.Bool
	four := upstream(t, func(_ string, q *dns.Msg) *dns.Msg {
		if gone.Load() {
			return new(dns.Msg).SetRcode(q, dns.RcodeRefused)
		}
		return new(dns.Msg).SetReply(q)
	})
	s = forwarding(t, nil, four, netip.MustParseAddrPort(packets.LocalAddr().String()))
	for i := range 8 { // changes while there are sockets for the other
		gone.Store(i >= 4)
		m := query(t, s, overUDP, new(dns.Msg).SetQuestion(fmt.Sprintf("n%d.test.", i), dns.TypeA))
		if want := int32(min(i/4, 1)); m.Rcode != dns.RcodeSuccess || s.forwarder.good.Load() != want {
			t.Errorf("query %d: %s of resolver %d, want success of %d", i, dns.RcodeToString[m.Rcode], s.forwarder.good.Load(), want)
		}
	}
}
