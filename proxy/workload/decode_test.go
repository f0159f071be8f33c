package workload

import (
	"fmt"
	"testing"

	"google.golang.org/protobuf/proto"

	api "ztunnel/proxy/api/workloadapi"
)

// viaMessage is what Decode has to agree with.
func viaMessage(name string, body []byte) (*Workload, *Service, error) {
	var m api.Address
	if err := decoding.Unmarshal(body, &m); err != nil {
		return nil, nil, fmt.Errorf("decode: failed to decode Protobuf message: %w", err)
	}
	return FromProto(&m, nil)
}

// agree fails if Decode and the way by the message differ, with a fresh decoder and with one that knows every string.
func agree(t *testing.T, d *Decoder, name string, body []byte) {
	t.Helper()
	want, wantService, wantErr := viaMessage(name, body)
	for range 2 {
		w, s, err := d.Decode(name, body)
		if (err == nil) != (wantErr == nil) || err != nil && err.Error() != wantErr.Error() {
			t.Fatalf("Decode: error %v, want %v", err, wantErr)
		}
		if (w == nil) != (want == nil) || w != nil && !w.equal(want) {
			t.Fatalf("Decode = %+v, want %+v", w, want)
		}
		if (s == nil) != (wantService == nil) || s != nil && !s.equal(wantService) {
			t.Fatalf("Decode = %+v, want %+v", s, wantService)
		}
	}
}

// bodies returns the addresses of the recordings, encoded.
func bodies(tb testing.TB) [][]byte {
	tb.Helper()
	var all [][]byte
	for _, name := range []string{"01-initial-sync", "10-weighted-waypoints", "with-networks"} {
		for _, a := range readCapture(tb, name).addresses {
			b, err := proto.MarshalOptions{Deterministic: true}.Marshal(a)
			if err != nil {
				tb.Fatal(err)
			}
			all = append(all, b)
		}
	}
	return all
}

func TestDecoder_Recordings(t *testing.T) {
	d, simple := NewDecoder(), 0
	for _, body := range bodies(t) {
		agree(t, d, "name", body)
		if d.simple("name", body) != nil {
			simple++
		}
	}
	if simple == 0 {
		t.Error("no workload of the recordings is decoded from its bytes")
	}
}

// What a message cannot be made of by Marshal, or only with difficulty.
func TestDecoder_OddBytes(t *testing.T) {
	field := func(number byte, value ...byte) []byte { // a field of bytes with a number below 16
		return append([]byte{number<<3 | 2, byte(len(value))}, value...)
	}
	high := func(number byte, value ...byte) []byte { // and one below 32
		return append([]byte{number<<3&0x7f | 2 | 0x80, number >> 4, byte(len(value))}, value...)
	}
	join := func(fields ...[]byte) (b []byte) {
		for _, f := range fields {
			b = append(b, f...)
		}
		return b
	}
	services := high(22, join(field(1, []byte("ns/a.b")...), field(2, field(1, 0x08, 80, 0x10, 0x90, 0x3f)...))...)
	for name, workload := range map[string][]byte{
		"empty":                         {},
		"name after uid":                join(high(20, []byte("c//Pod/ns/pod")...), field(1, []byte("pod")...)),
		"name of another":               join(field(1, []byte("x")...), high(20, []byte("c//Pod/ns/pod")...)),
		"uid of the resource":           high(20, []byte("name")...),
		"the last text counts":          join(field(2, 'a'), field(2, 'b')),
		"text that is taken back":       join(field(2, 'a'), field(2)),
		"invalid text":                  field(2, 0xff),
		"invalid text twice":            join(field(2, 0xff), field(4, 0xff)),
		"invalid name":                  field(1, 0xff),
		"invalid uid":                   high(20, 0xff),
		"invalid policy":                high(16, 0xc0),
		"localities add up":             join(high(24, field(1, 'r')...), high(24, field(2, 'z')...)),
		"locality with more":            high(24, field(4, 'r')...),
		"locality cut off":              high(24, 0x0a, 5),
		"locality with a number":        high(24, 0x08, 1),
		"text as a number":              {0x10, 1},
		"number as text":                field(5, 1),
		"unknown number":                {0x78, 1},
		"unknown fixed":                 {0x7d, 1, 2, 3, 4},
		"protocol":                      {0x28, 1},
		"protocol taken back":           {0x28, 1, 0x28, 0},
		"protocol legacy":               {0x28, 2},
		"protocol unknown":              {0x28, 3},
		"protocol of more than 32 bits": {0x28, 0x81, 0x80, 0x80, 0x80, 0x80, 0x01},
		"type unknown":                  {0x60, 9},
		"type pod":                      {0x60, 2},
		"native":                        {0x70, 2},
		"status":                        {0x88, 1, 1},
		"host network":                  {0xc8, 1, 1},
		"capacity zero":                 high(27),
		"capacity":                      high(27, 0x08, 7),
		"address":                       field(3, 10, 0, 0, 1),
		"addresses":                     join(field(3, 10, 0, 0, 1), field(3, make([]byte, 16)...)),
		"short address":                 field(3, 1),
		"service":                       services,
		"service twice":                 join(services, services),
		"service between":               join(services, field(2, 'a'), services),
		"service without a namespace":   high(22, field(1, 'h')...),
		"service cut off":               high(22, 0x0a, 9),
		"service with invalid text":     high(22, field(1, '/', 0xff)...),
		"cut off":                       {0x12, 9, 'a'},
		"number cut off":                {0x28, 0x80},
		"field zero":                    {0x02, 0},
		"waypoint":                      field(8, field(2, field(2, 10, 0, 0, 1)...)...),
		"waypoint to nowhere":           field(8),
	} {
		t.Run(name, func(t *testing.T) {
			for form, body := range map[string][]byte{
				"alone": field(1, workload...), "twice": join(field(1), field(1, workload...)), "as service": field(2, workload...),
				"with more": join(field(1, workload...), []byte{0x18, 1}), "cut off": field(1, workload...)[:1+len(workload)],
			} {
				t.Run(form, func(t *testing.T) { agree(t, NewDecoder(), "name", body) })
			}
		})
	}
}

func FuzzDecode(f *testing.F) {
	for _, body := range bodies(f) {
		f.Add("name", body)
	}
	f.Add("", []byte{})
	d := NewDecoder() // what it remembers of other inputs must not matter
	f.Fuzz(func(t *testing.T, name string, body []byte) {
		agree(t, d, name, body)
		agree(t, NewDecoder(), name, body)
	})
}

func BenchmarkDecode(b *testing.B) {
	d, all := NewDecoder(), bodies(b)
	b.ReportAllocs()
	for b.Loop() {
		for _, body := range all {
			if _, _, err := d.Decode("name", body); err != nil {
				b.Fatal(err)
			}
		}
	}
	b.ReportMetric(float64(len(all)), "resources/op")
}
