package socket

import (
	"fmt"
	"os"
	"runtime"
	"sync"

	"golang.org/x/sys/unix"
)

// A socket belongs to the namespace of the thread that creates it and stays there. So the namespace is entered for calls that end at
// once, and never while anything waits: for socket(2) alone where a connection is made, which goes on on the ordinary poller, and
// for all of the local work of opening one or more listeners.

// namespace is the network namespace of the process, opened at first use.
type namespace struct {
	once sync.Once
	file *os.File
	err  error
}

// home is where threads return to from a pod's namespace. There is one for the process, so that a pod costs no descriptor
// for it.
var home namespace

// fd returns the descriptor. It must be called on a locked thread that has not moved: the process as a whole has no
// namespace, and its first thread may be the one that is in a pod's at this moment.
func (n *namespace) fd() (int, error) {
	n.once.Do(func() { n.file, n.err = os.Open("/proc/thread-self/ns/net") })
	if n.err != nil {
		return -1, fmt.Errorf("open own network namespace: %w", n.err)
	}
	return int(n.file.Fd()), nil
}

// inside runs do on the calling thread in a network namespace, which must not be the process's own. do must not wait for anything,
// nor start goroutines.
//
// Should the thread not find back, which no kernel is known to do, it stays locked to the calling goroutine and ends with it. So no
// other goroutine, nor a thread made for one, is ever in a pod's namespace.
func inside(netns *os.File, do func() error) error {
	runtime.LockOSThread()
	back, err := home.fd()
	if err != nil {
		runtime.UnlockOSThread()
		return err
	}
	if err := unix.Setns(int(netns.Fd()), unix.CLONE_NEWNET); err != nil {
		runtime.UnlockOSThread() // the thread has not moved
		return fmt.Errorf("enter network namespace %s: %w", netns.Name(), err)
	}
	err = do()
	if err := unix.Setns(back, unix.CLONE_NEWNET); err != nil {
		return fmt.Errorf("return to own network namespace: %w", err)
	}
	runtime.UnlockOSThread()
	return err
}

// Visit calls do with a factory whose listeners and UDP sockets are made without a visit to the namespace of their own. It is for
// whoever opens several: a visit costs two system calls. The factory given is for use on the calling goroutine, in do only, and for
// nothing but Listen, ListenPacket and LoopbackIPv6. do must not wait for anything. An error may be of the visit.
func (f *Factory) Visit(do func(in *Factory) error) error {
	if f.cfg.NetNS == nil || f.there {
		return do(f)
	}
	return inside(f.cfg.NetNS, func() error { return do(&Factory{cfg: f.cfg, timeout: f.timeout, there: true}) })
}

// newSocket creates a socket, by the arguments of socket(2), in the factory's namespace, which must not be the process's
// own.
func (f *Factory) newSocket(family, kind, protocol int) (int, error) {
	fd := -1
	err := inside(f.cfg.NetNS, func() (err error) {
		fd, err = unix.Socket(family, kind, protocol)
		return os.NewSyscallError("socket", err)
	})
	if err != nil && fd >= 0 { // the thread has not found back
		_ = unix.Close(fd)
		fd = -1
	}
	return fd, err
}

// replace puts a new socket of the factory's namespace, a TCP socket with SOCK_STREAM and an UDP socket with SOCK_DGRAM, in the
// place of the descriptor fd, a fresh socket that package net has made in the process's namespace and has not registered with its
// poller yet. So package net does all the rest.
func (f *Factory) replace(fd, family, kind int) error {
	s, err := f.newSocket(family, kind|unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer func() { _ = unix.Close(s) }()
	if err := unix.Dup3(s, fd, unix.O_CLOEXEC); err != nil {
		return os.NewSyscallError("dup3", err)
	}
	return nil
}
