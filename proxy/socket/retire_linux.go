package socket

import (
	"fmt"
	"net"
	"os"
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"
)

// noNewConnections is a classic BPF program over a TCP header that drops the
// first segment of a connection, SYN without ACK, and lets through all others.
var noNewConnections = [...]unix.SockFilter{
	{Code: unix.BPF_LD | unix.BPF_B | unix.BPF_ABS, K: 13},                  // the flags
	{Code: unix.BPF_ALU | unix.BPF_AND | unix.BPF_K, K: 0x12},               // SYN and ACK
	{Code: unix.BPF_JMP | unix.BPF_JEQ | unix.BPF_K, K: 0x02, Jt: 0, Jf: 1}, // SYN alone
	{Code: unix.BPF_RET | unix.BPF_K, K: 0},
	{Code: unix.BPF_RET | unix.BPF_K, K: 0xffffffff},
}

// newerSocket is a classic BPF program that sends all new connections, or all
// packets, to the second socket of those that share a port. The kernel keeps them
// in the order in which they came, and the last takes the place of one that
// closes, so that with two the one that retires is the first. Without a second
// one the kernel chooses as if there were no program.
var newerSocket = [...]unix.SockFilter{{Code: unix.BPF_RET | unix.BPF_K, K: 1}}

// Yield sends what is new, connections to a listener or packets to an UDP socket
// without a peer, to the socket of another process that has the same port by
// SO_REUSEPORT. Where there is none, or more than one, what is new may still come
// here. It fails if the port is not shared.
func Yield(c syscall.Conn) error {
	return control(c, func(fd int) error {
		return os.NewSyscallError("setsockopt SO_ATTACH_REUSEPORT_CBPF", setFilter(fd, unix.SO_ATTACH_REUSEPORT_CBPF, newerSocket[:]))
	})
}

// Retire prepares a listener to be closed without losing a connection: the
// kernel resets those that are in its queue when it closes. From now on new
// handshakes begin at the listener of another process, as by [Yield], while those under way complete and are accepted
// as before. Else, and where there are more than two, a client may find that it
// is not heard, try again after a second, and then find the port closed or
// another process. The listener must not be one for multipath TCP. Recent kernels
// allow it only with CAP_NET_ADMIN; otherwise it fails with EPERM and only the
// choice of the other process may have been made.
func Retire(ln *net.TCPListener) error {
	_ = Yield(ln) // what it does not get is told to wait
	err := control(ln, func(fd int) error { return setFilter(fd, unix.SO_ATTACH_FILTER, noNewConnections[:]) })
	if err != nil {
		return fmt.Errorf("retire the listener %s: %w", ln.Addr(), err)
	}
	return nil
}

// setFilter attaches a program to a socket.
func setFilter(fd, option int, program []unix.SockFilter) error {
	return unix.SetsockoptSockFprog(fd, unix.SOL_SOCKET, option, &unix.SockFprog{
		Len: uint16(len(program)), Filter: unsafe.SliceData(program),
	})
}

// share makes a new socket one of equals among those that share its port, also
// after Yield of an earlier one: the program that it set outlives it. So a
// process that does not get ready takes no more than its share.
func share(fd int) {
	_ = unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_DETACH_REUSEPORT_BPF, 0) // fails if there is no program
}
