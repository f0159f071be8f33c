// Package aesgcm seals and opens the records of TLS 1.3 with AES-GCM as fast as the processor can.
//
// It uses two facts that a general AES-GCM cannot know: the plaintext of a TLS 1.3 record is the payload followed by one
// byte, the inner content type (RFC 8446 section 5.2), and the additional data is the record header of five bytes. So
// the payload is encrypted from where it lies to where it is sent from, without a copy that appends the type first.
//
// There are two implementations with the same results. The vector one needs instructions that do several blocks of AES
// at once (vector_amd64.go says which). The generic one is crypto/cipher: it serves every other processor, and is the
// oracle of the tests.
//
// The package knows nothing of handshakes, sequence numbers or limits of key usage: who calls it gives a nonce, and must
// never give the same one twice to Seal.
package aesgcm

import (
	"crypto/fips140"
	"errors"
	"fmt"
)

const (
	// TagSize is the length in bytes of the authentication tag at the end of a sealed record.
	TagSize = 16
	// Overhead is how many bytes a sealed record is longer than its payload: the tag and the inner content type.
	Overhead = TagSize + 1

	nonceSize  = 12
	headerSize = 5 // of a record, the additional data
)

// ErrOpen says that a record was not sealed with this key, nonce and header, or was changed on the way.
var ErrOpen = errors.New("aesgcm: record authentication failed")

// AEAD seals and opens records with one key. It is not safe for concurrent use: have one for each direction.
type AEAD struct {
	// One of the two is set.
	vector  *vector
	generic *generic
}

// New makes an AEAD of a key of 16 or 32 bytes, which it does not keep. Any other length is an error. It uses the
// vector code where the processor has what that needs, except in FIPS 140-3 mode, whose validated code is crypto/cipher.
func New(key []byte) (*AEAD, error) {
	if err := checkKey(key); err != nil {
		return nil, err
	}
	if !vectorSupported || fips140.Enabled() {
		return NewGeneric(key)
	}
	v, err := newVector(key)
	if err != nil {
		return nil, err
	}
	return &AEAD{vector: v}, nil
}

// NewGeneric is New without the vector code.
func NewGeneric(key []byte) (*AEAD, error) {
	if err := checkKey(key); err != nil {
		return nil, err
	}
	g, err := newGeneric(key)
	if err != nil {
		return nil, err
	}
	return &AEAD{generic: g}, nil
}

func checkKey(key []byte) error {
	if len(key) != 16 && len(key) != 32 {
		return fmt.Errorf("aesgcm: a key of %d bytes, want 16 or 32", len(key))
	}
	return nil
}

// Seal encrypts payload and then typ to out, followed by the tag. The length of out must be len(payload)+[Overhead], that
// of header 5. out must not overlap payload, except that both may begin at the same address. It panics when the caller
// breaks this.
func (a *AEAD) Seal(out []byte, nonce *[nonceSize]byte, header, payload []byte, typ byte) {
	checkHeader(header)
	if len(out) != len(payload)+Overhead {
		panic(fmt.Sprintf("aesgcm: Seal of %d bytes to %d, want %d", len(payload), len(out), len(payload)+Overhead))
	}
	checkOverlap(out, payload)
	if a.vector != nil {
		a.vector.seal(out, nonce, header, payload, typ)
		return
	}
	a.generic.seal(out, nonce, header, payload, typ)
}

// Open verifies sealed, ciphertext and tag, and decrypts it to out: payload, type and padding. The length of sealed must
// be at least [TagSize], that of out len(sealed)-TagSize, that of header 5. out must not overlap sealed, except that both
// may begin at the same address. It panics when the caller breaks this.
//
// When the record is not authentic, out is zeroed and the error is [ErrOpen].
func (a *AEAD) Open(out []byte, nonce *[nonceSize]byte, header, sealed []byte) error {
	checkHeader(header)
	if len(sealed) < TagSize || len(out) != len(sealed)-TagSize {
		panic(fmt.Sprintf("aesgcm: Open of %d bytes to %d, want %d", len(sealed), len(out), len(sealed)-TagSize))
	}
	checkOverlap(out, sealed)
	var ok bool
	if a.vector != nil {
		ok = a.vector.open(out, nonce, header, sealed)
	} else {
		ok = a.generic.open(out, nonce, header, sealed)
	}
	if !ok {
		clear(out)
		return ErrOpen
	}
	return nil
}

func checkHeader(header []byte) {
	if len(header) != headerSize {
		panic(fmt.Sprintf("aesgcm: a header of %d bytes, want %d", len(header), headerSize))
	}
}
