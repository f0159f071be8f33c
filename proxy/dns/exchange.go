package dns

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"slices"
	"time"

	"github.com/miekg/dns"
)

const (
	// offeredSize is the largest answer over UDP that resolvers are told to
	// send: what passes every network unfragmented (DNS flag day 2020).
	offeredSize = 1232
	// maxStray bounds the messages that are not the answer, after which a
	// socket is given up.
	maxStray = 1000
)

// errForeign says of a message that it is not the answer to what was asked.
var errForeign = errors.New("the answer is to another question")

// outcome is what came of asking a resolver over UDP.
type outcome struct {
	of     netip.AddrPort
	answer []byte // nil with an error
	err    error
}

// exchangePlain asks one resolver a query of ours, over UDP first, and again over
// TCP if there was no room for the answer. known is what it said over UDP, or nil
// if it was not asked yet.
func (f *forwarder) exchangePlain(ctx context.Context, upstream netip.AddrPort, packet []byte, known *outcome) (*dns.Msg, error) {
	var q question
	if q.read(packet) != plain {
		return nil, errors.New("a query cannot be read again")
	}
	for _, network := range []string{"udp", "tcp"} {
		var answer []byte
		var err error
		if known != nil {
			answer, err, known = known.answer, known.err, nil
		} else {
			answer, err = f.exchange(ctx, network, upstream, packet, &q)
		}
		if err != nil {
			return nil, err
		}
		if be16(answer[2:])&flagTruncated != 0 {
			continue
		}
		m := new(dns.Msg)
		if err := m.Unpack(answer); err != nil {
			return nil, fmt.Errorf("decode the answer: %w", err)
		}
		return m, nil
	}
	return nil, errors.New("the answer over TCP is truncated too")
}

// exchange sends a message to a resolver and returns the answer to it. Each has a
// socket of its own, and with it a random port, and an identifier that is random
// as well, which is what makes forged answers improbable.
func (f *forwarder) exchange(ctx context.Context, network string, upstream netip.AddrPort, packet []byte, q *question) ([]byte, error) {
	select {
	case f.sockets <- struct{}{}:
	case <-ctx.Done():
		return nil, fmt.Errorf("wait for a socket: %w", ctx.Err())
	}
	defer func() { <-f.sockets }()
	select {
	case <-f.ended: // of all, because it is closed before the others that wait for an answer end
		return nil, net.ErrClosed
	default:
	}
	deadline := time.Now().Add(f.Timeout)
	if end, ok := ctx.Deadline(); ok && end.Before(deadline) {
		deadline = end
	}
	conn, err := f.dial(ctx, network, upstream, deadline)
	if err != nil {
		return nil, err
	}
	defer conn.Close()
	if err := conn.SetDeadline(deadline); err != nil {
		return nil, err
	}
	stop := context.AfterFunc(ctx, func() { conn.Close() })
	defer stop()
	message := make([]byte, 2, 2+len(packet))
	binary.BigEndian.PutUint16(message, uint16(len(packet)))
	message = append(message, packet...)
	_, _ = rand.Read(message[2:4]) // never fails
	id := be16(message[2:])
	if network == "tcp" {
		return exchangeTCP(ctx, conn, message, id, q)
	}
	return exchangeUDP(ctx, conn, message[2:], id, q)
}

// upstreamConn is a socket to a resolver.
type upstreamConn interface {
	io.ReadWriteCloser
	SetDeadline(time.Time) error
}

// dial opens a socket to a resolver.
func (f *forwarder) dial(ctx context.Context, network string, upstream netip.AddrPort, deadline time.Time) (upstreamConn, error) {
	if network == "udp" && f.opens(upstream) {
		return f.dialUDP(upstream)
	}
	dialer := net.Dialer{Control: f.Control, Deadline: deadline}
	return dialer.DialContext(ctx, network, upstream.String())
}

// opens reports whether sockets to a resolver are opened by OpenUDP. Only package
// net knows the number of a zone.
func (f *forwarder) opens(upstream netip.AddrPort) bool {
	return f.OpenUDP != nil && upstream.Addr().Zone() == ""
}

// dialUDP makes half of the system calls that package net would.
func (f *forwarder) dialUDP(upstream netip.AddrPort) (*os.File, error) {
	var fd [1]int
	if _, err := f.OpenUDP(upstream.Addr(), fd[:]); err != nil {
		return nil, err
	}
	if errno := connect(fd[0], upstream); errno != 0 {
		closeSocket(fd[0])
		return nil, os.NewSyscallError("connect", errno)
	}
	return os.NewFile(uintptr(fd[0]), "udp to "+upstream.String()), nil
}

// exchangeUDP waits for the answer until the deadline: whatever else arrives may
// be forged.
func exchangeUDP(ctx context.Context, conn upstreamConn, message []byte, id uint16, q *question) ([]byte, error) {
	if _, err := conn.Write(message); err != nil {
		return nil, err
	}
	buf := packets.Get().(*[maxQuery]byte)
	defer packets.Put(buf)
	for range maxStray {
		n, err := conn.Read(buf[:])
		if err != nil {
			return nil, waitError(ctx, err)
		}
		if q.isAnswer(buf[:n], id) {
			return slices.Clone(buf[:n]), nil
		}
	}
	return nil, errForeign
}

func exchangeTCP(ctx context.Context, conn upstreamConn, message []byte, id uint16, q *question) ([]byte, error) {
	if _, err := conn.Write(message); err != nil {
		return nil, waitError(ctx, err)
	}
	answer, err := readMessage(conn)
	if err != nil {
		return nil, waitError(ctx, err)
	}
	if !q.isAnswer(answer, id) {
		return nil, errForeign
	}
	return answer, nil
}

// waitError is why no answer came: the connection is closed when ctx ends.
func waitError(ctx context.Context, err error) error {
	if ctx.Err() != nil {
		err = ctx.Err()
	}
	return fmt.Errorf("wait for an answer: %w", err)
}

// readMessage reads one message behind its length. Memory grows with what has
// arrived, not with what is announced.
func readMessage(r io.Reader) ([]byte, error) {
	var length [2]byte
	if _, err := io.ReadFull(r, length[:]); err != nil {
		return nil, err
	}
	n := int64(be16(length[:]))
	message, err := io.ReadAll(io.LimitReader(r, n))
	if err == nil && int64(len(message)) < n {
		err = io.ErrUnexpectedEOF
	}
	return message, err
}

// isAnswer reports whether a message is an answer to q as it was sent under an
// identifier. An answer may lack the question if it says that this was not
// understood.
func (q *question) isAnswer(message []byte, id uint16) bool {
	if len(message) < headerLen || be16(message) != id {
		return false
	}
	flags := be16(message[2:])
	if flags&flagResponse == 0 || (flags^q.flags)&flagsOpcode != 0 {
		return false
	}
	rest := message[headerLen:]
	if be16(message[4:]) == 0 {
		return flags&0xf != 0 && len(rest) == 0
	}
	n := len(q.name.wire)
	return be16(message[4:]) == 1 && len(rest) >= n+4 && be16(rest[n:]) == q.qtype && be16(rest[n+2:]) == q.qclass &&
		bytes.Equal(appendLower(nil, rest[:n]), appendLower(nil, q.name.wire))
}
