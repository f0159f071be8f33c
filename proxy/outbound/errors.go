package outbound

import (
	"context"
	"errors"
	"fmt"

	"ztunnel/proxy/hbone"
	"ztunnel/proxy/live"
	"ztunnel/proxy/socket"
	"ztunnel/proxy/workload"
	"ztunnel/telemetry/connection"
)

// The texts of these errors are those of the reference's access log.

// unknownWorkloadError says that nothing is known of the pod that is served.
type unknownWorkloadError struct{ info workload.Info }

func (e *unknownWorkloadError) Error() string {
	return "failed to fetch information about local workload: " + e.info.String()
}

func (e *unknownWorkloadError) RejectReason() string { return string(connection.ReasonUnknownWorkload) }

// networkPolicyError is silence at the HBONE port.
type networkPolicyError struct{ err error }

func (e *networkPolicyError) Error() string {
	return "connection timed out, maybe a NetworkPolicy is blocking HBONE port 15008: " + socket.ErrorText(e.err)
}
func (e *networkPolicyError) Unwrap() error                { return e.err }
func (e *networkPolicyError) FailureFlag() connection.Flag { return connection.FlagNetworkPolicy }

// tunnelError is a tunnel that could not be made or used, with the flag of the
// stage that failed.
type tunnelError struct {
	text string
	flag connection.Flag
	err  error
}

func (e *tunnelError) Error() string                { return e.text }
func (e *tunnelError) Unwrap() error                { return e.err }
func (e *tunnelError) FailureFlag() connection.Flag { return e.flag }

// tunnelFailure gives a failure of package hbone its flag.
func tunnelFailure(err error) error {
	if e, ok := errors.AsType[*hbone.TLSError](err); ok {
		return &tunnelError{"tls error: " + socket.ErrorText(e.Err), connection.FlagTLS, err}
	}
	_, preface := errors.AsType[*hbone.HandshakeError](err)
	_, stream := errors.AsType[*hbone.H2Error](err)
	if preface || stream {
		return &tunnelError{err.Error(), connection.FlagH2, err}
	}
	if errors.Is(err, hbone.ErrTunnelClosing) || errors.Is(err, hbone.ErrTunnelFull) { // twice, on fresh tunnels
		return &tunnelError{"h2 failed: " + err.Error(), connection.FlagH2, err}
	}
	return err
}

// limitError is a connection above the limit of the pod.
type limitError struct{ most int }

func (e *limitError) Error() string {
	return fmt.Sprintf("too many connections: the limit of this pod is %d", e.most)
}
func (e *limitError) RejectReason() string { return string(connection.ReasonLimit) }

// clientGoneError is an application that closed its connection before the
// destination was reached. That is no failure of the mesh.
type clientGoneError struct{}

func (clientGoneError) Error() string {
	return "the client closed the connection before its destination was reached"
}
func (clientGoneError) FailureFlag() connection.Flag { return connection.FlagNone }

// errPanicked is the result of a connection whose handler panicked.
var errPanicked = errors.New("internal error of the proxy")

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
