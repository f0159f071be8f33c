package socket

import (
	"encoding/binary"
	"fmt"
	"net"
	"net/netip"
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"
)

// soOriginalDst is SO_ORIGINAL_DST of the IPv4 and IP6T_SO_ORIGINAL_DST of the IPv6 connection tracking.
const soOriginalDst = 80

// Peer returns the canonical remote address of c, the zero value if it is not known.
func Peer(c *net.TCPConn) netip.AddrPort { return addrPort(c.RemoteAddr()) }

// Local returns the canonical local address of c, the zero value if it is not known.
func Local(c *net.TCPConn) netip.AddrPort { return addrPort(c.LocalAddr()) }

func addrPort(a net.Addr) netip.AddrPort {
	t, ok := a.(*net.TCPAddr)
	if !ok || t == nil {
		return netip.AddrPort{}
	}
	return canonical(t.AddrPort())
}

// canonical turns an IPv6-mapped IPv4 address into the IPv4 address.
func canonical(a netip.AddrPort) netip.AddrPort {
	return netip.AddrPortFrom(a.Addr().Unmap(), a.Port())
}

// OriginalDestination returns the canonical address that the client of an accepted connection has dialled before the
// kernel redirected it: SO_ORIGINAL_DST of IPv4, that of IPv6, or, where the connection was not redirected or came by
// TPROXY, the local address; see NotRedirected. The error says that not even the local address is known.
func OriginalDestination(c *net.TCPConn) (netip.AddrPort, error) {
	local := Local(c)
	if !local.IsValid() {
		return netip.AddrPort{}, fmt.Errorf("read local address: %w", unix.ENOTCONN)
	}
	q := originalDst{v4First: local.Addr().Is4()}
	rc, err := c.SyscallConn()
	if err == nil && rc.Control(q.read) == nil && q.addr.IsValid() {
		return q.addr, nil
	}
	return local, nil
}

// NotRedirected explains for a log line why OriginalDestination took the local address: the two errors of the kernel.
// It is nil where there is nothing to explain: an original destination exists, or the socket is transparent, as with
// TPROXY. It makes system calls, so ask only when the destination found equals Local(c).
func NotRedirected(c *net.TCPConn) error {
	return control(c, func(fd int) error {
		if on, err := unix.GetsockoptInt(fd, unix.SOL_IP, unix.IP_TRANSPARENT); err == nil && on != 0 {
			return nil
		}
		_, err4 := originalDst4(uintptr(fd))
		_, err6 := originalDst6(uintptr(fd))
		if err4 == 0 || err6 == 0 {
			return nil
		}
		return fmt.Errorf("failed to read SO_ORIGINAL_DST: %s, %s", errnoText(err4), errnoText(err6))
	})
}

// originalDst is one question to the kernel. One dual-stack listener serves both address families; the family of the
// connection's own address says which of the two options can know it, so the other is not asked first in vain.
type originalDst struct {
	v4First bool
	addr    netip.AddrPort
}

func (q *originalDst) read(fd uintptr) {
	first, second := originalDst4, originalDst6
	if !q.v4First {
		first, second = second, first
	}
	addr, errno := first(fd)
	if errno != 0 {
		addr, errno = second(fd)
	}
	if errno == 0 {
		q.addr = canonical(addr)
	}
}

func originalDst4(fd uintptr) (netip.AddrPort, syscall.Errno) {
	var sa unix.RawSockaddrInet4
	size := uint32(unsafe.Sizeof(sa))
	if errno := getsockopt(fd, unix.SOL_IP, unsafe.Pointer(&sa), &size); errno != 0 {
		return netip.AddrPort{}, errno
	}
	return netip.AddrPortFrom(netip.AddrFrom4(sa.Addr), networkPort(sa.Port)), 0
}

func originalDst6(fd uintptr) (netip.AddrPort, syscall.Errno) {
	var sa unix.RawSockaddrInet6
	size := uint32(unsafe.Sizeof(sa))
	if errno := getsockopt(fd, unix.SOL_IPV6, unsafe.Pointer(&sa), &size); errno != 0 {
		return netip.AddrPort{}, errno
	}
	return netip.AddrPortFrom(netip.AddrFrom16(sa.Addr), networkPort(sa.Port)), 0
}

// getsockopt reads soOriginalDst. The call never blocks, so the scheduler is not told of it.
func getsockopt(fd uintptr, level uintptr, value unsafe.Pointer, size *uint32) syscall.Errno {
	_, _, errno := syscall.RawSyscall6(unix.SYS_GETSOCKOPT, fd, level, soOriginalDst,
		uintptr(value), uintptr(unsafe.Pointer(size)), 0)
	return errno
}

// networkPort converts a port that lies in memory in network byte order.
func networkPort(p uint16) uint16 {
	return binary.BigEndian.Uint16((*[2]byte)(unsafe.Pointer(&p))[:])
}
