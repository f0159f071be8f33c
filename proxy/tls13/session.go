package tls13

import (
	"crypto/fips140"
	"crypto/tls"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"sync/atomic"

	"ztunnel/proxy/aesgcm"
)

const (
	// HeaderSize is the length of a record's header (RFC 8446 §5.1).
	HeaderSize = 5
	// MaxPlaintext is the most content of a record (RFC 8446 §5.1).
	MaxPlaintext = 1 << 14
	// MaxRecord is the longest record that is valid, header included (RFC 8446 §5.2).
	MaxRecord = HeaderSize + MaxPlaintext + 256

	overhead      = HeaderSize + aesgcm.Overhead
	legacyVersion = 0x0303
)

// Types of records (RFC 8446 §5.1).
const (
	typeAlert       = 21
	typeHandshake   = 22
	typeApplication = 23
)

// Messages of the handshake that may follow it (RFC 8446 §4).
const (
	messageTicket    = 4
	messageKeyUpdate = 24
	messageHeader    = 4

	updateNotRequested = 0
	updateRequested    = 1
)

const (
	// maxUseless is how many records in a row may carry nothing for the
	// application, as in crypto/tls.
	maxUseless = 16
	// freeUpdates is how many key updates a peer may make, beside one for each
	// bytesPerUpdate that it has sent: each costs us a new key and an answer. Peers
	// that keep to RFC 8446 §5.5 make one in hundreds of gigabytes.
	freeUpdates    = 32
	bytesPerUpdate = 1 << 20
	// maxMessage is the longest message after the handshake, as in crypto/tls.
	maxMessage = 64 << 10
	// maxSealed is how many records are sealed with one key: RFC 8446 §5.5 sets the
	// limit for AES-GCM at 2^24.5, and one call of Seal may make a few.
	maxSealed = 1 << 24
)

// ErrUnsupported says that records of a connection must stay with crypto/tls:
// it is not of TLS 1.3 with AES-GCM, its secrets were not seen, or the process is
// bound to the modules of FIPS 140.
var ErrUnsupported = errors.New("not a connection whose records can be taken over")

// Session protects the records of one connection after its handshake. Open is for
// one goroutine and the methods that seal are for one at a time; the two may go
// on at once.
type Session struct {
	client bool
	in     *half
	out    *half
	limit  uint64 // of records sealed with one key

	// Of Open.
	received uint64 // bytes of the application
	updates  uint64 // key updates of the peer
	useless  int
	message  [messageHeader]byte // the header of one that has not come as a whole
	have     int
	skip     int // bytes of a message that are of no interest
	ended    error

	// owes is set by Open and cleared by who seals.
	owes atomic.Bool
}

// New takes over a connection whose handshake is complete and on which nothing
// has been read or written since, with server session tickets off: they would
// have used up numbers of records. The error is ErrUnsupported where crypto/tls
// has to go on.
func New(state *tls.ConnectionState, secrets *Secrets, client bool) (*Session, error) {
	return newSession(state, secrets, client, aesgcm.New)
}

func newSession(state *tls.ConnectionState, secrets *Secrets, client bool, newAEAD func([]byte) (*aesgcm.AEAD, error)) (*Session, error) {
	s, ok := suites[state.CipherSuite]
	if !ok || state.Version != tls.VersionTLS13 || !state.HandshakeComplete || fips140.Enabled() {
		return nil, ErrUnsupported
	}
	secrets.mu.Lock()
	in, out := secrets.client, secrets.server
	secrets.mu.Unlock()
	if in == nil || out == nil {
		return nil, ErrUnsupported
	}
	if client {
		in, out = out, in
	}
	session := &Session{client: client, limit: maxSealed}
	var err error
	if session.in, err = newHalf(s, in, newAEAD); err != nil {
		return nil, fmt.Errorf("take over the peer's records: %w", err)
	}
	if session.out, err = newHalf(s, out, newAEAD); err != nil {
		return nil, fmt.Errorf("take over our own records: %w", err)
	}
	return session, nil
}

// Room is how many bytes Seal adds at most for n bytes.
func Room(n int) int { return n + (n/MaxPlaintext+2)*(overhead+messageHeader+1) }

// Seal appends p, as records of application data, to dst, whose capacity must
// leave Room(len(p)). A key update that is due goes first; an empty p makes
// nothing else.
func (s *Session) Seal(dst, p []byte) ([]byte, error) {
	if s.out.seq >= s.limit || s.owes.Load() {
		var err error
		if dst, err = s.sealUpdate(dst, updateNotRequested); err != nil {
			return dst, err
		}
	}
	for len(p) > 0 {
		n := min(len(p), MaxPlaintext)
		dst = s.seal(dst, typeApplication, p[:n])
		p = p[n:]
	}
	return dst, nil
}

// Owes reports whether the peer has asked for a key update that has not been
// sealed yet. Anybody may call it at any time.
func (s *Session) Owes() bool { return s.owes.Load() }

// sealUpdate appends a key update and goes on to the next key (RFC 8446 §4.6.3).
func (s *Session) sealUpdate(dst []byte, request byte) ([]byte, error) {
	s.owes.Store(false) // one answer is enough for all requests before it
	dst = s.seal(dst, typeHandshake, []byte{messageKeyUpdate, 0, 0, 1, request})
	return dst, s.out.update()
}

// SealClose appends close_notify. Nothing may be sealed after it.
func (s *Session) SealClose(dst []byte) []byte { return s.sealAlert(dst, 1, alertCloseNotify) }

// SealAlert appends the fatal alert that is owed for an error of Open, if it is
// one of the peer's faults. Nothing may be sealed after it.
func (s *Session) SealAlert(dst []byte, err error) []byte {
	if e, ok := errors.AsType[*Error](err); ok && !e.Remote {
		return s.sealAlert(dst, 2, e.Alert)
	}
	return dst
}

func (s *Session) sealAlert(dst []byte, level byte, alert tls.AlertError) []byte {
	return s.seal(dst, typeAlert, []byte{level, byte(alert)})
}

// seal appends one record (RFC 8446 §5.2).
func (s *Session) seal(dst []byte, kind byte, p []byte) []byte {
	n := len(dst)
	dst = dst[:n+overhead+len(p)]
	record := dst[n:]
	header := record[:HeaderSize]
	header[0] = typeApplication
	binary.BigEndian.PutUint16(header[1:], legacyVersion)
	binary.BigEndian.PutUint16(header[3:], uint16(len(record)-HeaderSize))
	s.out.aead.Seal(record[HeaderSize:], s.out.nextNonce(), header, p, kind)
	return dst
}

// RecordLen is the length of the record that begins with header, which is
// included.
func RecordLen(header []byte) int {
	return HeaderSize + int(binary.BigEndian.Uint16(header[HeaderSize-2:]))
}

// Plain is how many bytes Open needs for a record of n bytes.
func Plain(n int) int { return max(0, n-HeaderSize-aesgcm.TagSize) }

// Open opens one record, header included, and handles it if it is for the session
// itself. Of a record that is longer than valid the header is enough. It returns
// how many bytes of the application are now in out, which needs [Plain] bytes and
// may not overlap the record. The error is io.EOF after close_notify, else an
// [*Error], and stays.
func (s *Session) Open(out, record []byte) (int, error) {
	if s.ended != nil {
		return 0, s.ended
	}
	n, err := s.open(out, record)
	if err != nil {
		s.ended = err
		return 0, err
	}
	return n, nil
}

func (s *Session) open(out, record []byte) (int, error) {
	header := record[:HeaderSize]
	switch {
	case RecordLen(header) > MaxRecord:
		return 0, fault(alertRecordOverflow)
	case header[0] != typeApplication:
		return 0, fault(alertUnexpectedMessage)
	case binary.BigEndian.Uint16(header[1:]) != legacyVersion:
		return 0, fault(alertProtocolVersion)
	case len(record) < overhead:
		return 0, fault(alertBadRecordMAC)
	}
	out = out[:Plain(len(record))]
	if s.in.aead.Open(out, s.in.nextNonce(), header, record[HeaderSize:]) != nil {
		return 0, fault(alertBadRecordMAC)
	}
	n := len(out) - 1
	for n >= 0 && out[n] == 0 {
		n--
	}
	switch {
	case n < 0:
		return 0, fault(alertUnexpectedMessage)
	case n > MaxPlaintext:
		return 0, fault(alertRecordOverflow)
	}
	return s.content(out[n], out[:n])
}

// content handles what a record carries. It returns the length of p if that is
// for the application.
func (s *Session) content(kind byte, p []byte) (int, error) {
	if kind != typeHandshake && (s.have > 0 || s.skip > 0) {
		return 0, fault(alertUnexpectedMessage) // within a message (RFC 8446 §5.1)
	}
	switch kind {
	case typeApplication:
		if len(p) == 0 {
			return 0, s.nothing()
		}
		s.useless = 0
		s.received += uint64(len(p))
		return len(p), nil
	case typeAlert:
		return 0, s.alerted(p)
	case typeHandshake:
		if len(p) == 0 {
			return 0, fault(alertUnexpectedMessage)
		}
		return 0, s.messages(p)
	}
	return 0, fault(alertUnexpectedMessage)
}

// nothing counts what brings the application nothing.
func (s *Session) nothing() error {
	if s.useless++; s.useless > maxUseless {
		return fault(alertUnexpectedMessage)
	}
	return nil
}

func (s *Session) alerted(p []byte) error {
	if len(p) != 2 {
		return fault(alertUnexpectedMessage)
	}
	switch alert := tls.AlertError(p[1]); alert {
	case alertCloseNotify:
		return io.EOF
	case alertUserCanceled: // close_notify follows it
		return s.nothing()
	default: // all are fatal in TLS 1.3 (RFC 8446 §6)
		return &Error{Alert: alert, Remote: true}
	}
}

// messages handles messages of the handshake, or the piece of them in a record.
// Only a key update matters: tickets are for resuming sessions, which nobody does.
func (s *Session) messages(p []byte) error {
	if err := s.nothing(); err != nil {
		return err
	}
	for len(p) > 0 {
		if s.skip > 0 {
			n := min(s.skip, len(p))
			s.skip -= n
			p = p[n:]
			continue
		}
		for s.have < messageHeader && len(p) > 0 {
			s.message[s.have], p = p[0], p[1:]
			s.have++
		}
		if s.have < messageHeader {
			return nil
		}
		n := int(s.message[1])<<16 | int(s.message[2])<<8 | int(s.message[3])
		switch kind := s.message[0]; {
		case n > maxMessage:
			return fault(alertDecodeError)
		case kind == messageTicket && s.client:
			s.have, s.skip = 0, n
		case kind == messageKeyUpdate && n == 1:
			if len(p) == 0 {
				return nil
			}
			s.have = 0
			if len(p) > 1 { // the rest would be under the old key (RFC 8446 §5.1)
				return fault(alertUnexpectedMessage)
			}
			return s.updated(p[0])
		case kind == messageKeyUpdate:
			return fault(alertDecodeError)
		default:
			return fault(alertUnexpectedMessage)
		}
	}
	return nil
}

// updated goes on to the peer's next key (RFC 8446 §4.6.3).
func (s *Session) updated(request byte) error {
	if request > updateRequested {
		return fault(alertIllegalParameter)
	}
	if s.updates++; s.updates > freeUpdates+s.received/bytesPerUpdate {
		return fault(alertUnexpectedMessage)
	}
	if err := s.in.update(); err != nil {
		return fault(alertInternalError)
	}
	if request == updateRequested {
		s.owes.Store(true)
	}
	return nil
}
