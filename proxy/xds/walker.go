package xds

import (
	"errors"
	"fmt"
	"slices"
	"unicode/utf8"

	"google.golang.org/grpc/mem"
	"google.golang.org/protobuf/encoding/protowire"
)

var (
	errTruncated = errors.New("message ends within a field")
	errText      = errors.New("text that is not UTF-8")
	errWireType  = errors.New("field of a wire type that it can't have")
)

// walker reads a message that lies in several buffers.
type walker struct {
	bufs    mem.BufferSlice // the first is the one that cur is the rest of
	cur     []byte
	left    int // bytes in all, cur included
	give    bool
	scratch []byte // for what spans buffers
}

// newWalker begins at the start. With give, buffers are given back when they have been read.
func newWalker(data mem.BufferSlice, give bool) *walker {
	w := &walker{bufs: slices.Clone(data), left: data.Len(), give: give}
	if len(w.bufs) > 0 {
		w.cur = w.bufs[0].ReadOnlyData()
	}
	return w
}

func (w *walker) done() bool { return w.left == 0 }

// fill makes cur not empty. There must be bytes left.
func (w *walker) fill() {
	for len(w.cur) == 0 {
		if w.give {
			w.bufs[0].Free()
		}
		w.bufs = w.bufs[1:]
		w.cur = w.bufs[0].ReadOnlyData()
	}
}

func (w *walker) release() {
	if w.give {
		w.bufs.Free()
	}
	w.bufs, w.cur, w.left = nil, nil, 0
}

func (w *walker) skip(n int) error {
	if n > w.left {
		return errTruncated
	}
	for n > 0 {
		w.fill()
		k := min(n, len(w.cur))
		w.cur = w.cur[k:]
		w.left -= k
		n -= k
	}
	return nil
}

// bytes returns the next n bytes. They are good until the next call of any method.
func (w *walker) bytes(n int) ([]byte, error) {
	if n > w.left {
		return nil, errTruncated
	}
	if n == 0 {
		return nil, nil
	}
	w.fill()
	if n <= len(w.cur) {
		b := w.cur[:n:n]
		w.cur = w.cur[n:]
		w.left -= n
		return b, nil
	}
	w.scratch = w.scratch[:0]
	for n > 0 {
		w.fill()
		k := min(n, len(w.cur))
		w.scratch = append(w.scratch, w.cur[:k]...)
		w.cur = w.cur[k:]
		w.left -= k
		n -= k
	}
	return w.scratch, nil
}

func (w *walker) text(n int) (string, error) {
	b, err := w.bytes(n)
	if err != nil {
		return "", err
	}
	if !utf8.Valid(b) {
		return "", errText
	}
	return string(b), nil
}

func (w *walker) varint() (uint64, error) {
	var v uint64
	for shift := 0; shift < 64; shift += 7 {
		b, err := w.bytes(1)
		if err != nil {
			return 0, err
		}
		v |= uint64(b[0]&0x7f) << shift
		if b[0] < 0x80 {
			return v, nil
		}
	}
	return 0, errors.New("varint of more than 64 bits")
}

// field reads the head of a field: its number and how many bytes its value has. Those of the numbers that are known here
// must be of the wire type for bytes.
func (w *walker) field() (protowire.Number, int, error) {
	tag, err := w.varint()
	if err != nil {
		return 0, 0, err
	}
	num, typ := protowire.DecodeTag(tag)
	if num < protowire.MinValidNumber {
		return 0, 0, fmt.Errorf("field with the number %d", num)
	}
	if typ != protowire.BytesType && num <= fieldRemoved {
		return 0, 0, errWireType
	}
	switch typ {
	case protowire.BytesType:
		n, err := w.varint()
		if err == nil && n > uint64(w.left) {
			err = errTruncated
		}
		return num, int(n), err
	case protowire.VarintType:
		_, err := w.varint()
		return num, 0, err
	case protowire.Fixed32Type:
		return num, 4, nil
	case protowire.Fixed64Type:
		return num, 8, nil
	}
	return 0, 0, errWireType
}
