//go:build !amd64

package aesgcm

import "errors"

// vectorSupported is false: the vector code is written for amd64 only.
const vectorSupported = false

type vector struct{}

func newVector([]byte) (*vector, error) {
	return nil, errors.ErrUnsupported
}

func (*vector) seal(_ []byte, _ *[nonceSize]byte, _, _ []byte, _ byte) {}

func (*vector) open(_ []byte, _ *[nonceSize]byte, _, _ []byte) bool { return false }
