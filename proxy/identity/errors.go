package identity

import (
	"errors"
	"fmt"

	"ztunnel/proxy/spiffe"
	"ztunnel/telemetry/connection"
)

// The errors in this file say that a certificate could not be had. Their texts are the reference's, which end up in the
// access log, in config_dump and in alerts. All of them carry the flag IDENTITY_ERROR, are immutable, and may be handed to
// any number of waiters.

// failure is embedded to give an error the flag IDENTITY_ERROR.
type failure struct{}

// FailureFlag returns IDENTITY_ERROR.
func (failure) FailureFlag() connection.Flag { return connection.FlagIdentity }

// identityError is an identity error that has a fixed text.
type identityError struct {
	failure
	text string
}

func (e *identityError) Error() string { return e.text }

// Errors of the Manager.
var (
	// ErrForgotten is what a waiter gets when the identity is forgotten meanwhile.
	ErrForgotten error = &identityError{text: "the identity is no longer needed"}
	// ErrStopped is returned once Run has returned.
	ErrStopped error = &identityError{text: "the certificate manager has stopped"}
	// ErrTooMany is returned for a new identity when the Manager holds Config.MaxIdentities of them.
	ErrTooMany error = &identityError{text: "too many identities"}
)

// CSRError says that a step on our side of a certificate request failed: making the request, or understanding the answer.
// The reference gives both the same text.
type CSRError struct {
	failure
	Err error
}

// Error returns "failed to create CSR: " and the cause.
func (e *CSRError) Error() string { return "failed to create CSR: " + e.Err.Error() }

// Unwrap returns the cause.
func (e *CSRError) Unwrap() error { return e.Err }

// RequestError says that the CA refused or failed a request.
type RequestError struct {
	failure
	Code    string // the gRPC code's name, e.g. "Unavailable"; a label of istio_ztunnel_csr_total
	Status  string // the code as the reference writes it out, e.g. "The service is currently unavailable"; empty means Code
	Message string // of the CA
	Err     error  // the cause, may be nil
}

// Error returns "signing gRPC error (CODE): MESSAGE".
func (e *RequestError) Error() string {
	status := e.Status
	if status == "" {
		status = e.Code
	}
	return "signing gRPC error (" + status + "): " + e.Message
}

// Unwrap returns the cause, or nil.
func (e *RequestError) Unwrap() error { return e.Err }

// SANError says that the CA answered with a certificate of another identity.
type SANError struct {
	failure
	ID spiffe.ID // the one that was asked for
}

// Error returns "did not find expected SAN: " and the identity.
func (e *SANError) Error() string { return "did not find expected SAN: " + e.ID.String() }

// EmptyChainError says that the CA answered without a certificate.
type EmptyChainError struct {
	failure
	ID spiffe.ID
}

// Error returns "chain returned from CA is empty for: " and the identity.
func (e *EmptyChainError) Error() string {
	return "chain returned from CA is empty for: " + e.ID.String()
}

// UnknownWorkloadError says that nothing is known of the workload whose certificate is needed, so not even its trust
// domain.
type UnknownWorkloadError struct {
	failure
	Workload fmt.Stringer // "SA.NAMESPACE (NAME)"
}

// Error returns "workload is unknown: " and the workload.
func (e *UnknownWorkloadError) Error() string { return "workload is unknown: " + e.Workload.String() }

// WaitError says that the caller's context ended before there was a certificate.
type WaitError struct {
	failure
	ID  spiffe.ID
	Err error // context.Cause
}

// Error names the identity and why the wait ended.
func (e *WaitError) Error() string {
	return "waiting for the certificate of " + e.ID.String() + ": " + e.Err.Error()
}

// Unwrap returns the cause of the context's end.
func (e *WaitError) Unwrap() error { return e.Err }

// OutboundError is the failure of an outbound connection for want of a certificate.
type OutboundError struct {
	failure
	Err error
}

// Error returns "identity error: " and the cause.
func (e *OutboundError) Error() string { return "identity error: " + e.Err.Error() }

// Unwrap returns the cause.
func (e *OutboundError) Unwrap() error { return e.Err }

// csrCode is the value of the label code for the result of a request: a gRPC code's name. The set is closed.
func csrCode(err error) string {
	if err == nil {
		return "OK"
	}
	if e, ok := errors.AsType[*RequestError](err); ok && csrCodes[e.Code] {
		return e.Code
	}
	if isTimeout(err) {
		return "DeadlineExceeded"
	}
	return "Unknown"
}

// csrCodes are the gRPC codes by the names that package codes of grpc-go gives them.
var csrCodes = map[string]bool{
	"Canceled": true, "Unknown": true, "InvalidArgument": true, "DeadlineExceeded": true, "NotFound": true,
	"AlreadyExists": true, "PermissionDenied": true, "ResourceExhausted": true, "FailedPrecondition": true,
	"Aborted": true, "OutOfRange": true, "Unimplemented": true, "Internal": true, "Unavailable": true,
	"DataLoss": true, "Unauthenticated": true,
}
