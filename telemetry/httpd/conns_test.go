package httpd

import (
	"context"
	"errors"
	"log/slog"
	"net"
	"os"
	"sync"
	"syscall"
	"testing"
	"testing/synctest"
	"time"
)

// failing is a listener of a process without descriptors: it fails until it is
// given a connection.
type failing struct {
	mu       sync.Mutex
	attempts int
	conn     net.Conn
	closed   chan struct{}
}

func (l *failing) Accept() (net.Conn, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	select {
	case <-l.closed:
		return nil, net.ErrClosed
	default:
	}
	l.attempts++
	if c := l.conn; c != nil {
		l.conn = nil
		return c, nil
	}
	return nil, &net.OpError{Op: "accept", Net: "tcp", Err: os.NewSyscallError("accept4", syscall.EMFILE)}
}

func (l *failing) Close() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	select {
	case <-l.closed:
	default:
		close(l.closed)
	}
	return nil
}

func (l *failing) Addr() net.Addr { return &net.TCPAddr{} }

// A process without descriptors tries now and then, and serves again once it has
// some.
func TestAcceptFails(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ln := &failing{closed: make(chan struct{})}
		s := New(Config{Handler: hello, Log: slog.New(slog.DiscardHandler)})
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error)
		go func() { done <- s.Serve(ctx, ln) }()
		time.Sleep(time.Minute)
		client, server := net.Pipe()
		defer client.Close()
		ln.mu.Lock()
		if ln.attempts < 10 || ln.attempts > 100 {
			t.Errorf("%d attempts in a minute, want about one a second", ln.attempts)
		}
		ln.conn = server
		ln.mu.Unlock()
		if status, body := ask(t, client, get); status != 200 || body != "hello /x" {
			t.Errorf("got %d %q, want 200 hello", status, body)
		}
		client.Close()
		cancel()
		if err := <-done; err != nil && !errors.Is(err, context.Canceled) {
			t.Errorf("Serve = %v, want nil", err)
		}
	})
}
