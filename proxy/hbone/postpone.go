package hbone

import "runtime"

// postponing lets several streams share one write to the tunnel. A stream that
// has appended its frames puts the flush off for a moment: it gives the
// processor to the goroutines that are ready to run, and those of them that
// write to the same tunnel leave their flush to it. Under load this takes the
// place of a write for each message, and the peer gets fewer, longer segments.
//
// Giving the processor away costs something when nobody else comes, so a tunnel
// that learns this tries more and more rarely. The fields are under wmu.
type postponing struct {
	open  bool // somebody will come back to flush
	extra int  // how many have left their flush to it
	skip  int  // how many flushes are not to be put off
	pause int  // what skip was set to the last time
}

// maxPause bounds how many flushes lie between two tries. One in vain costs about
// as much as a flush.
const maxPause = 255

// finishSoon is finishWrite for frames that may leave a moment later. Like that
// it is called with the write lock held, which it may release meanwhile. Without
// error the frames may not be out yet: then who flushes them meets the failure,
// and the tunnel's end tells the stream.
func (c *conn) finishSoon(block bool) error {
	p := &c.postponing
	switch {
	case c.rec.buffered() > flushAt/4: // it is no message, and others wait for the lock
	case p.open:
		p.extra++
		return nil
	case p.skip > 0:
		p.skip--
	default:
		c.awaitOthers()
	}
	return c.finishWrite(block)
}

// awaitOthers gives those who are ready the chance to write.
func (c *conn) awaitOthers() {
	p := &c.postponing
	p.open, p.extra = true, 0
	c.unlockWrite()
	runtime.Gosched()
	c.lockWrite()
	p.open = false
	if p.extra > 0 {
		p.pause = 0
		return
	}
	p.pause = min(2*p.pause+1, maxPause)
	p.skip = p.pause
}
