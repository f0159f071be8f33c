package dns

import (
	"encoding/binary"
	"errors"
	"net/netip"
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"
)

// peer is the address of a client as the kernel writes it.
type peer struct {
	raw  unix.RawSockaddrAny
	size uint32
}

// addrPort is the address, the invalid one if it is not of the internet. An IPv4
// address has its own form whatever the socket.
func (p *peer) addrPort() netip.AddrPort {
	switch p.raw.Addr.Family {
	case unix.AF_INET:
		sa := (*unix.RawSockaddrInet4)(unsafe.Pointer(&p.raw))
		return netip.AddrPortFrom(netip.AddrFrom4(sa.Addr), networkPort(&sa.Port))
	case unix.AF_INET6:
		sa := (*unix.RawSockaddrInet6)(unsafe.Pointer(&p.raw))
		return netip.AddrPortFrom(netip.AddrFrom16(sa.Addr).Unmap(), networkPort(&sa.Port))
	}
	return netip.AddrPort{}
}

// networkPort reads a port that lies in memory in network byte order.
func networkPort(p *uint16) uint16 { return binary.BigEndian.Uint16((*[2]byte)(unsafe.Pointer(p))[:]) }

// receiveFrom reads one message without waiting. The call never sleeps, so the
// scheduler is not told of it.
func receiveFrom(fd uintptr, b []byte, from *peer) (int, syscall.Errno) {
	for {
		from.size = unix.SizeofSockaddrAny
		n, _, errno := syscall.RawSyscall6(unix.SYS_RECVFROM, fd, uintptr(unsafe.Pointer(unsafe.SliceData(b))), uintptr(len(b)),
			unix.MSG_DONTWAIT, uintptr(unsafe.Pointer(&from.raw)), uintptr(unsafe.Pointer(&from.size)))
		if errno != syscall.EINTR {
			return int(n), errno
		}
	}
}

// sendTo sends one message without waiting, in the manner of receiveFrom.
func sendTo(fd uintptr, b []byte, to *peer) syscall.Errno {
	for {
		_, _, errno := syscall.RawSyscall6(unix.SYS_SENDTO, fd, uintptr(unsafe.Pointer(unsafe.SliceData(b))), uintptr(len(b)),
			unix.MSG_DONTWAIT|unix.MSG_NOSIGNAL, uintptr(unsafe.Pointer(&to.raw)), uintptr(to.size))
		if errno != syscall.EINTR {
			return errno
		}
	}
}

// awaitPacket returns when there is something to read, and reads nothing.
func awaitPacket(rc syscall.RawConn) error {
	return rc.Read(func(fd uintptr) bool {
		var b [1]byte
		_, _, err := unix.Recvfrom(int(fd), b[:], unix.MSG_PEEK|unix.MSG_DONTWAIT)
		return !errors.Is(err, unix.EAGAIN) && !errors.Is(err, unix.EINTR)
	})
}
