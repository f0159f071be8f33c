package dns

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/miekg/dns"

	"ztunnel/proxy/proxytest"
)

// forwarding is a server without a mesh that asks these resolvers, in a short time.
func forwarding(t *testing.T, change func(*Upstreams), servers ...netip.AddrPort) *Server {
	t.Helper()
	u := Upstreams{Servers: servers, Timeout: 300 * time.Millisecond, Attempts: 1}
	if change != nil {
		change(&u)
	}
	return listen(t, Config{Upstreams: u})
}

// A message that is not the answer is as good as none; the answer after it counts.
func TestForward_StrayMessages(t *testing.T) {
	packets, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	var serving sync.WaitGroup
	t.Cleanup(func() { packets.Close(); serving.Wait() })
	serving.Go(func() {
		for b := make([]byte, 1500); ; {
			n, from, err := packets.ReadFrom(b)
			if err != nil {
				return
			}
			q := new(dns.Msg)
			if err := q.Unpack(b[:n]); err != nil {
				t.Error(err)
				return
			}
			good := new(dns.Msg).SetReply(q)
			good.Answer = []dns.RR{rr(t, q.Question[0].Name+" 60 IN A 192.0.2.1")}
			for _, change := range []func(m *dns.Msg){
				func(m *dns.Msg) { m.Id++ },
				func(m *dns.Msg) { m.Response = false },
				func(m *dns.Msg) { m.Opcode = dns.OpcodeNotify },
				func(m *dns.Msg) { m.Question[0].Name = "evil.test." },
				func(m *dns.Msg) { m.Question[0].Qtype = dns.TypeAAAA },
				func(m *dns.Msg) { m.Question = nil },
				func(m *dns.Msg) {},
			} {
				m := good.Copy()
				m.Answer = []dns.RR{rr(t, q.Question[0].Name+" 60 IN A 192.0.2.66")}
				change(m)
				if m.Id == q.Id && m.Response && m.Opcode == q.Opcode && len(m.Question) == 1 && m.Question[0] == q.Question[0] {
					m = good
				}
				out, err := m.Pack()
				if err != nil {
					t.Error(err)
					return
				}
				packets.WriteTo([]byte{1, 2, 3}, from)
				packets.WriteTo(out, from)
			}
		}
	})
	s := forwarding(t, nil, netip.MustParseAddrPort(packets.LocalAddr().String()))
	m := query(t, s, overUDP, new(dns.Msg).SetQuestion("There.test.", dns.TypeA))
	if got := text(m); len(got) != 1 || !strings.HasSuffix(got[0], "192.0.2.1") {
		t.Errorf("got %v, want the one answer that is ours", got)
	}
}

// Whatever a resolver answers, the client gets an answer to its question in time,
// and others are not concerned.
func TestForward_HostileResolvers(t *testing.T) {
	answer := func(list ...string) func(*dns.Msg) *dns.Msg {
		return func(m *dns.Msg) *dns.Msg {
			for _, r := range list {
				m.Answer = append(m.Answer, rr(t, r))
			}
			return m
		}
	}
	endless := atomic.Int64{}
	for name, tc := range map[string]struct {
		hook func(*dns.Msg) *dns.Msg
		code int
		want []string
	}{
		"always truncated":   {func(m *dns.Msg) *dns.Msg { m.Truncated = true; return m }, dns.RcodeServerFailure, nil},
		"silent":             {func(*dns.Msg) *dns.Msg { return nil }, dns.RcodeServerFailure, nil},
		"alias to itself":    {answer("x.test. 60 IN CNAME x.test."), dns.RcodeServerFailure, nil},
		"circle of aliases":  {answer("x.test. 60 IN CNAME y.test.", "y.test. 60 IN CNAME X.test."), dns.RcodeServerFailure, nil},
		"answers for others": {answer("x.test. 60 IN A 192.0.2.1", "web.ns1.svc.cluster.local. 60 IN A 192.0.2.66", "y.test. 60 IN A 192.0.2.66"), dns.RcodeSuccess, []string{"x.test. A 192.0.2.1"}},
		"endless aliases": {func(m *dns.Msg) *dns.Msg {
			m.Answer = append(m.Answer, rr(t, fmt.Sprintf("%s 60 IN CNAME n%d.test.", m.Question[0].Name, endless.Add(1))))
			return m
		}, dns.RcodeServerFailure, nil},
	} {
		t.Run(name, func(t *testing.T) {
			s := forwarding(t, nil, upstream(t, func(_ string, q *dns.Msg) *dns.Msg { return tc.hook(new(dns.Msg).SetReply(q)) }))
			m := query(t, s, overUDP, new(dns.Msg).SetQuestion("x.test.", dns.TypeA))
			if got := text(m); m.Rcode != tc.code || !slices.Equal(got, tc.want) {
				t.Errorf("got %v, want %s %v", m, dns.RcodeToString[tc.code], tc.want)
			}
			if n := endless.Load(); n > maxAliases+2 {
				t.Errorf("%d aliases were followed", n)
			}
		})
	}
}

// An alias that a resolver has not followed is followed, all of it in the answer.
func TestForward_Aliases(t *testing.T) {
	s := forwarding(t, nil, records(t, "a.test. 60 IN CNAME b.test.", "b.test. 60 IN CNAME c.test.", "c.test. 60 IN A 192.0.2.1"))
	m := query(t, s, overUDP, new(dns.Msg).SetQuestion("a.test.", dns.TypeA))
	if got, want := text(m), []string{"a.test. CNAME b.test.", "b.test. CNAME c.test.", "c.test. A 192.0.2.1"}; !slices.Equal(got, want) {
		t.Errorf("got %q, want %q", got, want)
	}
	m = query(t, s, overUDP, new(dns.Msg).SetQuestion("a.test.", dns.TypeAAAA)) // c has none
	if got, want := text(m), []string{"a.test. CNAME b.test.", "b.test. CNAME c.test."}; !slices.Equal(got, want) || len(m.Ns) != 1 {
		t.Errorf("got %v, want %q and the SOA record", m, want)
	}
	m = query(t, s, overUDP, new(dns.Msg).SetQuestion("a.test.", dns.TypeCNAME))
	if got, want := text(m), []string{"a.test. CNAME b.test."}; !slices.Equal(got, want) {
		t.Errorf("got %q, want %q", got, want)
	}
}

// An answer that has no room over UDP comes over TCP, and is cut for the client.
func TestForward_Truncated(t *testing.T) {
	var list []string
	for i := range 300 {
		list = append(list, fmt.Sprintf("big.test. 60 IN A 192.0.%d.%d", i/250, i%250))
	}
	var overTCPAsked atomic.Int64
	known := func(q *dns.Msg) *dns.Msg {
		m := new(dns.Msg).SetReply(q)
		for _, r := range list {
			m.Answer = append(m.Answer, rr(t, r))
		}
		return m
	}
	s := forwarding(t, nil, upstream(t, func(network string, q *dns.Msg) *dns.Msg {
		if network == "tcp" {
			overTCPAsked.Add(1)
		}
		return known(q)
	}))
	q := new(dns.Msg).SetQuestion("big.test.", dns.TypeA)
	if m := query(t, s, overTCP, q); len(m.Answer) != 300 || m.Truncated {
		t.Errorf("%d answers over TCP, truncated %v, want all", len(m.Answer), m.Truncated)
	}
	q.SetEdns0(600, true)
	m := query(t, s, overUDP, q)
	if m.Compress = true; len(m.Answer) != (600-12-14-11)/16 || !m.Truncated || m.Len() > 600 {
		t.Errorf("%d answers in %d bytes, truncated %v, want what fits into 600", len(m.Answer), m.Len(), m.Truncated)
	}
	if opt := m.IsEdns0(); opt == nil || opt.UDPSize() != 600 || !opt.Do() {
		t.Errorf("EDNS %v, want the client's", opt)
	}
	if n := overTCPAsked.Load(); n != 2 {
		t.Errorf("%d questions over TCP, want 2: with DNSSEC and without", n)
	}
}

// The sections of an answer are kept, what it says of the message is not.
func TestForward_Sections(t *testing.T) {
	s := forwarding(t, nil, upstream(t, func(_ string, q *dns.Msg) *dns.Msg {
		m := new(dns.Msg).SetReply(q)
		m.Authoritative, m.AuthenticatedData = true, true
		m.Answer = []dns.RR{rr(t, "bing.test. 60 IN MX 10 mail.test.")}
		m.Ns = []dns.RR{rr(t, "bing.test. 60 IN NS ns.test.")}
		m.Extra = []dns.RR{rr(t, "mail.test. 60 IN A 192.0.2.1")}
		m.SetEdns0(4000, true)
		return m
	}))
	m := query(t, s, overUDP, new(dns.Msg).SetQuestion("bing.test.", dns.TypeMX))
	if len(m.Answer) != 1 || len(m.Ns) != 1 || len(m.Extra) != 1 || m.Authoritative || m.AuthenticatedData || !m.RecursionAvailable {
		t.Errorf("got %v, want one record in each section, and ra alone", m)
	}
}

// Codes come back; one resolver that answers with an error is not the last word.
func TestForward_CodesAndOtherResolvers(t *testing.T) {
	code := func(code int) netip.AddrPort {
		return upstream(t, func(_ string, q *dns.Msg) *dns.Msg { return new(dns.Msg).SetRcode(q, code) })
	}
	closed, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	closed.Close()
	gone := netip.MustParseAddrPort(closed.LocalAddr().String())
	mute, _ := silent(t)
	good := records(t, "there.test. 60 IN A 192.0.2.1")
	for _, tc := range []struct {
		servers []netip.AddrPort
		want    int
	}{
		{[]netip.AddrPort{code(dns.RcodeRefused)}, dns.RcodeRefused},
		{[]netip.AddrPort{code(dns.RcodeServerFailure)}, dns.RcodeServerFailure},
		{[]netip.AddrPort{code(dns.RcodeNotImplemented)}, dns.RcodeNotImplemented},
		{[]netip.AddrPort{code(dns.RcodeRefused), good}, dns.RcodeSuccess},
		{[]netip.AddrPort{gone, good}, dns.RcodeSuccess},
		{[]netip.AddrPort{mute, good}, dns.RcodeSuccess},
		{[]netip.AddrPort{code(dns.RcodeNameError), good}, dns.RcodeNameError},
		{[]netip.AddrPort{gone}, dns.RcodeServerFailure},
		{[]netip.AddrPort{mute}, dns.RcodeServerFailure},
		{nil, dns.RcodeServerFailure},
	} {
		s := forwarding(t, nil, tc.servers...)
		if m := query(t, s, overUDP, new(dns.Msg).SetQuestion("there.test.", dns.TypeA)); m.Rcode != tc.want || m.Authoritative {
			t.Errorf("with %v: %s, want %s", tc.servers, dns.RcodeToString[m.Rcode], dns.RcodeToString[tc.want])
		}
	}
}

// The resolver that answered last is asked first.
func TestForward_StaysWithTheGoodResolver(t *testing.T) {
	mute, asked := silent(t)
	s := forwarding(t, nil, mute, records(t, "a.test. 60 IN A 192.0.2.1", "b.test. 60 IN A 192.0.2.1"))
	for _, name := range []string{"a.test.", "b.test."} {
		if m := query(t, s, overUDP, new(dns.Msg).SetQuestion(name, dns.TypeA)); len(m.Answer) != 1 {
			t.Fatalf("got %v, want an address", m)
		}
	}
	if n := asked.Load(); n != 1 {
		t.Errorf("the silent resolver was asked %d times, want once", n)
	}
}

// Silence is answered by another try.
func TestForward_Attempts(t *testing.T) {
	var asked atomic.Int64
	s := forwarding(t, func(u *Upstreams) { u.Attempts = 3 }, upstream(t, func(_ string, q *dns.Msg) *dns.Msg {
		if asked.Add(1) < 3 {
			return nil
		}
		return new(dns.Msg).SetReply(q)
	}))
	if m := query(t, s, overUDP, new(dns.Msg).SetQuestion("there.test.", dns.TypeA)); m.Rcode != dns.RcodeSuccess || asked.Load() != 3 {
		t.Errorf("%s after %d tries, want success after 3", dns.RcodeToString[m.Rcode], asked.Load())
	}
}

// Updates and notifications are handed on as they are, with their records.
func TestForward_UpdateAndNotify(t *testing.T) {
	for _, opcode := range []int{dns.OpcodeUpdate, dns.OpcodeNotify} {
		for over := range transports {
			got := make(chan *dns.Msg, 1)
			s := forwarding(t, nil, upstream(t, func(network string, q *dns.Msg) *dns.Msg {
				if network != over.String() {
					t.Errorf("forwarded over %s, want %s", network, over)
				}
				got <- q.Copy()
				return new(dns.Msg).SetReply(q)
			}))
			m := new(dns.Msg).SetUpdate("test.")
			m.Insert([]dns.RR{rr(t, "new.test. 60 IN A 192.0.2.1"), rr(t, "new.test. 60 IN A 192.0.2.2")})
			m.Opcode = opcode
			answer := query(t, s, over, m)
			if answer.Id != m.Id || answer.Opcode != opcode || answer.Rcode != dns.RcodeSuccess {
				t.Errorf("answer %v, want success", answer)
			}
			if q := <-got; len(q.Ns) != 2 || q.Opcode != opcode {
				t.Errorf("the resolver got %v, want two records", q)
			}
		}
	}
	s := meshServer(t) // what is ours nobody changes
	notify := new(dns.Msg).SetNotify("productpage.ns1.svc.cluster.local.")
	if m := query(t, s, overUDP, notify); m.Rcode != dns.RcodeNotImplemented {
		t.Errorf("a notification about a name of the mesh: %v, want NOTIMP", m)
	}
}

// Names that mean the same everywhere, and those of the hosts file, need no resolver.
func TestForward_WithoutAsking(t *testing.T) {
	hosts, err := parseHosts(strings.NewReader("# names\n127.0.0.9 Box box.lan # ours\nfd00::9 box\nnonsense box\n192.0.2.1\nfe80::1%eth0 link\n"))
	if err != nil {
		t.Fatal(err)
	}
	s := forwarding(t, func(u *Upstreams) { u.Hosts = hosts }, records(t, "box.lan. 60 IN AAAA fd00::77"))
	for _, tc := range []struct {
		name  string
		qtype uint16
		code  int
		want  []string
	}{
		{"localhost.", dns.TypeA, dns.RcodeSuccess, []string{"localhost. A 127.0.0.1"}},
		{"localhost.", dns.TypeAAAA, dns.RcodeSuccess, []string{"localhost. AAAA ::1"}},
		{"a.localhost.", dns.TypeA, dns.RcodeSuccess, []string{"a.localhost. A 127.0.0.1"}},
		{"localhost.", dns.TypeMX, dns.RcodeSuccess, nil},
		{"x.invalid.", dns.TypeA, dns.RcodeNameError, nil},
		{"x.onion.", dns.TypeAAAA, dns.RcodeNameError, nil},
		{"box.", dns.TypeA, dns.RcodeSuccess, []string{"box. A 127.0.0.9"}},
		{"box.", dns.TypeAAAA, dns.RcodeSuccess, []string{"box. AAAA fd00::9"}},
		{"box.lan.", dns.TypeAAAA, dns.RcodeSuccess, []string{"box.lan. AAAA fd00::77"}}, // of the resolver
		{"link.", dns.TypeAAAA, dns.RcodeNameError, nil},
	} {
		if m := query(t, s, overUDP, new(dns.Msg).SetQuestion(tc.name, tc.qtype)); m.Rcode != tc.code || !slices.Equal(text(m), tc.want) {
			t.Errorf("%s %s: %v, want %s %v", tc.name, dns.Type(tc.qtype), m, dns.RcodeToString[tc.code], tc.want)
		}
	}
}

// Answers are kept for as long as they live, and their TTLs run.
func TestForward_Cache(t *testing.T) {
	var asked atomic.Int64
	s := forwarding(t, nil, upstream(t, func(_ string, q *dns.Msg) *dns.Msg {
		asked.Add(1)
		m := new(dns.Msg).SetReply(q)
		switch host, _, _ := strings.Cut(q.Question[0].Name, "."); host {
		case "long":
			m.Answer = []dns.RR{rr(t, "long.test. 600 IN A 192.0.2.1"), rr(t, "long.test. 300 IN A 192.0.2.2")}
		case "zero":
			m.Answer = []dns.RR{rr(t, "zero.test. 0 IN A 192.0.2.1")}
		case "missing":
			m.Rcode = dns.RcodeNameError
			m.Ns = []dns.RR{rr(t, "test. 900 IN SOA ns.test. host.test. 1 60 60 60 30")}
		case "nodata":
			m.Ns = []dns.RR{rr(t, "test. 20 IN SOA ns.test. host.test. 1 60 60 60 30")}
		case "bare":
			m.Rcode = dns.RcodeNameError
		case "failing":
			m.Rcode = dns.RcodeServerFailure
		}
		return m
	}))
	for _, tc := range []struct {
		host string
		keep time.Duration
	}{{"long", 300 * time.Second}, {"zero", 0}, {"missing", 30 * time.Second}, {"nodata", 20 * time.Second}, {"bare", 0}, {"failing", 0}} {
		q := new(dns.Msg).SetQuestion(tc.host+".test.", dns.TypeA)
		first := query(t, s, overUDP, q)
		before := asked.Load()
		q.Question[0].Name = strings.ToUpper(q.Question[0].Name)
		second := query(t, s, overUDP, q)
		if second.Rcode != first.Rcode || len(second.Answer) != len(first.Answer) || len(second.Ns) != len(first.Ns) || second.Question[0].Name != q.Question[0].Name {
			t.Errorf("%s: first %v, then %v", tc.host, first, second)
		}
		if kept := asked.Load() == before; kept != (tc.keep > 0) {
			t.Errorf("%s: kept %v, want %v", tc.host, kept, tc.keep > 0)
		}
		if tc.keep == 0 {
			continue
		}
		age(t, s, q, tc.keep-time.Second)
		third := query(t, s, overUDP, q)
		if asked.Load() != before || slices.Concat(third.Answer, third.Ns)[0].Header().Ttl >= slices.Concat(first.Answer, first.Ns)[0].Header().Ttl {
			t.Errorf("%s: %v just before its end, asked %v", tc.host, third, asked.Load() != before)
		}
		age(t, s, q, time.Second)
		query(t, s, overUDP, q)
		if asked.Load() == before {
			t.Errorf("%s: still kept after its end", tc.host)
		}
	}
}

// age makes a kept answer older.
func age(t *testing.T, s *Server, m *dns.Msg, by time.Duration) {
	t.Helper()
	b, err := m.Pack()
	if err != nil {
		t.Fatal(err)
	}
	var q question
	q.read(b)
	c := s.forwarder.kept.Load()
	c.mu.Lock()
	defer c.mu.Unlock()
	e := c.kept[string(q.appendKey(nil))]
	if e == nil {
		t.Fatalf("%v is not kept", m.Question)
	}
	k := e.Value.(*keptReply)
	older := *k.reply
	older.asked = older.asked.Add(-by)
	k.reply = &older
}

// forwardingSlowly returns a server whose resolver counts what it is asked, and
// answers when answer is closed.
func forwardingSlowly(t *testing.T) (s *Server, asked *atomic.Int64, answer chan struct{}) {
	t.Helper()
	asked, answer = new(atomic.Int64), make(chan struct{})
	s = forwarding(t, func(u *Upstreams) { u.Timeout = 5 * time.Second }, upstream(t, func(_ string, q *dns.Msg) *dns.Msg {
		asked.Add(1)
		<-answer
		m := new(dns.Msg).SetReply(q)
		m.Answer = []dns.RR{rr(t, q.Question[0].Name+" 60 IN A 192.0.2.1")}
		return m
	}))
	return s, asked, answer
}

// The same question is asked once for all who ask it at the same time, and asked
// again for the others if the one who did has gone.
func TestForward_SameQuestion(t *testing.T) {
	s, asked, answer := forwardingSlowly(t)
	ctx, leave := context.WithCancel(t.Context())
	left := make(chan error, 1)
	go func() {
		_, err := s.Lookup(ctx, "there.test", false)
		left <- err
	}()
	proxytest.Until(t, "the first is waiting", func() bool { return asked.Load() == 1 })
	var others sync.WaitGroup
	for range 10 {
		others.Go(func() {
			if addrs, err := s.Lookup(t.Context(), "there.test", false); err != nil || len(addrs) != 1 {
				t.Errorf("Lookup = %v, %v, want an address", addrs, err)
			}
		})
	}
	proxytest.Until(t, "the others are waiting", func() bool { return s.outstanding.Load() == 11 })
	leave()
	if err := <-left; err == nil {
		t.Error("Lookup after the end of its context succeeded")
	}
	proxytest.Until(t, "another one asks", func() bool { return asked.Load() == 2 })
	close(answer)
	others.Wait()
	if n := asked.Load(); n != 2 {
		t.Errorf("the resolver was asked %d times, want twice", n)
	}
	if n := len(s.forwarder.cache().flights); n != 0 {
		t.Errorf("%d questions are left", n)
	}
}
