package hbone

import (
	"context"
	"net"
	"sync/atomic"
	"syscall"

	"golang.org/x/net/http2"

	"ztunnel/proxy/relay"
)

// Direction tells which end of a connection the application's socket is.
type Direction uint8

const (
	// Downstream says that the socket is the client's, as in an outbound proxy.
	// What it sends goes to the tunnel, and errors on that way begin with "send".
	Downstream Direction = iota
	// Upstream says that the socket is the destination's, as in an inbound proxy.
	// What comes from the tunnel goes to it, and errors on that way begin with "send".
	Upstream
)

// relayState is a stream joined with an application's socket. The application's
// bytes are read by the caller of Relay ("up"), the tunnel's are written by the
// tunnel's reader or by a drain ("down").
type relayState struct {
	s   *Stream
	rc  syscall.RawConn
	app *net.TCPConn

	toTunnel, fromTunnel *atomic.Uint64

	// Up: of Relay's goroutine.
	class  uint8 // of the next read
	small  uint8 // reads in a row that needed less
	locked bool  // the write lock is held, to be finished and released
	eof    bool  // the application has ended its side
	dir    Direction
	wblock bool          // down: wait for the application's socket
	peek   bool          // the stack is new: ask before reading
	stack  atomic.Uint32 // stackFixed and so on
	n      int           // cold: bytes in buf behind the frame header
	win    int           // hot: window reserved
	buf    *buffer
	rerr   syscall.Errno // of reading the application's socket
	readFn func(fd uintptr) bool

	// Down: of whoever writes the application's socket now.
	wp      []byte // not written yet
	werr    syscall.Errno
	writeFn func(fd uintptr) bool

	down                  atomic.Uint32 // downOpen, downEnding, downEnded
	upEnded               atomic.Bool   // by the application's end of file, which the peer was told
	downErr, downCloseErr error         // before downEnded is set
}

const (
	downOpen uint32 = iota
	downEnding
	downEnded
)

// Relay moves bytes between the stream and an application's socket until both
// ways have ended, and closes both. The end of one way, by end of file or by an
// error, is passed on as a half-close, and the other goes on as long as it takes.
// toTunnel and fromTunnel are added to after each successful write. Nobody else
// may use the socket or the stream meanwhile. The result is that of
// relay.Result, seen from a proxy whose socket is on the side that dir says.
//
// When ctx ends, the stream is reset with CANCEL, the socket is closed at once
// and the result is context.Cause(ctx).
func (s *Stream) Relay(ctx context.Context, app *net.TCPConn, toTunnel, fromTunnel *atomic.Uint64, dir Direction) error {
	r := s.newRelay(app, toTunnel, fromTunnel, dir)
	if ctx.Done() != nil {
		stop := context.AfterFunc(ctx, func() { s.Cancel(context.Cause(ctx)) })
		defer stop()
	}
	_, err := r.run()
	return err
}

func (s *Stream) newRelay(app *net.TCPConn, toTunnel, fromTunnel *atomic.Uint64, dir Direction) *relayState {
	r := &relayState{s: s, app: app, toTunnel: toTunnel, fromTunnel: fromTunnel, dir: dir}
	r.readFn, r.writeFn = r.readReady, r.writeReady
	s.c.mu.Lock()
	s.wake = nil // nobody waits now, and perhaps not for long
	s.c.mu.Unlock()
	return r
}

// run moves the bytes. It reports whether it is to be called again.
func (r *relayState) run() (again bool, err error) {
	s := r.s
	if r.rc == nil {
		rc, err := r.app.SyscallConn()
		if err != nil {
			s.Reset(http2.ErrCodeCancel)
			r.app.Close()
			return false, err
		}
		r.rc = rc
		r.attach()
	}
	upErr := r.pump()
	if r.interrupted(upErr) {
		return true, nil
	}
	upClose := s.sendEnd()
	r.upEnded.Store(r.eof)
	r.waitDown()
	r.app.Close()
	s.release()
	s.mu.Lock()
	cancelled := s.cancelled
	s.mu.Unlock()
	if cancelled != nil {
		return false, cancelled
	}
	if r.dir == Downstream {
		return false, relay.Result(upErr, upClose, r.downErr, r.downCloseErr)
	}
	return false, relay.Result(r.downErr, r.downCloseErr, upErr, upClose)
}

// waitDown waits until nothing more is written to the application's socket.
func (r *relayState) waitDown() {
	s := r.s
	for r.down.Load() != downEnded {
		s.c.mu.Lock()
		wake := s.waker()
		s.c.mu.Unlock()
		if r.down.Load() == downEnded { // before there was a waker
			return
		}
		<-wake
	}
}

// attach makes the application's socket the receiver of the stream. What has
// arrived before goes first.
func (r *relayState) attach() {
	s := r.s
	s.mu.Lock()
	s.relay = r
	if s.cancelled != nil { // before there was a socket to close
		defer r.app.Close()
	}
	if s.q.empty() && !s.fin && !s.discard {
		s.mu.Unlock()
		return
	}
	s.draining = true
	s.mu.Unlock()
	if !r.empty(false) {
		go r.drain()
	}
}

// release ends the stream after both ways of a relay. A peer that has not ended
// its side is told that nobody listens.
func (s *Stream) release() {
	code := http2.ErrCodeCancel
	if !s.c.client {
		code = http2.ErrCodeNo
	}
	s.reset(code, relay.ErrWriteZero)
}

// pump moves bytes from the application to the tunnel until the application
// ends its side or either fails. It returns the error of the copy.
//
// A cold stream reads first, into a small buffer, and takes the write lock
// after. A hot one, whose reads fill their buffers, takes the lock, then a large
// buffer, reads and writes: however many hot streams a tunnel has, one large
// buffer is in use, and they take turns.
func (r *relayState) pump() error {
	for {
		// A stream that takes nothing any more is no reason to end: the
		// application may have nothing to say.
		closed := r.s.waitWindow(nil) != nil
		var err error
		if r.class == classCold || closed {
			r.class = classCold
			err = r.cold()
		} else {
			err = r.hot()
		}
		if err != nil || r.eof || r.rerr != 0 {
			return r.readError(err)
		}
	}
}

// readError is err, or else that of reading the application's socket.
func (r *relayState) readError(err error) error {
	if err == nil && r.rerr != 0 {
		return r.rerr
	}
	return err
}

// cold moves what a small buffer holds, or waits for it.
func (r *relayState) cold() error {
	err := r.rc.Read(r.readFn)
	if r.locked {
		r.locked = false
		c := r.s.c
		if c.finishWrite(true) != nil && err == nil {
			err = relay.ErrWriteZero
		}
		c.unlockWrite()
	}
	if r.buf == nil {
		return err
	}
	full := r.n == len(r.buf.b)-frameHeader
	if r.n > 0 && err == nil {
		err = r.sendBuffered()
	}
	r.buf.release()
	r.buf, r.n = nil, 0
	if full {
		r.class, r.small = classWarm, 0
	}
	return err
}

// readReady is called by the poller's read operation while the socket is
// readable; false waits for more.
func (r *relayState) readReady(fd uintptr) bool {
	if r.peek {
		r.peek = false
		if nothingYet(fd) {
			return false
		}
	}
	r.grown()
	if r.class != classCold {
		return r.readHot(fd)
	}
	if !r.readCold(fd) {
		return true
	}
	if r.n == 0 {
		r.buf.release()
		r.buf = nil
		return false
	}
	// Everything that was there is read. Sending it here instead of after
	// returning keeps the readiness that arrives meanwhile, so that nothing is
	// left to do but to wait. Returning would forget it and need another read.
	return !r.trySend() || r.locked || !r.s.hasWindow()
}

// readCold reads until the buffer is full, the application has ended (false) or
// there is nothing more (true). To read on until the socket says so is needed
// anyway before waiting, and shows an end of file in time to send it along.
func (r *relayState) readCold(fd uintptr) (again bool) {
	if r.buf == nil {
		r.buf, r.n = takeBuffer(classCold), 0
	}
	for space := r.buf.b[frameHeader+r.n:]; len(space) > 0; space = r.buf.b[frameHeader+r.n:] {
		n, errno := relay.RawRead(fd, space)
		switch {
		case errno == syscall.EAGAIN:
			return true
		case errno != 0:
			r.rerr = errno
			return false
		case n == 0:
			r.eof = true
			return false
		}
		r.n += n
	}
	return false
}

// trySend sends the buffer if that needs no waiting at all. It reports whether
// it is gone; r.locked says that the lock is held because the socket of the
// tunnel is full.
func (r *relayState) trySend() bool {
	s, c := r.s, r.s.c
	if r.n > minMaxFrame-frameHeader || !c.wmu.TryLock() {
		return false
	}
	n := r.n
	if c.rec.buffered() > flushAt/2 || c.writeErr != nil || !s.takeAll(n) {
		r.locked = true // to be finished with waiting
		return false
	}
	putHeader(r.buf.b, n, http2.FrameData, 0, s.id)
	if c.append(r.buf.b[:frameHeader+n]) != nil {
		r.locked = true
		return false
	}
	c.explain(n)
	r.toTunnel.Add(uint64(n))
	r.buf.release()
	r.buf, r.n = nil, 0
	if c.finishSoon(false) != nil || c.flushing {
		r.locked = true
		return true
	}
	c.unlockWrite()
	return true
}

// sendBuffered sends the cold buffer, waiting for windows and for the socket. An
// end of file that was seen goes along with the last byte.
func (r *relayState) sendBuffered() error {
	b := r.buf.b[:frameHeader+r.n]
	for {
		n, err := r.s.sendData(b, r.eof)
		r.toTunnel.Add(uint64(n))
		if b = b[n:]; err != nil || len(b) == frameHeader {
			return err
		}
		if err := r.s.waitWindow(nil); err != nil {
			return err
		}
	}
}

// hot reads under the write lock.
func (r *relayState) hot() error {
	s, c := r.s, r.s.c
	c.lockWrite()
	win, _ := s.takeWindow(classRead[r.class] - frameHeader)
	if win == 0 {
		return r.unlockIdle() // to find out why, or wait
	}
	r.win, r.locked = win, true
	err := r.rc.Read(r.readFn)
	if !r.locked {
		return err // waited for the socket, which is readable now
	}
	r.locked = false
	if err != nil || r.buf == nil || r.n == 0 {
		r.releaseHot()
		if err := r.readError(err); err != nil {
			_ = r.unlockIdle()
			return err
		}
		return r.unlockIdle() // at the end of file
	}
	s.returnWindow(win - r.n)
	err = s.appendData(r.buf.b[:frameHeader+r.n])
	r.adapt()
	n := r.n
	r.win = 0
	r.releaseHot()
	if err == nil && c.finishWrite(true) != nil {
		err = relay.ErrWriteZero
	}
	c.unlockWrite()
	if err == nil {
		r.toTunnel.Add(uint64(n))
	}
	return err
}

// unlockIdle releases the write lock of somebody who had nothing to write.
func (r *relayState) unlockIdle() error {
	err := r.s.c.finishWrite(true)
	r.s.c.unlockWrite()
	if err != nil {
		return relay.ErrWriteZero
	}
	return nil
}

// releaseHot gives back the buffer and the window of a hot read.
func (r *relayState) releaseHot() {
	if r.buf != nil {
		r.buf.release()
	}
	r.s.returnWindow(r.win)
	r.buf, r.n, r.win = nil, 0, 0
}

// readHot reads once with the write lock held. If there is nothing it releases
// the lock and waits; woken, it goes back for the lock.
func (r *relayState) readHot(fd uintptr) bool {
	if !r.locked {
		return true
	}
	r.buf = takeBuffer(int(r.class))
	n, errno := relay.RawRead(fd, r.buf.b[frameHeader:frameHeader+r.win])
	r.n = n
	switch {
	case errno == syscall.EAGAIN:
		r.locked = false
		r.releaseHot()
		c := r.s.c
		_ = c.finishWrite(false)
		c.unlockWrite()
		return false
	case errno != 0:
		r.rerr = errno
	case n == 0:
		r.eof = true
	}
	return true
}

// adapt chooses the size of the next hot read.
func (r *relayState) adapt() {
	size := classRead[r.class]
	switch {
	case r.n+frameHeader >= size:
		r.small = 0
		if r.class < classHuge {
			r.class++
		}
	case r.n < size/8:
		if r.small++; r.small >= 5 {
			r.small = 0
			r.class--
		}
	default:
		r.small = 0
	}
}
