package dns

import (
	"fmt"
	"log/slog"
	"net/netip"
	"slices"
	"sync/atomic"
	"testing"

	"github.com/miekg/dns"

	"ztunnel/proxy/workload"
)

// The header of an answer has what 7.2 of the specification says, and EDNS if the
// query has it.
func TestRespond_Header(t *testing.T) {
	s := meshServer(t)
	for _, flags := range []struct{ rd, cd, ad bool }{{true, false, false}, {false, true, true}, {false, false, false}} {
		q := new(dns.Msg).SetQuestion("productpage.", dns.TypeA)
		q.RecursionDesired, q.CheckingDisabled, q.AuthenticatedData = flags.rd, flags.cd, flags.ad
		m := query(t, s, overUDP, q)
		if m.Id != q.Id || !m.Response || m.Opcode != dns.OpcodeQuery || m.RecursionDesired != flags.rd || m.CheckingDisabled != flags.cd ||
			m.AuthenticatedData || !m.RecursionAvailable || !m.Authoritative || m.Zero {
			t.Errorf("with %+v: %v", flags, m)
		}
		if m.IsEdns0() != nil {
			t.Error("EDNS in the answer to a query without")
		}
	}
	for _, tc := range []struct {
		size, want uint16
		do         bool
		version    uint8
	}{{4096, 4096, true, 0}, {100, 512, false, 0}, {0, 512, false, 3}} {
		q := new(dns.Msg).SetQuestion("productpage.", dns.TypeA).SetEdns0(tc.size, tc.do)
		q.IsEdns0().SetVersion(tc.version)
		q.IsEdns0().Option = []dns.EDNS0{&dns.EDNS0_COOKIE{Code: dns.EDNS0COOKIE, Cookie: "0123456789abcdef"}, &dns.EDNS0_SUBNET{Code: dns.EDNS0SUBNET, Family: 1, SourceNetmask: 8, Address: []byte{10, 0, 0, 0}}}
		m := query(t, s, overUDP, q)
		opt := m.IsEdns0()
		if opt == nil || opt.UDPSize() != tc.want || opt.Do() != tc.do || opt.Version() != tc.version || len(opt.Option) > 0 || len(m.Answer) != 1 {
			t.Errorf("with %+v: %v", tc, m)
		}
	}
}

// What is wrong with a query is answered with a code alone.
func TestRespond_Errors(t *testing.T) {
	s := meshServer(t)
	for code, change := range map[int]func(*dns.Msg){
		dns.RcodeNotImplemented: func(m *dns.Msg) { m.Opcode = dns.OpcodeStatus },
		dns.RcodeServerFailure:  func(m *dns.Msg) { m.Question = append(m.Question, m.Question[0]) },
	} {
		q := new(dns.Msg).SetQuestion("productpage.", dns.TypeA).SetEdns0(1232, true)
		change(q)
		m := query(t, s, overUDP, q)
		if m.Rcode != code || m.RecursionAvailable || m.Authoritative || len(m.Answer)+len(m.Ns)+len(m.Extra) > 0 || !m.RecursionDesired {
			t.Errorf("got %v, want %s", m, dns.RcodeToString[code])
		}
	}
}

// Records that do not fit are left out.
func TestRespond_Limits(t *testing.T) {
	s := meshServer(t)
	edns := func(size uint16) *dns.Msg {
		return new(dns.Msg).SetQuestion("large.com.", dns.TypeA).SetEdns0(size, false)
	}
	for _, tc := range []struct {
		over  transport
		query *dns.Msg
		want  int
	}{
		{overTCP, new(dns.Msg).SetQuestion("large.com.", dns.TypeA), 256},
		{overUDP, edns(1232), 74},
		{overUDP, edns(512), (512 - 27 - 11) / 16},
		{overUDP, edns(0), (512 - 27 - 11) / 16},
		{overUDP, edns(65535), 256},
		{overUDP, new(dns.Msg).SetQuestion("large.com.", dns.TypeA), (4096 - 27) / 16},
	} {
		m := query(t, s, tc.over, tc.query)
		if len(m.Answer) != tc.want || m.Truncated != (tc.want < 256) {
			t.Errorf("%d answers, truncated %v, want %d", len(m.Answer), m.Truncated, tc.want)
		}
		seen := map[string]bool{}
		for _, rr := range m.Answer {
			seen[rr.(*dns.A).A.String()] = true
		}
		if len(seen) != len(m.Answer) {
			t.Errorf("%d different addresses in %d records", len(seen), len(m.Answer))
		}
	}
}

// An alias that has no room is not there, nor what it leads to.
func TestRespond_LongAlias(t *testing.T) {
	long := fmt.Sprintf("%063d.%063d.%063d.%032d", 1, 2, 3, 4)
	store := workload.NewStore(workload.Config{})
	store.Apply(workload.Update{
		Workloads: []*workload.Workload{{UID: "c", Name: "client", Namespace: "ns1", ServiceAccount: "client", Network: "nw1"}},
		Services:  []*workload.Service{service("ns1", long, "10.0.0.1")},
	})
	s := meshServer(t)
	s.config.Store = store
	q := new(dns.Msg).SetQuestion(long+".ns1.svc.cluster.local.", dns.TypeA).SetEdns0(512, false)
	if m := query(t, s, overUDP, q); !m.Truncated || len(m.Answer) > 0 {
		t.Errorf("got %v, want a truncated answer without records", m)
	}
	if m := query(t, s, overTCP, q); m.Truncated || len(m.Answer) != 2 {
		t.Errorf("got %v, want an alias and an address", m)
	}
}

func TestRespond_IPv6Off(t *testing.T) {
	s := meshServer(t)
	s.config.IPv6 = false
	if m := query(t, s, overUDP, new(dns.Msg).SetQuestion("dual.", dns.TypeAAAA)); m.Rcode != dns.RcodeSuccess || len(m.Answer) > 0 || !m.Authoritative {
		t.Errorf("got %v, want an empty answer", m)
	}
}

// Only questions about the internet are answered from the mesh.
func TestRespond_Class(t *testing.T) {
	s := meshServer(t, records(t))
	q := new(dns.Msg).SetQuestion("productpage.", dns.TypeA)
	q.Question[0].Qclass = dns.ClassCHAOS
	if m := query(t, s, overUDP, q); m.Rcode != dns.RcodeNameError {
		t.Errorf("got %v, want what the resolver says", m)
	}
}

func TestRespond_Shuffles(t *testing.T) {
	s := meshServer(t)
	first := map[string]bool{}
	for range 100 {
		m := query(t, s, overUDP, new(dns.Msg).SetQuestion("details.ns2.svc.cluster.remote.", dns.TypeA))
		first[m.Answer[0].String()] = true
	}
	if len(first) != 4 {
		t.Errorf("%d of 4 addresses came first", len(first))
	}
}

// An answer of the mesh allocates nothing.
func TestRespond_Allocations(t *testing.T) {
	s := meshServer(t)
	for _, host := range []string{"productpage.ns1.svc.cluster.local.", "www.google.com.ns1.svc.cluster.local.", "headless.ns1.", "details.ns2.svc.cluster.remote."} {
		b, err := new(dns.Msg).SetQuestion(host, dns.TypeA).SetEdns0(1232, false).Pack()
		if err != nil {
			t.Fatal(err)
		}
		sc := new(scratch)
		ask := func() {
			if answer, _ := s.respond(sc, overUDP, b, netip.Addr{}); answer == nil {
				t.Fatal("no answer")
			}
		}
		ask() // gets its memory
		if n := testing.AllocsPerRun(100, ask); n != 0 {
			t.Errorf("%s: %v allocations, want none", host, n)
		}
	}
}

// A message is taken for what the library takes it for, and every answer can be
// read: it is to this question, and fits. No message makes the server panic.
func FuzzRespond(f *testing.F) {
	add := func(m *dns.Msg) {
		b, err := m.Pack()
		if err != nil {
			f.Fatal(err)
		}
		f.Add(b)
	}
	add(new(dns.Msg).SetQuestion("there.test.", dns.TypeA).SetEdns0(1232, true))
	add(new(dns.Msg).SetQuestion("productpage.ns1.ns1.svc.cluster.local.", dns.TypeA))
	add(new(dns.Msg).SetQuestion("large.com.", dns.TypeA).SetEdns0(600, true))
	add(new(dns.Msg).SetUpdate("test."))
	add(new(dns.Msg).SetNotify("dual.ns1."))
	f.Add([]byte("\x30\x30\x00\x00\x00\x01\x00\x00\x00\x00\x00\x00\x00\x30\x30")) // no class
	f.Add(make([]byte, 12))
	before, err := new(dns.Msg).SetQuestion("before.dual.ns1.", dns.TypeAAAA).SetEdns0(4711, true).Pack()
	if err != nil {
		f.Fatal(err)
	}
	f.Add(before[:len(before)-3])
	f.Add(before[:20])
	var panics atomic.Int64
	s := meshServer(f)
	s.config.Panics, s.config.Log = &panics, slog.New(slog.DiscardHandler)
	f.Fuzz(func(t *testing.T, b []byte) {
		var q question
		if len(b) >= headerLen && be16(b[2:])&(flagResponse|flagsOpcode) == 0 && q.isPlain(b) {
			m := new(dns.Msg)
			if err := m.Unpack(b); err != nil || len(m.Question) != 1 || lowerASCII(m.Question[0].Name) != string(q.name.text)+"." && m.Question[0].Name != "." ||
				m.Question[0].Qtype != q.qtype || m.Question[0].Qclass != q.qclass || len(m.Answer)+len(m.Ns) > 0 {
				t.Fatalf("%x is plain, but the library has %v, %v", b, m, err)
			}
			opt := m.IsEdns0()
			if (opt != nil) != q.edns || opt != nil && (max(opt.UDPSize(), 512) != q.size || opt.Do() != q.dnssec || opt.Version() != q.version) {
				t.Fatalf("%x: EDNS %+v, the library has %v", b, q, opt)
			}
		}
		for over := range transports {
			sc := new(scratch)
			s.respond(sc, over, before, netip.Addr{}) // nothing is left of it
			answer, rest := s.respond(sc, over, b, netip.Addr{})
			if rest != nil {
				answer = s.finish(t.Context(), rest)
			}
			if panics.Load() > 0 {
				t.Fatalf("panic at %x", b)
			}
			if answer != nil {
				checkAnswer(t, b, answer, over)
			}
		}
	})
}

func checkAnswer(t *testing.T, b, answer []byte, over transport) {
	t.Helper()
	m, q := new(dns.Msg), new(dns.Msg)
	if err := m.Unpack(answer); err != nil || !m.Response || m.Id != be16(b) {
		t.Fatalf("answer %v, %v to %x", m, err, b)
	}
	if err := q.Unpack(b); err != nil || m.Rcode == dns.RcodeFormatError { // the library is generous
		if m.Rcode != dns.RcodeFormatError || len(answer) != headerLen {
			t.Errorf("answer %v to %x, want FORMERR and nothing else", m, b)
		}
		return
	}
	if len(m.Question) > 0 && !slices.Equal(m.Question, q.Question[:1]) {
		t.Errorf("answer %v to %v", m, q)
	}
	if opt := q.IsEdns0(); over == overUDP && len(answer) > sizeWithoutEDNS && (opt == nil || len(answer) > max(int(opt.UDPSize()), 512)) {
		t.Errorf("%d bytes for %v", len(answer), q)
	}
}
