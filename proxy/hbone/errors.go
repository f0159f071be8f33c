package hbone

import (
	"errors"
	"fmt"
	"net/http"
	"strconv"
	"syscall"

	"golang.org/x/net/http2"

	"ztunnel/proxy/relay"
)

// TLSError is a TLS handshake that failed, on either side.
type TLSError struct{ Err error }

func (e *TLSError) Error() string { return "tls error: " + e.Err.Error() }

func (e *TLSError) Unwrap() error { return e.Err }

// HandshakeError is a tunnel whose peer did not begin to speak HTTP/2 in time
// or at all.
type HandshakeError struct{ Err error }

func (e *HandshakeError) Error() string { return "http2 handshake failed: " + e.Err.Error() }

func (e *HandshakeError) Unwrap() error { return e.Err }

// H2Error is a CONNECT that ended without a response because its stream or its
// tunnel failed.
type H2Error struct {
	Err         error
	unprocessed bool
}

func (e *H2Error) Error() string { return "h2 failed: " + e.Err.Error() }

func (e *H2Error) Unwrap() error { return e.Err }

// StatusError is a CONNECT that was answered with another status than 200.
type StatusError struct{ Code int }

func (e *StatusError) Error() string {
	text := http.StatusText(e.Code)
	if text == "" {
		return "http status: " + strconv.Itoa(e.Code) + " <unknown status code>"
	}
	return "http status: " + strconv.Itoa(e.Code) + " " + text
}

// TimeoutError is a stage of a tunnel or stream that took longer than the
// configuration allows.
type TimeoutError struct{ Stage string }

func (e *TimeoutError) Error() string { return "timed out waiting for " + e.Stage }

// Timeout reports true, as net.Error has it.
func (e *TimeoutError) Timeout() bool { return true }

// Temporary reports false, as net.Error has it.
func (e *TimeoutError) Temporary() bool { return false }

// Errors of tunnels that end on this side's own account.
var (
	// ErrTunnelFull refuses a stream above the peer's limit. Nothing was sent.
	ErrTunnelFull = errors.New("the peer's limit of concurrent streams is reached")
	// ErrTunnelClosing refuses a stream on a tunnel that ends. Nothing was sent.
	ErrTunnelClosing = errors.New("the tunnel is closing")
	// ErrAborted is the cause of a tunnel dropped without a better one.
	ErrAborted error = &relay.KindError{Errno: syscall.EPIPE, Text: "stream closed because of a broken pipe"}
)

// errBrokenPipe and errConnReset are what the ends of streams and tunnels look like
// to whoever copies bytes: the same kinds of error as those of sockets, in the
// words of the reference.
var (
	errBrokenPipe error = &relay.KindError{Errno: syscall.EPIPE, Text: "broken pipe"}
	errConnReset  error = &relay.KindError{Errno: syscall.ECONNRESET, Text: "connection reset"}
)

// frameError is an error code with the side that raised it.
type frameError struct {
	code       http2.ErrCode
	connection bool // of the whole tunnel, else of a stream
	received   bool // from the peer, else detected here
	debug      string
}

func (e *frameError) Error() string {
	what, how := "stream", "detected"
	if e.connection {
		what = "connection"
	}
	if e.received {
		how = "received"
	}
	text := what + " error " + how + ": " + reasonText(e.code)
	if e.debug != "" {
		text += fmt.Sprintf(" (b%q)", e.debug)
	}
	return text
}

// connError makes the reader end the tunnel with a GOAWAY.
func connError(code http2.ErrCode) error { return &frameError{code: code, connection: true} }

// Flood reports whether the error of a tunnel says that the peer was cut off
// because it exceeded a budget of [Limits].
func Flood(err error) bool {
	f, ok := errors.AsType[*frameError](err)
	return ok && f.connection && !f.received && f.code == http2.ErrCodeEnhanceYourCalm
}

// reasons are the words of the reference's HTTP/2 library for each error code.
var reasons = [...]string{
	http2.ErrCodeNo:                 "not a result of an error",
	http2.ErrCodeProtocol:           "unspecific protocol error detected",
	http2.ErrCodeInternal:           "unexpected internal error encountered",
	http2.ErrCodeFlowControl:        "flow-control protocol violated",
	http2.ErrCodeSettingsTimeout:    "settings ACK not received in timely manner",
	http2.ErrCodeStreamClosed:       "received frame when stream half-closed",
	http2.ErrCodeFrameSize:          "frame with invalid size",
	http2.ErrCodeRefusedStream:      "refused stream before processing any application logic",
	http2.ErrCodeCancel:             "stream no longer needed",
	http2.ErrCodeCompression:        "unable to keep the header compression context",
	http2.ErrCodeConnect:            "connection established in response to a CONNECT request was reset or abnormally closed",
	http2.ErrCodeEnhanceYourCalm:    "detected excessive load generating behavior",
	http2.ErrCodeInadequateSecurity: "security properties do not meet minimum requirements",
	http2.ErrCodeHTTP11Required:     "endpoint requires HTTP/1.1",
}

func reasonText(code http2.ErrCode) string {
	if int(code) < len(reasons) {
		return reasons[code]
	}
	return "unknown reason"
}

// Unprocessed reports whether a failed [ClientConn.Open] provably did not reach
// the peer's application, so that the request may be sent once more on another
// tunnel. True for
//
//   - a request that was not written, because the tunnel was closing, dead or full;
//   - REFUSED_STREAM while other streams were open on the tunnel: the peer's limit
//     or drain. A peer that refuses the only stream refuses the request;
//   - a GOAWAY whose last stream is below the request, on a tunnel that had answered
//     before and whose GOAWAY does not disown a stream that was answered. A peer
//     that does so, or answers its first request like that, is not believed.
//
// False for everything else, above all for a tunnel that was lost after the
// request was written. This keeps the rule of the reference, which never repeats
// a request, wherever the peer's word is all there is.
func Unprocessed(err error) bool {
	if h, ok := errors.AsType[*H2Error](err); ok {
		return h.unprocessed
	}
	return errors.Is(err, ErrTunnelFull) || errors.Is(err, ErrTunnelClosing)
}
