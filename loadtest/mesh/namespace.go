package mesh

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"os"
	"runtime"

	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"
)

// Namespace is an unnamed network namespace. It lives as long as this handle
// is open, or a process or socket is in it. Its methods may be called
// concurrently, but not after the end of its [Mesh].
type Namespace struct {
	// Name is how errors name it; the kernel does not know it.
	Name   string
	handle netns.NsHandle
}

// newNamespace makes a namespace with nothing in it.
func newNamespace(name string) (*Namespace, error) {
	ns := &Namespace{Name: name, handle: netns.None()}
	err := onOwnThread(func() (err error) {
		ns.handle, err = netns.New()
		return err
	})
	if err != nil {
		if ns.handle.IsOpen() {
			_ = ns.handle.Close() // the other error counts
		}
		return nil, fmt.Errorf("make network namespace %s: %w", name, err)
	}
	return ns, nil
}

// Do runs f on a thread that is in the namespace. Sockets that f opens belong
// to the namespace for good. f must not start goroutines that rely on it.
func (ns *Namespace) Do(f func() error) error {
	return onOwnThread(func() error {
		if err := netns.Set(ns.handle); err != nil {
			return fmt.Errorf("enter network namespace %s: %w", ns.Name, err)
		}
		return f()
	})
}

// onOwnThread runs f on a thread of its own, which may leave its namespace. The
// thread goes back to where it was; if it cannot, the runtime ends it, because
// the goroutine ends while locked to it.
func onOwnThread(f func() error) error {
	result := make(chan error, 1)
	go func() { // the receive below waits for it
		runtime.LockOSThread()
		home, err := netns.Get()
		if err != nil {
			runtime.UnlockOSThread()
			result <- fmt.Errorf("get own network namespace: %w", err)
			return
		}
		err = f()
		back := netns.Set(home)
		_ = home.Close() // only this handle is lost
		if back == nil {
			runtime.UnlockOSThread()
		}
		if err == nil && back != nil {
			err = fmt.Errorf("go back to own network namespace: %w", back)
		}
		result <- err
	}()
	return <-result
}

// Path is where other processes of the machine find the namespace, for
// nsenter --net=PATH, as long as this process keeps it.
func (ns *Namespace) Path() string {
	return fmt.Sprintf("/proc/%d/fd/%d", os.Getpid(), int(ns.handle))
}

// File is another handle of the namespace, for those who send it away. The
// caller must close it.
func (ns *Namespace) File() (*os.File, error) {
	fd, err := unix.FcntlInt(uintptr(ns.handle), unix.F_DUPFD_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("copy handle of network namespace %s: %w", ns.Name, err)
	}
	return os.NewFile(uintptr(fd), "namespace of "+ns.Name), nil
}

// Dial connects to addr from within the namespace.
func (ns *Namespace) Dial(ctx context.Context, addr netip.AddrPort) (conn *net.TCPConn, err error) {
	err = ns.Do(func() error {
		// An address needs no resolver and has no second family, so that the
		// dialer makes its socket on this thread.
		c, err := (&net.Dialer{}).DialContext(ctx, "tcp", addr.String())
		if err != nil {
			return err
		}
		conn = c.(*net.TCPConn)
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("from %s: %w", ns.Name, err)
	}
	return conn, nil
}

// DialAny is Dial in the form of [net/http.Transport]; address must be an IP
// address and a port.
func (ns *Namespace) DialAny(ctx context.Context, _, address string) (net.Conn, error) {
	addr, err := netip.ParseAddrPort(address)
	if err != nil {
		return nil, err
	}
	return ns.Dial(ctx, addr)
}

// Listen listens at all addresses of the namespace, of both families if it has
// both. Port 0 takes any.
func (ns *Namespace) Listen(ctx context.Context, port uint16) (ln *net.TCPListener, err error) {
	err = ns.Do(func() error {
		lc := net.ListenConfig{KeepAlive: -1}
		lc.SetMultipathTCP(false)
		l, err := lc.Listen(ctx, "tcp", fmt.Sprintf(":%d", port))
		if err != nil {
			return err
		}
		ln = l.(*net.TCPListener)
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("in %s: %w", ns.Name, err)
	}
	return ln, nil
}

func (ns *Namespace) close() error { return ns.handle.Close() }
