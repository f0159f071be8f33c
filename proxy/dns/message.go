package dns

import (
	"encoding/binary"
	"slices"

	"github.com/miekg/dns"
)

// Of the header of a message, RFC 1035 section 4.1.1.
const (
	headerLen = 12 // bytes

	flagResponse           = 1 << 15
	flagAuthoritative      = 1 << 10
	flagTruncated          = 1 << 9
	flagRecursionDesired   = 1 << 8
	flagRecursionAvailable = 1 << 7
	flagCheckingDisabled   = 1 << 4
	flagsOpcode            = 0xf << 11
)

// Of the OPT record, RFC 6891 section 6.1.2.
const (
	optLen = 11 // bytes without options
	flagDO = 1 << 15
)

// sizeWithoutEDNS is the largest answer over UDP to a client that names no size.
// It is the reference's; RFC 1035 has 512.
const sizeWithoutEDNS = 4096

// question is what a client asks for.
type question struct {
	id, flags     uint16 // as received
	name          name
	qtype, qclass uint16
	edns          bool // there is an OPT record, with:
	version       uint8
	dnssec        bool
	size          uint16 // of the largest answer over UDP
}

// clone returns a copy that shares no memory with q.
func (q *question) clone() question {
	c := *q
	c.name = name{wire: slices.Clone(q.name.wire), text: slices.Clone(q.name.text), starts: slices.Clone(q.name.starts)}
	return c
}

// verdict says what is to become of a message.
type verdict uint8

// The verdicts.
const (
	ignored        verdict = iota // no message, or an answer
	malformed                     // FORMERR
	notImplemented                // NOTIMP
	refused                       // SERVFAIL
	foreign                       // to be forwarded as it is: more than a query
	plain                         // a query with one question and nothing else
)

func be16(b []byte) uint16 { return binary.BigEndian.Uint16(b) }

// read reads a message into q. After the verdicts foreign and plain it is
// complete. The name is that of the first question, and empty if there is none or
// the message is malformed.
func (q *question) read(packet []byte) verdict {
	if len(packet) < headerLen {
		return ignored
	}
	q.id, q.flags = be16(packet), be16(packet[2:])
	q.edns, q.version, q.dnssec, q.size = false, 0, false, 0
	q.name.wire = q.name.wire[:0]
	if q.flags&flagResponse != 0 {
		return ignored
	}
	if q.isPlain(packet) {
		return plain
	}
	return q.readOther(packet)
}

// opcode is the kind of the message.
func (q *question) opcode() int { return int(q.flags & flagsOpcode >> 11) }

// isPlain reads the message if it is what nearly all are: one question, at most
// an OPT record, and nothing behind them.
func (q *question) isPlain(packet []byte) bool {
	// QDCOUNT, ANCOUNT, NSCOUNT, ARCOUNT
	if q.opcode() != dns.OpcodeQuery || be16(packet[4:]) != 1 || be16(packet[6:])|be16(packet[8:]) != 0 || be16(packet[10:]) > 1 {
		return false
	}
	if !q.readQuestion(packet[headerLen:]) {
		return false
	}
	rest := packet[headerLen+len(q.name.wire)+4:]
	if be16(packet[10:]) == 0 {
		return len(rest) == 0
	}
	return q.readOPT(rest)
}

// readQuestion reads the question at the beginning of b.
func (q *question) readQuestion(b []byte) bool {
	n := q.name.parse(b)
	if n == 0 || len(b) < n+4 {
		return false
	}
	q.qtype, q.qclass = be16(b[n:]), be16(b[n+2:])
	return true
}

// readOPT reads an OPT record that is all of b: root, type, size, extended code,
// version, flags, options.
func (q *question) readOPT(b []byte) bool {
	if len(b) < optLen || b[0] != 0 || be16(b[1:]) != dns.TypeOPT || int(be16(b[9:])) != len(b)-optLen {
		return false
	}
	for options := b[optLen:]; len(options) > 0; {
		if len(options) < 4 || int(be16(options[2:])) > len(options)-4 {
			return false
		}
		if code := be16(options); code != dns.EDNS0COOKIE && code != dns.EDNS0PADDING {
			return false // of others the library checks the content
		}
		options = options[4+be16(options[2:]):]
	}
	q.setEDNS(be16(b[3:]), b[6], be16(b[7:])&flagDO != 0)
	return true
}

func (q *question) setEDNS(size uint16, version uint8, dnssec bool) {
	q.edns, q.size, q.version, q.dnssec = true, max(size, dns.MinMsgSize), version, dnssec
}

// readOther reads a message that is not plain, or says what is wrong with it.
func (q *question) readOther(packet []byte) verdict {
	q.name.wire = q.name.wire[:0] // of what is not plain after all
	q.edns = false
	m := new(dns.Msg)
	if err := m.Unpack(packet); err != nil {
		return malformed
	}
	// The library gives what there is when the header counts too much.
	for i, n := range [...]int{len(m.Question), len(m.Answer), len(m.Ns), len(m.Extra)} {
		if int(be16(packet[4+2*i:])) != n {
			return malformed
		}
	}
	if len(m.Question) > 0 && !q.readFirstQuestion(packet) {
		return malformed
	}
	switch q.opcode() {
	case dns.OpcodeQuery, dns.OpcodeNotify, dns.OpcodeUpdate:
	default:
		return notImplemented
	}
	if len(m.Question) != 1 {
		return refused
	}
	opt := m.IsEdns0()
	if opt != nil {
		q.setEDNS(opt.UDPSize(), opt.Version(), opt.Do())
	}
	if q.opcode() != dns.OpcodeQuery || len(m.Answer)+len(m.Ns) > 0 || len(m.Extra) > 1 || len(m.Extra) == 1 && opt == nil {
		return foreign
	}
	return plain
}

// readFirstQuestion reads the first question of a message of any kind. The
// library does not mind one without type or class.
func (q *question) readFirstQuestion(packet []byte) bool {
	text, end, err := dns.UnpackDomainName(packet, headerLen)
	if err != nil || len(packet) < end+4 {
		return false
	}
	wire := make([]byte, maxName, maxName+4)
	n, err := dns.PackDomainName(text, wire, 0, nil, false)
	if err != nil || !q.readQuestion(append(wire[:n], packet[end:end+4]...)) {
		q.name.wire = q.name.wire[:0]
		return false
	}
	return true
}

// limit is the size of the largest answer.
func (q *question) limit(tcp bool) int {
	switch {
	case tcp:
		return dns.MaxMsgSize
	case q.edns:
		return int(q.size)
	}
	return sizeWithoutEDNS
}

// asksForAddresses reports whether it asks for addresses in the internet.
func (q *question) asksForAddresses() bool {
	return q.opcode() == dns.OpcodeQuery && (q.qtype == dns.TypeA || q.qtype == dns.TypeAAAA) &&
		(q.qclass == dns.ClassINET || q.qclass == dns.ClassANY)
}

// appendError appends an answer with a code and no records.
func (q *question) appendError(dst []byte, code int) []byte {
	flags := flagResponse | q.flags&(flagsOpcode|flagRecursionDesired|flagCheckingDisabled) | uint16(code)
	dst = q.appendHeader(dst, flags)
	if len(q.name.wire) > 0 {
		return q.appendQuestion(dst)
	}
	return dst
}

// appendHeader appends the header of an answer that has no records, nor yet a
// question.
func (q *question) appendHeader(dst []byte, flags uint16) []byte {
	dst = binary.BigEndian.AppendUint16(dst, q.id)
	dst = binary.BigEndian.AppendUint16(dst, flags)
	return append(dst, 0, 0, 0, 0, 0, 0, 0, 0)
}

// appendQuestion appends the question as it was asked to a header.
func (q *question) appendQuestion(dst []byte) []byte {
	dst[len(dst)-7] = 1 // QDCOUNT
	dst = append(dst, q.name.wire...)
	dst = binary.BigEndian.AppendUint16(dst, q.qtype)
	return binary.BigEndian.AppendUint16(dst, q.qclass)
}

// appendOPT appends the OPT record of an answer and counts it, if the client has
// sent one. The answer begins at start of dst.
func (q *question) appendOPT(dst []byte, start int) []byte {
	if !q.edns {
		return dst
	}
	addCount(dst[start:], 3, 1)
	dst = append(dst, 0, 0, byte(dns.TypeOPT))
	dst = binary.BigEndian.AppendUint16(dst, q.size)
	var flags uint16
	if q.dnssec {
		flags = flagDO
	}
	dst = append(dst, 0, q.version)
	dst = binary.BigEndian.AppendUint16(dst, flags)
	return append(dst, 0, 0)
}

// addCount adds to the number of entries of a section: 0 is the question, 3 what
// is additional.
func addCount(packet []byte, section, n int) {
	at := packet[4+2*section:]
	binary.BigEndian.PutUint16(at, be16(at)+uint16(n))
}

// optSize is the size of what appendOPT appends.
func (q *question) optSize() int {
	if q.edns {
		return optLen
	}
	return 0
}
