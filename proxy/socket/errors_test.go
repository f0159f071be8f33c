package socket

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"syscall"
	"testing"
)

// final is an error with a text of its own that counts as a broken pipe.
type final struct{}

func (final) Error() string  { return "broken pipe" }
func (final) OSText() string { return "broken pipe" }
func (final) Unwrap() error  { return syscall.EPIPE }

func TestErrorText(t *testing.T) {
	op := func(err error) error { return &net.OpError{Op: "dial", Net: "tcp", Err: err} }
	for _, tc := range []struct {
		err     error
		want    string
		timeout bool
	}{
		{nil, "", false},
		{syscall.ECONNREFUSED, "Connection refused (os error 111)", false},
		{op(os.NewSyscallError("connect", syscall.ECONNREFUSED)), "Connection refused (os error 111)", false},
		{fmt.Errorf("dial app: %w", op(os.NewSyscallError("connect", syscall.EHOSTUNREACH))), "No route to host (os error 113)", false},
		{syscall.ENETUNREACH, "Network is unreachable (os error 101)", false},
		{syscall.ECONNRESET, "Connection reset by peer (os error 104)", false},
		{syscall.EPIPE, "Broken pipe (os error 32)", false},
		{syscall.ENOTCONN, "Transport endpoint is not connected (os error 107)", false},
		{syscall.EADDRINUSE, "Address already in use (os error 98)", false},
		{syscall.EADDRNOTAVAIL, "Cannot assign requested address (os error 99)", false},
		{syscall.EPERM, "Operation not permitted (os error 1)", false},
		{syscall.EACCES, "Permission denied (os error 13)", false},
		{syscall.EMFILE, "Too many open files (os error 24)", false},
		{syscall.EXDEV, "invalid cross-device link (os error 18)", false}, // not one of a TCP socket
		{syscall.ETIMEDOUT, "Connection timed out (os error 110)", true},
		{ErrTimeout, "deadline has elapsed", true},
		{fmt.Errorf("dial: %w", ErrTimeout), "deadline has elapsed", true},
		{op(os.ErrDeadlineExceeded), "deadline has elapsed", true},
		{context.DeadlineExceeded, "deadline has elapsed", true},
		{final{}, "broken pipe", false},
		{fmt.Errorf("close: %w", final{}), "broken pipe", false},
		{errors.New("anything else"), "anything else", false},
		{&BindError{netip.MustParseAddrPort("[::]:15001"), op(syscall.EADDRINUSE)}, "Address already in use (os error 98)", false},
	} {
		if got := ErrorText(tc.err); got != tc.want {
			t.Errorf("ErrorText(%v) = %q, want %q", tc.err, got, tc.want)
		}
		if got := IsTimeout(tc.err); got != tc.timeout {
			t.Errorf("IsTimeout(%v) = %v, want %v", tc.err, got, tc.timeout)
		}
	}
	err := &BindError{netip.MustParseAddrPort("[::]:15001"), op(syscall.EADDRINUSE)}
	if got, want := err.Error(), "failed to bind to address [::]:15001: Address already in use (os error 98)"; got != want {
		t.Errorf("BindError.Error() = %q, want %q", got, want)
	}
}
