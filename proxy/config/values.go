package config

import (
	"encoding/json"
	"fmt"
	"log/slog"
	"net/netip"
	"strconv"
)

// redacted stands for a secret in every text form.
const redacted = "[redacted]"

// Secret is a string that no formatting, encoding or logging shows.
type Secret string

// Reveal returns the secret itself, for the one place that sends it.
func (s Secret) Reveal() string { return string(s) }

// String returns a placeholder, or "" for an empty secret.
func (s Secret) String() string {
	if s == "" {
		return ""
	}
	return redacted
}

// GoString returns what String does, for %#v.
func (s Secret) GoString() string { return strconv.Quote(s.String()) }

// Format writes what String does for every verb, so that %x shows no more.
func (s Secret) Format(f fmt.State, _ rune) { _, _ = f.Write([]byte(s.String())) }

// MarshalText returns what String does.
func (s Secret) MarshalText() ([]byte, error) { return []byte(s.String()), nil }

// MarshalJSON returns what String does, quoted.
func (s Secret) MarshalJSON() ([]byte, error) { return json.Marshal(s.String()) }

// LogValue returns what String does.
func (s Secret) LogValue() slog.Value { return slog.StringValue(s.String()) }

// Header is one name and value sent along with requests.
type Header struct {
	Name  string // lower case
	Value Secret
}

// RootKind says where root certificates come from.
type RootKind uint8

// The kinds of RootCA.
const (
	RootFile   RootKind = iota // a PEM file, read whenever it is needed
	RootSystem                 // the trust store of the system
	RootInline                 // PEM text in the configuration
)

// RootCA is a source of root certificates.
type RootCA struct {
	Kind RootKind
	Path string // of RootFile; the file need not exist yet
	PEM  string // of RootInline
}

// Token is a bearer token for control plane and CA. The zero Token means that
// no authentication is sent.
type Token struct {
	Path    string // a file, read for every use, for its content changes
	Literal Secret // the token itself; only when Path is ""
}

// Listen is where something listens: either on the loopback addresses of the
// process (IPv4, and IPv6 when enabled), or at one address.
type Listen struct {
	Localhost bool
	IPv6      bool           // of Localhost: also ::1
	Port      uint16         // of Localhost
	Addr      netip.AddrPort // unless Localhost
}

// Addrs returns the addresses to bind: one, or up to two for Localhost.
func (l Listen) Addrs() []netip.AddrPort {
	if !l.Localhost {
		return []netip.AddrPort{l.Addr}
	}
	addrs := []netip.AddrPort{netip.AddrPortFrom(netip.AddrFrom4([4]byte{127, 0, 0, 1}), l.Port)}
	if l.IPv6 {
		addrs = append(addrs, netip.AddrPortFrom(netip.IPv6Loopback(), l.Port))
	}
	return addrs
}

// Resolver is the system's DNS configuration.
type Resolver struct {
	Servers   []netip.AddrPort // in order of preference
	Search    []string         // search domains
	Timeout   uint             // seconds per query
	Attempts  uint             // tries per server
	NDots     uint             // dots that make a name absolute
	EDNS0     bool
	CacheSize uint // entries
}
