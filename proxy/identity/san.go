package identity

import (
	"crypto/tls"
	"crypto/x509"
	"encoding/asn1"
	"iter"

	"ztunnel/proxy/spiffe"
)

// oidSubjectAltName is the extension subjectAltName (RFC 5280 section 4.2.1.6).
var oidSubjectAltName = asn1.ObjectIdentifier{2, 5, 29, 17}

// DER identifier octets of what we look at in a subjectAltName.
const (
	tagSequence = 0x30 // SEQUENCE, constructed
	tagURI      = 0x86 // GeneralName uniformResourceIdentifier [6] IA5String, primitive
)

// PeerID returns the identity of the peer of a verified handshake: the first URI in the subjectAltName of its leaf that is
// a SPIFFE identity of a workload. Names of other kinds and other URIs are passed over. The second result is false if
// there is none, or no certificate.
//
// The URI is taken as its raw bytes. A url.URL would percent-encode some that Istio takes as they are.
func PeerID(cs *tls.ConnectionState) (spiffe.ID, bool) {
	if cs == nil || len(cs.PeerCertificates) == 0 {
		return spiffe.ID{}, false
	}
	for id := range ids(cs.PeerCertificates[0]) {
		return id, true
	}
	return spiffe.ID{}, false
}

// ids yields the SPIFFE identities of a certificate in order.
func ids(c *x509.Certificate) iter.Seq[spiffe.ID] {
	return func(yield func(spiffe.ID) bool) {
		for uri := range uris(c) {
			if id, err := spiffe.Parse(uri); err == nil && !yield(id) {
				return
			}
		}
	}
}

// ownID returns the identity of a certificate of ours: that of the first URI, and false if that one is none. The reference
// looks at no other one here, unlike for peers.
func ownID(c *x509.Certificate) (spiffe.ID, bool) {
	for uri := range uris(c) {
		id, err := spiffe.Parse(uri)
		return id, err == nil
	}
	return spiffe.ID{}, false
}

// uris yields the URIs of a certificate's subjectAltName in order, as they are.
func uris(c *x509.Certificate) iter.Seq[string] {
	return func(yield func(string) bool) {
		for i := range c.Extensions {
			if !c.Extensions[i].Id.Equal(oidSubjectAltName) {
				continue
			}
			for uri := range sanURIs(c.Extensions[i].Value) {
				if !yield(string(uri)) {
					return
				}
			}
			return // x509 refuses certificates with an extension twice
		}
	}
}

// sanURIs yields the URIs of the value of a subjectAltName extension. It stops at the first byte that is not well-formed
// DER; crypto/x509 has refused such a certificate before.
func sanURIs(der []byte) iter.Seq[[]byte] {
	return func(yield func([]byte) bool) {
		tag, names, _, ok := element(der)
		if !ok || tag != tagSequence {
			return
		}
		for len(names) > 0 {
			var name []byte
			tag, name, names, ok = element(names)
			if !ok || tag == tagURI && !yield(name) {
				return
			}
		}
	}
}

// element splits the first DER element of b off: its identifier octet, its content and what follows. Tags above 30, which
// need more than one octet, and lengths that are indefinite or not minimal are refused.
func element(b []byte) (tag byte, content, rest []byte, ok bool) {
	if len(b) < 2 || b[0]&0x1f == 0x1f {
		return 0, nil, nil, false
	}
	tag, n, b := b[0], int(b[1]), b[2:]
	if n >= 0x80 {
		octets := n & 0x7f
		if octets == 0 || octets > 4 || octets > len(b) || b[0] == 0 {
			return 0, nil, nil, false
		}
		n = 0
		for _, o := range b[:octets] {
			n = n<<8 | int(o)
		}
		if b = b[octets:]; n < 0x80 {
			return 0, nil, nil, false
		}
	}
	if n < 0 || n > len(b) {
		return 0, nil, nil, false
	}
	return tag, b[:n], b[n:], true
}
