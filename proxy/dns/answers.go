package dns

import (
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// maxReady is how many answers are taken with one system call.
const maxReady = 32

// run starts the goroutine if there is none. The caller holds the lock.
func (w *inquiries) run() error {
	if w.poll != nil {
		return nil
	}
	poll, err := newPoll()
	if err != nil {
		return err
	}
	rc, err := poll.SyscallConn()
	if err == nil {
		err = poll.SetReadDeadline(time.Now().Add(w.patience()))
	}
	if err != nil {
		return errors.Join(fmt.Errorf("wait for answers: %w", err), poll.Close())
	}
	err = rc.Control(func(fd uintptr) { w.pollFD = fd })
	if err != nil {
		return errors.Join(err, poll.Close())
	}
	w.poll, w.waiting = poll, make(map[int]*inquiry)
	w.server.serving.Go(func() { w.serve(poll, rc) })
	return nil
}

// patience is for how long an answer is waited for.
func (w *inquiries) patience() time.Duration { return min(w.server.forwarder.Timeout, queryTimeout) }

// serve takes answers until none have been waited for for a while, or the server
// is stopped.
func (w *inquiries) serve(poll *os.File, rc syscall.RawConn) {
	defer poll.Close()
	for {
		err := rc.Read(func(fd uintptr) bool {
			w.receive(fd)
			return false
		})
		if !errors.Is(err, os.ErrDeadlineExceeded) {
			w.abandon()
			return
		}
		if !w.alarm(poll) {
			return
		}
	}
}

// receive takes all answers that are there. The runtime tells of those that come
// after the last call that finds a place in events free.
func (w *inquiries) receive(poll uintptr) {
	var events [maxReady]unix.EpollEvent
	buf := packets.Get().(*[maxQuery]byte)
	defer packets.Put(buf)
	for n := len(events); n == len(events); {
		n = ready(poll, events[:])
		for _, event := range events[:n] {
			w.mu.Lock()
			in := w.waiting[int(event.Fd)]
			w.mu.Unlock()
			if in != nil {
				w.read(in, buf[:])
			}
		}
	}
}

// read reads what has come for an inquiry: the answer, or what may be forged.
func (w *inquiries) read(in *inquiry, buf []byte) {
	for {
		n, errno := receive(in.fd, buf)
		switch {
		case errno == syscall.EAGAIN:
			return
		case errno != 0:
			w.conclude(in, nil, fmt.Errorf("wait for an answer: %w", os.NewSyscallError("recvfrom", errno)))
			return
		case in.q.isAnswer(buf[:n], in.id):
			w.conclude(in, buf[:n], nil)
			return
		}
		if in.strays++; in.strays >= maxStray {
			w.conclude(in, nil, errForeign)
			return
		}
	}
}

// drop closes the socket of an inquiry.
func (w *inquiries) drop(in *inquiry) {
	w.mu.Lock()
	delete(w.waiting, in.fd)
	w.mu.Unlock()
	closeSocket(in.fd)
	<-w.server.forwarder.sockets
}

// conclude answers the client if the answer of the resolver will do, and makes
// whatever else it takes if not.
func (w *inquiries) conclude(in *inquiry, answer []byte, err error) {
	w.drop(in)
	s := w.server
	if err == nil {
		if r := s.settle(in, answer); r != nil {
			in.same.reply, in.same.err = r, nil
			s.forwarder.cache().end(in.key, in.same)
			s.deliver(in, r)
			return
		}
	}
	w.goOn(in, &outcome{of: in.upstream, answer: slices.Clone(answer), err: err})
}

// goOn does on another goroutine what is to be done after the first try.
func (w *inquiries) goOn(in *inquiry, first *outcome) {
	s := w.server
	s.start(func() {
		if answer := s.retry(in, first); answer != nil {
			in.write(answer)
		}
	})
}

// alarm ends the inquiries that have had no answer for too long, and sets the next
// alarm. It returns false if there were no inquiries since the last one, and poll
// is not used any more.
func (w *inquiries) alarm(poll *os.File) bool {
	now := time.Now()
	next := now.Add(w.patience())
	var late []*inquiry
	w.mu.Lock()
	if !w.used && len(w.waiting) == 0 {
		w.poll, w.waiting = nil, nil
		w.closeSpare()
		w.mu.Unlock()
		return false
	}
	w.used = false
	for _, in := range w.waiting {
		switch end := in.start.Add(w.patience()); {
		case !end.After(now):
			late = append(late, in)
		case end.Before(next):
			next = end
		}
	}
	w.mu.Unlock()
	_ = poll.SetReadDeadline(next) // it fails when the server is stopped
	for _, in := range late {
		w.conclude(in, nil, fmt.Errorf("wait for an answer: %w", os.ErrDeadlineExceeded))
	}
	return true
}

// abandon gives up what is waited for.
func (w *inquiries) abandon() {
	w.mu.Lock()
	waiting := w.waiting
	w.poll, w.waiting = nil, nil
	w.closeSpare()
	w.mu.Unlock()
	for _, in := range waiting {
		closeSocket(in.fd)
		<-w.server.forwarder.sockets
		in.same.err = context.Canceled
		w.server.forwarder.cache().end(in.key, in.same)
		w.server.outstanding.Add(-1)
	}
}

// stop makes the goroutine end, and lets none begin.
func (w *inquiries) stop() {
	w.mu.Lock()
	w.closed = true
	poll := w.poll
	w.closeSpare()
	w.mu.Unlock()
	if poll != nil {
		_ = poll.Close() // which waits for who reads, so without the lock
	}
}
