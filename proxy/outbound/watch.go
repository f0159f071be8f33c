package outbound

import (
	"sync"
	"time"
)

// How soon, and how often then, a connection that waits for its destination is
// asked whether its application is still there.
const (
	firstLook = 250 * time.Millisecond
	nextLook  = 500 * time.Millisecond
)

// clientWatch cancels a connection whose application has gone while the
// destination was not reached yet, so that a server that does not answer holds
// nothing of connections that nobody waits for. It looks by a timer, because
// most connections have a destination long before the first look.
type clientWatch struct {
	mu    sync.Mutex
	timer *time.Timer // nil when it is not watching
}

func (w *clientWatch) start(c *outgoing) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.timer = time.AfterFunc(firstLook, func() { w.look(c) })
}

// stop ends the watch. Once it has returned nothing is cancelled any more.
func (w *clientWatch) stop() {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.timer != nil {
		w.timer.Stop()
		w.timer = nil
	}
}

func (w *clientWatch) look(c *outgoing) {
	w.mu.Lock()
	defer w.mu.Unlock()
	switch {
	case w.timer == nil:
	case c.Sockets.Abandoned(c.app, c.src, c.target):
		w.timer = nil
		c.cancel(clientGoneError{})
	default:
		w.timer.Reset(nextLook)
	}
}
