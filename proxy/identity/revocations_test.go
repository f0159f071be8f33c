package identity

import (
	"bytes"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"encoding/pem"
	"math/big"
	"os"
	"strings"
	"testing"
	"time"
)

// testLists are two lists of made-up issuers, whose keys nobody has.
func testLists(tb testing.TB) []byte {
	tb.Helper()
	text, err := os.ReadFile("testdata/crl/lists.pem")
	if err != nil {
		tb.Fatal(err)
	}
	return text
}

func TestParseRevocations(t *testing.T) {
	two := testLists(t)
	first, rest := pem.Decode(two)
	second, _ := pem.Decode(rest)
	if second == nil {
		t.Fatal("testdata/crl/lists.pem: want two lists")
	}
	other := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: []byte("not looked at")})
	for _, tt := range []struct {
		name           string
		text           []byte
		lists, entries int
		err            string
	}{
		{name: "empty"},
		{name: "white space", text: []byte(" \n")},
		{name: "blocks of another type", text: other},
		{name: "one", text: pem.EncodeToMemory(first), lists: 1, entries: 2},
		{name: "DER", text: first.Bytes, lists: 1, entries: 2},
		{name: "two", text: two, lists: 2, entries: 3},
		{name: "two among others", text: bytes.Join([][]byte{[]byte("\n"), other, two, other}, nil), lists: 2, entries: 3},
		{name: "garbage", text: []byte("garbage"), err: "parse revocation list"},
		{name: "garbage in PEM", text: pem.EncodeToMemory(&pem.Block{Type: "X509 CRL", Bytes: []byte("garbage")}), err: "parse revocation list"},
		{name: "cut off within a block", text: two[:len(two)-40], err: "broken PEM"},
		{name: "cut off in DER", text: first.Bytes[:len(first.Bytes)-1], err: "parse revocation list"},
		{name: "broken base64 before a good one", text: append([]byte("-----BEGIN X509 CRL-----\n%\n-----END X509 CRL-----\n"), two...), err: "broken PEM"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			r, err := parseRevocations(tt.text)
			if tt.err != "" {
				if r != nil || err == nil || !strings.Contains(err.Error(), tt.err) {
					t.Fatalf("parseRevocations() = %v, %v, want an error with %q", r, err, tt.err)
				}
				return
			}
			if err != nil {
				t.Fatalf("parseRevocations() = %v", err)
			}
			if r.count != tt.lists || r.entries != tt.entries {
				t.Errorf("parseRevocations() = %d lists with %d entries, want %d with %d", r.count, r.entries, tt.lists, tt.entries)
			}
			if want := time.Date(2036, 1, 1, 0, 0, 0, 0, time.UTC); tt.lists > 0 && !r.nextUpdate.Equal(want) {
				t.Errorf("next update = %v, want %v, that of the first list", r.nextUpdate, want)
			}
		})
	}
}

func TestIndirect(t *testing.T) {
	field := func(tag int, content ...byte) []byte {
		der, err := asn1.Marshal([]asn1.RawValue{{Class: asn1.ClassContextSpecific, Tag: tag, Bytes: content}})
		if err != nil {
			t.Fatal(err)
		}
		return der
	}
	for name, tt := range map[string]struct {
		der  []byte
		want bool
	}{
		"empty":             {[]byte{tagSequence, 0}, false},
		"user certificates": {field(1, 0xff), false},
		"indirect":          {field(4, 0xff), true},
		"explicitly not":    {field(4, 0), false},
		"garbage":           {[]byte("garbage"), true},
		"cut off":           {[]byte{tagSequence, 2, tagIndirect, 5}, true},
	} {
		if got := indirect(tt.der); got != tt.want {
			t.Errorf("indirect(%s) = %v, want %v", name, got, tt.want)
		}
	}
}

// Whatever is in the file, it is parsed or refused, and what was parsed can be asked.
func FuzzParseRevocations(f *testing.F) {
	two := testLists(f)
	block, _ := pem.Decode(two)
	f.Add(two)
	f.Add(block.Bytes)
	f.Add([]byte("-----BEGIN X509 CRL-----\n"))
	f.Add([]byte{})
	f.Fuzz(func(t *testing.T, text []byte) {
		r, err := parseRevocations(text)
		if (r == nil) == (err == nil) {
			t.Fatalf("parseRevocations() = %v, %v", r, err)
		}
		if err != nil {
			return
		}
		n := 0
		for issuer, lists := range r.byIssuer {
			for _, l := range lists {
				n++
				for serial := range l.serials {
					cert := &x509.Certificate{RawIssuer: []byte(issuer), SerialNumber: new(big.Int).SetBytes([]byte(serial))}
					// It is listed, but not by this issuer, who has no key at all.
					if err := r.checkChain([]*x509.Certificate{cert, {Subject: pkix.Name{}}}); err != nil {
						t.Fatalf("checkChain() = %v without a signature", err)
					}
					break
				}
			}
		}
		if n != r.count {
			t.Fatalf("lists = %d, counted %d", n, r.count)
		}
	})
}
