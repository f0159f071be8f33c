package identity

import (
	"bytes"
	"encoding/asn1"
	"slices"
	"testing"
)

// oracleURIs is sanURIs by way of encoding/asn1; ok is false where that cannot read the value.
func oracleURIs(der []byte) (list [][]byte, ok bool) {
	var names []asn1.RawValue
	rest, err := asn1.Unmarshal(der, &names)
	if err != nil || len(rest) > 0 {
		return nil, false
	}
	for _, n := range names {
		if n.Class == asn1.ClassContextSpecific && n.Tag == 6 && !n.IsCompound {
			list = append(list, n.Bytes)
		}
	}
	return list, true
}

func TestSANURIs(t *testing.T) {
	long := bytes.Repeat([]byte("x"), 300)
	encode := func(names ...asn1.RawValue) []byte {
		der, err := asn1.Marshal(names)
		if err != nil {
			t.Fatal(err)
		}
		return der
	}
	uri := func(b []byte) asn1.RawValue {
		return asn1.RawValue{Class: asn1.ClassContextSpecific, Tag: 6, Bytes: b}
	}
	dns := asn1.RawValue{Class: asn1.ClassContextSpecific, Tag: 2, Bytes: []byte("a.example")}
	for _, tt := range []struct {
		name string
		der  []byte
		want []string
	}{
		{"none", encode(), nil},
		{"one", encode(uri([]byte("spiffe://a"))), []string{"spiffe://a"}},
		{"between others", encode(dns, uri([]byte("a")), dns, uri([]byte("b"))), []string{"a", "b"}},
		{"empty", encode(uri(nil)), []string{""}},
		{"raw bytes", encode(uri([]byte("spiffe://a b%/\x7f"))), []string{"spiffe://a b%/\x7f"}},
		{"long", encode(uri(long)), []string{string(long)}},
		{"nothing", nil, nil},
		{"not a sequence", []byte{0x31, 3, 0x86, 1, 'a'}, nil},
		{"cut off after the first", []byte{0x30, 5, 0x86, 1, 'a', 0x86, 9}, []string{"a"}},
		{"sequence cut off", []byte{0x30, 9, 0x86, 1, 'a'}, nil},
		{"indefinite length", []byte{0x30, 0x80, 0x86, 1, 'a', 0, 0}, nil},
		{"length not minimal", []byte{0x30, 0x81, 3, 0x86, 1, 'a'}, nil},
		{"length with leading zero", append([]byte{0x30, 0x82, 0, 200}, make([]byte, 200)...), nil},
		{"length of four octets", []byte{0x30, 0x84, 0xff, 0xff, 0xff, 0xff}, nil},
		{"tag of two octets", []byte{0x30, 4, 0x9f, 0x86, 1, 'a'}, nil},
	} {
		t.Run(tt.name, func(t *testing.T) {
			var got []string
			for u := range sanURIs(tt.der) {
				got = append(got, string(u))
			}
			if !slices.Equal(got, tt.want) {
				t.Errorf("sanURIs(%x) = %q, want %q", tt.der, got, tt.want)
			}
		})
	}
}

func FuzzSANURIs(f *testing.F) {
	for _, seed := range [][]byte{
		nil,
		{0x30, 0},
		{0x30, 3, 0x86, 1, 'a'},
		{0x30, 0x81, 0x80},
		{0x30, 5, 0x82, 1, 'a', 0x86, 0},
		{0x30, 4, 0xa6, 2, 0x86, 0},
		{0x30, 2, 0x9f, 0x1f},
	} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, der []byte) {
		var got [][]byte
		for u := range sanURIs(der) {
			got = append(got, u)
		}
		want, ok := oracleURIs(der)
		if ok && !slices.EqualFunc(got, want, bytes.Equal) {
			t.Errorf("sanURIs(%x) = %x, want %x", der, got, want)
		}
		for range sanURIs(der) {
			break // stopping early must not panic either
		}
	})
}
