package hbone

import (
	"errors"
	"io"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/net/http/httpguts"
	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"
)

// FuzzHeaderBlocks compares what the engine makes of two header blocks, one after
// the other, with the decoder of golang.org/x/net and the rules of RFC 9113 §8,
// written down once more.
func FuzzHeaderBlocks(f *testing.F) {
	seed := func(fields ...string) []byte {
		var b strings.Builder
		e := hpack.NewEncoder(&b)
		for i := 0; i < len(fields); i += 2 {
			if err := e.WriteField(hpack.HeaderField{Name: fields[i], Value: fields[i+1]}); err != nil {
				f.Fatal(err)
			}
		}
		return []byte(b.String())
	}
	connect := []string{":method", "CONNECT", ":authority", "10.0.0.1:80"}
	f.Add(seed(append(connect, "baggage", "a=b")...), []byte{0x82, 0x84, 0x86, 0xbe})
	f.Add(appendRequest(nil, &Request{Authority: "a:1", Header: Header{{"x", "y"}}}), seed(append(connect, "te", "gzip")...))
	f.Add(seed(":method", "GET", ":scheme", "https", ":path", "/", ":authority", "a"), seed("a", "b", ":authority", "a"))
	f.Add(append([]byte{0x40, 0, 0}, strings.Repeat("\xbe", 3000)...), []byte{0x3f, 0xe1, 0x1f})
	f.Add(append(seed("x", strings.Repeat("y", 3900)), strings.Repeat("\xbe", 20)...), []byte{})
	f.Fuzz(func(t *testing.T, first, second []byte) {
		c := fuzzConn(false, true)
		defer c.end(io.EOF)
		reference := hpack.NewDecoder(4096, nil)
		for _, p := range [][]byte{first, second} {
			got, err := c.decode(p)
			fields, wantErr := reference.DecodeFull(p)
			size := 0
			for _, field := range fields {
				size += int(field.Size())
			}
			long := size > int(c.cfg.Limits.HeaderList)
			if err != nil {
				var code *frameError
				if !errors.As(err, &code) || !code.connection {
					t.Fatalf("decode() = %v, want an error of the tunnel", err)
				}
				if calm := code.code == http2.ErrCodeEnhanceYourCalm; wantErr == nil && (!calm || !long) {
					t.Fatalf("decode() = %v for a block of %d bytes that is sound", err, size)
				}
				return
			}
			if wantErr != nil || long {
				t.Fatalf("decoded what is not sound: %v, %d bytes", wantErr, size)
			}
			bad := badRequest(fields)
			if got.badRequest() != bad {
				t.Fatalf("bad = %t, want %t for %q", got.badRequest(), bad, fields)
			}
			if trailers := !malformed(fields) && !slices.ContainsFunc(fields, hpack.HeaderField.IsPseudo); got.trailers() != trailers {
				t.Fatalf("trailers = %t, want %t for %q", got.trailers(), trailers, fields)
			}
			if bad {
				continue
			}
			var method, authority string
			var header Header
			for _, field := range fields {
				switch {
				case field.Name == ":method":
					method = field.Value
				case field.Name == ":authority":
					authority = field.Value
				case !field.IsPseudo():
					header = append(header, Field{field.Name, field.Value})
				}
			}
			if diff := cmp.Diff(Request{method, authority, header}, got.Request); diff != "" {
				t.Fatalf("requests differ (-want +got):\n%s", diff)
			}
		}
	})
}

// badRequest is what a server must reset, by RFC 9113 §8.3.1 and §8.5.
func badRequest(fields []hpack.HeaderField) bool {
	count := map[string]int{}
	method := ""
	for _, f := range fields {
		count[f.Name]++
		if f.Name == ":method" {
			method = f.Value
		}
	}
	switch {
	case malformed(fields) || count[":method"] == 0:
		return true
	case method == http2Connect:
		return count[":scheme"]+count[":path"] > 0
	}
	return count[":scheme"] == 0 || count[":path"] == 0
}

const http2Connect = "CONNECT"

// malformed is what RFC 9113 §8.2 and §8.3 forbid any request.
func malformed(fields []hpack.HeaderField) bool {
	seen := map[string]bool{}
	regular := false
	for _, f := range fields {
		name, value := f.Name, f.Value
		if !httpguts.ValidHeaderFieldValue(value) || strings.ToLower(name) != name || !httpguts.ValidHeaderFieldName(strings.TrimPrefix(name, ":")) {
			return true
		}
		if !f.IsPseudo() {
			regular = true
			if slices.Contains([]string{"connection", "transfer-encoding", "keep-alive", "proxy-connection", "upgrade"}, name) ||
				name == "te" && value != "trailers" ||
				name == "content-length" && (value == "" || strings.Trim(value, "0123456789") != "") {
				return true
			}
			continue
		}
		wrong := regular || seen[name]
		switch name {
		case ":method":
			wrong = wrong || !httpguts.ValidHeaderFieldName(value)
		case ":authority":
			wrong = wrong || value == "" || strings.ContainsFunc(value, func(r rune) bool {
				return r <= ' ' || r >= 0x7f || strings.ContainsRune("/?#\\\"<>^`{|}", r)
			})
		case ":path":
			wrong = wrong || value == ""
		case ":scheme":
		default:
			return true
		}
		if wrong {
			return true
		}
		seen[name] = true
	}
	return false
}
