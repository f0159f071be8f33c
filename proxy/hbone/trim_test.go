package hbone

import (
	"context"
	"io"
	"net"
	"runtime"
	"testing"
	"time"
)

// ran is what a call of Run returned.
type ran struct {
	again bool
	err   error
}

// joinedPath is an application's connection through both ends of a tunnel whose
// near relay was joined and is run by the test.
func joinedPath(t *testing.T, cc *ClientConn) (app *net.TCPConn, s *Stream, r Relaying, n *counts) {
	t.Helper()
	app, far := tcpPair(t)
	s, err := cc.Open(t.Context(), &Request{Authority: "10.0.0.1:80"})
	if err != nil {
		t.Fatal(err)
	}
	n = &counts{}
	return app, s, s.Join(far, &n.to, &n.from, Downstream), n
}

func tunnelTo(t *testing.T, app func() *net.TCPConn) *ClientConn {
	t.Helper()
	a, b := tcpPair(t)
	cc, _ := pair(t, a, b, nil, relayTo(app))
	return cc
}

func start(r Relaying) <-chan ran {
	result := make(chan ran, 1)
	go func() {
		again, err := r.Run()
		result <- ran{again, err}
	}()
	return result
}

func exchange(t *testing.T, app net.Conn, text string) {
	t.Helper()
	if err := app.SetDeadline(time.Now().Add(10 * time.Second)); err != nil {
		t.Fatal(err)
	}
	buf := make([]byte, len(text))
	if _, err := app.Write([]byte(text)); err != nil {
		t.Fatal(err)
	}
	if _, err := io.ReadFull(app, buf); err != nil || string(buf) != text {
		t.Fatalf("echoed %q, %v, want %q", buf, err, text)
	}
}

// trimmed trims until the relay is interrupted: it may be about to wait.
func trimmed(t *testing.T, result <-chan ran) {
	t.Helper()
	for end := time.Now().Add(10 * time.Second); ; {
		Trim()
		select {
		case got := <-result:
			if !got.again || got.err != nil {
				t.Fatalf("Run() = %v, %v after Trim, want true", got.again, got.err)
			}
			return
		case <-time.After(time.Millisecond):
			if time.Now().After(end) {
				t.Fatal("Run() goes on after Trim")
			}
		}
	}
}

// A relay carries everything, whenever it is interrupted.
func TestTrim_RelayGoesOn(t *testing.T) {
	app, _, r, n := joinedPath(t, tunnelTo(t, echoTCP(t)))
	result := start(r)
	for range 3 {
		exchange(t, app, "hello")
		trimmed(t, result)
		if _, err := app.Write([]byte("early ")); err != nil { // while nobody runs it
			t.Fatal(err)
		}
		result = start(r)
		if _, err := io.ReadFull(app, make([]byte, 6)); err != nil {
			t.Fatal(err)
		}
	}
	if err := app.CloseWrite(); err != nil {
		t.Fatal(err)
	}
	if rest, err := io.ReadAll(app); err != nil || len(rest) > 0 {
		t.Errorf("the application got %q, %v at the end, want an end of file", rest, err)
	}
	if got := within(t, "the end of the relay", result); got.again || got.err != nil {
		t.Errorf("Run() = %v, %v, want false, nil", got.again, got.err)
	}
	if to, from := n.to.Load(), n.from.Load(); to != 33 || from != 33 {
		t.Errorf("counted %d to and %d from the tunnel, want 33 and 33", to, from)
	}
}

// An idle relay is moved twice. One whose stack is new then is left alone, as is
// one that ends.
func TestTrim_OnlyWhereItHelps(t *testing.T) {
	app, s, r, _ := joinedPath(t, tunnelTo(t, echoTCP(t)))
	result := start(r)
	exchange(t, app, "hello")
	for range 2 {
		trimmed(t, result)
		result = start(r)
	}
	for range 5 {
		Trim()
	}
	select {
	case got := <-result:
		t.Fatalf("Run() = %v, %v without need", got.again, got.err)
	case <-time.After(20 * time.Millisecond):
	}
	s.Cancel(errCancelled)
	if got := within(t, "the end of the relay", result); got.again || got.err != errCancelled { //nolint:errorlint // exactly this one
		t.Errorf("Run() = %v, %v, want false, %v", got.again, got.err, errCancelled)
	}
	Trim()
}

// A hot relay, which reads under the write lock, survives being interrupted.
func TestTrim_BusyRelay(t *testing.T) {
	const size = 64 << 20
	got := make(chan int64, 1)
	sink := serveTCP(t, func(c *net.TCPConn) {
		n, _ := io.Copy(io.Discard, c)
		got <- n
	})
	app, _, r, _ := joinedPath(t, tunnelTo(t, sink))
	ended := make(chan error, 1)
	go func() { ended <- runOn(r) }()
	ctx, stop := context.WithCancel(t.Context())
	trims := make(chan struct{})
	go func() {
		defer close(trims)
		for ctx.Err() == nil {
			Trim()
			runtime.Gosched()
		}
	}()
	chunk := make([]byte, 1<<20)
	for range size / len(chunk) {
		if _, err := app.Write(chunk); err != nil {
			t.Fatal(err)
		}
	}
	if err := app.CloseWrite(); err != nil {
		t.Fatal(err)
	}
	if n := within(t, "the end of the upload", got); n != size {
		t.Errorf("%d bytes arrived, want %d", n, size)
	}
	stop()
	<-trims
	if err := within(t, "the end of the relay", ended); err != nil {
		t.Errorf("Run() = %v, want nil", err)
	}
}
