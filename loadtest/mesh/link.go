package mesh

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

const (
	bridgeName = "br0"
	uplinkName = "uplink"
	podLink    = "eth0"

	// firstIndex is more than the number of interfaces in any namespace.
	firstIndex = 1000
)

// in runs f with a netlink connection into the namespace.
func (ns *Namespace) in(f func(*netlink.Handle) error) error {
	h, err := netlink.NewHandleAt(ns.handle, unix.NETLINK_ROUTE)
	if err != nil {
		return fmt.Errorf("%s: open netlink: %w", ns.Name, err)
	}
	defer h.Close()
	if err := f(h); err != nil {
		return fmt.Errorf("%s: %w", ns.Name, err)
	}
	return nil
}

// addBridge makes the bridge of a node or of the fabric.
func (ns *Namespace) addBridge() error {
	return ns.in(func(h *netlink.Handle) error {
		attrs := netlink.NewLinkAttrs()
		attrs.Name = bridgeName
		bridge := &netlink.Bridge{LinkAttrs: attrs}
		if err := h.LinkAdd(bridge); err != nil {
			return fmt.Errorf("add bridge: %w", err)
		}
		return up(h, bridgeName)
	})
}

// addPair makes a veth pair, one end in each of two namespaces, both down. The
// first end gets an interface index that is not that of the second, which the
// kernel numbers from 1: for a pair with equal ones it takes up to a second
// until it sees that the link is up, and loses packets until then.
func addPair(from *Namespace, fromName string, number int, to *Namespace, toName string) error {
	return from.in(func(h *netlink.Handle) error {
		attrs := netlink.NewLinkAttrs()
		attrs.Name, attrs.Index = fromName, firstIndex+number
		pair := &netlink.Veth{LinkAttrs: attrs, PeerName: toName, PeerNamespace: netlink.NsFd(int(to.handle))}
		if err := h.LinkAdd(pair); err != nil {
			return fmt.Errorf("add veth %s to %s of %s: %w", fromName, toName, to.Name, err)
		}
		return nil
	})
}

// plug makes a link a port of the namespace's bridge.
func (ns *Namespace) plug(name string) error {
	return ns.in(func(h *netlink.Handle) error {
		link, err := h.LinkByName(name)
		if err != nil {
			return fmt.Errorf("find %s: %w", name, err)
		}
		bridge, err := h.LinkByName(bridgeName)
		if err != nil {
			return fmt.Errorf("find %s: %w", bridgeName, err)
		}
		if err := h.LinkSetMaster(link, bridge); err != nil {
			return fmt.Errorf("plug %s into %s: %w", name, bridgeName, err)
		}
		return up(h, name)
	})
}

// unplug removes a link, with its other end. That there is none is no error.
func (ns *Namespace) unplug(name string) error {
	return ns.in(func(h *netlink.Handle) error {
		link, err := h.LinkByName(name)
		if _, absent := errors.AsType[netlink.LinkNotFoundError](err); absent {
			return nil
		}
		if err == nil {
			err = h.LinkDel(link)
		}
		if err != nil && !errors.Is(err, unix.ENODEV) {
			return fmt.Errorf("remove %s: %w", name, err)
		}
		return nil
	})
}

func up(h *netlink.Handle, name string) error {
	link, err := h.LinkByName(name)
	if err != nil {
		return fmt.Errorf("find %s: %w", name, err)
	}
	if err := h.LinkSetUp(link); err != nil {
		return fmt.Errorf("set %s up: %w", name, err)
	}
	return nil
}

// upLimit is how long a link may take from being set up to carrying packets.
const upLimit = 5 * time.Second

// awaitUp waits until a link carries packets. That the kernel is slow to see
// that it could is rare, see addPair.
func (ns *Namespace) awaitUp(name string) error {
	return ns.in(func(h *netlink.Handle) error {
		poll, limit := time.NewTicker(time.Millisecond), time.After(upLimit)
		defer poll.Stop()
		for {
			link, err := h.LinkByName(name)
			if err != nil {
				return fmt.Errorf("find %s: %w", name, err)
			}
			if link.Attrs().OperState == netlink.OperUp {
				return nil
			}
			select {
			case <-poll.C:
			case <-limit:
				return fmt.Errorf("link %s is %s, not up, after %s", name, link.Attrs().OperState, upLimit)
			}
		}
	})
}

// address gives a link its addresses, sets it and loopback up, and sends
// everything else out of it, so that service addresses have a route on which
// they can be captured.
func (ns *Namespace) address(name string, addrs ...netip.Prefix) error {
	return ns.in(func(h *netlink.Handle) error {
		if err := up(h, "lo"); err != nil {
			return err
		}
		if err := up(h, name); err != nil {
			return err
		}
		link, err := h.LinkByName(name)
		if err != nil {
			return fmt.Errorf("find %s: %w", name, err)
		}
		for _, addr := range addrs {
			// Nobody else has the address, so nobody need be asked whether he has.
			if err := h.AddrAdd(link, &netlink.Addr{IPNet: ipNet(addr), Flags: unix.IFA_F_NODAD}); err != nil {
				return fmt.Errorf("add address %s: %w", addr, err)
			}
			everything := netip.PrefixFrom(netip.IPv4Unspecified(), 0)
			if addr.Addr().Is6() {
				everything = netip.PrefixFrom(netip.IPv6Unspecified(), 0)
			}
			if err := h.RouteAdd(&netlink.Route{LinkIndex: link.Attrs().Index, Dst: ipNet(everything), Scope: netlink.SCOPE_LINK}); err != nil {
				return fmt.Errorf("add route %s: %w", everything, err)
			}
		}
		return nil
	})
}

func ipNet(p netip.Prefix) *net.IPNet {
	return &net.IPNet{IP: p.Addr().AsSlice(), Mask: net.CIDRMask(p.Bits(), p.Addr().BitLen())}
}

// hasIPv6 tells whether the kernel lets a new namespace have IPv6 addresses.
func (ns *Namespace) hasIPv6() bool {
	return ns.in(func(h *netlink.Handle) error {
		lo, err := h.LinkByName("lo")
		if err != nil {
			return err
		}
		return h.AddrAdd(lo, &netlink.Addr{IPNet: ipNet(netip.MustParsePrefix("fd64::1/128")), Flags: unix.IFA_F_NODAD})
	}) == nil
}
