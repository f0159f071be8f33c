package aesgcm

import "errors"

func init() {
	implementations = append(
		implementations,
		implementation{"avx2", vectorMaker(avx2Supported, false)},
		implementation{"avx512", vectorMaker(avx512Supported, true)},
	)
}

func vectorMaker(supported, wide bool) func([]byte) (*AEAD, error) {
	return func(key []byte) (*AEAD, error) {
		if !supported {
			return nil, errors.ErrUnsupported
		}
		v, err := newVector(key)
		if err != nil {
			return nil, err
		}
		v.wide = wide
		return &AEAD{vector: v}, nil
	}
}
