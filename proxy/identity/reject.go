package identity

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"strconv"
	"strings"
	"syscall"
	"time"

	"ztunnel/telemetry/connection"
)

// noClientCertificate is how crypto/tls says that a client has none. It has no type of its own.
const noClientCertificate = "tls: client didn't provide a certificate"

// RejectReason classifies the error of a failed inbound handshake: the value of the label reason of
// istio_tcp_connections_rejected_total. A certificate that is not valid yet counts as expired; one that is refused for
// anything else but its dates or its revocation counts as untrusted.
func RejectReason(err error) string {
	return string(rejectReason(err))
}

func rejectReason(err error) connection.Reason {
	if isTimeout(err) {
		return connection.ReasonHandshakeTimeout
	}
	if _, ok := errors.AsType[*RevokedError](err); ok {
		return connection.ReasonRevokedCert
	}
	if invalid, ok := errors.AsType[x509.CertificateInvalidError](err); ok && invalid.Reason == x509.Expired {
		return connection.ReasonExpiredCert
	}
	if _, ok := errors.AsType[*tls.CertificateVerificationError](err); ok {
		return connection.ReasonUntrustedCert
	}
	if _, ok := errors.AsType[*TrustDomainError](err); ok {
		return connection.ReasonUntrustedCert
	}
	if _, ok := errors.AsType[*PeerError](err); ok {
		return connection.ReasonUntrustedCert
	}
	if err != nil && strings.Contains(err.Error(), noClientCertificate) {
		return connection.ReasonNoClientCert
	}
	return connection.ReasonTLSHandshake
}

// HandshakeText is what follows "tls handshake error: " in the line of a failed inbound handshake. For what operators look
// for it is the debug form that the reference logs; for the rest, where the two TLS libraries differ, it is err's own text.
func HandshakeText(err error) string {
	const invalidData = "Custom { kind: InvalidData, error: "
	if e, ok := errors.AsType[*TrustDomainError](err); ok {
		return e.Error()
	}
	if e, ok := errors.AsType[*PeerError](err); ok {
		return invalidData + "InvalidCertificate(" + certificateText(e.Err, true) + ") }"
	}
	if e, ok := errors.AsType[*tls.CertificateVerificationError](err); ok {
		return invalidData + "InvalidCertificate(" + certificateText(e.Err, true) + ") }"
	}
	if isTimeout(err) {
		return err.Error()
	}
	if errno, ok := errors.AsType[syscall.Errno](err); ok {
		return osText(errno)
	}
	if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
		return `Custom { kind: UnexpectedEof, error: "tls handshake eof" }`
	}
	if strings.Contains(err.Error(), noClientCertificate) {
		return invalidData + "NoCertificatesPresented }"
	}
	return err.Error()
}

// certificateText describes why a certificate was refused in the words of the reference's TLS library; debug is the form in
// which Rust prints its values, as the reference logs it for inbound handshakes.
func certificateText(err error, debug bool) string {
	if e, ok := errors.AsType[*TrustDomainError](err); ok {
		return e.debug()
	}
	if _, ok := errors.AsType[*RevokedError](err); ok {
		return "Revoked"
	}
	if _, ok := errors.AsType[x509.UnknownAuthorityError](err); ok {
		return "UnknownIssuer"
	}
	if e, ok := errors.AsType[x509.CertificateInvalidError](err); ok {
		switch e.Reason {
		case x509.Expired:
			return dateText(e, debug)
		case x509.IncompatibleUsage:
			return "InvalidPurpose"
		}
	}
	return "Other(OtherError(" + err.Error() + "))"
}

// dateText describes a certificate that is not valid now. The time of the verification is taken from the error's detail,
// "current time T is after T2".
func dateText(e x509.CertificateInvalidError, debug bool) string {
	fields := strings.Fields(e.Detail)
	if len(fields) != 6 {
		return "Expired"
	}
	now, err := time.Parse(time.RFC3339, fields[2])
	if err != nil {
		return "Expired"
	}
	t := now.Unix()
	before, after := e.Cert.NotBefore.Unix(), e.Cert.NotAfter.Unix()
	early := fields[4] == "before"
	switch {
	case early && debug:
		return fmt.Sprintf("NotValidYetContext { time: UnixTime(%d), not_before: UnixTime(%d) }", t, before)
	case early:
		return fmt.Sprintf("certificate not valid yet: verification time %d (UNIX), but certificate is not valid before %d (%d seconds in future)", t, before, before-t)
	case debug:
		return fmt.Sprintf("ExpiredContext { time: UnixTime(%d), not_after: UnixTime(%d) }", t, after)
	}
	return fmt.Sprintf("certificate expired: verification time %d (UNIX), but certificate is not valid after %d (%d seconds ago)", t, after, t-after)
}

// osText is the debug form of an error of the operating system in Rust.
func osText(errno syscall.Errno) string {
	kind := "Uncategorized"
	switch errno {
	case syscall.ECONNRESET:
		kind = "ConnectionReset"
	case syscall.EPIPE:
		kind = "BrokenPipe"
	case syscall.ECONNABORTED:
		kind = "ConnectionAborted"
	case syscall.ETIMEDOUT:
		kind = "TimedOut"
	}
	message := errno.Error()
	message = strings.ToUpper(message[:1]) + message[1:]
	return fmt.Sprintf("Os { code: %d, kind: %s, message: %s }", int(errno), kind, rustQuote(message))
}

// rustQuote quotes a string; for what occurs in identities Go and Rust agree on how.
func rustQuote(s string) string { return strconv.Quote(s) }
