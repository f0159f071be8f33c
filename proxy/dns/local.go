package dns

import (
	"encoding/binary"
	"net/netip"

	"github.com/miekg/dns"
)

// localTTL is the time for which clients may keep an address of the mesh, in
// seconds, as in the reference.
const localTTL = 30

// A name in an answer is two bytes that point to where it stands in full.
const (
	pointerLen = 2
	pointer    = 0xc000
)

// appendLocal appends the answer with addresses of the mesh. stripped is that of
// the match. What does not fit into limit is left out, and the answer marked.
func (q *question) appendLocal(dst []byte, addrs []netip.Addr, stripped, limit int) []byte {
	start := len(dst)
	dst = q.appendHeader(dst, flagResponse|flagAuthoritative|flagRecursionAvailable|q.flags&(flagRecursionDesired|flagCheckingDisabled))
	dst = q.appendQuestion(dst)
	limit += start - q.optSize()
	asked := owner{at: headerLen, wire: q.name.wire}
	if !isLower(q.name.wire) {
		asked.at = 0 // answers have lower case, which stands nowhere yet
	}
	of := &asked
	answers := 0
	if stripped > 0 && len(addrs) > 0 {
		target := owner{wire: q.name.wire[:q.name.wireLength(stripped)], partial: true}
		if len(dst)+len(asked.wire)+recordHeadLen+len(target.wire)+1 > limit {
			dst[start+2] |= flagTruncated >> 8
			return q.appendOPT(dst, start)
		}
		dst = asked.append(dst, start)
		dst = appendRecordHead(dst, dns.TypeCNAME, len(target.wire)+1)
		dst = target.append(dst, start)
		answers++
		of = &target
	}
	for _, addr := range addrs {
		size := pointerLen + recordHeadLen + addr.BitLen()/8
		if of.at == 0 {
			size += len(of.wire) + 1
		}
		if len(dst)+size > limit {
			dst[start+2] |= flagTruncated >> 8
			break
		}
		dst = of.append(dst, start)
		dst = appendAddress(dst, q.qtype, addr)
		answers++
	}
	addCount(dst[start:], 1, answers)
	return q.appendOPT(dst, start)
}

// owner is a name that records of an answer have.
type owner struct {
	at      int    // where it stands in full in the answer; 0: nowhere yet
	wire    []byte // in any case
	partial bool   // it is the beginning of a longer name, so the root is missing
}

// append appends the name to the answer that begins at start.
func (o *owner) append(dst []byte, start int) []byte {
	if o.at > 0 {
		return binary.BigEndian.AppendUint16(dst, pointer|uint16(o.at))
	}
	o.at = len(dst) - start
	dst = appendLower(dst, o.wire)
	if o.partial {
		dst = append(dst, 0)
	}
	return dst
}

// recordHeadLen is the size of a record without its name and data.
const recordHeadLen = 10

// appendRecordHead appends type, class, TTL and the length of the data.
func appendRecordHead(dst []byte, rrtype uint16, length int) []byte {
	dst = binary.BigEndian.AppendUint16(dst, rrtype)
	dst = append(dst, 0, dns.ClassINET, 0, 0, 0, localTTL)
	return binary.BigEndian.AppendUint16(dst, uint16(length))
}

// appendAddress appends a record after its name.
func appendAddress(dst []byte, rrtype uint16, addr netip.Addr) []byte {
	dst = appendRecordHead(dst, rrtype, addr.BitLen()/8)
	if addr.Is4() {
		b := addr.As4()
		return append(dst, b[:]...)
	}
	b := addr.As16()
	return append(dst, b[:]...)
}
