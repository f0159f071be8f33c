package socket

import (
	"net"
	"net/netip"
	"os"
	"syscall"
	"testing"

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
