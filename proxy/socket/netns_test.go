package socket

import (
	"errors"
	"io"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"runtime"
	"strings"
	"sync"
	"testing"

	"github.com/google/nftables"
	"github.com/google/nftables/binaryutil"
	"github.com/google/nftables/expr"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"ztunnel/proxy/needs"
)

// podMark is the mark of all sockets of the proxy in a pod.
const podMark = 0x539

// Addresses of the test's namespace: one that it owns and one that it does not.
var (
	own4     = netip.MustParseAddr("192.0.2.1")
	own6     = netip.MustParseAddr("2001:db8::1")
	foreign4 = netip.MustParseAddr("198.51.100.9")
	foreign6 = netip.MustParseAddr("2001:db8:ffff::9")
)

// newNamespace makes a network namespace with the test's addresses and the policy route of a pod: marked packets to any
// address are local.
func newNamespace(t *testing.T) *os.File {
	t.Helper()
	type result struct {
		file *os.File
		err  error
	}
	made := make(chan result)
	go func() {
		runtime.LockOSThread()
		file, err := func() (*os.File, error) {
			home, err := os.Open("/proc/thread-self/ns/net")
			if err != nil {
				return nil, err
			}
			defer home.Close()
			if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
				return nil, os.NewSyscallError("unshare", err)
			}
			if err := setUpLoopback(); err != nil {
				return nil, err
			}
			file, err := os.Open("/proc/thread-self/ns/net")
			if err != nil {
				return nil, err
			}
			return file, unix.Setns(int(home.Fd()), unix.CLONE_NEWNET)
		}()
		if err == nil {
			runtime.UnlockOSThread()
		}
		made <- result{file, err}
	}()
	r := <-made
	if r.err != nil {
		t.Fatal(r.err)
	}
	t.Cleanup(func() { r.file.Close() })
	return r.file
}

// setUpLoopback prepares the namespace of the current thread.
func setUpLoopback() error {
	h, err := netlink.NewHandle()
	if err != nil {
		return err
	}
	defer h.Close()
	lo, err := h.LinkByName("lo")
	if err != nil {
		return err
	}
	if err := h.LinkSetUp(lo); err != nil {
		return err
	}
	for _, ip := range []netip.Addr{own4, own6} {
		_, prefix, err := net.ParseCIDR(netip.PrefixFrom(ip, ip.BitLen()).String())
		if err != nil {
			return err
		}
		if err := h.AddrAdd(lo, &netlink.Addr{IPNet: prefix, Flags: unix.IFA_F_NODAD}); err != nil {
			return err
		}
		family, all := netlink.FAMILY_V4, "0.0.0.0/0"
		if ip.Is6() {
			family, all = netlink.FAMILY_V6, "::/0"
		}
		rule := netlink.NewRule()
		rule.Family, rule.Mark, rule.Table, rule.Priority = family, podMark, 100, 32764
		if err := h.RuleAdd(rule); err != nil {
			return err
		}
		_, dst, err := net.ParseCIDR(all)
		if err != nil {
			return err
		}
		route := &netlink.Route{LinkIndex: lo.Attrs().Index, Dst: dst, Table: 100, Type: unix.RTN_LOCAL, Scope: unix.RT_SCOPE_HOST}
		if err := h.RouteAdd(route); err != nil {
			return err
		}
	}
	return nil
}

// redirect sends TCP connections to one port to another one, as the CNI agent does.
func redirect(t *testing.T, ns *os.File, from, to uint16) {
	t.Helper()
	c, err := nftables.New(nftables.WithNetNSFd(int(ns.Fd())))
	if err != nil {
		t.Fatal(err)
	}
	table := c.AddTable(&nftables.Table{Family: nftables.TableFamilyINet, Name: "test"})
	chain := c.AddChain(&nftables.Chain{
		Name: "output", Table: table, Type: nftables.ChainTypeNAT,
		Hooknum: nftables.ChainHookOutput, Priority: nftables.ChainPriorityNATDest,
	})
	c.AddRule(&nftables.Rule{Table: table, Chain: chain, Exprs: []expr.Any{
		&expr.Meta{Key: expr.MetaKeyL4PROTO, Register: 1},
		&expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: []byte{unix.IPPROTO_TCP}},
		&expr.Payload{DestRegister: 1, Base: expr.PayloadBaseTransportHeader, Offset: 2, Len: 2},
		&expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: binaryutil.BigEndian.PutUint16(from)},
		&expr.Immediate{Register: 1, Data: binaryutil.BigEndian.PutUint16(to)},
		&expr.Redir{RegisterProtoMin: 1},
	}})
	if err := c.Flush(); err != nil {
		t.Fatal(err)
	}
}

func TestNamespace(t *testing.T) {
	needs.Root(t)
	f := NewFactory(Config{NetNS: newNamespace(t), Mark: podMark, ReusePort: true, Keepalive: testKeepalive})
	no := false
	ln, _ := listen(t, f, wildcard6, &no)
	listen(t, f, netip.AddrPortFrom(wildcard6.Addr(), listenerAddr(ln).Port()), &no) // SO_REUSEPORT
	if got := option(t, ln, unix.SOL_SOCKET, unix.SO_REUSEADDR); got != 0 {
		t.Errorf("SO_REUSEADDR of the listener = %d, want 0", got)
	}
	ln2, _ := listen(t, f, wildcard6, &no)
	want := opts{NoDelay: 1, KeepAlive: 1, Idle: 10, Interval: 2, Count: 5, UserTimeout: 20_000, Mark: podMark}
	for _, ip := range []netip.Addr{own4, own6, loopback4.Addr(), loopback6.Addr()} {
		d, a := connect(t, f, ln2, netip.Addr{}, netip.AddrPortFrom(ip, listenerAddr(ln2).Port()))
		if got := options(t, d); got != want {
			t.Errorf("dialled %v has %+v, want %+v", ip, got, want)
		}
		got := options(t, a)
		got.ReusePort = 0 // inherited from the listener, without effect
		if got != want {
			t.Errorf("accepted from %v has %+v, want %+v", ip, got, want)
		}
		if Local(a).Addr() != ip {
			t.Errorf("Local = %v, want %v", Local(a), ip)
		}
	}
	outside := NewFactory(Config{})
	if _, err := outside.Dial(t.Context(), netip.Addr{}, netip.AddrPortFrom(loopback4.Addr(), listenerAddr(ln).Port())); err == nil {
		t.Error("Dial from outside reached the listener inside")
	}
}

// No thread stays in a pod's namespace.
func TestNamespaceThreads(t *testing.T) {
	needs.Root(t)
	home, err := os.Readlink("/proc/thread-self/ns/net")
	if err != nil {
		t.Fatal(err)
	}
	var wg sync.WaitGroup
	for range 4 {
		f := NewFactory(Config{NetNS: newNamespace(t)})
		ln, _ := listen(t, f, wildcard6, nil)
		dst := netip.AddrPortFrom(own4, listenerAddr(ln).Port())
		for range 8 {
			wg.Go(func() {
				for range 4 {
					d, err := f.Dial(t.Context(), netip.Addr{}, dst)
					if err != nil {
						t.Errorf("Dial: %v", err)
						return
					}
					d.Close()
				}
			})
		}
	}
	wg.Wait()
	tasks, err := os.ReadDir("/proc/self/task")
	if err != nil {
		t.Fatal(err)
	}
	for _, task := range tasks {
		ns, err := os.Readlink("/proc/self/task/" + task.Name() + "/ns/net")
		if err == nil && ns != home {
			t.Errorf("thread %s is in %s, want %s", task.Name(), ns, home)
		}
	}
}

func TestNamespaceGone(t *testing.T) {
	needs.Root(t)
	file, err := os.CreateTemp(t.TempDir(), "no-namespace")
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	f := NewFactory(Config{NetNS: file})
	if _, err := f.Dial(t.Context(), netip.Addr{}, netip.AddrPortFrom(own4, 1)); err == nil || !strings.Contains(err.Error(), "enter network namespace") {
		t.Errorf("Dial in a file that is no namespace = %v, want the attempt named", err)
	}
	if _, _, err := f.Listen(t.Context(), wildcard6, nil); err == nil {
		t.Error("Listen in a file that is no namespace succeeded")
	}
}

// All sockets of one visit are in the namespace, and the thread is back when it ends, also by an error.
func TestVisit(t *testing.T) {
	needs.Root(t)
	f := NewFactory(Config{NetNS: newNamespace(t), Mark: podMark})
	var listeners []*net.TCPListener
	var packets *net.UDPConn
	errStop := errors.New("stop")
	err := f.Visit(func(in *Factory) error {
		for _, addr := range []netip.AddrPort{wildcard6, loopback4, loopback6} {
			ln, _ := listen(t, in, addr, nil)
			listeners = append(listeners, ln)
		}
		var err error
		if packets, err = in.ListenPacket(t.Context(), wildcard6); err != nil {
			return err
		}
		t.Cleanup(func() { packets.Close() })
		return in.Visit(func(*Factory) error { return errStop })
	})
	if !errors.Is(err, errStop) {
		t.Errorf("Visit = %v, want the error of what it calls", err)
	}
	if got := rawOption(t, packets, unix.SO_MARK); got != podMark {
		t.Errorf("mark of the UDP socket = %#x, want %#x", got, podMark)
	}
	for i, ip := range []netip.Addr{own4, loopback4.Addr(), loopback6.Addr()} {
		if got := option(t, listeners[i], unix.SOL_SOCKET, unix.SO_MARK); got != podMark {
			t.Errorf("mark of %v = %#x, want %#x", listeners[i].Addr(), got, podMark)
		}
		dst := netip.AddrPortFrom(ip, listenerAddr(listeners[i]).Port())
		connect(t, f, listeners[i], netip.Addr{}, dst)
		if _, err := NewFactory(Config{}).Dial(t.Context(), netip.Addr{}, dst); err == nil {
			t.Errorf("Dial from outside reached %v inside", dst)
		}
	}
}

func TestDialFromForeignAddress(t *testing.T) {
	needs.Root(t)
	var log strings.Builder
	f := NewFactory(Config{NetNS: newNamespace(t), Mark: podMark, Log: slog.New(slog.NewTextHandler(&log, nil))})
	yes := true
	ln, on := listen(t, f, wildcard6, &yes)
	if !on {
		t.Error("Listen is not transparent, want it")
	}
	port := listenerAddr(ln).Port()
	for _, tc := range []struct{ local, dst netip.Addr }{{foreign4, own4}, {foreign6, own6}} {
		for range 3 { // each from a port of its own
			d, a := connect(t, f, ln, tc.local, netip.AddrPortFrom(tc.dst, port))
			if Peer(a).Addr() != tc.local || Local(d) != Peer(a) {
				t.Errorf("the server sees %v, local address %v, want %v", Peer(a), Local(d), tc.local)
			}
			if err := NotRedirected(a); err != nil {
				t.Errorf("NotRedirected of a transparent socket = %v, want nil", err)
			}
			if _, err := d.Write([]byte("x")); err != nil {
				t.Error(err)
			}
			if _, err := io.ReadFull(a, make([]byte, 1)); err != nil {
				t.Error(err)
			}
		}
	}
	if log.Len() > 0 {
		t.Errorf("logged %s, want nothing", log.String())
	}
}

func TestOriginalDestination(t *testing.T) {
	needs.Root(t)
	ns := newNamespace(t)
	f := NewFactory(Config{NetNS: ns})
	no := false
	ln, _ := listen(t, f, wildcard6, &no)
	const port = 8888
	redirect(t, ns, port, listenerAddr(ln).Port())
	for _, ip := range []netip.Addr{own4, own6} {
		dst := netip.AddrPortFrom(ip, port)
		_, a := connect(t, f, ln, netip.Addr{}, dst)
		if Local(a) == dst {
			t.Errorf("the connection to %v was not redirected", dst)
		}
		if got, err := OriginalDestination(a); err != nil || got != dst {
			t.Errorf("OriginalDestination = %v, %v, want %v", got, err, dst)
		}
		if err := NotRedirected(a); err != nil {
			t.Errorf("NotRedirected = %v, want nil", err)
		}
	}
}

// Without the capability the source address is lost, which is logged, and the connection is made nevertheless.
func TestDialWithoutCapability(t *testing.T) {
	needs.Root(t)
	var log strings.Builder
	f := NewFactory(Config{Log: slog.New(slog.NewTextHandler(&log, nil))})
	ln, _ := listen(t, f, loopback4, nil)
	type result struct {
		conn *net.TCPConn
		err  error
	}
	dialled := make(chan result)
	go func() {
		runtime.LockOSThread() // and never unlocked: capabilities belong to the thread, which ends with the goroutine
		header := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
		var none [2]unix.CapUserData
		if err := unix.Capset(&header, &none[0]); err != nil {
			dialled <- result{nil, err}
			return
		}
		c, err := f.Dial(t.Context(), foreign4, listenerAddr(ln))
		dialled <- result{c, err}
	}()
	r := <-dialled
	if r.err != nil {
		t.Fatalf("Dial = %v, want a connection", r.err)
	}
	defer r.conn.Close()
	if got := Local(r.conn).Addr(); got != loopback4.Addr() {
		t.Errorf("Local = %v, want %v", got, loopback4.Addr())
	}
	for _, want := range []string{
		`level=WARN msg="failed to set freebind: Operation not permitted (os error 1)"`,
		`level=WARN msg="failed to bind local addr: Cannot assign requested address (os error 99)"`,
	} {
		if !strings.Contains(log.String(), want) {
			t.Errorf("log = %s, want %s", log.String(), want)
		}
	}
}
