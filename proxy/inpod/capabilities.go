package inpod

import (
	"errors"
	"fmt"
	"os"
	"runtime"

	"golang.org/x/sys/unix"

	"ztunnel/proxy/socket"
)

// CheckCapabilities tells whether this process may do what serving pods takes: enter network namespaces (CAP_SYS_ADMIN), and mark
// its sockets (CAP_NET_ADMIN or CAP_NET_RAW). It is for the start of the process, where a lack can be told best. The texts of its
// errors are the reference's.
func CheckCapabilities(mark uint32) error {
	if err := checkSetns(); err != nil {
		return errors.New("failed to set netns: " + socket.ErrorText(err))
	}
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("open a socket to be marked: %w", err)
	}
	defer func() { _ = unix.Close(fd) }()
	if err := unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_MARK, int(mark)); err != nil {
		return errors.New("failed to set mark on socket. make sure ztunnel has CAP_NET_RAW, CAP_NET_ADMIN. error: " + socket.ErrorText(err))
	}
	return nil
}

// checkSetns enters the namespace in which the thread is already.
func checkSetns() error {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	own, err := os.Open("/proc/thread-self/ns/net")
	if err != nil {
		return err
	}
	defer func() { _ = own.Close() }()
	return unix.Setns(int(own.Fd()), unix.CLONE_NEWNET)
}
