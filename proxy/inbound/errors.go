package inbound

import (
	"context"
	"errors"
	"fmt"
	"net/http"

	"ztunnel/proxy/hbone"
	"ztunnel/proxy/identity"
	"ztunnel/proxy/live"
	"ztunnel/proxy/socket"
	"ztunnel/proxy/workload"
	"ztunnel/telemetry/connection"
)

// The texts of these errors are those of the reference's access log.

// methodError is a request that is no CONNECT.
type methodError struct{ method string }

func (e *methodError) Error() string        { return "expected method CONNECT, got " + e.method }
func (e *methodError) RejectReason() string { return string(connection.ReasonBadRequest) }
func (e *methodError) Status() int          { return http.StatusBadRequest }

// unknownWorkloadError says that nothing is known of the pod that is served.
type unknownWorkloadError struct{ info workload.Info }

func (e *unknownWorkloadError) Error() string {
	return "failed to fetch information about local workload: " + e.info.String()
}

func (e *unknownWorkloadError) RejectReason() string { return string(connection.ReasonUnknownWorkload) }

// unknownIdentityError says the same where the pod's certificate was needed.
type unknownIdentityError struct{ info workload.Info }

func (e *unknownIdentityError) Error() string {
	return "signing error: " + (&identity.UnknownWorkloadError{Workload: e.info}).Error()
}

func (e *unknownIdentityError) RejectReason() string { return string(connection.ReasonUnknownWorkload) }

// signingError says that the pod's own certificate could not be had.
type signingError struct{ err error }

func (e *signingError) Error() string        { return "signing error: " + e.err.Error() }
func (e *signingError) Unwrap() error        { return e.err }
func (e *signingError) RejectReason() string { return rejectReason(e.err) }

// handshakeError is a failed handshake with a peer.
type handshakeError struct{ err error }

func (e *handshakeError) Error() string {
	err := e.err
	if t, ok := errors.AsType[*hbone.TLSError](err); ok {
		err = t.Err // its own prefix is that of the other end
	}
	return "tls handshake error: " + identity.HandshakeText(err)
}
func (e *handshakeError) Unwrap() error        { return e.err }
func (e *handshakeError) RejectReason() string { return rejectReason(e.err) }

// prefaceError is an authenticated peer that did not begin to speak HTTP/2 in
// time.
type prefaceError struct{ err error }

func (e *prefaceError) Error() string        { return e.err.Error() }
func (e *prefaceError) Unwrap() error        { return e.err }
func (e *prefaceError) RejectReason() string { return string(connection.ReasonHandshakeTimeout) }

// floodError is an authenticated peer that was cut off for doing too much of
// what costs it nothing.
type floodError struct{ err error }

func (e *floodError) Error() string        { return e.err.Error() }
func (e *floodError) Unwrap() error        { return e.err }
func (e *floodError) RejectReason() string { return string(connection.ReasonFlood) }

// limitError is a connection above a limit of the pod.
type limitError struct {
	what string
	most int
}

func (e *limitError) Error() string {
	return fmt.Sprintf("too many %s: the limit of this pod is %d", e.what, e.most)
}
func (e *limitError) RejectReason() string { return string(connection.ReasonLimit) }

// noSurfaceError is a request for a virtual port that nothing is behind.
type noSurfaceError struct{ err error }

func (e *noSurfaceError) Error() string        { return e.err.Error() }
func (e *noSurfaceError) Unwrap() error        { return e.err }
func (e *noSurfaceError) RejectReason() string { return string(connection.ReasonNoSuchSurface) }

// rejectReason is why a connection ended before it was authenticated.
func rejectReason(err error) string {
	if errors.Is(err, live.ErrDraining) {
		return string(connection.ReasonDraining)
	}
	return identity.RejectReason(err)
}

// answerError says that the client was gone when its request was accepted.
type answerError struct{ err error }

func (e *answerError) Error() string                { return e.err.Error() }
func (e *answerError) Unwrap() error                { return e.err }
func (e *answerError) FailureFlag() connection.Flag { return connection.FlagH2 }

// errPanicked is the result of a connection whose handler panicked.
var errPanicked = errors.New("internal error of the proxy")

// connectError says that the application could not be reached.
type connectError struct{ err error }

func (e *connectError) Error() string                { return "connection failed: " + socket.ErrorText(e.err) }
func (e *connectError) Unwrap() error                { return e.err }
func (e *connectError) FailureFlag() connection.Flag { return connection.FlagConnect }

// deniedError is a connection that the policies do not allow.
type deniedError struct{ err error }

func (e *deniedError) Error() string                { return e.err.Error() }
func (e *deniedError) Unwrap() error                { return e.err }
func (e *deniedError) FailureFlag() connection.Flag { return connection.FlagDeny }

// relayed is the result of a relay: why it was ended from outside, if it was.
func relayed(err error) error {
	if c := live.CauseOf(err); c != nil {
		return c
	}
	return err
}

// cause is why ctx ended if it did, and err else.
func cause(ctx context.Context, err error) error {
	if ctx.Err() == nil {
		return err
	}
	if c := context.Cause(ctx); !errors.Is(c, context.Canceled) {
		return c
	}
	return err
}
