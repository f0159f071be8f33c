package hbone

import (
	"bytes"
	"context"
	"io"
	"math/rand/v2"
	"net"
	"testing"
)

// joined is an application's socket whose other end is relayed on a new stream.
type joined struct {
	app    *net.TCPConn
	n      counts
	result chan error
}

func join(t testing.TB, ctx context.Context, cc *ClientConn) *joined {
	t.Helper()
	return joinAs(t, ctx, cc, "10.0.0.1:80")
}

func joinAs(t testing.TB, ctx context.Context, cc *ClientConn, authority string) *joined {
	t.Helper()
	s, err := cc.Open(ctx, &Request{Authority: authority})
	if err != nil {
		t.Fatalf("Open() = %v", err)
	}
	near, far := tcpPair(t)
	j := &joined{app: near, result: make(chan error, 1)}
	go func() { j.result <- s.Relay(ctx, far, &j.n.to, &j.n.from, Downstream) }()
	return j
}

func TestRelayEchoes(t *testing.T) {
	a, b := tcpPair(t)
	cc, _ := pair(t, a, b, nil, relayTo(echoTCP(t)))
	for _, size := range []int{0, 1, 1000, 8 << 10, 100 << 10, 3 << 20, 40 << 20} {
		j := join(t, t.Context(), cc)
		data := make([]byte, size)
		for i := range data {
			data[i] = byte(rand.Uint32())
		}
		go func() {
			j.app.Write(data)
			j.app.CloseWrite()
		}()
		got, err := io.ReadAll(j.app)
		if err != nil || !bytes.Equal(got, data) {
			t.Fatalf("size %d: echoed %d bytes, %v, want %d", size, len(got), err, size)
		}
		if err := <-j.result; err != nil {
			t.Errorf("size %d: Relay() = %v, want nil", size, err)
		}
		if to, from := j.n.to.Load(), j.n.from.Load(); to != uint64(size) || from != uint64(size) {
			t.Errorf("size %d: counted %d to and %d from the tunnel", size, to, from)
		}
	}
	if n := cc.Active(); n != 0 {
		t.Errorf("Active() = %d after all streams, want 0", n)
	}
}
