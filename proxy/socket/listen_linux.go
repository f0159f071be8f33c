package socket

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"os"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"
)

// backlog is the length of the accept queue, that of the reference. Package net would take the system's maximum.
const backlog = 128

// Listen opens a listening socket in the factory's namespace. The IPv6 wildcard accepts IPv4 too.
//
// transparent asks for IP_TRANSPARENT, which lets the proxy keep the client's source address: true makes a failure an
// error, false does not try, nil tries and reports the outcome in isTransparent.
//
// What accepted connections inherit is set here, once: the mark (in a pod's namespace) and the keepalive settings; see
// Accepted. Errors are *BindError. The caller closes the listener.
func (f *Factory) Listen(ctx context.Context, addr netip.AddrPort, transparent *bool) (ln *net.TCPListener, isTransparent bool, err error) {
	addr = canonical(addr)
	err = f.Visit(func(in *Factory) error {
		ln, isTransparent, err = in.listen(ctx, addr, transparent)
		return err
	})
	if err != nil {
		if ln != nil { // the thread has not found back
			_ = ln.Close()
		}
		return nil, false, &BindError{addr, err}
	}
	return ln, isTransparent, nil
}

// listen is Listen on a thread in the namespace.
func (f *Factory) listen(ctx context.Context, addr netip.AddrPort, transparent *bool) (*net.TCPListener, bool, error) {
	lc := net.ListenConfig{
		KeepAlive: -1, // package net would set its own four options on each accepted socket
		Control: func(_, _ string, c syscall.RawConn) error {
			return controlRaw(c, func(fd int) error { return f.prepareListener(fd, addr) })
		},
	}
	lc.SetMultipathTCP(false) // else SO_ORIGINAL_DST and the options differ
	l, err := lc.Listen(ctx, "tcp"+familySuffix(addr), addr.String())
	if err != nil {
		return nil, false, err
	}
	ln := l.(*net.TCPListener)
	on, err := f.finishListener(ln, transparent)
	if err != nil {
		_ = ln.Close()
		return nil, false, err
	}
	return ln, on, nil
}

// familySuffix is the end of the name of a network for package net. Without one, package net would find out what the kernel
// can do in the namespace that happens to be the first, and would make the IPv4 wildcard the IPv6 one.
func familySuffix(addr netip.AddrPort) string {
	if addr.Addr().Is4() {
		return "4"
	}
	return "6"
}

// prepareListener sets the options that must be there before bind(2).
func (f *Factory) prepareListener(fd int, addr netip.AddrPort) error {
	if err := takeIPv4(fd, addr); err != nil {
		return err
	}
	if f.cfg.NetNS != nil {
		if err := setMark(fd, f.cfg.Mark); err != nil {
			return err
		}
	}
	if f.cfg.ReusePort {
		_ = unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_REUSEADDR, 0)
		if err := unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_REUSEPORT, 1); err != nil {
			f.cfg.Log.Warn(fmt.Sprintf("setting set_reuseport failed: %s addr: %s", ErrorText(err), addr))
		}
	}
	setKeepalive(fd, &f.cfg.Keepalive)
	return nil
}

// takeIPv4 makes the IPv6 wildcard take IPv4 too, which familySuffix has taken away.
func takeIPv4(fd int, addr netip.AddrPort) error {
	if addr.Addr().Is4() || !addr.Addr().IsUnspecified() {
		return nil
	}
	return os.NewSyscallError("setsockopt IPV6_V6ONLY", unix.SetsockoptInt(fd, unix.IPPROTO_IPV6, unix.IPV6_V6ONLY, 0))
}

// finishListener sets what is set on a bound socket: the backlog and IP_TRANSPARENT. The latter is the IPv4 option for
// an IPv6 socket too; the kernel keeps one flag for both.
func (f *Factory) finishListener(ln *net.TCPListener, transparent *bool) (bool, error) {
	rc, err := ln.SyscallConn()
	if err != nil {
		return false, err
	}
	on := false
	var inner error
	err = rc.Control(func(p uintptr) {
		fd := int(p)
		if inner = os.NewSyscallError("listen", unix.Listen(fd, backlog)); inner != nil {
			return
		}
		if f.cfg.ReusePort {
			share(fd)
		}
		if transparent != nil && !*transparent {
			return
		}
		err := unix.SetsockoptInt(fd, unix.SOL_IP, unix.IP_TRANSPARENT, 1)
		on = err == nil
		if err != nil && transparent != nil {
			inner = os.NewSyscallError("setsockopt IP_TRANSPARENT", err)
		}
	})
	if err != nil {
		return false, err
	}
	return on, inner
}

// Accepted finishes the options of a connection accepted from a listener of this factory. Such a connection has
// inherited mark, keepalive and user timeout, and package net has set TCP_NODELAY, so keepalive true needs no system
// call; false takes keepalive and user timeout off again, which is what the reference has on tunnels and SOCKS.
func (f *Factory) Accepted(c *net.TCPConn, keepalive bool) error {
	k := &f.cfg.Keepalive
	if keepalive || !k.Enabled && !k.UserTimeout {
		return nil
	}
	return control(c, func(fd int) error {
		clearKeepalive(fd, k)
		return nil
	})
}

func familyOf(network string) int {
	if strings.HasSuffix(network, "4") {
		return unix.AF_INET
	}
	return unix.AF_INET6
}
