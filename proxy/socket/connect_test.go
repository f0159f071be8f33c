package socket

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"testing"
)

// A dial waits for its turn, but not longer than its context, and one that waits
// for an answer holds up no other.
func TestDial_Turns(t *testing.T) {
	ln, err := new(net.ListenConfig).Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	dst := netip.MustParseAddrPort(ln.Addr().String())
	f := NewFactory(Config{})
	for range cap(turns) {
		turns <- struct{}{}
	}
	cause := errors.New("over")
	ctx, cancel := context.WithCancelCause(t.Context())
	cancel(cause)
	if _, err := f.Dial(ctx, netip.Addr{}, dst); !errors.Is(err, cause) {
		t.Errorf("Dial() = %v while others have their turns, want %v", err, cause)
	}
	done := make(chan error)
	go func() {
		c, err := f.Dial(t.Context(), netip.Addr{}, dst)
		if err == nil {
			err = c.Close()
		}
		done <- err
	}()
	for range cap(turns) {
		<-turns
	}
	if err := <-done; err != nil {
		t.Errorf("Dial() = %v, want a connection", err)
	}
	if len(turns) != 0 {
		t.Errorf("%d turns are taken at the end", len(turns))
	}
}
