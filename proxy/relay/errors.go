package relay

import (
	"errors"
	"io"
	"syscall"

	"ztunnel/proxy/socket"
)

// Failures of a copy that stand for a condition instead of an operating system error. Their texts are the reference's
// and appear in the access log.
var (
	// ErrBackendDisconnected says that bytes towards the destination could not be placed any more.
	ErrBackendDisconnected = errors.New("destination disconnected before all data was written")
	// ErrClientDisconnected says the same of bytes towards the client.
	ErrClientDisconnected = errors.New("client disconnected before all data was written")
	// ErrWriteZero is the copy error of a writer that accepts nothing of a non-empty buffer, e.g. an HTTP/2 stream that
	// is no longer open for sending. Result turns it into ErrBackendDisconnected or ErrClientDisconnected.
	ErrWriteZero = errors.New("write zero byte into writer")
)

// KindError is an I/O error with a text of its own that counts as an operating system error of kind Errno, such as a
// broken pipe reported by a multiplexed stream instead of a socket: errors.Is(err, Errno) holds.
type KindError struct {
	Errno syscall.Errno
	Text  string
}

// Error returns the text alone, without the text of Errno.
func (e *KindError) Error() string { return e.Text }

// Unwrap returns Errno, so that the kind is found by errors.Is.
func (e *KindError) Unwrap() error { return e.Errno }

// OSText marks the text as final for socket.ErrorText.
func (e *KindError) OSText() string { return e.Text }

// SendError is a failure while copying from the client to the destination.
type SendError struct{ Err error }

// Error returns "send: " and the inner text.
func (e *SendError) Error() string { return "send: " + e.Err.Error() }

// Unwrap returns the inner error.
func (e *SendError) Unwrap() error { return e.Err }

// ReceiveError is a failure while copying from the destination to the client.
type ReceiveError struct{ Err error }

// Error returns "receive: " and the inner text.
func (e *ReceiveError) Error() string { return "receive: " + e.Err.Error() }

// Unwrap returns the inner error.
func (e *ReceiveError) Unwrap() error { return e.Err }

// ShutdownError is a failed half-close at the end of one direction; Err is a *SendError or a *ReceiveError.
type ShutdownError struct{ Err error }

// Error returns "while closing connection: " and the inner text.
func (e *ShutdownError) Error() string { return "while closing connection: " + e.Err.Error() }

// Unwrap returns the inner error.
func (e *ShutdownError) Unwrap() error { return e.Err }

// IOError is an I/O failure in the words of the reference.
type IOError struct{ Err error }

// Error returns "io error: " and the text of socket.ErrorText.
func (e *IOError) Error() string { return "io error: " + socket.ErrorText(e.Err) }

// Unwrap returns the inner error.
func (e *IOError) Unwrap() error { return e.Err }

// Result turns the four raw outcomes of a two-way copy into the one result of the connection, nil for a normal end.
//
// send and recv are the ends of the two copies (client to destination, destination to client; nil at end of file),
// sendClose and recvClose those of the half-closes that followed. A copy that ends in not-connected, unexpected end of
// file, connection reset or broken pipe has ended normally: peers that reset instead of closing are everyday life. A
// half-close may fail with the first two only. The half-close error of a direction hides its copy error, and the
// sending direction is reported before the receiving one.
func Result(send, sendClose, recv, recvClose error) error {
	if err := direction(send, sendClose, sendError); err != nil {
		return err
	}
	return direction(recv, recvClose, receiveError)
}

func direction(copied, closed error, wrap func(error) error) error {
	if closed != nil && !notOpen(closed) {
		return &ShutdownError{wrap(closed)}
	}
	if copied != nil && !normalEnd(copied) {
		return wrap(copied)
	}
	return nil
}

func sendError(err error) error {
	if errors.Is(err, ErrWriteZero) {
		return &SendError{ErrBackendDisconnected}
	}
	return &SendError{&IOError{err}}
}

func receiveError(err error) error {
	if errors.Is(err, ErrWriteZero) {
		return &ReceiveError{ErrClientDisconnected}
	}
	return &ReceiveError{&IOError{err}}
}

// notOpen reports whether err only says that the connection is gone already.
func notOpen(err error) bool {
	return errors.Is(err, syscall.ENOTCONN) || errors.Is(err, io.ErrUnexpectedEOF)
}

// normalEnd reports whether a copy that ended in err counts as complete.
func normalEnd(err error) bool {
	return notOpen(err) || errors.Is(err, io.EOF) || errors.Is(err, syscall.ECONNRESET) || errors.Is(err, syscall.EPIPE)
}
