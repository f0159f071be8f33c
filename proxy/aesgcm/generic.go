package aesgcm

import (
	"crypto/aes"
	"crypto/cipher"
	"fmt"
)

// generic does the work with crypto/cipher.
type generic struct {
	gcm cipher.AEAD
	// What is handed to an interface escapes to the heap. These copies keep that from the nonce and header of the caller.
	nonce  [nonceSize]byte
	header [headerSize]byte
}

func newGeneric(key []byte) (*generic, error) {
	block, err := aes.NewCipher(key)
	if err != nil {
		return nil, fmt.Errorf("aesgcm: making the cipher: %w", err)
	}
	gcm, err := cipher.NewGCM(block)
	if err != nil {
		return nil, fmt.Errorf("aesgcm: making the mode: %w", err)
	}
	return &generic{gcm: gcm}, nil
}

// seal puts the plaintext together in out and encrypts it there.
func (g *generic) seal(out []byte, nonce *[nonceSize]byte, header, payload []byte, typ byte) {
	g.nonce = *nonce
	copy(g.header[:], header)
	n := copy(out, payload) // moves nothing when both begin at the same address
	out[n] = typ
	g.gcm.Seal(out[:0], g.nonce[:], out[:n+1], g.header[:])
}

func (g *generic) open(out []byte, nonce *[nonceSize]byte, header, sealed []byte) bool {
	g.nonce = *nonce
	copy(g.header[:], header)
	_, err := g.gcm.Open(out[:0], g.nonce[:], sealed, g.header[:])
	return err == nil
}
