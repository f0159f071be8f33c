package dns

import (
	"encoding/binary"
	"errors"
	"net/netip"
	"os"
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

// set makes it the address of a resolver, which has no zone.
func (p *peer) set(addr netip.AddrPort) {
	port := uint16(0)
	binary.BigEndian.PutUint16((*[2]byte)(unsafe.Pointer(&port))[:], addr.Port())
	if ip := addr.Addr().Unmap(); ip.Is4() {
		*(*unix.RawSockaddrInet4)(unsafe.Pointer(&p.raw)) = unix.RawSockaddrInet4{Family: unix.AF_INET, Port: port, Addr: ip.As4()}
		p.size = unix.SizeofSockaddrInet4
		return
	}
	*(*unix.RawSockaddrInet6)(unsafe.Pointer(&p.raw)) = unix.RawSockaddrInet6{Family: unix.AF_INET6, Port: port, Addr: addr.Addr().As16()}
	p.size = unix.SizeofSockaddrInet6
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

// receive and send are for a socket that is connected, in the manner of
// receiveFrom.
func receive(fd int, b []byte) (int, syscall.Errno) {
	for {
		n, _, errno := syscall.RawSyscall6(unix.SYS_RECVFROM, uintptr(fd), uintptr(unsafe.Pointer(unsafe.SliceData(b))), uintptr(len(b)),
			unix.MSG_DONTWAIT, 0, 0)
		if errno != syscall.EINTR {
			return int(n), errno
		}
	}
}

func send(fd int, b []byte) syscall.Errno {
	for {
		_, _, errno := syscall.RawSyscall6(unix.SYS_SENDTO, uintptr(fd), uintptr(unsafe.Pointer(unsafe.SliceData(b))), uintptr(len(b)),
			unix.MSG_DONTWAIT|unix.MSG_NOSIGNAL, 0, 0)
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

// openUDP opens sockets in the process's own namespace, for [Upstreams].
func openUDP(dst netip.Addr, fds []int) (int, error) {
	family := unix.AF_INET6
	if dst.Unmap().Is4() {
		family = unix.AF_INET
	}
	for i := range fds {
		fd, err := unix.Socket(family, unix.SOCK_DGRAM|unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, 0)
		if err != nil {
			for _, fd := range fds[:i] {
				closeSocket(fd)
			}
			return 0, os.NewSyscallError("socket", err)
		}
		fds[i] = fd
	}
	return len(fds), nil
}

// connect connects an UDP socket, in the manner of receiveFrom.
func connect(fd int, to netip.AddrPort) syscall.Errno {
	var p peer
	p.set(to)
	for {
		_, _, errno := syscall.RawSyscall(unix.SYS_CONNECT, uintptr(fd), uintptr(unsafe.Pointer(&p.raw)), uintptr(p.size))
		if errno != syscall.EINTR {
			return errno
		}
	}
}

// closeSocket closes an UDP socket, which does not wait.
func closeSocket(fd int) { _, _, _ = syscall.RawSyscall(unix.SYS_CLOSE, uintptr(fd), 0, 0) }
