package route

import (
	"net/netip"
	"strconv"
	"strings"
)

// An Authority is what a CONNECT request asks for: an address, or the port of
// a service by name. Exactly one of Addr and Host is of use.
type Authority struct {
	// Addr is valid if the authority is an address. It has no zone, and
	// IPv4-mapped IPv6 stays what it is.
	Addr netip.AddrPort
	Host string // as received, may be empty; only if Addr is not valid
	Port uint16 // of Host
}

// ParseAuthority reads the authority of a CONNECT request as the reference
// does: as a socket address if it is one, else as a URI authority with host
// and port, both of which it must have. So "user@10.0.0.1:80" and
// "[10.0.0.1]:80" are names, ":80" is the empty name, and "10.0.0.1:0080" is
// port 80 of the address.
func ParseAuthority(s string) (a Authority, ok bool) {
	if !validAuthority(s) {
		return Authority{}, false
	}
	colon := strings.LastIndexByte(s, ':')
	if colon < 0 {
		return Authority{}, false
	}
	if addr, ok := parseSocketAddr(s[:colon], s[colon+1:]); ok {
		return Authority{Addr: addr}, true
	}
	// The reference's number parser takes one plus sign.
	port, err := strconv.ParseUint(strings.TrimPrefix(s[colon+1:], "+"), 10, 16)
	if err != nil {
		return Authority{}, false
	}
	host := s[strings.LastIndexByte(s, '@')+1:]
	if strings.HasPrefix(host, "[") {
		host = host[:strings.IndexByte(host, ']')+1]
	} else {
		host, _, _ = strings.Cut(host, ":")
	}
	return Authority{Host: host, Port: uint16(port)}, true
}

// parseSocketAddr reads an address of either family, IPv6 in brackets and
// perhaps with a numeric zone, and a port in digits.
func parseSocketAddr(host, port string) (netip.AddrPort, bool) {
	inner, v6 := strings.CutPrefix(host, "[")
	if v6 {
		inner, v6 = strings.CutSuffix(inner, "]")
	}
	addr, err := netip.ParseAddr(inner)
	if err != nil || addr.Is4() == v6 {
		return netip.AddrPort{}, false
	}
	if zone := addr.Zone(); zone != "" {
		if _, err := strconv.ParseUint(zone, 10, 32); err != nil {
			return netip.AddrPort{}, false
		}
		addr = addr.WithZone("")
	}
	n, err := strconv.ParseUint(port, 10, 16)
	if err != nil {
		return netip.AddrPort{}, false
	}
	return netip.AddrPortFrom(addr, uint16(n)), true
}

// validAuthority reports whether s is an authority by the rules of the
// reference's URI parser: the characters of RFC 3986 without the slash,
// question mark and hash that would end it, at most one pair of brackets, a
// single port, and percent signs only before an @ or within brackets.
func validAuthority(s string) bool {
	const maxColons = 8 // of an IPv6 address and its port
	colons, opened, closed, percent := 0, false, false, false
	for i := range len(s) {
		switch c := s[i]; c {
		case ':':
			if colons++; colons > maxColons {
				return false
			}
		case '[':
			if percent || opened {
				return false
			}
			opened = true
		case ']':
			if !opened || closed {
				return false
			}
			closed, colons, percent = true, 0, false
		case '@':
			colons, percent = 0, false
		case '%':
			percent = true
		default:
			if !authorityByte(c) {
				return false
			}
		}
	}
	return s != "" && opened == closed && colons <= 1 && !percent && s[len(s)-1] != '@'
}

// authorityByte reports whether c may stand for itself in an authority.
func authorityByte(c byte) bool {
	switch {
	case 'a' <= c && c <= 'z', 'A' <= c && c <= 'Z', '0' <= c && c <= '9':
		return true
	}
	return strings.IndexByte("-._~!$&'()*+,;=", c) >= 0
}
