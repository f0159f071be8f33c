package inbound

import (
	"bytes"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"net/netip"
	"strings"
	"testing"
)

func TestProxyHeader(t *testing.T) {
	const signature = "0d0a0d0a000d0a515549540a"
	v4, v6 := netip.MustParseAddrPort("10.0.0.1:4660"), netip.MustParseAddrPort("[fd00::1]:80")
	for name, tc := range map[string]struct {
		src, dst netip.AddrPort
		peer     string
		want     string
	}{
		"IPv4":             {v4, netip.MustParseAddrPort("10.0.0.2:80"), "", signature + "2111000c" + "0a0000010a000002" + "12340050"},
		"IPv6":             {v6, v6, "", signature + "21210024" + strings.Repeat("fd000000000000000000000000000001", 2) + "00500050"},
		"two families":     {v4, v6, "", signature + "21010000"},
		"with an identity": {v4, v6, "ab", signature + "21010005" + "d000026162"},
	} {
		if got := hex.EncodeToString(proxyHeader(tc.src, tc.dst, tc.peer)); got != tc.want {
			t.Errorf("%s: proxyHeader() = %s, want %s", name, got, tc.want)
		}
	}
}

// FuzzProxyHeader reads headers back by the specification of the protocol.
func FuzzProxyHeader(f *testing.F) {
	f.Add([]byte{10, 0, 0, 1}, []byte{10, 0, 0, 2}, uint16(4660), uint16(80), "spiffe://td/ns/a/sa/b")
	f.Add(make([]byte, 16), make([]byte, 16), uint16(0), uint16(65535), "")
	f.Add([]byte{10, 0, 0, 1}, make([]byte, 16), uint16(1), uint16(2), strings.Repeat("x", 2048))
	f.Add([]byte{10, 0, 0, 1}, []byte{10, 0, 0, 2}, uint16(1), uint16(2), strings.Repeat("x", 1<<16))
	f.Fuzz(func(t *testing.T, from, to []byte, fromPort, toPort uint16, peer string) {
		a, ok := netip.AddrFromSlice(from)
		b, ok2 := netip.AddrFromSlice(to)
		if !ok || !ok2 {
			return
		}
		src, dst := netip.AddrPortFrom(a, fromPort), netip.AddrPortFrom(b, toPort)
		h := proxyHeader(src, dst, peer)
		gotSrc, gotDst, gotPeer, err := readProxyHeader(append(h, "application data"...), len(h))
		if len(from) != len(to) {
			src, dst = netip.AddrPort{}, netip.AddrPort{}
		}
		if len(peer) > maxIdentity {
			peer = ""
		}
		if err != nil || gotSrc != src || gotDst != dst || gotPeer != peer {
			t.Errorf("a header from %s to %s with %q is read as from %s to %s with %q, %v", src, dst, peer, gotSrc, gotDst, gotPeer, err)
		}
	})
}

// readProxyHeader reads a header of PROXY protocol version 2 at the begin of p,
// as receivers do, and expects it to be size bytes long.
func readProxyHeader(p []byte, size int) (src, dst netip.AddrPort, peer string, err error) {
	fail := func(why string) (netip.AddrPort, netip.AddrPort, string, error) {
		return netip.AddrPort{}, netip.AddrPort{}, "", errors.New(why)
	}
	rest, ok := bytes.CutPrefix(p, []byte{13, 10, 13, 10, 0, 13, 10, 'Q', 'U', 'I', 'T', 10})
	switch {
	case !ok || len(rest) < 4:
		return fail("no signature")
	case rest[0]>>4 != 2 || rest[0]&15 != 1:
		return fail("not version 2, PROXY")
	case 16+int(binary.BigEndian.Uint16(rest[2:])) != size:
		return fail("the length is wrong")
	}
	family, rest := rest[1], p[16:size]
	width := map[byte]int{0x01: 0, 0x11: 4, 0x21: 16}[family]
	if width > 0 {
		if len(rest) < 2*width+4 {
			return fail("the addresses are cut short")
		}
		a, _ := netip.AddrFromSlice(rest[:width])
		b, _ := netip.AddrFromSlice(rest[width : 2*width])
		rest = rest[2*width:]
		src = netip.AddrPortFrom(a, uint16(rest[0])<<8|uint16(rest[1]))
		dst = netip.AddrPortFrom(b, uint16(rest[2])<<8|uint16(rest[3]))
		rest = rest[4:]
	}
	for len(rest) > 0 {
		if len(rest) < 3 || len(rest) < 3+int(rest[1])<<8+int(rest[2]) {
			return fail("a TLV is cut short")
		}
		n := int(rest[1])<<8 + int(rest[2])
		if rest[0] == 0xD0 {
			peer = string(rest[3 : 3+n])
		}
		rest = rest[3+n:]
	}
	return src, dst, peer, nil
}
