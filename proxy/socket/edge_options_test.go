package socket

import (
	"net"
	"net/netip"
	"os"
	"slices"
	"testing"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"ztunnel/proxy/needs"
)

// Sockets that listen in a pod are marked, and share their port if they may; those that are dialled are marked and never do.
func TestMarkAndSharedPorts(t *testing.T) {
	needs.Root(t)
	ns := newNamespace(t)
	no := false
	for _, reuse := range []bool{false, true} {
		f := NewFactory(Config{NetNS: ns, Mark: podMark, ReusePort: reuse})
		shared := map[bool]int{true: 1}[reuse]
		for _, addr := range []netip.AddrPort{loopback4, loopback6, wildcard6} {
			ln, _ := listen(t, f, addr, &no)
			packets, err := f.ListenPacket(t.Context(), addr)
			if err != nil {
				t.Fatal(err)
			}
			defer packets.Close()
			for name, got := range map[string][2]int{
				"TCP": {rawOption(t, ln, unix.SO_MARK), rawOption(t, ln, unix.SO_REUSEPORT)},
				"UDP": {rawOption(t, packets, unix.SO_MARK), rawOption(t, packets, unix.SO_REUSEPORT)},
			} {
				if want := [2]int{podMark, shared}; got != want {
					t.Errorf("%s at %s: mark and SO_REUSEPORT = %#x, want %#x with ReusePort %t", name, addr, got, want, reuse)
				}
			}
			dst := listenerAddr(ln)
			if addr == wildcard6 {
				dst = netip.AddrPortFrom(loopback6.Addr(), dst.Port())
			}
			dialled, _ := connect(t, f, ln, netip.Addr{}, dst)
			if got, want := [2]int{rawOption(t, dialled, unix.SO_MARK), rawOption(t, dialled, unix.SO_REUSEPORT)}, [2]int{podMark, 0}; got != want {
				t.Errorf("dialled %s: mark and SO_REUSEPORT = %#x, want %#x with ReusePort %t", dst, got, want, reuse)
			}
		}
	}
}

// What is done during a visit is done in the namespace alone, and after it the thread is where it was.
func TestVisit_ChangesTheNamespaceAlone(t *testing.T) {
	needs.Root(t)
	added := netip.MustParsePrefix("192.0.2.77/32")
	has := func() bool {
		t.Helper()
		return slices.Contains(addressesOf(t), added)
	}
	f := NewFactory(Config{NetNS: newNamespace(t)})
	home, there := ownNamespace(t), ""
	err := f.Visit(func(*Factory) error {
		there = ownNamespace(t)
		h, err := netlink.NewHandle()
		if err != nil {
			return err
		}
		defer h.Close()
		lo, err := h.LinkByName("lo")
		if err != nil {
			return err
		}
		return h.AddrAdd(lo, &netlink.Addr{IPNet: &net.IPNet{IP: added.Addr().AsSlice(), Mask: net.CIDRMask(added.Bits(), 32)}})
	})
	if err != nil {
		t.Fatal(err)
	}
	if now := ownNamespace(t); there == home || now != home {
		t.Errorf("the thread was in %s, then in %s, now in %s", home, there, now)
	}
	if has() {
		t.Errorf("%s is here, want it only there", added)
	}
	err = f.Visit(func(*Factory) error {
		if !has() {
			t.Errorf("%s is not there", added)
		}
		return nil
	})
	if err != nil {
		t.Error(err)
	}
}

// ownNamespace is the network namespace of the current thread.
func ownNamespace(t *testing.T) string {
	t.Helper()
	link, err := os.Readlink("/proc/thread-self/ns/net")
	if err != nil {
		t.Fatal(err)
	}
	return link
}

// addressesOf are the addresses of the namespace of the current thread.
func addressesOf(t *testing.T) (list []netip.Prefix) {
	t.Helper()
	h, err := netlink.NewHandle()
	if err != nil {
		t.Fatal(err)
	}
	defer h.Close()
	addrs, err := h.AddrList(nil, netlink.FAMILY_V4)
	if err != nil {
		t.Fatal(err)
	}
	for _, a := range addrs {
		list = append(list, netip.MustParsePrefix(a.IPNet.String()))
	}
	return list
}
