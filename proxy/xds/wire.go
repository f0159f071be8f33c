package xds

import (
	"fmt"
	"iter"
	"unicode/utf8"

	"google.golang.org/grpc/mem"
	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"
)

// codec is how messages go over the stream: requests as generated messages, responses as bytes. Its name is empty, so that
// the content type is that of plain gRPC.
type codec struct{}

func (codec) Name() string { return "" }

func (codec) Marshal(v any) (mem.BufferSlice, error) {
	m, ok := v.(proto.Message)
	if !ok {
		return nil, fmt.Errorf("marshal %T: not a message", v)
	}
	b, err := proto.Marshal(m)
	if err != nil {
		return nil, err
	}
	return mem.BufferSlice{mem.SliceBuffer(b)}, nil
}

func (codec) Unmarshal(data mem.BufferSlice, v any) error {
	r, ok := v.(*response)
	if !ok {
		return fmt.Errorf("unmarshal into %T: not a response", v)
	}
	data.Ref()
	r.data = data
	return nil
}

// response is a DeltaDiscoveryResponse of which only the frame is decoded.
type response struct {
	data      mem.BufferSlice // each given back when it was walked
	typeURL   string
	nonce     string
	resources int // how many there are
	removed   []string
}

// Numbers of fields of DeltaDiscoveryResponse, Resource and Any.
const (
	fieldResources = 2
	fieldTypeURL   = 4
	fieldNonce     = 5
	fieldRemoved   = 6

	fieldVersion  = 1
	fieldResource = 2
	fieldName     = 3
	fieldAliases  = 4

	fieldAnyValue = 2
)

// scan decodes the frame. On an error nothing of the response can be used.
func (r *response) scan() error {
	w := newWalker(r.data, false)
	for !w.done() {
		num, n, err := w.field()
		if err != nil {
			return err
		}
		switch num {
		case fieldResources:
			r.resources++
			err = w.skip(n)
		case fieldTypeURL:
			r.typeURL, err = w.text(n)
		case fieldNonce:
			r.nonce, err = w.text(n)
		case fieldRemoved:
			var name string
			name, err = w.text(n)
			r.removed = append(r.removed, name)
		default:
			err = w.skip(n)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// bodies walks the resources, each as its bytes, which are good until the next. It can be done once, after scan, and gives
// the response's memory back on its way.
func (r *response) bodies() iter.Seq[[]byte] {
	return func(yield func([]byte) bool) {
		w := newWalker(r.data, true)
		r.data = nil
		defer w.release()
		for !w.done() {
			num, n, err := w.field()
			if err != nil {
				return // not possible: scan has gone the same way
			}
			if num != fieldResources {
				_ = w.skip(n)
				continue
			}
			b, err := w.bytes(n)
			if err != nil || !yield(b) {
				return
			}
		}
	}
}

// free gives back the memory of a response that is not walked.
func (r *response) free() {
	r.data.Free()
	r.data = nil
}

// head is a Resource of which the body is not decoded. All parts are good until the next one.
type head struct {
	name, version []byte
	aliases       [][]byte
	body          []byte
	hasBody       bool
}

// parse decodes b. On an error the name is set if it came before what is wrong.
func (h *head) parse(b []byte) error {
	*h = head{aliases: h.aliases[:0]}
	for len(b) > 0 {
		num, typ, n := protowire.ConsumeTag(b)
		if n < 0 {
			return protowire.ParseError(n)
		}
		b = b[n:]
		if typ != protowire.BytesType || num > fieldAliases {
			if n = protowire.ConsumeFieldValue(num, typ, b); n < 0 {
				return protowire.ParseError(n)
			}
			b = b[n:]
			continue
		}
		v, n := protowire.ConsumeBytes(b)
		if n < 0 {
			return protowire.ParseError(n)
		}
		b = b[n:]
		if err := h.set(num, v); err != nil {
			return err
		}
	}
	return nil
}

func (h *head) set(num protowire.Number, v []byte) error {
	if num != fieldResource && !utf8.Valid(v) {
		return errText
	}
	switch num {
	case fieldVersion:
		h.version = v
	case fieldResource:
		body, err := anyValue(v)
		if err != nil {
			return err
		}
		h.body, h.hasBody = body, true
	case fieldName:
		h.name = v
	case fieldAliases:
		h.aliases = append(h.aliases, v)
	}
	return nil
}

// anyValue returns the value within an Any. Its type is not looked at, as in the reference: it is that of the response.
func anyValue(b []byte) (value []byte, err error) {
	for len(b) > 0 {
		num, typ, n := protowire.ConsumeTag(b)
		if n < 0 {
			return nil, protowire.ParseError(n)
		}
		b = b[n:]
		if num == fieldAnyValue && typ == protowire.BytesType {
			if value, n = protowire.ConsumeBytes(b); n < 0 {
				return nil, protowire.ParseError(n)
			}
		} else if n = protowire.ConsumeFieldValue(num, typ, b); n < 0 {
			return nil, protowire.ParseError(n)
		}
		b = b[n:]
	}
	return value, nil
}
