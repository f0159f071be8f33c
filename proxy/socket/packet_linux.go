package socket

import (
	"context"
	"net"
	"net/netip"
	"os"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"
)

// ListenPacket opens an UDP socket in the factory's namespace, with its mark and, as configured, SO_REUSEPORT. The IPv6 wildcard
// takes IPv4 too. Errors are *BindError. The caller closes the socket.
func (f *Factory) ListenPacket(ctx context.Context, addr netip.AddrPort) (*net.UDPConn, error) {
	addr = canonical(addr)
	lc := net.ListenConfig{Control: func(_, _ string, c syscall.RawConn) error {
		return controlRaw(c, func(fd int) error { return f.preparePacket(fd, addr) })
	}}
	var c net.PacketConn
	err := f.Visit(func(in *Factory) (err error) {
		if c, err = lc.ListenPacket(ctx, "udp"+familySuffix(addr), addr.String()); err == nil && in.cfg.ReusePort {
			err = control(c.(syscall.Conn), func(fd int) error { share(fd); return nil })
		}
		return err
	})
	if err != nil {
		if c != nil { // the thread has not found back
			_ = c.Close()
		}
		return nil, &BindError{addr, err}
	}
	return c.(*net.UDPConn), nil
}

// preparePacket sets the options that must be there before bind(2). A port that cannot be shared is an error here, for of two
// sockets without the option only one is heard.
func (f *Factory) preparePacket(fd int, addr netip.AddrPort) error {
	if err := takeIPv4(fd, addr); err != nil {
		return err
	}
	if err := setMark(fd, f.cfg.Mark); err != nil {
		return err
	}
	if !f.cfg.ReusePort {
		return nil
	}
	return os.NewSyscallError("setsockopt SO_REUSEPORT", unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_REUSEPORT, 1))
}

// Control puts a socket that package net is about to connect into the factory's namespace and sets the factory's mark on it, for
// use as [net.Dialer.Control]. It is for sockets that Dial cannot make, such as UDP.
func (f *Factory) Control(network, _ string, c syscall.RawConn) error {
	return controlRaw(c, func(fd int) error {
		if f.cfg.NetNS != nil {
			kind := unix.SOCK_STREAM
			if strings.HasPrefix(network, "udp") {
				kind = unix.SOCK_DGRAM
			}
			if err := f.replace(fd, familyOf(network), kind); err != nil {
				return err
			}
		}
		return setMark(fd, f.cfg.Mark)
	})
}

// DialPacket opens an UDP socket in the factory's namespace, with its mark, and connects it to dst. It does not wait, and
// makes half of the system calls that package net would: it is for resolvers, of which each question has a socket of its
// own. Reads and writes are of single packets and heed deadlines. The caller closes it.
func (f *Factory) DialPacket(dst netip.AddrPort) (*os.File, error) {
	dst = canonical(dst)
	family := unix.AF_INET6
	if dst.Addr().Is4() {
		family = unix.AF_INET
	}
	const kind = unix.SOCK_DGRAM | unix.SOCK_NONBLOCK | unix.SOCK_CLOEXEC
	var fd int
	var err error
	if f.cfg.NetNS != nil {
		fd, err = f.newSocket(family, kind, 0)
	} else if fd, err = unix.Socket(family, kind, 0); err != nil {
		err = os.NewSyscallError("socket", err)
	}
	if err != nil {
		return nil, err
	}
	if err = setMark(fd, f.cfg.Mark); err == nil {
		err = startConnect(fd, dst)
	}
	if err != nil {
		_ = unix.Close(fd)
		return nil, err
	}
	return os.NewFile(uintptr(fd), "udp to "+dst.String()), nil
}

// controlRaw runs fn with the descriptor of c.
func controlRaw(c syscall.RawConn, fn func(fd int) error) error {
	var inner error
	if err := c.Control(func(fd uintptr) { inner = fn(int(fd)) }); err != nil {
		return err
	}
	return inner
}
