package relay

import (
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"syscall"
	"testing"
)

func TestResult(t *testing.T) {
	var (
		reset  = &net.OpError{Op: "read", Net: "tcp", Err: os.NewSyscallError("read", syscall.ECONNRESET)}
		pipe   = &KindError{syscall.EPIPE, "broken pipe"}
		notCon = os.NewSyscallError("shutdown", syscall.ENOTCONN)
		noBufs = syscall.ENOBUFS
	)
	for _, tc := range []struct {
		name                             string
		send, sendClose, recv, recvClose error
		want                             string // "" is success
	}{
		{name: "all well"},
		{name: "ends that are normal: reset, pipe", send: reset, recv: pipe},
		{name: "ends that are normal: not connected, unexpected EOF", send: notCon, recv: io.ErrUnexpectedEOF},
		{name: "half-closes that are normal", sendClose: notCon, recvClose: fmt.Errorf("close: %w", io.ErrUnexpectedEOF)},
		{name: "send", send: noBufs, want: "send: io error: No buffer space available (os error 105)"},
		{name: "receive", recv: noBufs, want: "receive: io error: No buffer space available (os error 105)"},
		{name: "send is reported before receive", send: syscall.EIO, recv: noBufs, want: "send: io error: Input/output error (os error 5)"},
		{name: "send zero", send: ErrWriteZero, want: "send: destination disconnected before all data was written"},
		{name: "receive zero", recv: ErrWriteZero, want: "receive: client disconnected before all data was written"},
		{name: "half-close of a reset stream", sendClose: pipe, want: "while closing connection: send: io error: broken pipe"},
		{name: "half-close of a reset stream, other side", recvClose: pipe, want: "while closing connection: receive: io error: broken pipe"},
		{name: "half-close of a reset socket", sendClose: reset, want: "while closing connection: send: io error: Connection reset by peer (os error 104)"},
		{name: "half-close hides copy", send: noBufs, sendClose: pipe, want: "while closing connection: send: io error: broken pipe"},
		{name: "normal half-close does not", send: noBufs, sendClose: notCon, want: "send: io error: No buffer space available (os error 105)"},
		{name: "send before half-close of receive", send: noBufs, recvClose: pipe, want: "send: io error: No buffer space available (os error 105)"},
		{name: "protocol error", sendClose: errors.New("protocol error: x"), want: "while closing connection: send: io error: protocol error: x"},
	} {
		err := Result(tc.send, tc.sendClose, tc.recv, tc.recvClose)
		got := ""
		if err != nil {
			got = err.Error()
		}
		if got != tc.want {
			t.Errorf("%s: Result = %q, want %q", tc.name, got, tc.want)
		}
	}
}

func TestErrorsUnwrap(t *testing.T) {
	err := Result(nil, &KindError{syscall.EPIPE, "broken pipe"}, nil, nil)
	var shutdown *ShutdownError
	var send *SendError
	var ioErr *IOError
	if !errors.As(err, &shutdown) || !errors.As(err, &send) || !errors.As(err, &ioErr) || !errors.Is(err, syscall.EPIPE) {
		t.Errorf("Result = %#v, want *ShutdownError, *SendError, *IOError and EPIPE inside", err)
	}
	if err := Result(ErrWriteZero, nil, nil, nil); !errors.Is(err, ErrBackendDisconnected) {
		t.Errorf("Result = %v, want %v inside", err, ErrBackendDisconnected)
	}
	if err := Result(nil, nil, ErrWriteZero, nil); !errors.Is(err, ErrClientDisconnected) {
		t.Errorf("Result = %v, want %v inside", err, ErrClientDisconnected)
	}
}
