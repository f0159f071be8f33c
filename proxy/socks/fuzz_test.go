package socks

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"io"
	"net/netip"
	"testing"
	"unicode/utf8"
)

// pieces is a client that sends its bytes in pieces of changing sizes.
type pieces struct {
	rest    []byte
	seed    byte
	replies bytes.Buffer
}

func (p *pieces) Read(b []byte) (int, error) {
	if len(p.rest) == 0 {
		return 0, io.EOF
	}
	p.seed = p.seed*167 + 13
	n := copy(b[:min(len(b), int(p.seed%7)+1)], p.rest)
	p.rest = p.rest[n:]
	return n, nil
}

func (p *pieces) Write(b []byte) (int, error) { return p.replies.Write(b) }

// Whatever a client sends, in whatever pieces: what is taken for a request is one by a second, plain reading, exactly its bytes
// are read, and no name reaches the resolver but the one that was sent.
func FuzzRequest(f *testing.F) {
	f.Add([]byte{5, 1, 0, 5, 1, 0, 1, 10, 0, 0, 9, 0, 80, 'x'}, byte(0))
	f.Add([]byte{5, 2, 1, 0, 5, 1, 7, 4, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 255, 255, 127, 0, 0, 1, 1, 187}, byte(1))
	f.Add([]byte("\x05\x01\x00\x05\x01\x00\x03\x0bweb.example\x00\x50rest"), byte(2))
	f.Add([]byte{5, 1, 0, 5, 1, 0, 3, 1, 255, 0, 80}, byte(3))
	f.Add([]byte{4, 1}, byte(4))
	f.Fuzz(func(t *testing.T, sent []byte, seed byte) {
		resolved := netip.MustParseAddr("10.1.2.3")
		var asked []string
		client := &pieces{rest: sent, seed: seed}
		n := &negotiation{
			Config: &New(Config{Resolve: func(_ context.Context, host string, _ bool) ([]netip.Addr, error) {
				asked = append(asked, host)
				return []netip.Addr{resolved}, nil
			}}).Config,
			rw: client,
		}
		target, err := n.target(t.Context())
		if replies := client.replies.Bytes(); len(replies) > 0 && !bytes.Equal(replies, agreed) {
			t.Errorf("answered % x before the end", replies)
		}
		if err != nil {
			if _, ok := errors.AsType[*Error](err); !ok {
				t.Errorf("an error of type %T", err)
			}
			return
		}
		want, name, size := parse(t, sent, resolved)
		if target != want || size != len(sent)-len(client.rest) {
			t.Errorf("target %v of %d bytes, want %v of %d", target, len(sent)-len(client.rest), want, size)
		}
		if len(asked) > 0 && (asked[0] != name || !utf8.ValidString(name)) {
			t.Errorf("the resolver was asked for %q, want %q", asked, name)
		}
	})
}

// parse reads a request that was accepted, without regard to what could be wrong.
func parse(t *testing.T, b []byte, resolved netip.Addr) (target netip.AddrPort, name string, size int) {
	t.Helper()
	at := 2 + int(b[1])
	if b[0] != 5 || bytes.IndexByte(b[2:at], 0) < 0 || b[at] != 5 || b[at+1] != 1 {
		t.Fatalf("% x was taken for a request", b)
	}
	atyp, addr := b[at+3], netip.Addr{}
	at += 4
	switch atyp {
	case 1:
		addr, _ = netip.AddrFromSlice(b[at : at+4])
		at += 4
	case 4:
		addr, _ = netip.AddrFromSlice(b[at : at+16])
		at += 16
	case 3:
		name = string(b[at+1 : at+1+int(b[at])])
		at += 1 + len(name)
		var err error
		if addr, err = netip.ParseAddr(name); err != nil {
			addr = resolved
		}
	}
	return netip.AddrPortFrom(addr.Unmap().WithZone(""), binary.BigEndian.Uint16(b[at:])), name, at + 2
}
