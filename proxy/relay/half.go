package relay

import (
	"net"
	"sync/atomic"
	"syscall"
)

// half is one direction of a session. One goroutine owns it.
type half struct {
	src, dst syscall.RawConn
	out      *net.TCPConn   // dst again, to close its write end
	back     *half          // the other direction
	count    *atomic.Uint64 // bytes written to dst

	// The callbacks of src.Read and dst.Write, made once: a method value allocates.
	onReadable, onWritable func(fd uintptr) bool

	buf        *buffer // nil while src is not readable
	start, end int     // what of buf is read and not yet written
	size       uint8   // index of the size of the next buffer
	small      uint8   // consecutive small reads
	eof        bool    // src has ended

	pipe    *pipe // nil while src is not readable
	piped   int   // what is in it
	spliced bool  // use pipes, not buffers
	steps   uint8 // consecutive ones that call for the other

	done     atomic.Bool // at end of file, with all written that came before
	err      error       // why the copy ended, nil at end of file
	closeErr error       // of closing the write end of dst
}

func (h *half) init(src, dst syscall.RawConn, out *net.TCPConn, count *atomic.Uint64, back *half) {
	h.src, h.dst, h.out, h.count, h.back = src, dst, out, count, back
	h.onReadable, h.onWritable = h.read, h.write
}

// run copies until src ends or an error happens, then closes the write end of dst. Where dst has ended itself, the
// session is over and its close does that: there is nothing unread in dst for which the kernel would make a reset of it.
func (h *half) run() {
	for h.err == nil && !h.eof {
		if err := h.src.Read(h.onReadable); err != nil {
			h.fail(err)
		} else if h.start < h.end || h.piped > 0 {
			if err := h.dst.Write(h.onWritable); err != nil {
				h.fail(err)
			}
		}
		if h.buf != nil && (h.spliced || h.buf.size != h.size) || h.pipe != nil && !h.spliced {
			h.drop()
		}
	}
	h.drop()
	h.done.Store(h.err == nil)
	if h.err != nil || !h.back.done.Load() {
		h.closeErr = h.out.CloseWrite()
	}
}

// fail records why the copy ends, unless a callback has recorded the cause.
func (h *half) fail(err error) {
	if h.err == nil {
		h.err = err
	}
}

// drop gives the buffer or the pipe back.
func (h *half) drop() {
	if h.buf != nil {
		h.buf.release()
		h.buf = nil
	}
	switch {
	case h.pipe == nil:
		return
	case h.piped > 0: // the copy has failed
		h.pipe.discard()
	default:
		h.pipe.release()
	}
	h.pipe, h.piped = nil, 0
}

// read is called with a source that may be readable. It reports whether it has an outcome: bytes, the end or an error;
// without one, the poller waits and no buffer is held. Reading goes on until the kernel has nothing more, since the
// poller reports readiness once only.
func (h *half) read(fd uintptr) bool {
	if h.spliced {
		return h.readPipe(fd)
	}
	if h.buf == nil {
		h.buf = takeBuffer(h.size)
	}
	n, errno := RawRead(fd, h.buf.bytes)
	switch {
	case errno == syscall.EAGAIN:
		h.drop()
		return false
	case errno != 0:
		h.err = errno
	case n == 0:
		h.eof = true
	default:
		h.start, h.end = 0, n
		h.adapt(n)
	}
	return true
}

// adapt chooses the size of the next buffer after a read of n bytes, or that there is none.
func (h *half) adapt(n int) {
	if n < spliceWorth {
		h.steps = 0
	} else if h.steps++; h.steps == spliceAfter {
		h.spliced, h.steps = true, 0
	}
	switch {
	case n == len(h.buf.bytes):
		h.small = 0
		if h.size < sizes-1 {
			h.size++
		}
	case n >= len(h.buf.bytes)/16:
		h.small = 0
	case h.small < smallReads:
		h.small++
	case h.size > 0:
		h.small = 0
		h.size--
	}
}

// write is called with a destination that may be writable. It reports whether it is done with the buffer's bytes: all
// are written and counted, or there is an error.
func (h *half) write(fd uintptr) bool {
	if h.piped > 0 {
		return h.writePipe(fd)
	}
	for h.start < h.end {
		n, errno := RawWrite(fd, h.buf.bytes[h.start:h.end])
		switch {
		case errno == syscall.EAGAIN:
			return false
		case errno != 0:
			h.err = errno
			return true
		case n == 0:
			h.err = ErrWriteZero
			return true
		}
		h.start += n
		h.count.Add(uint64(n))
	}
	return true
}
