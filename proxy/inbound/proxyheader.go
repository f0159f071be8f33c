package inbound

import (
	"encoding/binary"
	"net"
	"net/netip"

	"ztunnel/proxy/relay"
)

// The PROXY protocol, version 2, as its specification numbers it (section
// 2.2), and the TLV by which Istio's waypoints learn the client's identity.
const (
	proxySignature   = "\r\n\r\n\x00\r\nQUIT\n"
	proxyVersion     = 0x21 // version 2, command PROXY
	proxyTCPv4       = 0x11
	proxyTCPv6       = 0x21
	proxyUnspecified = 0x01 // a stream whose addresses cannot be given
	tlvIdentity      = 0xD0

	// maxIdentity is the longest SPIFFE ID that there may be. A longer one, which
	// no CA of a mesh signs, could make the lengths of the header overflow.
	maxIdentity = 2048
)

// writeProxyHeader tells an application behind an application tunnel who the
// client is and where it wanted to go. Its bytes are not counted.
func writeProxyHeader(app net.Conn, src, dst netip.AddrPort, peer string) error {
	if _, err := app.Write(proxyHeader(src, dst, peer)); err != nil {
		return &relay.IOError{Err: err}
	}
	return nil
}

// proxyHeader is the header for a connection from src to dst. Addresses of two
// families cannot be expressed and are left out; so is a peer that is empty or too
// long.
func proxyHeader(src, dst netip.AddrPort, peer string) []byte {
	family, addresses := byte(proxyUnspecified), []byte(nil)
	if src.Addr().Is4() == dst.Addr().Is4() {
		family = proxyTCPv6
		if src.Addr().Is4() {
			family = proxyTCPv4
		}
		addresses = append(addresses, src.Addr().AsSlice()...)
		addresses = append(addresses, dst.Addr().AsSlice()...)
		addresses = binary.BigEndian.AppendUint16(addresses, src.Port())
		addresses = binary.BigEndian.AppendUint16(addresses, dst.Port())
	}
	var tlv []byte
	if peer != "" && len(peer) <= maxIdentity {
		tlv = append(tlv, tlvIdentity)
		tlv = binary.BigEndian.AppendUint16(tlv, uint16(len(peer)))
		tlv = append(tlv, peer...)
	}
	h := append([]byte(proxySignature), proxyVersion, family)
	h = binary.BigEndian.AppendUint16(h, uint16(len(addresses)+len(tlv)))
	return append(append(h, addresses...), tlv...)
}
