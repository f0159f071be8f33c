package socket

import (
	"context"
	"errors"
	"net/netip"
	"os"
	"strconv"
	"syscall"
)

// ErrTimeout is the end of the time budget of Dial. Its kind is the same as that of the kernel's own ETIMEDOUT.
var ErrTimeout error = &timeoutError{}

type timeoutError struct{}

func (*timeoutError) Error() string   { return "deadline has elapsed" }
func (*timeoutError) Timeout() bool   { return true }
func (*timeoutError) Temporary() bool { return true }

// IsTimeout reports whether err is of the kind "timed out": the budget of Dial or a deadline is used up, or the kernel
// gave up (ETIMEDOUT).
func IsTimeout(err error) bool {
	return errors.Is(err, ErrTimeout) || errors.Is(err, syscall.ETIMEDOUT) ||
		errors.Is(err, os.ErrDeadlineExceeded) || errors.Is(err, context.DeadlineExceeded)
}

// BindError is a listening socket that could not be opened.
type BindError struct {
	Addr netip.AddrPort
	Err  error
}

// Error returns "failed to bind to address", the address and the text of ErrorText.
func (e *BindError) Error() string {
	return "failed to bind to address " + e.Addr.String() + ": " + ErrorText(e.Err)
}

// Unwrap returns the inner error.
func (e *BindError) Unwrap() error { return e.Err }

// ErrorText gives an I/O error the words of the reference, for those who search logs: an operating system error reads
// as glibc's text with its number ("Connection refused (os error 111)"), a used-up time budget as "deadline has
// elapsed", anything else as err.Error(). Prefixes put around an operating system error are dropped. An error in the
// chain may have a final text of its own by a method OSText() string.
func ErrorText(err error) string {
	if err == nil {
		return ""
	}
	for e := err; e != nil; e = errors.Unwrap(e) {
		if t, ok := e.(interface{ OSText() string }); ok {
			return t.OSText()
		}
		if errno, ok := e.(syscall.Errno); ok { //nolint:errorlint // the loop unwraps
			return errnoText(errno)
		}
		if e == ErrTimeout || e == os.ErrDeadlineExceeded || e == context.DeadlineExceeded { //nolint:errorlint // the loop unwraps
			return ErrTimeout.Error()
		}
	}
	return err.Error()
}

func errnoText(errno syscall.Errno) string {
	text, ok := glibcText[errno]
	if !ok {
		text = errno.Error()
	}
	return text + " (os error " + strconv.Itoa(int(errno)) + ")"
}
