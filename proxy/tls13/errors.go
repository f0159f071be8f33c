package tls13

import "crypto/tls"

// Alerts (RFC 8446 §6).
const (
	alertCloseNotify       tls.AlertError = 0
	alertUnexpectedMessage tls.AlertError = 10
	alertBadRecordMAC      tls.AlertError = 20
	alertRecordOverflow    tls.AlertError = 22
	alertIllegalParameter  tls.AlertError = 47
	alertDecodeError       tls.AlertError = 50
	alertProtocolVersion   tls.AlertError = 70
	alertInternalError     tls.AlertError = 80
	alertUserCanceled      tls.AlertError = 90
)

// Error is the end of a session by a fault: one that we found in what the peer
// sent, or one that the peer tells of. Its text is that of crypto/tls.
type Error struct {
	Alert tls.AlertError
	// Remote says that the alert came from the peer. Else it is owed to the
	// peer: see [Session.SealAlert].
	Remote bool
}

func (e *Error) Error() string {
	if e.Remote {
		return "remote error: " + e.Alert.Error()
	}
	return "local error: " + e.Alert.Error()
}

// Unwrap returns the alert.
func (e *Error) Unwrap() error { return e.Alert }

func fault(alert tls.AlertError) error { return &Error{Alert: alert} }
