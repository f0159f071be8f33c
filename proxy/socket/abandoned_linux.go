package socket

import (
	"encoding/binary"
	"errors"
	"net"
	"net/netip"
	"os"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// Abandoned reports whether nobody is at the other end of an accepted
// connection any more, and nothing is left to read from it: it was reset, or
// the process at the other end has closed its socket. An end that has only
// shut down its sending side waits for an answer and is not gone; on the wire
// the two look alike, so the kernel is asked about the other end's socket, which
// it knows if that is in the factory's namespace. Nothing is read from c.
//
// src and dst are the addresses of the connection as the other end sees them,
// before redirection.
func (f *Factory) Abandoned(c *net.TCPConn, src, dst netip.AddrPort) bool {
	state := stateGone
	err := control(c, func(fd int) error {
		state = stateOf(fd)
		return nil
	})
	if err != nil {
		return false // closed by ourselves
	}
	return state == stateGone || state == stateEnded && f.orphaned(src, dst)
}

// Reset reports whether the other end has reset a connection. Nothing is read from c.
func Reset(c *net.TCPConn) bool {
	state := stateOpen
	err := control(c, func(fd int) error {
		state = stateOf(fd)
		return nil
	})
	return err == nil && state == stateGone
}

// endState is what a look at a socket tells about the other end.
type endState uint8

const (
	stateOpen  endState = iota // it may send, or has sent what is not read yet
	stateEnded                 // it will not send any more
	stateGone                  // the connection was reset
)

func stateOf(fd int) endState {
	fds := []unix.PollFd{{Fd: int32(fd), Events: unix.POLLRDHUP}}
	if n, err := unix.Poll(fds, 0); err != nil || n == 0 {
		return stateOpen
	}
	if fds[0].Revents&(unix.POLLERR|unix.POLLHUP) != 0 {
		return stateGone
	}
	var b [1]byte
	n, _, err := unix.Recvfrom(fd, b[:], unix.MSG_PEEK|unix.MSG_DONTWAIT)
	switch {
	case errors.Is(err, unix.EAGAIN) || n > 0:
		return stateOpen
	case err != nil:
		return stateGone
	}
	return stateEnded
}

// Numbers of linux/inet_diag.h and linux/sock_diag.h that x/sys does not have.
const (
	sockDiagByFamily = 20
	inetDiagNoCookie = ^uint32(0)
	diagTimeout      = 100 * time.Millisecond
)

// diagRequest is struct inet_diag_req_v2 behind its netlink header, and
// diagAnswer what is needed of the struct inet_diag_msg that follows one.
type diagRequest struct {
	header           unix.NlMsghdr
	family, protocol uint8
	ext, _           uint8
	states           uint32
	id               diagSockID
}

type diagSockID struct {
	sourcePort, destinationPort [2]byte
	source, destination         [16]byte
	iface                       uint32
	cookie                      [2]uint32
}

type diagAnswer struct {
	header                        unix.NlMsghdr
	family, state, timer, retrans uint8
	id                            diagSockID
	expires, rqueue, wqueue       uint32
	uid, inode                    uint32
}

// orphaned reports whether the socket from src to dst of this host is owned by
// no process. It is false if there is no such socket, or the kernel does not
// tell.
func (f *Factory) orphaned(src, dst netip.AddrPort) bool {
	s, err := f.diagSocket()
	if err != nil {
		return false
	}
	defer func() { _ = unix.Close(s) }()
	request := diagRequest{
		header:   unix.NlMsghdr{Len: uint32(unsafe.Sizeof(diagRequest{})), Type: sockDiagByFamily, Flags: unix.NLM_F_REQUEST},
		family:   unix.AF_INET6,
		protocol: unix.IPPROTO_TCP, states: ^uint32(0),
		id: diagSockID{cookie: [2]uint32{inetDiagNoCookie, inetDiagNoCookie}},
	}
	if src.Addr().Is4() {
		request.family = unix.AF_INET
	}
	binary.BigEndian.PutUint16(request.id.sourcePort[:], src.Port())
	binary.BigEndian.PutUint16(request.id.destinationPort[:], dst.Port())
	copy(request.id.source[:], src.Addr().AsSlice())
	copy(request.id.destination[:], dst.Addr().AsSlice())
	bytes := unsafe.Slice((*byte)(unsafe.Pointer(&request)), unsafe.Sizeof(request))
	if err := unix.Sendto(s, bytes, 0, &unix.SockaddrNetlink{Family: unix.AF_NETLINK}); err != nil {
		return false
	}
	wait := unix.NsecToTimeval(int64(diagTimeout)) // the kernel answers at once; this is for a broken one
	_ = unix.SetsockoptTimeval(s, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &wait)
	var answer struct {
		diagAnswer
		_ [1024]byte // attributes
	}
	bytes = unsafe.Slice((*byte)(unsafe.Pointer(&answer)), unsafe.Sizeof(answer))
	n, _, err := unix.Recvfrom(s, bytes, 0)
	if err != nil || n < int(unsafe.Sizeof(diagAnswer{})) || answer.header.Type != sockDiagByFamily {
		return false
	}
	return answer.inode == 0
}

// diagSocket opens a netlink socket in the factory's namespace.
func (f *Factory) diagSocket() (int, error) {
	const kind = unix.SOCK_DGRAM | unix.SOCK_CLOEXEC
	if f.cfg.NetNS != nil {
		return f.newSocket(unix.AF_NETLINK, kind, unix.NETLINK_SOCK_DIAG)
	}
	s, err := unix.Socket(unix.AF_NETLINK, kind, unix.NETLINK_SOCK_DIAG)
	return s, os.NewSyscallError("socket", err)
}
