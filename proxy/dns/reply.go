package dns

import (
	"encoding/binary"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"time"

	"github.com/miekg/dns"
)

// Bounds of the time for which an answer is kept. The first is the reference's,
// the second that of RFC 2308 section 5.
const (
	maxTTL         = 24 * time.Hour
	maxNegativeTTL = 3 * time.Hour
)

// reply is the answer to a question that somebody else gave, ready to be sent to
// any client that asks the same. It is not changed.
type reply struct {
	code    int
	records []record
	body    []byte    // the records, in which names refer to a header and question in front
	asked   time.Time // when the TTLs began to run
	keep    time.Duration
}

// record is where one record stands in the body of a reply.
type record struct {
	section  uint8 // 1 to 3, as in addCount
	ttl, end uint16
}

// newReply makes a reply of the answer to q. What does not belong to the question
// is left out.
func newReply(q *question, m *dns.Msg, now time.Time) (*reply, error) {
	answer := dns.Msg{Compress: true, Answer: m.Answer, Ns: m.Ns}
	answer.Question = []dns.Question{{Name: m.Question[0].Name, Qtype: q.qtype, Qclass: q.qclass}}
	for _, rr := range m.Extra {
		switch rr.Header().Rrtype {
		case dns.TypeOPT, dns.TypeTSIG, dns.TypeSIG: // about the message that we got
		default:
			answer.Extra = append(answer.Extra, rr)
		}
	}
	packet, err := answer.Pack()
	if err != nil {
		return nil, fmt.Errorf("encode an answer: %w", err)
	}
	if len(packet) > dns.MaxMsgSize-optLen {
		return nil, fmt.Errorf("an answer takes %d bytes", len(packet))
	}
	head := headerLen + len(q.name.wire) + 4
	r := &reply{code: m.Rcode, body: slices.Clone(packet[head:]), asked: now, keep: lifetime(&answer, m.Rcode)}
	r.records = make([]record, 0, len(answer.Answer)+len(answer.Ns)+len(answer.Extra))
	at := 0
	for section, list := range [...][]dns.RR{1: answer.Answer, 2: answer.Ns, 3: answer.Extra} {
		for range list {
			at = afterName(r.body, at)
			end := at + recordHeadLen + int(be16(r.body[at+8:]))
			r.records = append(r.records, record{section: uint8(section), ttl: uint16(at + 4), end: uint16(end)})
			at = end
		}
	}
	return r, nil
}

// afterName returns where the name at a place of a message that we made ends.
func afterName(b []byte, at int) int {
	for b[at] != 0 {
		if b[at] >= pointer>>8 {
			return at + pointerLen
		}
		at += 1 + int(b[at])
	}
	return at + 1
}

// lifetime is for how long an answer may be kept: as long as its first record to
// expire, or as the zone says of names and types that are not there (RFC 2308).
func lifetime(m *dns.Msg, code int) time.Duration {
	if code != dns.RcodeSuccess && code != dns.RcodeNameError {
		return 0
	}
	keep, found := maxTTL, false
	limit := func(ttl uint32) { keep, found = min(keep, time.Duration(ttl)*time.Second), true }
	for _, rr := range slices.Concat(m.Answer, m.Ns, m.Extra) {
		limit(rr.Header().Ttl)
	}
	if len(m.Answer) > 0 && code == dns.RcodeSuccess {
		return keep
	}
	keep, found = min(keep, maxNegativeTTL), false
	for _, rr := range m.Ns {
		if soa, ok := rr.(*dns.SOA); ok {
			limit(soa.Minttl)
		}
	}
	if !found {
		return 0
	}
	return keep
}

// appendReply appends the reply as the answer to q. Records that do not fit into
// limit are left out.
func (q *question) appendReply(dst []byte, r *reply, limit int, now time.Time) []byte {
	start := len(dst)
	flags := flagResponse | flagRecursionAvailable | q.flags&(flagRecursionDesired|flagCheckingDisabled) | uint16(r.code&0xf)
	dst = q.appendQuestion(q.appendHeader(dst, flags))
	head := len(dst)
	room := limit - (head - start) - q.optSize()
	dst = append(dst, r.body[:min(len(r.body), max(room, 0))]...)
	passed := uint32(max(now.Sub(r.asked)/time.Second, 0))
	end, counts := 0, [4]int{}
	for _, record := range r.records {
		if int(record.end) > room {
			if record.section < 3 { // RFC 2181 section 9
				dst[start+2] |= flagTruncated >> 8
			}
			break
		}
		at := dst[head+int(record.ttl):]
		ttl := binary.BigEndian.Uint32(at)
		binary.BigEndian.PutUint32(at, ttl-min(ttl, passed))
		counts[record.section]++
		end = int(record.end)
	}
	dst = dst[:head+end]
	for section := 1; section < len(counts); section++ {
		addCount(dst[start:], section, counts[section])
	}
	return q.appendOPT(dst, start)
}

// expired reports whether the reply may not be kept any more.
func (r *reply) expired(now time.Time) bool { return now.Sub(r.asked) >= r.keep }

// answers is how many records answer the question.
func (r *reply) answers() int {
	n := 0
	for _, record := range r.records {
		if record.section == 1 {
			n++
		}
	}
	return n
}

// addresses are the addresses of a type in the answer.
func (r *reply) addresses(qtype uint16) []netip.Addr {
	var addrs []netip.Addr
	for _, record := range r.records {
		if record.section != 1 || be16(r.body[record.ttl-4:]) != qtype {
			continue
		}
		if addr, ok := netip.AddrFromSlice(r.body[record.ttl+6 : record.end]); ok {
			addrs = append(addrs, addr)
		}
	}
	return addrs
}

// belonging keeps the records of an answer section that a question leads to, over
// aliases, and tells at which name this ends. It ends at "" in a circle.
func belonging(q dns.Question, answers []dns.RR) (kept []dns.RR, end string) {
	end = q.Name
	names := map[string]bool{}
	for !names[fold(end)] {
		names[fold(end)] = true
		i := slices.IndexFunc(answers, func(rr dns.RR) bool {
			_, alias := rr.(*dns.CNAME)
			return alias && q.Qtype != dns.TypeCNAME && q.Qtype != dns.TypeANY && strings.EqualFold(rr.Header().Name, end)
		})
		if i < 0 {
			break
		}
		end = answers[i].(*dns.CNAME).Target
		if names[fold(end)] {
			return nil, ""
		}
	}
	for _, rr := range answers {
		if names[fold(rr.Header().Name)] || rr.Header().Rrtype == dns.TypeDNAME {
			kept = append(kept, rr)
		}
	}
	return kept, end
}

// fold is the form in which equal names are equal strings.
func fold(name string) string { return strings.ToLower(name) }
