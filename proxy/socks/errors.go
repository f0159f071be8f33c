package socks

import (
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"time"
)

// Code is the reply to a request (RFC 1928, section 6).
type Code byte

// The codes that are sent.
const (
	Succeeded           Code = 0
	General             Code = 1
	HostUnreachable     Code = 4
	CommandNotSupported Code = 7
)

// String returns the name that the code has in the log.
func (c Code) String() string {
	switch c {
	case Succeeded:
		return "Succeeded"
	case General:
		return "General"
	case HostUnreachable:
		return "HostUnreachable"
	case CommandNotSupported:
		return "CommandNotSupported"
	}
	return fmt.Sprintf("Code(%d)", byte(c))
}

// The reasons of refusals, as the rejected-connections metric has them. They are part of a closed set that the telemetry
// packages own.
const (
	ReasonBadRequest  = "bad_request"
	ReasonUnknownHost = "unknown_host"
	ReasonTimeout     = "handshake_timeout"
	ReasonDraining    = "draining"
	ReasonLimit       = "limit"
)

// An Error says why a client is refused. Its text is that of the reference's log.
type Error struct {
	Code   Code
	Reason string // one of the Reason constants
	Text   string // what is wrong, without the name of the code
	Err    error  // the cause; may be nil
}

// Error returns the name of the code and the text.
func (e *Error) Error() string { return e.Code.String() + ": " + e.Text }

// Unwrap returns the cause.
func (e *Error) Unwrap() error { return e.Err }

// RejectReason returns e.Reason.
func (e *Error) RejectReason() string { return e.Reason }

// unsupported is a request that is none, or one for something else than a connection without authentication.
func unsupported(text string) *Error {
	return &Error{Code: CommandNotSupported, Reason: ReasonBadRequest, Text: text}
}

// noAddress is a name without an address.
func noAddress(text string, err error) *Error {
	return &Error{Code: HostUnreachable, Reason: ReasonUnknownHost, Text: text, Err: err}
}

// ioError is a failure to read from or write to the client.
func (c *Config) ioError(err error) *Error {
	e := &Error{Code: General, Reason: ReasonBadRequest, Err: err}
	switch {
	case errors.Is(err, os.ErrDeadlineExceeded):
		e.Reason = ReasonTimeout
		e.Text = "io error: the request was not complete within " + c.Timeout.Round(time.Millisecond).String()
	case errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF):
		e.Text = "io error: early eof"
	default:
		e.Text = "io error: " + c.ErrorText(err)
	}
	return e
}

// notText says that a name is not text, and what it is: at most 255 numbers.
func notText(name []byte) *Error {
	return unsupported("domain is not a valid utf8 string: " + strings.ReplaceAll(fmt.Sprintf("%d", name), " ", ", "))
}

// limitError is a connection above the limit.
type limitError struct{ most int }

func (e *limitError) Error() string {
	return fmt.Sprintf("too many SOCKS connections: the limit of this pod is %d", e.most)
}
func (e *limitError) RejectReason() string { return ReasonLimit }
