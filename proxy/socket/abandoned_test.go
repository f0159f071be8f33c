package socket

import (
	"io"
	"net"
	"testing"
	"time"

	"ztunnel/proxy/needs"
)

// The other end is on this host, so the kernel can tell a closed socket from
// one that has only ended its sending side.
func TestAbandoned(t *testing.T) {
	for name, tc := range map[string]struct {
		do   func(*net.TCPConn)
		want bool
	}{
		"idle":                  {func(*net.TCPConn) {}, false},
		"has sent":              {func(c *net.TCPConn) { _, _ = io.WriteString(c, "a") }, false},
		"half closed":           {func(c *net.TCPConn) { _ = c.CloseWrite() }, false},
		"sent and half closed":  {func(c *net.TCPConn) { _, _ = io.WriteString(c, "a"); _ = c.CloseWrite() }, false},
		"sent and closed":       {func(c *net.TCPConn) { _, _ = io.WriteString(c, "a"); _ = c.Close() }, false},
		"closed":                {func(c *net.TCPConn) { _ = c.Close() }, true},
		"half closed, closed":   {func(c *net.TCPConn) { _ = c.CloseWrite(); _ = c.Close() }, true},
		"reset":                 {func(c *net.TCPConn) { _ = c.SetLinger(0); _ = c.Close() }, true},
		"sent what reset loses": {func(c *net.TCPConn) { _, _ = io.WriteString(c, "a"); _ = c.SetLinger(0); _ = c.Close() }, true},
	} {
		for _, network := range []string{"tcp4", "tcp6"} {
			t.Run(name+"/"+network, func(t *testing.T) {
				app, conn := endPair(t, network)
				src, dst := Peer(conn), Local(conn)
				tc.do(app)
				f := NewFactory(Config{})
				got := f.Abandoned(conn, src, dst)
				for end := time.Now().Add(time.Second); tc.want && !got && time.Now().Before(end); {
					got = f.Abandoned(conn, src, dst)
				}
				if got != tc.want {
					t.Errorf("Abandoned() = %t, want %t", got, tc.want)
				}
			})
		}
	}
}

// Whether an end elsewhere has closed its socket cannot be known.
func TestAbandoned_UnknownSocket(t *testing.T) {
	app, conn := endPair(t, "tcp4")
	_ = app.Close()
	other := Local(conn) // as if it had been redirected from somewhere else
	if NewFactory(Config{}).Abandoned(conn, other, other) {
		t.Error("Abandoned() = true for an end that the kernel does not know, want false")
	}
}

func TestAbandoned_OwnEndClosed(t *testing.T) {
	_, conn := endPair(t, "tcp4")
	src, dst := Peer(conn), Local(conn)
	_ = conn.Close()
	if NewFactory(Config{}).Abandoned(conn, src, dst) {
		t.Error("Abandoned() = true for a connection that we closed, want false")
	}
}

func endPair(t *testing.T, network string) (app, accepted *net.TCPConn) {
	t.Helper()
	addr := "127.0.0.1:0"
	if network == "tcp6" {
		addr = "[::1]:0"
	}
	ln, err := new(net.ListenConfig).Listen(t.Context(), network, addr)
	if err != nil && network == "tcp6" { // a container often has no IPv6
		needs.Missing(t, "this test needs IPv6: "+err.Error())
	} else if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	c, err := new(net.Dialer).DialContext(t.Context(), network, ln.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	a, err := ln.Accept()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Close(); _ = a.Close() })
	return c.(*net.TCPConn), a.(*net.TCPConn)
}

func TestReset(t *testing.T) {
	for name, tc := range map[string]struct {
		do   func(*net.TCPConn)
		want bool
	}{
		"idle":        {func(*net.TCPConn) {}, false},
		"half closed": {func(c *net.TCPConn) { _ = c.CloseWrite() }, false},
		"closed":      {func(c *net.TCPConn) { _ = c.Close() }, false},
		"reset":       {func(c *net.TCPConn) { _ = c.SetLinger(0); _ = c.Close() }, true},
		"sent, reset": {func(c *net.TCPConn) { _, _ = io.WriteString(c, "a"); _ = c.SetLinger(0); _ = c.Close() }, true},
	} {
		t.Run(name, func(t *testing.T) {
			app, conn := endPair(t, "tcp4")
			tc.do(app)
			if got := Reset(conn); got != tc.want { // over loopback all of it has arrived
				t.Errorf("Reset() = %t, want %t", got, tc.want)
			}
		})
	}
}
