package relay

import (
	"runtime"
	"sync"
	"sync/atomic"
	"syscall"

	"golang.org/x/sys/unix"
)

// A direction that moves much goes over from buffers to splice(2): the kernel passes pages from one socket to the other by
// way of a pipe, and nobody copies their bytes. As with buffers, a pipe is taken when the source is readable and given
// back when it is not.
const (
	// pipeSize is what a pipe is asked to hold, in bytes. The kernel counts its pages, of which a socket fills each with
	// as little as it likes.
	pipeSize = 1 << 20
	// spliceMost is how much is passed on at a time.
	spliceMost = 512 << 10
	// spliceAfter is the number of consecutive reads of at least spliceWorth bytes before a direction changes over. As many
	// smaller steps change it back.
	spliceAfter = 8
	spliceWorth = 32 << 10
	// maxPipes limits the pipes in the process, each of two descriptors, and with them what slow receivers leave in them: 32
	// MiB. A direction that gets none stays with buffers.
	maxPipes = 64
)

// pipe is a pipe that is empty when it is taken.
type pipe struct {
	ends    *[2]int // to read from and to write to
	cleanup runtime.Cleanup
}

// pipes are the process's idle pipes. The garbage collector closes what is not used.
var pipes struct {
	pool sync.Pool
	open atomic.Int32
}

// takePipe returns an empty pipe, or nil if there are too many or the kernel refuses. The caller ends its use with release
// or discard.
func takePipe() *pipe {
	if p, ok := pipes.pool.Get().(*pipe); ok {
		return p
	}
	if pipes.open.Add(1) > maxPipes {
		pipes.open.Add(-1)
		return nil
	}
	ends := new([2]int)
	if err := unix.Pipe2(ends[:], unix.O_CLOEXEC|unix.O_NONBLOCK); err != nil {
		pipes.open.Add(-1)
		return nil
	}
	if _, err := unix.FcntlInt(uintptr(ends[0]), unix.F_SETPIPE_SZ, pipeSize); err != nil { // there is a limit for each user
		closePipe(ends)
		return nil
	}
	p := &pipe{ends: ends}
	p.cleanup = runtime.AddCleanup(p, closePipe, ends)
	return p
}

func closePipe(ends *[2]int) {
	_ = unix.Close(ends[0])
	_ = unix.Close(ends[1])
	pipes.open.Add(-1)
}

// release gives an empty pipe back.
func (p *pipe) release() { pipes.pool.Put(p) }

// discard closes a pipe with something in it.
func (p *pipe) discard() {
	p.cleanup.Stop()
	closePipe(p.ends)
}

// splice is splice(2) in the manner of RawRead.
func splice(from, to uintptr, most int) (n int, errno syscall.Errno) {
	for {
		n, _, errno := syscall.RawSyscall6(unix.SYS_SPLICE, from, 0, to, 0, uintptr(most), unix.SPLICE_F_MOVE|unix.SPLICE_F_NONBLOCK)
		switch errno {
		case 0:
			return int(n), 0
		case syscall.EINTR:
		default:
			return 0, errno
		}
	}
}

// readPipe is read for a direction with a pipe.
func (h *half) readPipe(fd uintptr) bool {
	if h.pipe == nil {
		if h.pipe = takePipe(); h.pipe == nil {
			h.leavePipe()
			return h.read(fd)
		}
	}
	n, errno := splice(fd, uintptr(h.pipe.ends[1]), spliceMost)
	switch {
	case errno == syscall.EAGAIN: // of the source, for the pipe is empty
		h.drop()
		return false
	case errno != 0:
		h.err = errno
	case n == 0:
		h.eof = true
	default:
		h.piped = n
		if n >= spliceWorth {
			h.steps = 0
		} else if h.steps++; h.steps == spliceAfter {
			h.leavePipe()
		}
	}
	return true
}

// leavePipe goes back to buffers.
func (h *half) leavePipe() { h.spliced, h.steps = false, 0 }

// writePipe is write for what is in the pipe.
func (h *half) writePipe(fd uintptr) bool {
	for h.piped > 0 {
		n, errno := splice(uintptr(h.pipe.ends[0]), fd, h.piped)
		switch {
		case errno == syscall.EAGAIN: // of the destination, for the pipe is not empty
			return false
		case errno != 0:
			h.err = errno
			return true
		case n == 0:
			h.err = ErrWriteZero
			return true
		}
		h.piped -= n
		h.count.Add(uint64(n))
	}
	return true
}
