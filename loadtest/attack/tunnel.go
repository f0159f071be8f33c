package attack

import (
	"bufio"
	"bytes"
	"context"
	"crypto/tls"
	"io"
	"net"
	"net/netip"
	"time"

	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"
)

// patience bounds what an attacker waits for: a connection, a handshake, or that
// what it sends is taken.
const patience = 2 * time.Second

// dial connects, and counts it. It returns nil if that fails: a ztunnel may
// refuse whom it knows to be hostile.
func (a *attacker) dial(to netip.AddrPort) *net.TCPConn {
	c, err := a.connect(a.ctx, "tcp", to.String())
	if err != nil {
		return nil
	}
	return c.(*net.TCPConn)
}

// connect is dial for others, who may call it concurrently.
func (a *attacker) connect(ctx context.Context, network, to string) (net.Conn, error) {
	d := net.Dialer{Timeout: patience}
	c, err := d.DialContext(ctx, network, to)
	if err == nil {
		a.opened.Add(1)
	}
	return c, err
}

// abort ends a connection with a reset, so that the attacker keeps no ports.
func abort(c *net.TCPConn) {
	_ = c.SetLinger(0)
	_ = c.Close()
}

// abortAtEnd aborts a connection when the attack is over, so that nobody goes on
// to wait for a peer that is stuck. Who ends it earlier must call stop.
func (a *attacker) abortAtEnd(c *net.TCPConn) (stop func() bool) {
	return context.AfterFunc(a.ctx, func() { abort(c) })
}

// tunnel is a connection of an attacker that speaks HTTP/2, after the handshake.
type tunnel struct {
	*http2.Framer
	raw  *net.TCPConn
	out  *bufio.Writer
	hpck *hpack.Encoder
	text bytes.Buffer // what hpck has written
	next uint32       // stream
	done chan struct{}
	stop func() bool // of abortAtEnd
}

// open opens a tunnel to the pod, or returns nil.
func (a *attacker) open() *tunnel {
	raw := a.dial(a.hbone())
	if raw == nil {
		return nil
	}
	c := tls.Client(raw, &tls.Config{
		Certificates: []tls.Certificate{a.identity}, NextProtos: []string{"h2"}, MinVersion: tls.VersionTLS13,
		InsecureSkipVerify: true, //nolint:gosec // an attacker does not care whom it talks to
	})
	_ = raw.SetDeadline(time.Now().Add(patience))
	if err := c.HandshakeContext(a.ctx); err != nil {
		abort(raw)
		return nil
	}
	_ = raw.SetReadDeadline(time.Time{}) // answers are taken until the end
	out := bufio.NewWriterSize(c, 16<<10)
	t := &tunnel{Framer: http2.NewFramer(out, nil), raw: raw, out: out, next: 1, done: make(chan struct{}), stop: a.abortAtEnd(raw)}
	t.AllowIllegalWrites = true
	t.hpck = hpack.NewEncoder(&t.text)
	go func() { // close waits for it
		defer close(t.done)
		_, _ = io.Copy(io.Discard, c)
	}()
	_, _ = out.WriteString(http2.ClientPreface)
	if t.WriteSettings() != nil || t.WriteSettingsAck() != nil {
		t.close()
		return nil
	}
	return t
}

func (t *tunnel) close() {
	t.stop()
	abort(t.raw)
	<-t.done
}

// push sends what was written, and reports whether the tunnel still takes it.
func (t *tunnel) push() bool {
	_ = t.raw.SetWriteDeadline(time.Now().Add(patience))
	return t.out.Flush() == nil
}

// connect begins a stream for a CONNECT, and returns its number.
func (t *tunnel) connect(authority string) uint32 {
	t.text.Reset()
	_ = t.hpck.WriteField(hpack.HeaderField{Name: ":method", Value: "CONNECT"}) // to memory
	_ = t.hpck.WriteField(hpack.HeaderField{Name: ":authority", Value: authority})
	id := t.next
	t.next += 2
	_ = t.WriteHeaders(http2.HeadersFrameParam{StreamID: id, BlockFragment: t.text.Bytes(), EndHeaders: true})
	return id
}

// tunnels runs an abuse on one tunnel after the other: use is called again and
// again, and returns false when the tunnel is used up. What it writes is a unit,
// and is sent after every batch of calls.
func (a *attacker) tunnels(batch int, use func(*tunnel) bool) {
	for a.next() {
		t := a.open()
		if t == nil {
			continue
		}
		for n := 1; use(t); n++ {
			if n%batch == 0 {
				if !t.push() {
					break
				}
				a.done += int64(batch)
			}
			if !a.next() {
				break
			}
		}
		t.close()
	}
}
