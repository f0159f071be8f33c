package connection

import "errors"

// Flag is a value of the label response_flags. The set is closed: dashboards
// and documentation of Istio name these eight.
type Flag string

// The flags. New detail belongs into new metrics and the log, not here.
const (
	FlagNone          Flag = "-"                    // success, or dropped by a drain without a result
	FlagDeny          Flag = "DENY"                 // authorization policy
	FlagConnect       Flag = "CONNECT"              // connection failure, and whatever has no flag of its own
	FlagTLS           Flag = "TLS_FAILURE"          // TLS handshake
	FlagH2            Flag = "H2_HANDSHAKE_FAILURE" // HTTP/2
	FlagNetworkPolicy Flag = "NETWORK_POLICY"       // the HBONE port did not answer
	FlagIdentity      Flag = "IDENTITY_ERROR"       // no certificate to be had
	FlagRevoked       Flag = "CERT_REVOKED"         // the peer's certificate was revoked meanwhile
)

// flags are all flags; a series counts by the index in it.
var flags = [...]Flag{FlagNone, FlagDeny, FlagConnect, FlagTLS, FlagH2, FlagNetworkPolicy, FlagIdentity, FlagRevoked}

// index is the place of the flag in flags; an unknown flag counts as CONNECT,
// so that the set stays closed.
func (f Flag) index() int {
	for i := range flags {
		if flags[i] == f {
			return i
		}
	}
	return 2
}

// Failure is an error that knows its flag. An error may carry FlagNone: then
// the connection is an error in the log but not a failure in the metrics, as
// one that a drain ended.
type Failure interface {
	error
	FailureFlag() Flag
}

// FlagOf returns the flag of a connection's result: "-" for nil, else that of
// the first Failure in the chain, else CONNECT.
func FlagOf(err error) Flag {
	if err == nil {
		return FlagNone
	}
	if f, ok := errors.AsType[Failure](err); ok {
		return flags[f.FailureFlag().index()]
	}
	return FlagConnect
}
