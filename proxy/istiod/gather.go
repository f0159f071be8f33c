package istiod

import (
	"io"
	"net"
	"os"
	"sync"
	"syscall"
	"time"

	"ztunnel/proxy/relay"
)

// A busy control plane sends a thousand small messages a second. To be woken for each of them costs several times what it
// takes to apply them, and delays traffic. So the reads of a connection are gathered when there are many: after a burst,
// there is one in gatherTime, and what comes meanwhile waits in the kernel.
const (
	gatherTime = 10 * time.Millisecond
	// gatherBurst is how many reads are not held up after a time without any: those of a handshake, and of calls that
	// come now and then.
	gatherBurst = 32
	// gatherBytes that wait wake the process nonetheless, which costs little for so many.
	gatherBytes = 32 << 10
)

// gatheringConn is a connection that is read at a limited rate. One that has more than fits into a read is not held up. As
// any net.Conn, it is safe for concurrent use, but for Read, which TLS calls one at a time.
type gatheringConn struct {
	*net.TCPConn

	raw   syscall.RawConn
	paid  time.Time // when the reads that were done have taken gatherTime each
	more  bool      // the last read filled its buffer
	timer *time.Timer

	closing sync.Once
	closed  chan struct{}
}

func gather(c *net.TCPConn) (*gatheringConn, error) {
	raw, err := c.SyscallConn()
	if err != nil {
		return nil, err
	}
	return &gatheringConn{TCPConn: c, raw: raw, closed: make(chan struct{})}, nil
}

// Read implements net.Conn. A deadline does not end the wait, which is short.
func (c *gatheringConn) Read(b []byte) (int, error) {
	if !c.more {
		now := time.Now()
		if c.paid.Before(now) {
			c.paid = now
		}
		if early := c.paid.Sub(now) - gatherBurst*gatherTime; early > 0 {
			c.wait(early)
		}
		c.paid = c.paid.Add(gatherTime)
	}
	n, err := c.read(b)
	c.more = n == len(b)
	return n, err
}

// read does not tell the scheduler of the system call, which never sleeps. That would wake the scheduler's monitor for
// each message in a process that has nothing else to do, and cost more than the call.
func (c *gatheringConn) read(b []byte) (n int, err error) {
	if len(b) == 0 {
		return 0, nil
	}
	var errno syscall.Errno
	err = c.raw.Read(func(fd uintptr) bool {
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
func (c *gatheringConn) Write(b []byte) (n int, err error) {
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

// wait waits, or for Close.
func (c *gatheringConn) wait(d time.Duration) {
	c.wakeAt(gatherBytes)
	defer c.wakeAt(1)
	if c.timer == nil {
		c.timer = time.NewTimer(d)
	} else {
		c.timer.Reset(d)
	}
	select {
	case <-c.timer.C:
	case <-c.closed:
		c.timer.Stop()
	}
}

// wakeAt has the kernel wake the process only when so many bytes have come. Without it, the runtime is woken for each
// segment although nobody reads. A failure costs no more than that.
func (c *gatheringConn) wakeAt(bytes int) {
	_ = c.raw.Control(func(fd uintptr) {
		_ = syscall.SetsockoptInt(int(fd), syscall.SOL_SOCKET, syscall.SO_RCVLOWAT, bytes)
	})
}

// Close implements net.Conn.
func (c *gatheringConn) Close() error {
	c.closing.Do(func() { close(c.closed) })
	return c.TCPConn.Close()
}
