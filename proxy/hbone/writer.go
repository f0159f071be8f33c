package hbone

import (
	"time"

	"golang.org/x/net/http2"
)

// lockWrite takes the write lock for somebody who will write, or at least call
// finishWrite.
func (c *conn) lockWrite() {
	if c.wmu.TryLock() {
		return
	}
	c.waiters.Add(1)
	c.wmu.Lock()
	c.waiters.Add(-1)
}

// unlockWrite releases the write lock and closes the gap in which the reader
// left a control frame, found the lock taken and went away.
func (c *conn) unlockWrite() {
	c.wmu.Unlock()
	if c.ctrlSet.Load() {
		c.kick()
	}
}

// append encrypts whole frames. The caller holds wmu and calls finishWrite.
func (c *conn) append(p []byte) error {
	if c.writeErr != nil {
		return c.writeErr
	}
	if err := c.rec.append(p); err != nil {
		return c.writeFailed(err)
	}
	return nil
}

// writeFailed remembers the first failure of the connection below. What has
// arrived before can still be read, so the reader ends the tunnel; a timer
// makes sure of it.
func (c *conn) writeFailed(err error) error {
	if c.writeErr == nil {
		c.writeErr = err
		c.timers.closeAfter(c, time.Second)
	}
	return c.writeErr
}

// finishWrite must be called by everybody who held the write lock for writing,
// before unlockWrite. It adds the waiting control frames and flushes, unless
// another writer waits, who will. Without block it never waits for the socket: a
// temporary goroutine does. The error is about what the caller has written: what
// follows in the same call, perhaps the tunnel's end, is none of its business.
func (c *conn) finishWrite(block bool) error {
	if c.writeErr != nil {
		return c.writeErr
	}
	for first := true; ; first = false {
		if block || c.rec.buffered() == 0 {
			if err := c.appendControl(); err != nil {
				return unless(!first, err)
			}
		}
		if c.waiters.Load() > 0 && c.rec.buffered() < flushAt {
			return nil
		}
		done, err := c.rec.flush(block)
		if err != nil {
			return unless(!first, c.writeFailed(err))
		}
		if !done {
			c.startFlusher()
			return nil
		}
		last := c.lastFrame.Load() // read before ctrlSet, which is set before it
		if c.ctrlSet.Load() {
			continue
		}
		if last {
			c.shutdown(block)
		}
		return nil
	}
}

func unless(drop bool, err error) error {
	if drop {
		return nil
	}
	return err
}

// shutdown follows the last frame of a tunnel that ended in good order with
// close_notify and the end of our side of the connection. The caller holds wmu
// and has sent all frames. A failure is of no interest any more: the tunnel's
// reader or a timer closes the connection in any case.
func (c *conn) shutdown(block bool) {
	if !block && c.blocking() {
		c.startFlusher()
		return
	}
	c.writeErr = ErrTunnelClosing
	if c.rec.closeWrite() != nil {
		return
	}
	if done, err := c.rec.flush(block); err != nil || !done {
		return
	}
	if half, ok := c.rec.Conn.(interface{ CloseWrite() error }); ok {
		_ = half.CloseWrite()
		return
	}
	_ = c.rec.Close()
}

// startFlusher starts the temporary goroutine that waits for the socket. The
// caller holds wmu. It ends when the bytes have gone or the connection is
// closed, which every end of a tunnel does.
func (c *conn) startFlusher() {
	if !c.flushing {
		c.flushing = true
		go c.flusher()
	}
}

func (c *conn) flusher() {
	c.lockWrite()
	c.flushing = false
	_ = c.finishWrite(true)
	c.unlockWrite()
}

// putControl adds a control frame to those that go out next.
func (c *conn) putControl(frame func([]byte) []byte) {
	c.ctrlMu.Lock()
	c.ctrl = frame(c.ctrl)
	c.ctrlMu.Unlock()
	c.ctrlSet.Store(true)
}

func (c *conn) putWindowUpdate(id uint32, n int64) {
	c.putControl(func(b []byte) []byte { return appendWindowUpdate(b, id, uint32(n)) })
}

func (c *conn) putReset(id uint32, code http2.ErrCode) {
	c.putControl(func(b []byte) []byte { return appendReset(b, id, code) })
}

// maxWaitingControl bounds the control frames for a peer that does not read.
const maxWaitingControl = 64 << 10

// controlFull reports that the peer makes us answer and does not read.
func (c *conn) controlFull() bool {
	c.ctrlMu.Lock()
	defer c.ctrlMu.Unlock()
	return len(c.ctrl) > maxWaitingControl
}

// appendControl encrypts the waiting control frames, after what TLS owes the
// peer. The caller holds wmu.
func (c *conn) appendControl() error {
	if c.rec.owes() {
		if err := c.append(nil); err != nil {
			return err
		}
	}
	if !c.ctrlSet.Load() {
		return nil
	}
	c.ctrlMu.Lock()
	p := c.ctrl
	c.ctrl, c.spare = c.spare[:0], nil
	c.ctrlSet.Store(false)
	c.ctrlMu.Unlock()
	if len(p) == 0 {
		return nil
	}
	err := c.append(p)
	if cap(p) <= 1024 {
		c.ctrlMu.Lock()
		c.spare = p[:0]
		c.ctrlMu.Unlock()
	}
	return err
}

// kick sends the waiting control frames if nobody holds the write lock; who
// holds it sends them. It never waits.
func (c *conn) kick() {
	for {
		if !c.wmu.TryLock() {
			return
		}
		_ = c.finishWrite(false)
		failed := c.writeErr != nil || c.flushing
		c.wmu.Unlock()
		if failed || !c.ctrlSet.Load() {
			return
		}
	}
}
