package xds

import (
	"bytes"
	"encoding/hex"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/grpc/mem"
	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/testing/protocmp"
	"google.golang.org/protobuf/types/known/anypb"

	"ztunnel/proxy/api/discoveryapi"
)

// counted is a buffer that tells whether it was given back.
type counted struct {
	mem.SliceBuffer
	refs int
}

func (c *counted) Ref()  { c.refs++ }
func (c *counted) Free() { c.refs-- }

// cut makes buffers of b, of the sizes that next returns.
func cut(b []byte, next func() int) (mem.BufferSlice, []*counted) {
	var data mem.BufferSlice
	var all []*counted
	for len(b) > 0 {
		n := min(len(b), next())
		c := &counted{SliceBuffer: b[:n:n], refs: 1}
		data, all = append(data, c), append(all, c)
		b = b[n:]
	}
	return data, all
}

// read decodes a response the way the client does, into the message that others decode it to. A resource that does not
// decode has the name it has got so far, and a body that says so.
func read(t *testing.T, data mem.BufferSlice, all []*counted) (*discoveryapi.DeltaDiscoveryResponse, error) {
	t.Helper()
	var r response
	if err := (codec{}).Unmarshal(data, &r); err != nil {
		t.Fatal(err)
	}
	data.Free() // as gRPC does
	if err := r.scan(); err != nil {
		r.free()
		checkFreed(t, all)
		return nil, err
	}
	out := &discoveryapi.DeltaDiscoveryResponse{TypeUrl: r.typeURL, Nonce: r.nonce, RemovedResources: r.removed}
	var h head
	n := 0
	for b := range r.bodies() {
		n++
		if err := h.parse(b); err != nil {
			return nil, err
		}
		resource := &discoveryapi.Resource{Name: string(h.name), Version: string(h.version)}
		for _, a := range h.aliases {
			resource.Aliases = append(resource.Aliases, string(a))
		}
		if h.hasBody {
			resource.Resource = &anypb.Any{Value: bytes.Clone(h.body)}
		}
		out.Resources = append(out.Resources, resource)
	}
	if n != r.resources {
		t.Errorf("%d resources walked, %d counted", n, r.resources)
	}
	checkFreed(t, all)
	return out, nil
}

func checkFreed(t *testing.T, all []*counted) {
	t.Helper()
	for i, c := range all {
		if c.refs != 0 {
			t.Errorf("buffer %d of %d has %d references after it was read, want 0", i, len(all), c.refs)
		}
	}
}

// ignored are the parts that the client does not look at.
var ignored = cmp.Options{
	protocmp.Transform(),
	protocmp.IgnoreFields(&discoveryapi.DeltaDiscoveryResponse{}, "system_version_info"),
	protocmp.IgnoreFields(&anypb.Any{}, "type_url"),
	protocmp.IgnoreUnknown(),
}

func sample() *discoveryapi.DeltaDiscoveryResponse {
	return &discoveryapi.DeltaDiscoveryResponse{
		SystemVersionInfo: "v", TypeUrl: thingType, Nonce: "nonce", RemovedResources: []string{"", "gone", "ns/host"},
		Resources: []*discoveryapi.Resource{
			{Name: "a", Version: "aa82bef832db85c6", Aliases: []string{"/10.0.0.1", ""}, Resource: &anypb.Any{TypeUrl: "x", Value: []byte("body")}},
			{},
			{Name: "empty body", Resource: &anypb.Any{}},
			{Name: "large", Resource: &anypb.Any{Value: bytes.Repeat([]byte("0123456789"), 500)}},
		},
	}
}

// A response reads the same however it is cut into buffers, and all buffers are given back.
func TestResponseInPieces(t *testing.T) {
	b, err := proto.Marshal(sample())
	if err != nil {
		t.Fatal(err)
	}
	pieces := map[string]func() int{
		"whole": func() int { return len(b) }, "bytes": func() int { return 1 }, "threes": func() int { return 3 },
		"random": func() int { return 1 + rand.IntN(300) },
	}
	for name, next := range pieces {
		t.Run(name, func(t *testing.T) {
			data, all := cut(b, next)
			got, err := read(t, data, all)
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(sample(), got, ignored); diff != "" {
				t.Errorf("response (-want +got):\n%s", diff)
			}
		})
	}
}

// A handler that stops half way gives everything back, too.
func TestResponseReadInPart(t *testing.T) {
	b, err := proto.Marshal(sample())
	if err != nil {
		t.Fatal(err)
	}
	data, all := cut(b, func() int { return 7 })
	r := response{data: data}
	if err := r.scan(); err != nil {
		t.Fatal(err)
	}
	for range r.bodies() {
		break
	}
	checkFreed(t, all)
}

// Fields of later versions of the protocol are skipped.
func TestResponseWithUnknownFields(t *testing.T) {
	b := protowire.AppendVarint(protowire.AppendTag(nil, 20, protowire.VarintType), 1<<40)
	b = protowire.AppendFixed32(protowire.AppendTag(b, 21, protowire.Fixed32Type), 7)
	b = protowire.AppendFixed64(protowire.AppendTag(b, 22, protowire.Fixed64Type), 7)
	b = protowire.AppendString(protowire.AppendTag(b, 23, protowire.BytesType), "later")
	b = protowire.AppendString(protowire.AppendTag(b, 3, protowire.BytesType), "x")
	b = protowire.AppendString(protowire.AppendTag(b, fieldNonce, protowire.BytesType), "n")
	data, all := cut(b, func() int { return 2 })
	got, err := read(t, data, all)
	if err != nil || got.GetNonce() != "n" {
		t.Errorf("read = %v, %v, want the nonce n", got, err)
	}
}

// What is no response is refused as a whole, what is no resource alone.
func TestMalformed(t *testing.T) {
	for name, tc := range map[string]struct{ bytes, text string }{
		"nothing behind a tag":     {"12", errTruncated.Error()},
		"length beyond the end":    {"120501", errTruncated.Error()},
		"huge length":              {"12ffffffffffffffff7f", errTruncated.Error()},
		"endless varint":           {"12ffffffffffffffffffffffff", "more than 64 bits"},
		"number zero":              {"0200", "number 0"},
		"group":                    {"a301", errWireType.Error()},
		"nonce as a number":        {"2801", errWireType.Error()},
		"nonce that is no text":    {"2a01ff", errText.Error()},
		"removed that is no text":  {"3201ff", errText.Error()},
		"name that is no text":     {"12031a01ff", errText.Error()},
		"resource that is cut":     {"12021a05", "unexpected EOF"},
		"body that is cut":         {"120412021205", "unexpected EOF"},
		"body with a broken field": {"1204120200ff", "invalid field number"},
	} {
		t.Run(name, func(t *testing.T) {
			b, err := hex.DecodeString(tc.bytes)
			if err != nil {
				t.Fatal(err)
			}
			data, all := cut(b, func() int { return 1 })
			_, err = read(t, data, all)
			if err == nil || !strings.Contains(err.Error(), tc.text) {
				t.Errorf("read = %v, want an error with %q", err, tc.text)
			}
		})
	}
}

// The codec sends requests as they are, and takes nothing else.
func TestCodec(t *testing.T) {
	want := &discoveryapi.DeltaDiscoveryRequest{TypeUrl: thingType}
	data, err := codec{}.Marshal(want)
	if err != nil {
		t.Fatal(err)
	}
	got := new(discoveryapi.DeltaDiscoveryRequest)
	if err := proto.Unmarshal(data.Materialize(), got); err != nil || !proto.Equal(got, want) {
		t.Errorf("encoded request reads %v, %v, want %v", got, err, want)
	}
	if _, err := (codec{}).Marshal("text"); err == nil {
		t.Error("text was encoded")
	}
	if err := (codec{}).Unmarshal(data, new(discoveryapi.DeltaDiscoveryResponse)); err == nil {
		t.Error("a response was decoded as a whole")
	}
}

// The walker and the generated messages agree, but where the walker is stricter.
func FuzzResponse(f *testing.F) {
	small := sample()
	small.Resources = small.Resources[:3]
	b, err := proto.Marshal(small)
	if err != nil {
		f.Fatal(err)
	}
	f.Add(b, uint8(3))
	f.Add(b[:len(b)-1], uint8(100))
	f.Add([]byte{0x12, 0x02, 0x1a, 0x05}, uint8(1))
	f.Fuzz(func(t *testing.T, b []byte, size uint8) {
		data, all := cut(slices.Clone(b), func() int { return int(size) + 1 })
		got, err := read(t, data, all)
		if err != nil {
			return
		}
		want := new(discoveryapi.DeltaDiscoveryResponse)
		if err := proto.Unmarshal(b, want); err != nil {
			// The generated code also checks texts that we don't keep, and reads on where a value was repeated.
			return
		}
		if hasRepeatedBodies(want, got) {
			return
		}
		if !sameContent(want, got) {
			t.Errorf("response (-generated +walked):\n%s", cmp.Diff(want, got, ignored))
		}
	})
}

// sameContent compares what the client looks at. It is cheaper than a comparison of messages.
func sameContent(a, b *discoveryapi.DeltaDiscoveryResponse) bool {
	return a.GetTypeUrl() == b.GetTypeUrl() && a.GetNonce() == b.GetNonce() && slices.Equal(a.GetRemovedResources(), b.GetRemovedResources()) &&
		slices.EqualFunc(a.GetResources(), b.GetResources(), func(a, b *discoveryapi.Resource) bool {
			return a.GetName() == b.GetName() && a.GetVersion() == b.GetVersion() && slices.Equal(a.GetAliases(), b.GetAliases()) &&
				(a.GetResource() == nil) == (b.GetResource() == nil) && bytes.Equal(a.GetResource().GetValue(), b.GetResource().GetValue())
		})
}

// hasRepeatedBodies reports whether a resource has more than one body: the generated code merges them, and the walker takes
// the last.
func hasRepeatedBodies(want, got *discoveryapi.DeltaDiscoveryResponse) bool {
	for i, r := range want.GetResources() {
		if i < len(got.GetResources()) && len(r.GetResource().GetValue()) > 0 && len(got.GetResources()[i].GetResource().GetValue()) == 0 {
			return true
		}
	}
	return false
}
