package hbone

import (
	"time"

	"golang.org/x/sys/unix"
)

// floodHold is how long the connection of a client that was cut off for a flood
// stays open, unread. Its budget begins anew with its next tunnel, and so does the
// work for the streams that it opens there; who waits for this one to end does so
// at most once in this time. A client that behaves closes a tunnel itself when it
// is told of its end.
const floodHold = 2 * time.Second

// hold waits until floodHold has passed, the client has gone, or the tunnel is
// drained or aborted. Nothing is read meanwhile, so that the client cannot make us
// work: what it sends fills the kernel's buffers, and then it has to wait.
func (c *conn) hold() {
	defer time.AfterFunc(floodHold, func() { c.rec.Close() }).Stop()
	if t, ok := c.rec.io.(*tcpIO); ok {
		_ = t.rc.Read(hungUp) // however it ends, the tunnel has
		return
	}
	for c.rec.io.fill(&c.rec.in) == nil {
		c.rec.in.discard()
	}
}

// hungUp reports whether the other end of a socket sends nothing more.
func hungUp(fd uintptr) bool {
	fds := []unix.PollFd{{Fd: int32(fd), Events: unix.POLLRDHUP}}
	n, err := unix.Poll(fds, 0)
	return err == nil && n > 0
}
