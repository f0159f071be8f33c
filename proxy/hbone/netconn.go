package hbone

import (
	"errors"
	"io"
	"net"
	"os"
	"sync"
	"time"

	"golang.org/x/net/http2"

	"ztunnel/proxy/relay"
)

var _ net.Conn = (*Stream)(nil)

// errStopped is a wait that a deadline ended.
var errStopped = errors.New("stopped")

// face is what a stream needs only as a net.Conn.
type face struct {
	readDeadline, writeDeadline deadline
	readable                    chan struct{} // gets a token when a reader should look again
	writeMu                     sync.Mutex    // one Write at a time
	closed                      chan struct{}
	closeOnce                   sync.Once
}

// asConn returns the stream's state as a net.Conn, made at the first use.
func (s *Stream) asConn() *face {
	if f := s.face.Load(); f != nil {
		return f
	}
	f := &face{readDeadline: newDeadline(), writeDeadline: newDeadline(), readable: make(chan struct{}, 1), closed: make(chan struct{})}
	if s.face.CompareAndSwap(nil, f) {
		return f
	}
	return s.face.Load()
}

// Read reads what the peer has sent. io.EOF follows END_STREAM and resets with
// NO_ERROR or CANCEL; other ends are errors. Data that arrived before is read
// first.
func (s *Stream) Read(p []byte) (int, error) {
	f := s.asConn()
	for {
		if f.isClosed() {
			return 0, net.ErrClosed
		}
		if f.readDeadline.expired() {
			return 0, os.ErrDeadlineExceeded
		}
		s.mu.Lock()
		if s.relay != nil {
			s.mu.Unlock()
			return 0, net.ErrClosed
		}
		n := s.q.read(p)
		fin, err := s.fin && s.q.empty(), s.finErr
		s.mu.Unlock()
		switch {
		case n > 0:
			s.c.dequeued(n)
			if s.consumed(n) {
				s.c.kick()
			}
			return n, nil
		case fin && err == nil:
			return 0, io.EOF
		case fin:
			return 0, err
		case len(p) == 0:
			return 0, nil
		}
		select {
		case <-f.readable:
		case <-f.readDeadline.wait():
		case <-f.closed:
		}
	}
}

// wakeReader makes a waiting Read look again.
func (s *Stream) wakeReader() {
	f := s.face.Load()
	if f == nil {
		return
	}
	select {
	case f.readable <- struct{}{}:
	default:
	}
}

// Write sends p, waiting for the peer's windows. A stream that is no longer open
// for sending fails with a broken pipe.
func (s *Stream) Write(p []byte) (int, error) {
	f := s.asConn()
	f.writeMu.Lock()
	defer f.writeMu.Unlock()
	done := 0
	for done < len(p) {
		if f.isClosed() {
			return done, net.ErrClosed
		}
		if f.writeDeadline.expired() {
			return done, os.ErrDeadlineExceeded
		}
		err := s.waitWindow(f.writeDeadline.wait())
		if errors.Is(err, errStopped) {
			continue
		}
		if err != nil {
			return done, s.writeError(err)
		}
		n, err := s.writeSome(p[done:])
		if done += n; err != nil {
			return done, s.writeError(err)
		}
	}
	return done, nil
}

// writeSome sends the beginning of p.
func (s *Stream) writeSome(p []byte) (int, error) {
	n := min(len(p), classRead[classBig]-frameHeader)
	b := takeBuffer(classFor(n + frameHeader))
	defer b.release()
	copy(b.b[frameHeader:], p[:n])
	return s.sendData(b.b[:frameHeader+n], false)
}

// writeError says why a stream cannot be written any more.
func (s *Stream) writeError(err error) error {
	if !errors.Is(err, relay.ErrWriteZero) {
		return err
	}
	s.c.mu.Lock()
	defer s.c.mu.Unlock()
	if s.gone && s.fate.close != nil && !errors.Is(s.fate.close, relay.ErrWriteZero) {
		return s.fate.close
	}
	return errBrokenPipe
}

// CloseWrite sends END_STREAM. The other way stays open.
func (s *Stream) CloseWrite() error {
	err := s.sendEnd()
	if errors.Is(err, relay.ErrWriteZero) {
		err = net.ErrClosed
	}
	return err
}

// Close ends both ways: what was written is sent, then END_STREAM, and a peer
// that has not ended its side is told by a reset that nobody listens.
func (s *Stream) Close() error {
	f := s.asConn()
	again := true
	f.closeOnce.Do(func() { close(f.closed); again = false })
	if again {
		return net.ErrClosed
	}
	s.signal()
	if s.c.client && s.notAnswered() {
		s.Reset(http2.ErrCodeCancel)
		return nil
	}
	_ = s.sendEnd()
	s.release()
	return nil
}

func (s *Stream) notAnswered() bool {
	s.c.mu.Lock()
	defer s.c.mu.Unlock()
	return !s.answered
}

// SetDeadline sets both deadlines, as net.Conn has it.
func (s *Stream) SetDeadline(t time.Time) error {
	f := s.asConn()
	f.readDeadline.set(t)
	f.writeDeadline.set(t)
	return nil
}

// SetReadDeadline limits current and later calls of Read; zero is no limit.
func (s *Stream) SetReadDeadline(t time.Time) error {
	s.asConn().readDeadline.set(t)
	return nil
}

// SetWriteDeadline limits waiting for the peer's windows in current and later
// calls of Write; zero is no limit.
func (s *Stream) SetWriteDeadline(t time.Time) error {
	s.asConn().writeDeadline.set(t)
	return nil
}

func (f *face) isClosed() bool {
	select {
	case <-f.closed:
		return true
	default:
		return false
	}
}

// deadline is a channel that is closed when a time has come.
type deadline struct {
	mu    sync.Mutex
	timer *time.Timer
	ch    chan struct{}
}

func newDeadline() deadline { return deadline{ch: make(chan struct{})} }

func (d *deadline) set(t time.Time) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.timer != nil && !d.timer.Stop() {
		<-d.ch // the timer has closed it, or is about to
	}
	d.timer = nil
	past := false
	select {
	case <-d.ch:
		past = true
	default:
	}
	if t.IsZero() || time.Until(t) > 0 {
		if past {
			d.ch = make(chan struct{})
		}
		if !t.IsZero() {
			ch := d.ch
			d.timer = time.AfterFunc(time.Until(t), func() { close(ch) })
		}
		return
	}
	if !past {
		close(d.ch)
	}
}

func (d *deadline) wait() <-chan struct{} {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.ch
}

func (d *deadline) expired() bool {
	select {
	case <-d.wait():
		return true
	default:
		return false
	}
}
