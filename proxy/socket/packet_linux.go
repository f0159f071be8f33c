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

// OpenPackets opens UDP sockets in the factory's namespace, with its mark, to be connected to addresses of the family of dst: as many as
// fds has places, in one visit, which is what costs most. It returns how many there are, one at least unless there is an error. It does
// not wait, nor do reads and writes of these sockets. It is for resolvers, of which each question has a socket of its own. The caller
// closes them.
func (f *Factory) OpenPackets(dst netip.Addr, fds []int) (n int, err error) {
	family := unix.AF_INET6
	if dst.Unmap().Is4() {
		family = unix.AF_INET
	}
	open := func() error {
		for n < len(fds) {
			fd, err := unix.Socket(family, unix.SOCK_DGRAM|unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, 0)
			if err != nil {
				return os.NewSyscallError("socket", err)
			}
			fds[n] = fd
			n++
			if err := setMark(fd, f.cfg.Mark); err != nil {
				return err
			}
		}
		return nil
	}
	if f.cfg.NetNS == nil || f.there {
		err = open()
	} else {
		err = inside(f.cfg.NetNS, open)
	}
	if err != nil {
		for _, fd := range fds[:n] {
			_ = unix.Close(fd)
		}
		return 0, err
	}
	return n, nil
}

// controlRaw runs fn with the descriptor of c.
func controlRaw(c syscall.RawConn, fn func(fd int) error) error {
	var inner error
	if err := c.Control(func(fd uintptr) { inner = fn(int(fd)) }); err != nil {
		return err
	}
	return inner
}
