package socket

import (
	"context"
	"errors"
	"log/slog"
	"net"
	"net/netip"
	"strings"
	"syscall"
	"testing"
	"time"

	"go.uber.org/goleak"
	"golang.org/x/sys/unix"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

var (
	loopback4 = netip.MustParseAddrPort("127.0.0.1:0")
	loopback6 = netip.MustParseAddrPort("[::1]:0")
	wildcard4 = netip.MustParseAddrPort("0.0.0.0:0")
	wildcard6 = netip.MustParseAddrPort("[::]:0")
)

// testKeepalive differs from every default of the kernel and of package net.
var testKeepalive = Keepalive{Enabled: true, Time: 10 * time.Second, Interval: 2 * time.Second, Retries: 5, UserTimeout: true}

// opts are the options of a socket that this package may set.
type opts struct {
	NoDelay, KeepAlive, Idle, Interval, Count, UserTimeout, Mark, ReusePort int
}

func options(t *testing.T, c syscall.Conn) opts {
	t.Helper()
	get := func(level, name int) int { return option(t, c, level, name) }
	return opts{
		NoDelay:     get(unix.IPPROTO_TCP, unix.TCP_NODELAY),
		KeepAlive:   get(unix.SOL_SOCKET, unix.SO_KEEPALIVE),
		Idle:        get(unix.IPPROTO_TCP, unix.TCP_KEEPIDLE),
		Interval:    get(unix.IPPROTO_TCP, unix.TCP_KEEPINTVL),
		Count:       get(unix.IPPROTO_TCP, unix.TCP_KEEPCNT),
		UserTimeout: get(unix.IPPROTO_TCP, unix.TCP_USER_TIMEOUT),
		Mark:        get(unix.SOL_SOCKET, unix.SO_MARK),
		ReusePort:   get(unix.SOL_SOCKET, unix.SO_REUSEPORT),
	}
}

func option(t *testing.T, c syscall.Conn, level, name int) int {
	t.Helper()
	rc, err := c.SyscallConn()
	if err != nil {
		t.Fatal(err)
	}
	var value int
	var inner error
	if err := rc.Control(func(fd uintptr) { value, inner = unix.GetsockoptInt(int(fd), level, name) }); err != nil || inner != nil {
		t.Fatalf("getsockopt %d %d: %v, %v", level, name, err, inner)
	}
	return value
}

func listen(t *testing.T, f *Factory, addr netip.AddrPort, transparent *bool) (*net.TCPListener, bool) {
	t.Helper()
	ln, on, err := f.Listen(t.Context(), addr, transparent)
	if err != nil {
		t.Fatalf("Listen(%v): %v", addr, err)
	}
	t.Cleanup(func() { ln.Close() })
	return ln, on
}

func listenerAddr(ln *net.TCPListener) netip.AddrPort {
	return canonical(ln.Addr().(*net.TCPAddr).AddrPort())
}

// connect dials with one factory and accepts.
func connect(t *testing.T, f *Factory, ln *net.TCPListener, local netip.Addr, dst netip.AddrPort) (dialled, accepted *net.TCPConn) {
	t.Helper()
	d, err := f.Dial(t.Context(), local, dst)
	if err != nil {
		t.Fatalf("Dial(%v, %v): %v", local, dst, err)
	}
	ln.SetDeadline(time.Now().Add(5 * time.Second))
	a, err := ln.AcceptTCP()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { d.Close(); a.Close() })
	return d, a
}

func TestOptions(t *testing.T) {
	no := false
	for _, tc := range []struct {
		name string
		cfg  Config
		want func(o opts) opts // from the kernel's defaults
	}{
		{"none", Config{}, func(o opts) opts { return o }},
		{
			"keepalive",
			Config{Keepalive: Keepalive{Enabled: true, Time: 180 * time.Second, Interval: 180 * time.Second, Retries: 9}},
			func(o opts) opts { o.KeepAlive, o.Idle, o.Interval, o.Count = 1, 180, 180, 9; return o },
		},
		{
			"keepalive and user timeout",
			Config{Keepalive: testKeepalive},
			func(o opts) opts {
				o.KeepAlive, o.Idle, o.Interval, o.Count, o.UserTimeout = 1, 10, 2, 5, 20_000
				return o
			},
		},
		{
			"user timeout alone",
			Config{Keepalive: Keepalive{Time: time.Second, Interval: time.Second, Retries: 1, UserTimeout: true}},
			func(o opts) opts { o.UserTimeout = 2000; return o },
		},
	} {
		t.Run(tc.name, func(t *testing.T) {
			f := NewFactory(tc.cfg)
			ln, _ := listen(t, f, loopback4, &no)
			d, a := connect(t, f, ln, netip.Addr{}, listenerAddr(ln))
			if err := f.Accepted(a, true); err != nil {
				t.Fatal(err)
			}
			bare := defaults(t)
			want := tc.want(bare)
			if got := options(t, d); got != want {
				t.Errorf("dialled socket has %+v, want %+v", got, want)
			}
			if got := options(t, a); got != want {
				t.Errorf("accepted socket has %+v, want %+v", got, want)
			}
			if err := f.Accepted(a, false); err != nil {
				t.Fatal(err)
			}
			if got := options(t, a); got.KeepAlive != 0 || got.UserTimeout != 0 || got.NoDelay != 1 {
				t.Errorf("accepted socket without keepalive has %+v, want only TCP_NODELAY", got)
			}
		})
	}
}

// defaults returns the options of a socket on which only TCP_NODELAY was set.
func defaults(t *testing.T) opts {
	t.Helper()
	d := net.Dialer{KeepAlive: -1}
	ln, err := net.Listen("tcp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	c, err := d.Dial("tcp4", ln.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	return options(t, c.(*net.TCPConn))
}

func TestListen(t *testing.T) {
	no := false
	for _, tc := range []struct {
		addr  netip.AddrPort
		dials []string
	}{
		{wildcard6, []string{"127.0.0.1", "::1"}}, // dual-stack
		{wildcard4, []string{"127.0.0.1"}},
		{loopback4, []string{"127.0.0.1"}},
		{loopback6, []string{"::1"}},
	} {
		ln, on := listen(t, NewFactory(Config{}), tc.addr, &no)
		if on {
			t.Errorf("Listen(%v) is transparent, want not", tc.addr)
		}
		if reuse := option(t, ln, unix.SOL_SOCKET, unix.SO_REUSEADDR); reuse != 1 {
			t.Errorf("Listen(%v): SO_REUSEADDR = %d, want 1", tc.addr, reuse)
		}
		for _, ip := range tc.dials {
			dst := netip.AddrPortFrom(netip.MustParseAddr(ip), listenerAddr(ln).Port())
			d, a := connect(t, NewFactory(Config{}), ln, netip.Addr{}, dst)
			if Peer(d) != dst || Local(a) != dst || Peer(a) != Local(d) || !Peer(a).IsValid() || Peer(a).Addr().Is4In6() {
				t.Errorf("dialled %v: addresses %v > %v, accepted %v > %v, want the same and canonical", dst, Local(d), Peer(d), Peer(a), Local(a))
			}
			if got, err := OriginalDestination(a); err != nil || got != dst {
				t.Errorf("OriginalDestination = %v, %v, want the local address %v", got, err, dst)
			}
			if err := NotRedirected(a); err == nil || !strings.HasPrefix(err.Error(), "failed to read SO_ORIGINAL_DST: ") {
				t.Errorf("NotRedirected = %v, want the kernel's errors", err)
			}
		}
	}
	ln, _ := listen(t, NewFactory(Config{}), wildcard4, &no)
	if got := listenerAddr(ln).Addr(); got != wildcard4.Addr() {
		t.Errorf("Listen(%v) listens on %v", wildcard4, got)
	}
}

func TestListenBacklog(t *testing.T) {
	ln, _ := listen(t, NewFactory(Config{}), loopback4, nil)
	// For a listening socket, Unacked is the length of the accept queue and Sacked its limit.
	rc, err := ln.SyscallConn()
	if err != nil {
		t.Fatal(err)
	}
	rc.Control(func(fd uintptr) {
		info, err := unix.GetsockoptTCPInfo(int(fd), unix.IPPROTO_TCP, unix.TCP_INFO)
		if err != nil || info.Sacked != backlog {
			t.Errorf("backlog = %d, %v, want %d", info.Sacked, err, backlog)
		}
	})
}

func TestListenReusePort(t *testing.T) {
	no := false
	f := NewFactory(Config{ReusePort: true})
	ln, _ := listen(t, f, loopback4, &no)
	listen(t, f, listenerAddr(ln), &no) // the successor binds the same port
	if got := option(t, ln, unix.SOL_SOCKET, unix.SO_REUSEADDR); got != 0 {
		t.Errorf("SO_REUSEADDR = %d, want 0", got)
	}
	d, _ := connect2(t, f, listenerAddr(ln))
	if got := options(t, d).ReusePort; got != 0 {
		t.Errorf("SO_REUSEPORT of a dialled socket = %d, want 0", got)
	}
}

// connect2 dials without accepting.
func connect2(t *testing.T, f *Factory, dst netip.AddrPort) (*net.TCPConn, error) {
	t.Helper()
	d, err := f.Dial(t.Context(), netip.Addr{}, dst)
	if err == nil {
		t.Cleanup(func() { d.Close() })
	}
	return d, err
}

func TestListenConflict(t *testing.T) {
	ln, _ := listen(t, NewFactory(Config{}), loopback4, nil)
	_, _, err := NewFactory(Config{}).Listen(t.Context(), listenerAddr(ln), nil)
	want := "failed to bind to address " + listenerAddr(ln).String() + ": Address already in use (os error 98)"
	var bind *BindError
	if !errors.As(err, &bind) || !errors.Is(err, syscall.EADDRINUSE) || err.Error() != want {
		t.Errorf("Listen on a taken port = %v, want %s", err, want)
	}
}

func TestDialErrors(t *testing.T) {
	ln, _ := listen(t, NewFactory(Config{}), loopback4, nil)
	dst := listenerAddr(ln)
	ln.Close()
	f := NewFactory(Config{})
	if _, err := f.Dial(t.Context(), netip.Addr{}, dst); ErrorText(err) != "Connection refused (os error 111)" || IsTimeout(err) {
		t.Errorf("Dial = %v, text %q, want refused", err, ErrorText(err))
	}
	if _, err := f.Dial(t.Context(), netip.MustParseAddr("::1"), dst); !errors.Is(err, syscall.EAFNOSUPPORT) {
		t.Errorf("Dial from the other family = %v, want %v", err, syscall.EAFNOSUPPORT)
	}
	cause := errors.New("drained")
	ctx, cancel := context.WithCancelCause(t.Context())
	cancel(cause)
	if _, err := f.Dial(ctx, netip.Addr{}, dst); !errors.Is(err, cause) {
		t.Errorf("Dial with an ended context = %v, want %v", err, cause)
	}
}

// The dialler's own time gives ErrTimeout, the kernel's its own text. The accept queue is full, so no answer comes.
func TestDialTimeout(t *testing.T) {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(fd)
	if err := unix.Bind(fd, &unix.SockaddrInet4{Addr: [4]byte{127, 0, 0, 1}}); err != nil {
		t.Fatal(err)
	}
	if err := unix.Listen(fd, 0); err != nil {
		t.Fatal(err)
	}
	sa, err := unix.Getsockname(fd)
	if err != nil {
		t.Fatal(err)
	}
	dst := netip.AddrPortFrom(loopback4.Addr(), uint16(sa.(*unix.SockaddrInet4).Port))
	f := NewFactory(Config{})
	f.timeout = 50 * time.Millisecond
	for range 4 {
		if _, err = connect2(t, f, dst); err != nil {
			break
		}
	}
	if !errors.Is(err, ErrTimeout) || !IsTimeout(err) || ErrorText(err) != "deadline has elapsed" {
		t.Errorf("Dial to a full queue = %v, text %q, want ErrTimeout", err, ErrorText(err))
	}
	// Cancelled while connecting.
	f.timeout = time.Minute
	cause := errors.New("application closed")
	ctx, cancel := context.WithTimeoutCause(t.Context(), 20*time.Millisecond, cause)
	defer cancel()
	if _, err := f.Dial(ctx, netip.Addr{}, dst); !errors.Is(err, cause) {
		t.Errorf("Dial = %v, want %v", err, cause)
	}
}

func TestDialCanonical(t *testing.T) {
	ln, _ := listen(t, NewFactory(Config{}), loopback4, nil)
	dst := listenerAddr(ln)
	mapped := netip.AddrPortFrom(netip.AddrFrom16(dst.Addr().As16()), dst.Port())
	var log strings.Builder
	f := NewFactory(Config{Log: slog.New(slog.NewTextHandler(&log, nil))})
	d, _ := connect(t, f, ln, mapped.Addr(), mapped) // the source equals the destination: not bound
	if Peer(d) != dst || log.Len() > 0 {
		t.Errorf("Peer = %v, log %q, want %v and nothing", Peer(d), log.String(), dst)
	}
}

func TestSetNotSentLowat(t *testing.T) {
	f := NewFactory(Config{})
	ln, _ := listen(t, f, loopback4, nil)
	d, _ := connect(t, f, ln, netip.Addr{}, listenerAddr(ln))
	if err := SetNotSentLowat(d, 128<<10); err != nil {
		t.Fatal(err)
	}
	if got := option(t, d, unix.IPPROTO_TCP, unix.TCP_NOTSENT_LOWAT); got != 128<<10 {
		t.Errorf("TCP_NOTSENT_LOWAT = %d, want %d", got, 128<<10)
	}
}

func TestAllocations(t *testing.T) {
	f := NewFactory(Config{})
	ln, _ := listen(t, f, loopback4, nil)
	_, a := connect(t, f, ln, netip.Addr{}, listenerAddr(ln))
	if got := testing.AllocsPerRun(100, func() { OriginalDestination(a) }); got > 3 {
		t.Errorf("OriginalDestination makes %v allocations, want at most 3", got)
	}
	if got := testing.AllocsPerRun(100, func() { Peer(a); Local(a) }); got != 0 {
		t.Errorf("Peer and Local make %v allocations, want 0", got)
	}
}

// BenchmarkConnection dials, accepts, asks for the original destination and closes. Under a tracer of system calls it
// shows what one connection costs.
func BenchmarkConnection(b *testing.B) {
	f := NewFactory(Config{Keepalive: Keepalive{Enabled: true, Time: 180 * time.Second, Interval: 180 * time.Second, Retries: 9}})
	ln, _, err := f.Listen(b.Context(), wildcard6, nil)
	if err != nil {
		b.Fatal(err)
	}
	defer ln.Close()
	dst := netip.AddrPortFrom(loopback4.Addr(), listenerAddr(ln).Port())
	b.ReportAllocs()
	for b.Loop() {
		d, err := f.Dial(b.Context(), netip.Addr{}, dst)
		if err != nil {
			b.Fatal(err)
		}
		a, err := ln.AcceptTCP()
		if err != nil {
			b.Fatal(err)
		}
		if err := f.Accepted(a, true); err != nil {
			b.Fatal(err)
		}
		if _, err := OriginalDestination(a); err != nil {
			b.Fatal(err)
		}
		d.SetLinger(0) // leaves no TIME_WAIT
		d.Close()
		a.Close()
	}
}
