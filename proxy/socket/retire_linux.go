package socket

import (
	"fmt"
	"net"
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

// Retire prepares a listener to be closed without losing a connection: the
// kernel resets those that are in its queue when it closes. From now on no new
// handshake begins at the listener, while those under way complete and are
// accepted as before. A client that is not heard tries again after a second,
// and then finds the port closed or, with SO_REUSEPORT, another process. The
// listener must not be one for multipath TCP. Recent kernels allow it only with
// CAP_NET_ADMIN; otherwise it fails with EPERM and the listener is as before.
func Retire(ln *net.TCPListener) error {
	rc, err := ln.SyscallConn()
	if err != nil {
		return err
	}
	filter := noNewConnections
	program := unix.SockFprog{Len: uint16(len(filter)), Filter: (*unix.SockFilter)(unsafe.Pointer(&filter))}
	var inner error
	err = rc.Control(func(fd uintptr) {
		inner = unix.SetsockoptSockFprog(int(fd), unix.SOL_SOCKET, unix.SO_ATTACH_FILTER, &program)
	})
	if err == nil {
		err = inner
	}
	if err != nil {
		return fmt.Errorf("retire the listener %s: %w", ln.Addr(), err)
	}
	return nil
}
