package hbone

import (
	"io"
	"net"
	"syscall"

	"ztunnel/proxy/relay"
	"ztunnel/proxy/socket"
)

// tcpIO reads and writes a TCP socket by system calls of its own.
type tcpIO struct {
	rc syscall.RawConn

	readFn  func(fd uintptr) bool
	in      *inbox
	readN   int
	readErr syscall.Errno

	writeFn  func(fd uintptr) bool
	out      []byte
	outN     int
	block    bool
	writeErr syscall.Errno
}

func newTCPIO(conn *net.TCPConn) (*tcpIO, error) {
	rc, err := conn.SyscallConn()
	if err != nil {
		return nil, err
	}
	// Without the limit streams wait behind what a bulk stream has put into the
	// kernel's queue. A kernel that refuses it costs latency only.
	_ = socket.SetNotSentLowat(conn, notSentLowat)
	t := &tcpIO{rc: rc}
	t.readFn, t.writeFn = t.readReady, t.writeReady
	return t, nil
}

func (t *tcpIO) fill(in *inbox) error {
	in.drop()
	t.in = in
	if err := t.rc.Read(t.readFn); err != nil {
		return err
	}
	if t.readErr != 0 {
		return t.readErr
	}
	if t.readN == 0 {
		return io.EOF
	}
	return nil
}

// readReady reads once. A socket that has nothing is waited for without a buffer.
func (t *tcpIO) readReady(fd uintptr) bool {
	t.in.room()
	space := t.in.buf.b[t.in.w:]
	t.readN, t.readErr = relay.RawRead(fd, space)
	if t.readErr == syscall.EAGAIN {
		t.in.drop()
		return false
	}
	if t.readErr == 0 {
		t.in.w += t.readN
		t.in.adapt(t.readN, len(space))
	}
	return true
}

func (t *tcpIO) write(p []byte, block bool) (int, error) {
	t.out, t.outN, t.block, t.writeErr = p, 0, block, 0
	err := t.rc.Write(t.writeFn)
	if err == nil && t.writeErr != 0 {
		err = t.writeErr
	}
	t.out = nil
	return t.outN, err
}

func (t *tcpIO) writeReady(fd uintptr) bool {
	for t.outN < len(t.out) {
		n, errno := relay.RawWrite(fd, t.out[t.outN:])
		if errno == syscall.EAGAIN {
			return !t.block
		}
		if errno != 0 {
			t.writeErr = errno
			return true
		}
		t.outN += n
	}
	return true
}
