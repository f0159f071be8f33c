package tls13

import (
	"encoding/binary"
	"fmt"

	"ztunnel/proxy/aesgcm"
)

// half protects one direction.
type half struct {
	suite   suite
	newAEAD func(key []byte) (*aesgcm.AEAD, error)
	secret  []byte
	aead    *aesgcm.AEAD
	iv      [12]byte
	seq     uint64 // of the next record under these keys
	nonce   [12]byte
}

func newHalf(s suite, secret []byte, newAEAD func([]byte) (*aesgcm.AEAD, error)) (*half, error) {
	if n := s.hash().Size(); len(secret) != n {
		return nil, fmt.Errorf("a traffic secret of %d bytes, want %d", len(secret), n)
	}
	h := &half{suite: s, newAEAD: newAEAD, secret: secret}
	return h, h.rekey()
}

// rekey derives key and IV from the secret (RFC 8446 §7.3).
func (h *half) rekey() error {
	key, err := h.suite.expand(h.secret, "key", h.suite.keyLen)
	if err != nil {
		return fmt.Errorf("derive a traffic key: %w", err)
	}
	iv, err := h.suite.expand(h.secret, "iv", len(h.iv))
	if err != nil {
		return fmt.Errorf("derive a traffic IV: %w", err)
	}
	if h.aead, err = h.newAEAD(key); err != nil {
		return fmt.Errorf("make a traffic key: %w", err)
	}
	h.iv, h.seq = [12]byte(iv), 0
	return nil
}

// update goes on to the next keys (RFC 8446 §7.2).
func (h *half) update() error {
	secret, err := h.suite.next(h.secret)
	if err != nil {
		return fmt.Errorf("derive the next traffic secret: %w", err)
	}
	h.secret = secret
	return h.rekey()
}

// nextNonce is that of the next record (RFC 8446 §5.3), which it counts.
func (h *half) nextNonce() *[12]byte {
	h.nonce = h.iv
	binary.BigEndian.PutUint64(h.nonce[4:], binary.BigEndian.Uint64(h.iv[4:])^h.seq)
	h.seq++
	return &h.nonce
}
