package socket

import (
	"errors"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"ztunnel/proxy/needs"
)

// rawOption reads an option of level SOL_SOCKET.
func rawOption(t *testing.T, c syscall.Conn, option int) (value int) {
	t.Helper()
	rc, err := c.SyscallConn()
	if err != nil {
		t.Fatal(err)
	}
	if cerr := rc.Control(func(fd uintptr) { value, err = unix.GetsockoptInt(int(fd), unix.SOL_SOCKET, option) }); cerr != nil || err != nil {
		t.Fatalf("option %d: %v, %v", option, cerr, err)
	}
	return value
}

// UDP sockets are in the pod's namespace, marked, and share their port if they may.
func TestListenPacket(t *testing.T) {
	needs.Root(t)
	ns := newNamespace(t)
	for _, addr := range []netip.AddrPort{loopback4, loopback6, wildcard6} {
		for _, reuse := range []bool{false, true} {
			f := NewFactory(Config{NetNS: ns, Mark: podMark, ReusePort: reuse})
			c, err := f.ListenPacket(t.Context(), addr)
			if err != nil {
				t.Fatal(err)
			}
			defer c.Close()
			if got := rawOption(t, c, unix.SO_MARK); got != podMark {
				t.Errorf("mark of %s = %#x, want %#x", addr, got, podMark)
			}
			if got := rawOption(t, c, unix.SO_REUSEPORT); (got == 1) != reuse {
				t.Errorf("SO_REUSEPORT of %s = %d, configured %t", addr, got, reuse)
			}
			port := c.LocalAddr().(*net.UDPAddr).AddrPort().Port()
			second, err := f.ListenPacket(t.Context(), netip.AddrPortFrom(addr.Addr(), port))
			if (err == nil) != reuse {
				t.Errorf("second socket at %s: %v, configured %t", addr, err, reuse)
			}
			if err == nil {
				second.Close()
			}
			dst := netip.AddrPortFrom(loopback4.Addr(), port)
			if addr == loopback6 {
				dst = netip.AddrPortFrom(loopback6.Addr(), port)
			}
			client, err := (&net.Dialer{Control: f.Control}).DialContext(t.Context(), "udp", dst.String())
			if err != nil {
				t.Fatal(err)
			}
			defer client.Close()
			if got := rawOption(t, client.(*net.UDPConn), unix.SO_MARK); got != podMark {
				t.Errorf("mark of the client = %#x, want %#x", got, podMark)
			}
			if _, err := client.Write([]byte("x")); err != nil {
				t.Fatal(err)
			}
			if n, _, err := c.ReadFromUDPAddrPort(make([]byte, 2)); err != nil || n != 1 {
				t.Errorf("read at %s = %d, %v, want one byte", addr, n, err)
			}
		}
	}
}

// Sockets to a resolver are in the pod's namespace and marked, and do not wait.
func TestOpenPackets(t *testing.T) {
	needs.Root(t)
	f := NewFactory(Config{NetNS: newNamespace(t), Mark: podMark})
	for _, addr := range []netip.AddrPort{loopback4, loopback6} {
		resolver, err := f.ListenPacket(t.Context(), addr)
		if err != nil {
			t.Fatal(err)
		}
		defer resolver.Close()
		var fds [3]int
		n, err := f.OpenPackets(addr.Addr(), fds[:])
		if err != nil || n != len(fds) {
			t.Fatalf("OpenPackets = %d, %v, want %d", n, err, len(fds))
		}
		for _, fd := range fds {
			defer unix.Close(fd)
			if got, err := unix.GetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_MARK); err != nil || got != podMark {
				t.Errorf("mark = %#x, %v, want %#x", got, err, podMark)
			}
			if err := startConnect(fd, resolver.LocalAddr().(*net.UDPAddr).AddrPort()); err != nil {
				t.Fatal(err)
			}
			if _, err := unix.Write(fd, []byte("question")); err != nil {
				t.Fatal(err)
			}
			b := make([]byte, 100)
			n, _, err := resolver.ReadFromUDPAddrPort(b)
			if err != nil || string(b[:n]) != "question" {
				t.Fatalf("the resolver at %s read %q, %v, want the question", addr, b[:n], err)
			}
			if _, err := unix.Read(fd, b); !errors.Is(err, unix.EAGAIN) {
				t.Errorf("Read = %v without an answer, want to be told to wait", err)
			}
		}
	}
}

// Where one socket cannot be opened, none is left.
func TestOpenPackets_Failure(t *testing.T) {
	needs.Root(t)
	ns := newNamespace(t)
	f := NewFactory(Config{NetNS: ns})
	ns.Close()
	var fds [2]int
	if n, err := f.OpenPackets(loopback4.Addr(), fds[:]); err == nil || n != 0 {
		t.Errorf("OpenPackets = %d, %v, want an error", n, err)
	}
}

// Control puts TCP sockets into the namespace too.
func TestControl_TCP(t *testing.T) {
	needs.Root(t)
	f := NewFactory(Config{NetNS: newNamespace(t), Mark: podMark})
	no := false
	ln, _ := listen(t, f, loopback6, &no)
	c, err := (&net.Dialer{Control: f.Control}).DialContext(t.Context(), "tcp", listenerAddr(ln).String())
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if got := rawOption(t, c.(*net.TCPConn), unix.SO_MARK); got != podMark {
		t.Errorf("mark = %#x, want %#x", got, podMark)
	}
}

// Whether ::1 can be bound is asked in the pod's namespace.
func TestLoopbackIPv6(t *testing.T) {
	needs.Root(t)
	ns := newNamespace(t)
	f := NewFactory(Config{NetNS: ns})
	if on, err := f.LoopbackIPv6(); err != nil || !on {
		t.Errorf("LoopbackIPv6() = %t, %v, want it on", on, err)
	}
	if err := inside(ns, func() error { return os.WriteFile(noLoopbackIPv6, []byte("1\n"), 0) }); err != nil {
		t.Fatal(err)
	}
	if on, err := f.LoopbackIPv6(); err != nil || on {
		t.Errorf("LoopbackIPv6() = %t, %v, want it off", on, err)
	}
	if on, err := NewFactory(Config{}).LoopbackIPv6(); err != nil || !on {
		t.Errorf("LoopbackIPv6() of this process = %t, %v, want it on", on, err)
	}
}

// A factory costs no descriptor, however many pods there are.
func TestFactoryHoldsNoDescriptor(t *testing.T) {
	needs.Root(t)
	ns := newNamespace(t)
	count := func() int {
		entries, err := os.ReadDir("/proc/self/fd")
		if err != nil {
			t.Fatal(err)
		}
		return len(entries)
	}
	var factories []*Factory
	before := 0
	for i := range 20 {
		f := NewFactory(Config{NetNS: ns})
		c, err := f.ListenPacket(t.Context(), loopback4)
		if err != nil {
			t.Fatal(err)
		}
		c.Close()
		if factories = append(factories, f); i == 0 {
			before = count()
		}
	}
	if after := count(); after != before {
		t.Errorf("%d descriptors with %d factories, %d with one", after, len(factories), before)
	}
}

// A socket that yields gets no packets while there is another one, and the next
// one that comes has its share again.
func TestYield(t *testing.T) {
	listen := func(addr string) *net.UDPConn {
		t.Helper()
		c, err := NewFactory(Config{ReusePort: true, Log: slog.New(slog.DiscardHandler)}).ListenPacket(t.Context(), netip.MustParseAddrPort(addr))
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = c.Close() })
		return c
	}
	// packets returns how many of 40 came to each.
	const n = 40
	packets := func(conns ...*net.UDPConn) (got []int) {
		t.Helper()
		for range n { // each from a port of its own
			c, err := (&net.Dialer{}).DialContext(t.Context(), "udp", conns[0].LocalAddr().String())
			if err != nil {
				t.Fatal(err)
			}
			if _, err := c.Write([]byte("?")); err != nil {
				t.Fatal(err)
			}
			_ = c.Close()
		}
		for _, c := range conns {
			came := 0
			for ; ; came++ {
				_ = c.SetReadDeadline(time.Now().Add(50 * time.Millisecond))
				if _, err := c.Read(make([]byte, 1)); err != nil {
					break
				}
			}
			got = append(got, came)
		}
		return got
	}
	old := listen("127.0.0.1:0")
	if err := Yield(old); err != nil {
		t.Fatal(err)
	}
	if got := packets(old); got[0] != n {
		t.Errorf("the only socket got %d packets, want %d", got[0], n)
	}
	next := listen(old.LocalAddr().String())
	for range 2 {
		if got := packets(old, next); got[0] == 0 || got[1] == 0 || got[0]+got[1] != n {
			t.Errorf("two sockets got %d packets, want a share of %d for each", got, n)
		}
		if err := Yield(old); err != nil {
			t.Fatal(err)
		}
		if got := packets(old, next); got[0] != 0 || got[1] != n {
			t.Errorf("the one that yields and the other got %d packets, want 0 and %d", got, n)
		}
		_ = old.Close()
		old, next = next, listen(next.LocalAddr().String())
	}
	_ = old.Close()
	if err := Yield(old); err == nil {
		t.Error("Yield of a closed socket = nil, want an error")
	}
}
