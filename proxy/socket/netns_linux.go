package socket

import (
	"fmt"
	"os"
	"runtime"
	"sync"

	"golang.org/x/sys/unix"
)

// A socket belongs to the namespace of the thread that creates it and stays there. So the namespace is entered for the
// one call of socket(2) and never while anything waits; bind, listen and connect happen outside, on the ordinary poller.

// namespace is the network namespace of the process, opened at first use and kept as long as its factory.
type namespace struct {
	once sync.Once
	file *os.File
	err  error
}

// fd returns the descriptor. It must be called on a locked thread that has not moved: the process as a whole has no
// namespace, and its first thread may be the one that is in a pod's at this moment.
func (n *namespace) fd() (int, error) {
	n.once.Do(func() { n.file, n.err = os.Open("/proc/thread-self/ns/net") })
	if n.err != nil {
		return -1, n.err
	}
	return int(n.file.Fd()), nil
}

// newSocket creates a socket, by the arguments of socket(2), in the factory's namespace, which must not be the process's
// own.
func (f *Factory) newSocket(family, kind, protocol int) (int, error) {
	type result struct {
		fd  int
		err error
	}
	done := make(chan result, 1)
	// A goroutine of its own, so that its thread can be given up when it cannot return to the process's namespace.
	// It ends right after it has answered.
	go func() {
		runtime.LockOSThread()
		home, err := f.home.fd()
		if err != nil {
			runtime.UnlockOSThread()
			done <- result{-1, fmt.Errorf("open own network namespace: %w", err)}
			return
		}
		if err := unix.Setns(int(f.cfg.NetNS.Fd()), unix.CLONE_NEWNET); err != nil {
			runtime.UnlockOSThread() // the thread has not moved
			done <- result{-1, fmt.Errorf("enter network namespace %s: %w", f.cfg.NetNS.Name(), err)}
			return
		}
		fd, err := unix.Socket(family, kind, protocol)
		if err != nil {
			err = os.NewSyscallError("socket", err)
		}
		if unix.Setns(home, unix.CLONE_NEWNET) == nil {
			runtime.UnlockOSThread()
		} // else the thread dies with this goroutine, as it is still locked to it
		done <- result{fd, err}
	}()
	r := <-done
	return r.fd, r.err
}

// replace puts a new socket of the factory's namespace in the place of the descriptor fd, a fresh socket that package
// net has made in the process's namespace and has not registered with its poller yet. So package net does all the rest.
func (f *Factory) replace(fd, family int) error {
	s, err := f.newSocket(family, unix.SOCK_STREAM|unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, unix.IPPROTO_TCP)
	if err != nil {
		return err
	}
	defer func() { _ = unix.Close(s) }()
	if err := unix.Dup3(s, fd, unix.O_CLOEXEC); err != nil {
		return os.NewSyscallError("dup3", err)
	}
	return nil
}
