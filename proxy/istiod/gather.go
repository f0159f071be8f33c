package istiod

import (
	"io"
	"net"
	"os"
	"sync/atomic"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"ztunnel/proxy/relay"
)

// A busy control plane sends a thousand small messages a second. To be woken for each of them costs several times what it
// takes to apply them, and delays traffic. So the reads of a connection are gathered when there are many: after a burst,
// there is one in gather, and what comes meanwhile waits in the kernel.
const (
	// gatherBurst is how many reads are not held up after a time without any: those of a handshake, and of calls that
	// come now and then.
	gatherBurst = 32
	// gatherBytes that wait end the wait.
	gatherBytes = 128 << 10
	// gatherWorth is how much a wait must bring. If it is less, the peer sends little, or waits for an answer itself.
	gatherWorth = 4 << 10
)

// pacedConn is a connection that is read at a limited rate. One that has more than fits into a read is not held up. As
// any net.Conn, it is safe for concurrent use, but for Read, which TLS calls one at a time.
type pacedConn struct {
	*net.TCPConn

	raw    syscall.RawConn
	gather time.Duration // 0: never held up

	paid time.Time // when the reads that were done have taken gather each
	more bool      // the last read filled its buffer
	held bool      // the reads since the last pay were
	got  int       // bytes since then

	holding atomic.Bool
	timer   *time.Timer // ends the holding
}

func newPacedConn(c *net.TCPConn, gather time.Duration) (*pacedConn, error) {
	raw, err := c.SyscallConn()
	if err != nil {
		return nil, err
	}
	p := &pacedConn{TCPConn: c, raw: raw, gather: gather}
	p.timer = time.AfterFunc(time.Hour, p.release)
	p.timer.Stop()
	return p, nil
}

// Read implements net.Conn.
func (c *pacedConn) Read(b []byte) (int, error) {
	if c.gather > 0 && !c.more {
		c.pay(time.Now())
	}
	n, err := c.read(b)
	if c.holding.Load() { // enough came, or the end
		c.timer.Stop()
		c.release()
	}
	c.got += n
	c.more = n == len(b)
	return n, err
}

// pay pays for a read, and holds it up when there were too many.
func (c *pacedConn) pay(now time.Time) {
	if c.paid.Before(now) || c.held && c.got < gatherWorth {
		c.paid = now
	}
	early := c.paid.Sub(now) - gatherBurst*c.gather
	c.got, c.held = 0, early > 0
	c.paid = c.paid.Add(c.gather)
	if c.held {
		c.holding.Store(true)
		c.wakeAt(gatherBytes)
		c.timer.Reset(early)
	}
}

// release ends a wait. To the kernel what came is news then, so that it wakes the reader.
func (c *pacedConn) release() {
	if c.holding.CompareAndSwap(true, false) {
		c.wakeAt(1)
	}
}

// read does not tell the scheduler of the system call, which never sleeps. That would wake the scheduler's monitor for
// each message in a process that has nothing else to do, and cost more than the call.
func (c *pacedConn) read(b []byte) (n int, err error) {
	if len(b) == 0 {
		return 0, nil
	}
	var errno syscall.Errno
	err = c.raw.Read(func(fd uintptr) bool {
		if c.holding.Load() && !ready(fd) {
			return false
		}
		n, errno = relay.RawRead(fd, b)
		return errno != syscall.EAGAIN
	})
	switch {
	case err != nil:
		return 0, err
	case errno != 0:
		return 0, os.NewSyscallError("read", errno)
	case n == 0:
		return 0, io.EOF
	}
	return n, nil
}

// Write implements net.Conn, in the manner of read.
func (c *pacedConn) Write(b []byte) (n int, err error) {
	var errno syscall.Errno
	err = c.raw.Write(func(fd uintptr) bool {
		for errno = 0; n < len(b) && errno == 0; {
			var sent int
			sent, errno = relay.RawWrite(fd, b[n:])
			n += sent
		}
		return errno != syscall.EAGAIN
	})
	if err == nil && errno != 0 {
		err = os.NewSyscallError("write", errno)
	}
	return n, err
}

// ready reports whether a connection has what SO_RCVLOWAT asks for, or has ended.
func ready(fd uintptr) bool {
	fds := []unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN | unix.POLLRDHUP}} //nolint:gosec // descriptors are small
	n, err := unix.Poll(fds, 0)
	return n != 0 || err != nil
}

// wakeAt has the kernel wake the process only when so many bytes have come. Without it, the runtime is woken for each
// segment although nobody reads. A failure costs no more than that.
func (c *pacedConn) wakeAt(bytes int) {
	_ = c.raw.Control(func(fd uintptr) {
		_ = syscall.SetsockoptInt(int(fd), syscall.SOL_SOCKET, syscall.SO_RCVLOWAT, bytes)
	})
}

// Close implements net.Conn.
func (c *pacedConn) Close() error {
	c.timer.Stop()
	return c.TCPConn.Close()
}
