package socks

import (
	"bytes"
	"context"
	"encoding/binary"
	"fmt"
	"io"
	"net/netip"
	"os"
	"unicode/utf8"
)

// The numbers of RFC 1928 that are understood.
const (
	version    = 5
	noAuth     = 0
	cmdConnect = 1
	atypIPv4   = 1
	atypName   = 3
	atypIPv6   = 4
)

// reply is the answer to a request, and to a greeting that is refused. The address in it would be the one the target sees,
// which is not known yet.
func reply(c Code) []byte { return []byte{version, byte(c), 0, atypIPv4, 0, 0, 0, 0, 0, 0} }

// negotiation is one client that asks for a target. It reads exactly what belongs to the request: what follows is the
// connection's. Each part is judged when it is there, so a client hears what is wrong as soon as that can be known.
type negotiation struct {
	*Config
	rw     io.ReadWriter
	client netip.Addr
	buf    [255]byte
}

// read returns the next n bytes, at most 255, until the next read.
func (n *negotiation) read(count int) ([]byte, error) {
	b := n.buf[:count]
	if _, err := io.ReadFull(n.rw, b); err != nil {
		return nil, n.ioError(err)
	}
	return b, nil
}

// target reads a request and answers all but its end. The error is an *Error.
func (n *negotiation) target(ctx context.Context) (netip.AddrPort, error) {
	if err := n.greet(); err != nil {
		return netip.AddrPort{}, err
	}
	if err := n.command(); err != nil {
		return netip.AddrPort{}, err
	}
	addr, err := n.address(ctx)
	if err != nil {
		return netip.AddrPort{}, err
	}
	port, err := n.read(2)
	if err != nil {
		return netip.AddrPort{}, err
	}
	return netip.AddrPortFrom(addr, binary.BigEndian.Uint16(port)), nil
}

// greet agrees with the client on no authentication.
func (n *negotiation) greet() error {
	head, err := n.read(2)
	if err != nil {
		return err
	}
	if err := checkVersion(head[0]); err != nil {
		return err
	}
	if head[1] == 0 {
		return unsupported("methods cannot be zero")
	}
	methods, err := n.read(int(head[1]))
	if err != nil {
		return err
	}
	if bytes.IndexByte(methods, noAuth) < 0 {
		return unsupported("only unauthenticated is supported")
	}
	if _, err := n.rw.Write([]byte{version, noAuth}); err != nil {
		return n.ioError(err)
	}
	return nil
}

func checkVersion(v byte) error {
	if v != version {
		return unsupported(fmt.Sprint("unsupported version ", v))
	}
	return nil
}

// command reads what the client wants.
func (n *negotiation) command() error {
	head, err := n.read(2)
	if err != nil {
		return err
	}
	if err := checkVersion(head[0]); err != nil {
		return err
	}
	if head[1] != cmdConnect {
		return unsupported(fmt.Sprint("unsupported command ", head[1]))
	}
	return nil
}

// address reads where the client wants to go. Addresses are canonical: no IPv4-mapped IPv6, which would hide where they lead.
func (n *negotiation) address(ctx context.Context) (netip.Addr, error) {
	head, err := n.read(2) // the first is reserved, and anything
	if err != nil {
		return netip.Addr{}, err
	}
	size := 0
	switch head[1] {
	case atypIPv4:
		size = 4
	case atypIPv6:
		size = 16
	case atypName:
		return n.name(ctx)
	default:
		return netip.Addr{}, unsupported(fmt.Sprint("unsupported address type ", head[1]))
	}
	b, err := n.read(size)
	if err != nil {
		return netip.Addr{}, err
	}
	addr, _ := netip.AddrFromSlice(b)
	return addr.Unmap(), nil
}

// name reads a name and finds an address for it: of the family in which the client came, as in the reference. An address in
// the form of a name needs nobody to find it.
func (n *negotiation) name(ctx context.Context) (netip.Addr, error) {
	length, err := n.read(1)
	if err != nil {
		return netip.Addr{}, err
	}
	text, err := n.read(int(length[0]))
	if err != nil {
		return netip.Addr{}, err
	}
	if !utf8.Valid(text) {
		return netip.Addr{}, notText(text)
	}
	host := string(text)
	if addr, err := netip.ParseAddr(host); err == nil {
		return addr.Unmap().WithZone(""), nil
	}
	if n.Resolve == nil {
		return netip.Addr{}, unsupported("unsupported hostname lookup, requires DNS enabled")
	}
	addrs, err := n.Resolve(ctx, host, n.client.Is6())
	switch {
	case ctx.Err() != nil:
		return netip.Addr{}, n.ioError(os.ErrDeadlineExceeded)
	case err != nil:
		return netip.Addr{}, noAddress("dns lookup: "+err.Error(), err)
	case len(addrs) == 0:
		return netip.Addr{}, noAddress("dns response had no valid IP addresses", nil)
	}
	return addrs[0].Unmap(), nil
}
