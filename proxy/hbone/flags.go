package hbone

import "ztunnel/telemetry/connection"

// FailureFlag implements connection.Failure.
func (e *TLSError) FailureFlag() connection.Flag { return connection.FlagTLS }

// FailureFlag implements connection.Failure.
func (e *HandshakeError) FailureFlag() connection.Flag { return connection.FlagH2 }

// FailureFlag implements connection.Failure.
func (e *H2Error) FailureFlag() connection.Flag { return connection.FlagH2 }

// FailureFlag implements connection.Failure.
func (e *StatusError) FailureFlag() connection.Flag { return connection.FlagConnect }

// FailureFlag implements connection.Failure. A timeout of TLS or of the HTTP/2
// handshake is wrapped in an error with its own flag.
func (e *TimeoutError) FailureFlag() connection.Flag { return connection.FlagConnect }
