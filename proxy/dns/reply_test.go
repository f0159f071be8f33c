package dns

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/miekg/dns"
)

func replyTo(tb testing.TB, host string, list ...string) (*question, *reply) {
	tb.Helper()
	q := new(question)
	if err := q.forAddresses(host, false); err != nil {
		tb.Fatal(err)
	}
	m := new(dns.Msg).SetQuestion(host, dns.TypeA)
	for _, text := range list {
		r, err := dns.NewRR(text)
		if err != nil {
			tb.Fatal(err)
		}
		m.Answer = append(m.Answer, r)
	}
	r, err := newReply(q, m, time.Now())
	if err != nil {
		tb.Fatal(err)
	}
	return q, r
}

// put keeps an answer.
func put(c *cache, key []byte, r *reply) {
	_, _ = c.lead(key, &flight{done: make(chan struct{})}, func() (*reply, error) { return r, nil })
}

// A cache has limits of its entries and of their memory; who was asked for last
// stays.
func TestCache_Limits(t *testing.T) {
	var c cache
	_, small := replyTo(t, "small.test.", "small.test. 60 IN A 192.0.2.1")
	now := time.Now()
	key := func(i int) []byte { return fmt.Appendf(nil, "key %d", i) }
	for i := range maxKept {
		put(&c, key(i), small)
	}
	if c.get(key(0), now) == nil {
		t.Error("the first answer is gone before the cache is full")
	}
	put(&c, key(maxKept), small)
	if len(c.kept) != maxKept || c.order.Len() != maxKept {
		t.Errorf("%d answers are kept, want %d", len(c.kept), maxKept)
	}
	if c.get(key(0), now) == nil || c.get(key(1), now) != nil {
		t.Error("not the answer that was asked for the longest ago has gone")
	}
	var many []string
	for i := range 300 {
		many = append(many, fmt.Sprintf("large.test. 60 IN A 192.0.2.%d", i%250))
	}
	_, large := replyTo(t, "large.test.", many...)
	for i := range maxKept {
		put(&c, key(i), large)
	}
	size := 0
	for e := c.order.Front(); e != nil; e = e.Next() {
		size += e.Value.(*keptReply).size()
	}
	if c.bytes != size || size > maxKeptBytes || len(c.kept) == 0 {
		t.Errorf("%d answers of %d bytes are kept, which counts as %d, want at most %d", len(c.kept), size, c.bytes, maxKeptBytes)
	}
	later := *small
	later.asked = now.Add(time.Hour)
	before := len(c.kept)
	put(&c, []byte("later"), &later)
	if len(c.kept) != before-1 {
		t.Errorf("%d answers are kept, want %d: one more, and two less that nobody asked for", len(c.kept), before-1)
	}
	c.get([]byte("later"), now.Add(2*time.Hour))
	for i := range maxKept {
		c.get(key(i), now.Add(time.Hour))
	}
	if c.kept != nil || c.bytes != 0 {
		t.Errorf("%d answers of %d bytes are left after their end", len(c.kept), c.bytes)
	}
	for i := range 1000 {
		many = append(many, fmt.Sprintf("huge.test. 60 IN A 192.0.2.%d", i%250))
	}
	_, huge := replyTo(t, "huge.test.", many...)
	if put(&c, key(0), huge); c.get(key(0), now) != nil {
		t.Error("an answer of any size is kept")
	}
}

// Answers with different owners, sections and TTLs survive being kept; the time
// that has passed is taken off, and no TTL goes below zero.
func TestReply_TTLs(t *testing.T) {
	q, r := replyTo(t, "a.test.", "a.test. 100 IN CNAME b.test.", "b.test. 10 IN A 192.0.2.1")
	m := new(dns.Msg)
	if err := m.Unpack(q.appendReply(nil, r, dns.MaxMsgSize, r.asked.Add(30*time.Second))); err != nil {
		t.Fatal(err)
	}
	if m.Answer[0].Header().Ttl != 70 || m.Answer[1].Header().Ttl != 0 {
		t.Errorf("TTLs of %v, want 70 and 0", m.Answer)
	}
	if r.keep != 10*time.Second {
		t.Errorf("it is kept for %v, want 10s", r.keep)
	}
}

// What a resolver sends is encoded anew, whatever it is, and can be read and cut
// anywhere.
func FuzzReply(f *testing.F) {
	m := new(dns.Msg).SetQuestion("x.test.", dns.TypeA)
	for _, text := range []string{"x.test. 60 IN CNAME y.test.", "y.test. 60 IN A 192.0.2.1", "y.test. 60 IN TXT some text"} {
		r, err := dns.NewRR(text)
		if err != nil {
			f.Fatal(err)
		}
		m.Answer = append(m.Answer, r)
	}
	m.Extra, m.Compress = m.Answer[1:], true
	b, err := m.SetEdns0(1232, true).Pack()
	if err != nil {
		f.Fatal(err)
	}
	f.Add(b, uint16(100))
	f.Fuzz(func(t *testing.T, b []byte, limit uint16) {
		m := new(dns.Msg)
		if err := m.Unpack(b); err != nil {
			return
		}
		asked := dns.Question{Name: "x.test.", Qtype: dns.TypeA, Qclass: dns.ClassINET}
		var q question
		if err := q.forAddresses(asked.Name, false); err != nil {
			t.Fatal(err)
		}
		m.Question = []dns.Question{asked}
		m.Answer, _ = belonging(asked, m.Answer)
		r, err := newReply(&q, m, time.Now())
		if err != nil {
			return // what was read need not be possible to write
		}
		size := max(int(limit), dns.MinMsgSize)
		answer := q.appendReply(nil, r, size, time.Now())
		got := new(dns.Msg)
		if err := got.Unpack(answer); err != nil || len(answer) > size {
			t.Fatalf("%d bytes, %v for %v, want at most %d", len(answer), err, m, size)
		}
		if !got.Truncated && len(got.Answer) != len(m.Answer) {
			t.Errorf("%d answers of %d, not truncated", len(got.Answer), len(m.Answer))
		}
		for _, rr := range got.Answer {
			if rr.Header().Rrtype == dns.TypeA && !strings.EqualFold(rr.Header().Name, asked.Name) && got.Answer[0].Header().Rrtype != dns.TypeCNAME {
				t.Errorf("%v is in an answer to %v", rr, asked)
			}
		}
		r.addresses(dns.TypeA)
	})
}
