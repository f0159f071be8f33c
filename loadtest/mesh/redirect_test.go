package mesh

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/google/nftables"
	"github.com/google/nftables/expr"
	"golang.org/x/sys/unix"
)

// describe writes a rule as nft would list it, more or less. It reads the
// expressions that go to the kernel, not what they were made of.
func describe(t *testing.T, rule []expr.Any) string {
	t.Helper()
	var words []string
	loaded, immediate := "", []byte(nil)
	for _, e := range rule {
		switch e := e.(type) {
		case *expr.Meta:
			name := map[expr.MetaKey]string{
				expr.MetaKeyOIFNAME: "oifname", expr.MetaKeyL4PROTO: "meta l4proto",
				expr.MetaKeyMARK: "meta mark", expr.MetaKeyNFPROTO: "meta nfproto",
			}[e.Key]
			if e.SourceRegister {
				words = append(words, name, "set", loaded)
			}
			loaded = name
		case *expr.Ct:
			name := map[expr.CtKey]string{expr.CtKeyMARK: "ct mark", expr.CtKeyZONE: "ct zone"}[e.Key]
			if !e.SourceRegister {
				loaded = name
				continue
			}
			if immediate != nil {
				loaded = fmt.Sprint(binary.NativeEndian.Uint16(immediate))
			}
			words = append(words, name, "set", loaded)
		case *expr.Payload:
			loaded = field(t, e)
		case *expr.Bitwise:
			loaded += fmt.Sprintf(" & %#x ^ %#x", binary.NativeEndian.Uint32(e.Mask), binary.NativeEndian.Uint32(e.Xor))
		case *expr.Cmp:
			words = append(words, loaded, map[expr.CmpOp]string{expr.CmpOpEq: "==", expr.CmpOpNeq: "!="}[e.Op], value(loaded, e.Data))
		case *expr.Immediate:
			immediate = e.Data
		case *expr.Redir:
			words = append(words, "redirect to :"+fmt.Sprint(binary.BigEndian.Uint16(immediate)))
		case *expr.Verdict:
			words = append(words, map[expr.VerdictKind]string{expr.VerdictAccept: "accept"}[e.Kind])
		default:
			t.Fatalf("rule contains %T, which is not described", e)
		}
	}
	return strings.Join(words, " ")
}

// field is what a rule looks at in a packet.
func field(t *testing.T, p *expr.Payload) string {
	t.Helper()
	name := map[expr.Payload]string{
		{DestRegister: 1, Base: expr.PayloadBaseTransportHeader, Offset: 0, Len: 2}: "th sport",
		{DestRegister: 1, Base: expr.PayloadBaseTransportHeader, Offset: 2, Len: 2}: "th dport",
		{DestRegister: 1, Base: expr.PayloadBaseNetworkHeader, Offset: 12, Len: 4}:  "ip saddr",
		{DestRegister: 1, Base: expr.PayloadBaseNetworkHeader, Offset: 16, Len: 4}:  "ip daddr",
		{DestRegister: 1, Base: expr.PayloadBaseNetworkHeader, Offset: 8, Len: 16}:  "ip6 saddr",
		{DestRegister: 1, Base: expr.PayloadBaseNetworkHeader, Offset: 24, Len: 16}: "ip6 daddr",
	}[*p]
	if name == "" {
		t.Fatalf("payload %+v is not described", p)
	}
	return name
}

func value(loaded string, b []byte) string {
	if addr, ok := netip.AddrFromSlice(b); ok && strings.HasPrefix(loaded, "ip") {
		return addr.String()
	}
	switch len(b) {
	case 1:
		return fmt.Sprint(b[0])
	case 2:
		return fmt.Sprint(binary.BigEndian.Uint16(b))
	case 4:
		return fmt.Sprintf("%#x", binary.NativeEndian.Uint32(b))
	}
	return fmt.Sprintf("%q", strings.TrimRight(string(b), "\x00"))
}

func TestRedirections(t *testing.T) {
	hooks := map[*nftables.ChainHook]string{nftables.ChainHookPrerouting: "prerouting", nftables.ChainHookOutput: "output"}
	var out strings.Builder
	for _, c := range redirections() {
		fmt.Fprintf(&out, "table %s, type %s, hook %s, priority %d: jump istio-%s\n", c.table, c.kind, hooks[c.hook], *c.priority, c.name)
		for _, rule := range c.rules {
			fmt.Fprintf(&out, "  %s\n", describe(t, rule))
		}
	}
	golden(t, "testdata/redirections.txt", out.String())
}

// original is where a redirected connection wanted to go.
func original(t *testing.T, c *net.TCPConn, v6 bool) netip.AddrPort {
	t.Helper()
	raw, err := c.SyscallConn()
	if err != nil {
		t.Fatal(err)
	}
	var addr netip.AddrPort
	controlErr := raw.Control(func(fd uintptr) {
		const soOriginalDst = 80
		if v6 {
			var info *unix.IPv6MTUInfo // begins with a sockaddr_in6, as the answer is
			if info, err = unix.GetsockoptIPv6MTUInfo(int(fd), unix.SOL_IPV6, soOriginalDst); err == nil {
				port := [2]byte{}
				binary.NativeEndian.PutUint16(port[:], info.Addr.Port)
				addr = netip.AddrPortFrom(netip.AddrFrom16(info.Addr.Addr), binary.BigEndian.Uint16(port[:]))
			}
			return
		}
		var answer *unix.IPv6Mreq // the first 16 bytes are the sockaddr_in
		if answer, err = unix.GetsockoptIPv6Mreq(int(fd), unix.SOL_IP, soOriginalDst); err == nil {
			b := answer.Multiaddr
			addr = netip.AddrPortFrom(netip.AddrFrom4([4]byte(b[4:8])), binary.BigEndian.Uint16(b[2:4]))
		}
	})
	if err != nil || controlErr != nil {
		t.Fatalf("original destination: %v %v", err, controlErr)
	}
	return addr
}

// A redirected is a connection that a listener got.
type redirected struct {
	at       uint16
	original netip.AddrPort
}

// listen takes connections in the pod's place, tells of each, and answers "at
// PORT" to whatever comes.
func listen(t *testing.T, p *Pod, port uint16, got chan<- redirected) {
	t.Helper()
	ln, err := p.Listen(t.Context(), port)
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan struct{})
	t.Cleanup(func() { ln.Close(); <-done })
	go func() {
		defer close(done)
		for {
			c, err := ln.AcceptTCP()
			if err != nil {
				return
			}
			local := c.LocalAddr().(*net.TCPAddr).AddrPort()
			if got != nil {
				got <- redirected{port, original(t, c, !local.Addr().Unmap().Is4())}
			}
			fmt.Fprintf(c, "at %d", port)
			c.Close()
		}
	}()
}

// dial connects and returns what the listener answers.
func dial(t *testing.T, from *Pod, to netip.AddrPort) string {
	t.Helper()
	c, err := from.Dial(t.Context(), to)
	if err != nil {
		t.Fatalf("Dial(%v): %v", to, err)
	}
	defer c.Close()
	answer, err := io.ReadAll(c)
	if err != nil {
		t.Fatalf("read from %v: %v", to, err)
	}
	return string(answer)
}

func TestRedirect(t *testing.T) {
	m := newMesh(t)
	client := addPod(t, addNode(t, m, "node-1"), "client")
	server := addPod(t, addNode(t, m, "node-2"), "server")
	for _, p := range []*Pod{client, server} {
		if err := p.Redirect(); err != nil {
			t.Fatal(err)
		}
	}
	got := make(chan redirected, 1)
	listen(t, client, OutboundPort, got)
	listen(t, client, 8080, nil)
	listen(t, client, HBONEPort, nil)
	nowhere := []netip.AddrPort{netip.MustParseAddrPort("10.96.0.10:80"), netip.AddrPortFrom(server.Addr, 8080)}
	if m.IPv6 {
		nowhere = append(nowhere, netip.MustParseAddrPort("[fd00:96::10]:80"), netip.AddrPortFrom(server.Addr6, 8080))
	}
	for _, to := range nowhere {
		if answer := dial(t, client, to); answer != "at 15001" {
			t.Errorf("dial %v answers %q, want at 15001", to, answer)
		}
		if r := <-got; r.original != to {
			t.Errorf("original destination = %v, want %v", r.original, to)
		}
	}
	// What stays within the pod is left alone.
	for _, addr := range append(client.Addrs(), netip.MustParseAddr("127.0.0.1")) {
		if answer := dial(t, client, netip.AddrPortFrom(addr, 8080)); answer != "at 8080" {
			t.Errorf("own address %v answers %q, want at 8080", addr, answer)
		}
	}

	// DNS over TCP goes to the listener for it, even to a resolver on loopback.
	listen(t, client, DNSPort, got)
	for _, to := range []string{"10.96.0.10:53", "127.0.0.53:53"} {
		if answer := dial(t, client, netip.MustParseAddrPort(to)); answer != "at 15053" {
			t.Errorf("dial %v answers %q, want at 15053", to, answer)
		}
		<-got
	}

	// What arrives.
	outsider := addPod(t, client.Node, "outsider")
	listen(t, server, InboundPort, got)
	listen(t, server, HBONEPort, nil)
	listen(t, server, 8080, nil)
	for _, addr := range server.Addrs() {
		to := netip.AddrPortFrom(addr, 8080)
		if answer := dial(t, outsider, to); answer != "at 15006" {
			t.Errorf("dial %v from outside answers %q, want at 15006", to, answer)
		}
		if r := <-got; r.original != to {
			t.Errorf("original destination = %v, want %v", r.original, to)
		}
		if answer := dial(t, outsider, netip.AddrPortFrom(addr, HBONEPort)); answer != "at 15008" {
			t.Errorf("HBONE port of %v answers %q, want at 15008", addr, answer)
		}
	}
}

// What ztunnel itself sends is marked and not captured.
func TestRedirectMarked(t *testing.T) {
	m := newMesh(t)
	client := addPod(t, addNode(t, m, "node-1"), "client")
	server := addPod(t, client.Node, "server")
	if err := client.Redirect(); err != nil {
		t.Fatal(err)
	}
	listen(t, client, OutboundPort, nil)
	listen(t, server, 8080, nil)
	to := netip.AddrPortFrom(server.Addr, 8080)
	for mark, want := range map[int]string{0: "at 15001", Mark: "at 8080", Mark | 0x1000: "at 8080", 1: "at 15001"} {
		var fd int
		err := client.Do(func() (err error) {
			if fd, err = unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0); err != nil {
				return err
			}
			if err := unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_MARK, mark); err != nil {
				return err
			}
			return unix.Connect(fd, &unix.SockaddrInet4{Addr: to.Addr().As4(), Port: int(to.Port())})
		})
		if err != nil {
			t.Fatal(err)
		}
		answer := make([]byte, 64)
		n, err := unix.Read(fd, answer)
		unix.Close(fd)
		if err != nil || string(answer[:n]) != want {
			t.Errorf("with mark %#x: read = %q, %v, want %q", mark, answer[:max(n, 0)], err, want)
		}
	}
}

// A connection to the application that ztunnel makes in its client's name: the
// answers to an address of another pod come back to ztunnel.
func TestRedirectKeepsSource(t *testing.T) {
	m := newMesh(t)
	server := addPod(t, addNode(t, m, "node-1"), "server")
	client := addPod(t, server.Node, "client")
	if err := server.Redirect(); err != nil {
		t.Fatal(err)
	}
	sources := make(chan netip.Addr, 2)
	ln, err := server.Listen(t.Context(), 8080)
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan struct{})
	t.Cleanup(func() { ln.Close(); <-done })
	go func() {
		defer close(done)
		for {
			c, err := ln.AcceptTCP()
			if err != nil {
				return
			}
			sources <- c.RemoteAddr().(*net.TCPAddr).AddrPort().Addr().Unmap()
			fmt.Fprint(c, "hello")
			c.Close()
		}
	}()
	for _, addr := range [][2]netip.Addr{{client.Addr, server.Addr}, {client.Addr6, server.Addr6}} {
		if !addr[0].IsValid() {
			continue
		}
		dialer := net.Dialer{
			Timeout: 5 * time.Second, LocalAddr: net.TCPAddrFromAddrPort(netip.AddrPortFrom(addr[0], 0)),
			Control: func(_, _ string, raw syscall.RawConn) (err error) {
				return errors.Join(raw.Control(func(fd uintptr) {
					transparent := unix.SetsockoptInt(int(fd), unix.SOL_IP, unix.IP_TRANSPARENT, 1)
					if addr[0].Is6() {
						transparent = unix.SetsockoptInt(int(fd), unix.SOL_IPV6, unix.IPV6_TRANSPARENT, 1)
					}
					err = errors.Join(transparent, unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_MARK, Mark))
				}), err)
			},
		}
		var answer []byte
		err := server.Do(func() error {
			c, err := dialer.DialContext(t.Context(), "tcp", netip.AddrPortFrom(addr[1], 8080).String())
			if err != nil {
				return err
			}
			defer c.Close()
			answer, err = io.ReadAll(c)
			return err
		})
		if err != nil || string(answer) != "hello" {
			t.Fatalf("from %s to %s: %q, %v, want hello", addr[0], addr[1], answer, err)
		}
		if got := <-sources; got != addr[0] {
			t.Errorf("the application sees %s, want %s", got, addr[0])
		}
	}
}
