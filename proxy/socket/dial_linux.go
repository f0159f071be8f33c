package socket

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// dialTimeout covers creating, binding and connecting a socket. It is the reference's and fixed.
const dialTimeout = 10 * time.Second

// Dial connects to dst in the factory's namespace, from the source address local if that is valid and not dst's own
// address. A source address that cannot be taken is only logged: the connection is then made from the address the
// kernel picks, as in the reference. A source of the other address family is an error.
//
// After 10 s the error is ErrTimeout. When ctx ends first, it is context.Cause(ctx). Other errors hold a syscall.Errno;
// ErrorText gives their text. The caller closes the connection.
func (f *Factory) Dial(ctx context.Context, local netip.Addr, dst netip.AddrPort) (*net.TCPConn, error) {
	dst = canonical(dst)
	local = local.Unmap()
	if local == dst.Addr() {
		local = netip.Addr{}
	}
	if local.IsValid() && local.Is4() != dst.Addr().Is4() {
		return nil, fmt.Errorf("dial %s from %s: %w", dst, local, os.NewSyscallError("connect", unix.EAFNOSUPPORT))
	}
	var t turn
	if err := t.begin(ctx); err != nil {
		return nil, err
	}
	defer t.end()
	d := net.Dialer{
		Timeout:   f.timeout,
		KeepAlive: -1,
		Control: func(network, _ string, c syscall.RawConn) error {
			defer t.end() // what follows is waiting
			return f.prepareDial(network, local, dst, c)
		},
	}
	d.SetMultipathTCP(false)
	c, err := d.DialContext(ctx, "tcp", dst.String())
	if err == nil {
		return c.(*net.TCPConn), nil
	}
	timeout := isNetTimeout(err)
	if end, ok := ctx.Deadline(); timeout && ok && !time.Now().Before(end) {
		<-ctx.Done() // its timer and the poller's are two
	}
	switch {
	case ctx.Err() != nil:
		return nil, context.Cause(ctx)
	case timeout:
		return nil, ErrTimeout
	}
	return nil, err
}

// isNetTimeout reports whether err is the end of the dialer's own time, not the kernel's ETIMEDOUT, whose text differs.
func isNetTimeout(err error) bool {
	op, ok := errors.AsType[*net.OpError](err)
	if !ok || !op.Timeout() {
		return false
	}
	_, kernel := errors.AsType[*os.SyscallError](op.Err)
	return !kernel
}

// prepareDial sets the options of a socket and begins to connect it.
func (f *Factory) prepareDial(network string, local netip.Addr, dst netip.AddrPort, c syscall.RawConn) error {
	var inner error
	err := c.Control(func(p uintptr) {
		fd := int(p)
		if f.cfg.NetNS != nil {
			if inner = f.replace(fd, familyOf(network), unix.SOCK_STREAM); inner != nil {
				return
			}
		}
		if inner = setMark(fd, f.cfg.Mark); inner != nil {
			return
		}
		if local.IsValid() {
			f.bindSource(fd, local)
		}
		setKeepalive(fd, &f.cfg.Keepalive)
		inner = startConnect(fd, dst)
	})
	if err != nil {
		return err
	}
	return inner
}

// bindSource gives the socket a source address that need not be one of this host.
func (f *Factory) bindSource(fd int, local netip.Addr) {
	if err := setFreebind(fd, local.Is4()); err != nil {
		f.cfg.Log.Warn("failed to set freebind: " + ErrorText(err))
	}
	// The port is then chosen at connect, when the destination is known: else one source address could have only as
	// many connections as there are ephemeral ports. Kernels without it choose at once.
	_ = unix.SetsockoptInt(fd, unix.SOL_IP, unix.IP_BIND_ADDRESS_NO_PORT, 1)
	var sa unix.Sockaddr
	if local.Is4() {
		sa = &unix.SockaddrInet4{Addr: local.As4()}
	} else {
		sa = &unix.SockaddrInet6{Addr: local.As16()}
	}
	if err := unix.Bind(fd, sa); err != nil {
		f.cfg.Log.Warn("failed to bind local addr: " + ErrorText(err))
	}
}

func setFreebind(fd int, v4 bool) error {
	level, transparent, freebind := unix.SOL_IPV6, unix.IPV6_TRANSPARENT, unix.IPV6_FREEBIND
	if v4 {
		level, transparent, freebind = unix.SOL_IP, unix.IP_TRANSPARENT, unix.IP_FREEBIND
	}
	if err := unix.SetsockoptInt(fd, level, transparent, 1); err != nil {
		return err
	}
	return unix.SetsockoptInt(fd, level, freebind, 1)
}
