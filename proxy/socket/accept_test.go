package socket

import (
	"bytes"
	"context"
	"errors"
	"log/slog"
	"net"
	"net/netip"
	"strings"
	"sync"
	"testing"
	"time"

	"ztunnel/proxy/needs"
)

// accepting runs Accept on a loopback listener and hands on what it takes.
func accepting(t *testing.T, ctx context.Context) (ln *net.TCPListener, conns <-chan *net.TCPConn, log *lockedBuffer, ended <-chan error) {
	t.Helper()
	var lc net.ListenConfig
	lc.SetMultipathTCP(false) // as the factory has it
	l, err := lc.Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = l.Close() })
	log = new(lockedBuffer)
	taken, result := make(chan *net.TCPConn), make(chan error, 1)
	ln = l.(*net.TCPListener)
	go func() {
		result <- Accept(ctx, ln, slog.New(slog.NewTextHandler(log, nil)), func(c *net.TCPConn) { taken <- c })
	}()
	return ln, taken, log, result
}

type lockedBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *lockedBuffer) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *lockedBuffer) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}

func dialAndTake(t *testing.T, ln net.Listener, conns <-chan *net.TCPConn) {
	t.Helper()
	c, err := new(net.Dialer).DialContext(t.Context(), "tcp", ln.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	_ = c.Close()
	select {
	case served := <-conns:
		_ = served.Close()
	case <-time.After(10 * time.Second):
		t.Fatal("a connection was not taken")
	}
}

// A series of failures, here by a deadline of the listener that stands for a
// process without descriptors, is told once and does not end the accepting.
func TestAccept_Failures(t *testing.T) {
	ln, conns, log, ended := accepting(t, context.Background())
	dialAndTake(t, ln, conns)
	_ = ln.SetDeadline(time.Unix(1, 0))
	for end := time.Now().Add(10 * time.Second); !strings.Contains(log.String(), "Failed TCP handshake"); {
		if time.Now().After(end) {
			t.Fatal("the failure is not logged")
		}
	}
	time.Sleep(50 * time.Millisecond) // several failures, which leave no trace, must happen
	_ = ln.SetDeadline(time.Time{})
	dialAndTake(t, ln, conns)
	_ = ln.SetDeadline(time.Unix(1, 0)) // again, within the same second
	_ = ln.SetDeadline(time.Time{})
	dialAndTake(t, ln, conns)
	_ = ln.Close()
	if err := <-ended; err != nil {
		t.Errorf("Accept() = %v after the listener was closed, want nil", err)
	}
	text := log.String()
	if n := strings.Count(text, "Failed TCP handshake"); n != 1 {
		t.Errorf("%d failures are logged, want 1:\n%s", n, text)
	}
	if n := strings.Count(text, "accepting connections again"); n != 1 {
		t.Errorf("%d recoveries are logged, want 1:\n%s", n, text)
	}
}

func TestAccept_EndsWithItsContextWhileItFails(t *testing.T) {
	cause := errors.New("over")
	ctx, cancel := context.WithCancelCause(t.Context())
	ln, _, _, ended := accepting(t, ctx)
	_ = ln.SetDeadline(time.Unix(1, 0))
	cancel(cause)
	if err := <-ended; !errors.Is(err, cause) {
		t.Errorf("Accept() = %v, want %v", err, cause)
	}
}

// A retired listener begins no handshake, but what was begun before is taken.
func TestRetire(t *testing.T) {
	needs.Root(t)
	ln, conns, _, ended := accepting(t, context.Background())
	dialAndTake(t, ln, conns)
	if err := Retire(ln); err != nil {
		t.Fatal(err)
	}
	d := net.Dialer{Timeout: 200 * time.Millisecond}
	if c, err := d.DialContext(t.Context(), "tcp", ln.Addr().String()); err == nil {
		_ = c.Close()
		t.Error("a new connection was made after the listener was retired")
	} else if e, ok := errors.AsType[net.Error](err); !ok || !e.Timeout() {
		t.Errorf("dial = %v, want silence", err)
	}
	_ = ln.Close()
	if err := <-ended; err != nil {
		t.Errorf("Accept() = %v, want nil", err)
	}
	if err := Retire(ln); err == nil {
		t.Error("Retire() of a closed listener = nil, want an error")
	}
}

// While a listener is retired, whoever shares its port gets all that is new, and
// the next one that comes its share again.
func TestRetire_SharedPort(t *testing.T) {
	needs.Root(t)
	listen := func(addr string) *net.TCPListener {
		t.Helper()
		ln, _, err := NewFactory(Config{ReusePort: true, Log: slog.New(slog.DiscardHandler)}).Listen(t.Context(), netip.MustParseAddrPort(addr), new(bool))
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = ln.Close() })
		return ln
	}
	// dials returns how many of 40 connections came to each.
	const n = 40
	dials := func(listeners ...*net.TCPListener) (got []int) {
		t.Helper()
		for range n {
			d := net.Dialer{Timeout: 500 * time.Millisecond} // less than the time of a second try
			c, err := d.DialContext(t.Context(), "tcp", listeners[0].Addr().String())
			if err != nil {
				t.Fatal(err)
			}
			_ = c.Close()
		}
		for _, ln := range listeners {
			accepted := 0
			for {
				_ = ln.SetDeadline(time.Now().Add(50 * time.Millisecond))
				c, err := ln.AcceptTCP()
				if err != nil {
					break
				}
				_ = c.Close()
				accepted++
			}
			got = append(got, accepted)
		}
		return got
	}
	old := listen("127.0.0.1:0")
	next := listen(old.Addr().String())
	for range 2 {
		if got := dials(old, next); got[0] == 0 || got[1] == 0 || got[0]+got[1] != n {
			t.Errorf("two listeners got %d connections, want a share of %d for each", got, n)
		}
		if err := Retire(old); err != nil {
			t.Fatal(err)
		}
		if got := dials(old, next); got[0] != 0 || got[1] != n {
			t.Errorf("the one that is retired and the other got %d connections, want 0 and %d", got, n)
		}
		_ = old.Close()
		if got := dials(next); got[0] != n {
			t.Errorf("the other got %d connections, want %d", got[0], n)
		}
		old, next = next, listen(next.Addr().String())
	}
}
