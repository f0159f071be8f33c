package tls13

import (
	"bytes"
	"crypto/hkdf"
	"crypto/sha256"
	"crypto/sha512"
	"crypto/tls"
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"hash"
	"sync"
)

// Secrets takes the first application traffic secrets of one handshake: it is
// made to be the KeyLogWriter of a tls.Config that serves this handshake only.
// The zero value is ready for use.
type Secrets struct {
	mu             sync.Mutex
	client, server []byte
}

// Labels of the key log (RFC 9850 §2.1, where crypto/tls and others have them from).
const (
	clientTraffic = "CLIENT_TRAFFIC_SECRET_0"
	serverTraffic = "SERVER_TRAFFIC_SECRET_0"
)

// Write takes one line of the key log: a label, the client's random and the
// secret, in hexadecimal. Other labels are ignored. It keeps nothing of p.
func (s *Secrets) Write(p []byte) (int, error) {
	label, rest, _ := bytes.Cut(bytes.TrimSuffix(p, []byte("\n")), []byte(" "))
	_, digits, _ := bytes.Cut(rest, []byte(" "))
	var to *[]byte
	switch string(label) {
	case clientTraffic:
		to = &s.client
	case serverTraffic:
		to = &s.server
	default:
		return len(p), nil
	}
	secret := make([]byte, hex.DecodedLen(len(digits)))
	if _, err := hex.Decode(secret, digits); err != nil {
		return 0, fmt.Errorf("read the key log's %s: %w", label, err)
	}
	s.mu.Lock()
	*to = secret
	s.mu.Unlock()
	return len(p), nil
}

// suite is what a cipher suite of TLS 1.3 means to records.
type suite struct {
	hash   func() hash.Hash
	keyLen int
}

// suites are those with AES-GCM (RFC 8446 §B.4). Connections with another stay
// with crypto/tls.
var suites = map[uint16]suite{
	tls.TLS_AES_128_GCM_SHA256: {sha256.New, 16},
	tls.TLS_AES_256_GCM_SHA384: {sha512.New384, 32},
}

// expand is HKDF-Expand-Label with an empty context (RFC 8446 §7.1).
func (s suite) expand(secret []byte, label string, n int) ([]byte, error) {
	label = "tls13 " + label
	info := binary.BigEndian.AppendUint16(nil, uint16(n))
	info = append(info, byte(len(label)))
	info = append(info, label...)
	info = append(info, 0)
	return hkdf.Expand(s.hash, secret, string(info), n)
}

// next is the secret after a key update (RFC 8446 §7.2).
func (s suite) next(secret []byte) ([]byte, error) {
	return s.expand(secret, "traffic upd", s.hash().Size())
}
