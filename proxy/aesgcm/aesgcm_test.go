package aesgcm

import (
	"bytes"
	"crypto/fips140"
	"encoding/hex"
	"errors"
	"fmt"
	"math/rand/v2"
	"runtime"
	"slices"
	"testing"
)

// checkRecord seals and opens a record at some alignments, in place or not, and compares with the oracle.
func checkRecord(t *testing.T, a *AEAD, o oracle, rec record, alignOut, alignIn int, inPlace bool) {
	t.Helper()
	n := len(rec.payload)
	want := o.seal(&rec.nonce, rec.header, rec.payload, rec.typ)

	out := newGuarded(n+Overhead, alignOut)
	in := newGuarded(n, alignIn)
	if inPlace {
		in = guarded{out.all, out.data[:n]}
	}
	copy(in.data, rec.payload)
	a.Seal(out.data, &rec.nonce, rec.header, in.data, rec.typ)
	if !bytes.Equal(out.data, want) {
		t.Fatalf("Seal of %d bytes: ciphertext equal: %v, tag equal: %v", n,
			bytes.Equal(out.data[:n+1], want[:n+1]), bytes.Equal(out.data[n+1:], want[n+1:]))
	}
	out.check(t, n+Overhead)
	if !inPlace && !bytes.Equal(in.data, rec.payload) {
		t.Fatalf("Seal of %d bytes changed its input", n)
	}

	sealed := newGuarded(n+Overhead, alignIn)
	copy(sealed.data, want)
	plain := newGuarded(n+1, alignOut)
	if inPlace {
		plain = guarded{sealed.all, sealed.data[:n+1]}
	}
	if err := a.Open(plain.data, &rec.nonce, rec.header, sealed.data); err != nil {
		t.Fatalf("Open of %d bytes: %v", n, err)
	}
	if !bytes.Equal(plain.data[:n], rec.payload) || plain.data[n] != rec.typ {
		t.Fatalf("Open of %d bytes: not what was sealed", n)
	}
	if inPlace {
		sealed.check(t, n+Overhead)
		return
	}
	plain.check(t, n+1)
	if !bytes.Equal(sealed.data, want) {
		t.Fatalf("Open of %d bytes changed its input", n)
	}
}

func TestEveryShortLength(t *testing.T) {
	forEach(t, func(t *testing.T, a *AEAD, o oracle) {
		r := rand.New(rand.NewPCG(1, 2))
		for n := range 1201 {
			for _, inPlace := range []bool{false, true} {
				checkRecord(t, a, o, randomRecord(r, n), r.IntN(64), r.IntN(64), inPlace)
			}
		}
	})
}

func TestLongRecords(t *testing.T) {
	forEach(t, func(t *testing.T, a *AEAD, o oracle) {
		r := rand.New(rand.NewPCG(3, 4))
		lengths := []int{16383, 16384, 16385, 16640, 17000}
		for range 200 {
			lengths = append(lengths, r.IntN(17001))
		}
		for _, n := range lengths {
			checkRecord(t, a, o, randomRecord(r, n), r.IntN(64), r.IntN(64), r.IntN(2) == 0)
		}
	})
}

// Other lengths than any record has: an empty ciphertext is valid for Open alone, and the counter leaves its first byte.
func TestOutsideOfTLS(t *testing.T) {
	forEach(t, func(t *testing.T, a *AEAD, o oracle) {
		r := rand.New(rand.NewPCG(5, 6))
		rec := randomRecord(r, 0)
		if err := a.Open(nil, &rec.nonce, rec.header, o.gcm.Seal(nil, rec.nonce[:], nil, rec.header)); err != nil {
			t.Errorf("Open of nothing: %v", err)
		}
		checkRecord(t, a, o, randomRecord(r, 1<<20+77), 3, 5, false)
	})
}

// The sequence number is the end of the nonce: a run of it must not meet the counter, nor leave anything behind.
func TestSequence(t *testing.T) {
	forEach(t, func(t *testing.T, a *AEAD, o oracle) {
		rec := randomRecord(rand.New(rand.NewPCG(7, 8)), 333)
		for i := range 600 {
			rec.nonce[10], rec.nonce[11] = byte(i>>8), byte(i)
			checkRecord(t, a, o, rec, 0, 0, false)
		}
		rec.nonce = [nonceSize]byte(bytes.Repeat([]byte{0xff}, nonceSize))
		checkRecord(t, a, o, rec, 0, 0, false)
	})
}

// RFC 8448 section 3 has the keys and bytes of a connection. This is the first record of application data of the client.
func TestRFC8448(t *testing.T) {
	key := unhex(t, "17422dda596ed5d9acd890e3c63f5051")
	nonce := [nonceSize]byte(unhex(t, "5b78923dee08579033e523d9")) // sequence number 0
	want := unhex(t, "1703030043a23f7054b62c94d0affafe8228ba55cbefacea42f914aa66bcab3f2b9819a8a5b46b395bd54a9a20441e2b62974e1f5a"+
		"6292a2977014bd1e3deae63aeebb21694915e4")
	payload := make([]byte, 50)
	for i := range payload {
		payload[i] = byte(i)
	}
	for _, impl := range implementations {
		t.Run(impl.name, func(t *testing.T) {
			a := impl.new(t, key)
			got := bytes.Clone(want)
			a.Seal(got[headerSize:], &nonce, want[:headerSize], payload, 23)
			if !bytes.Equal(got, want) {
				t.Errorf("Seal: %x, want %x", got, want)
			}
			plain := make([]byte, len(payload)+1)
			if err := a.Open(plain, &nonce, want[:headerSize], want[headerSize:]); err != nil {
				t.Fatal(err)
			}
			if !bytes.Equal(plain, append(payload[:50:50], 23)) {
				t.Errorf("Open: %x", plain)
			}
		})
	}
}

func unhex(t *testing.T, s string) []byte {
	t.Helper()
	b, err := hex.DecodeString(s)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// The key schedule and the powers of the hash key, with keys that have an extreme form among them.
func TestManyKeys(t *testing.T) {
	for _, impl := range implementations {
		t.Run(impl.name, func(t *testing.T) {
			r := rand.New(rand.NewPCG(9, 10))
			for i := range 200 {
				key := random(r, 16+16*(i%2))
				switch i {
				case 0, 1:
					clear(key)
				case 2, 3:
					copy(key, bytes.Repeat([]byte{0xff}, 32))
				}
				checkRecord(t, impl.new(t, key), newOracle(t, key), randomRecord(r, r.IntN(700)), 0, 0, false)
			}
		})
	}
}

// refused fails the test unless Open refuses the record and leaves zeros.
func refused(t *testing.T, a *AEAD, rec record, sealed []byte, what string) {
	t.Helper()
	out := bytes.Repeat([]byte{1}, len(sealed)-TagSize)
	if err := a.Open(out, &rec.nonce, rec.header, sealed); !errors.Is(err, ErrOpen) {
		t.Errorf("%d bytes with %s: %v, want ErrOpen", len(sealed), what, err)
	}
	if !bytes.Equal(out, make([]byte, len(out))) {
		t.Errorf("%d bytes with %s: the output is not zero", len(sealed), what)
	}
}

func TestTampered(t *testing.T) {
	forEach(t, func(t *testing.T, a *AEAD, o oracle) {
		r := rand.New(rand.NewPCG(11, 12))
		for _, n := range []int{0, 1, 15, 31, 62, 127, 255, 256, 300, 900, 5000} {
			rec := randomRecord(r, n)
			sealed := o.seal(&rec.nonce, rec.header, rec.payload, rec.typ)
			flip := func(b []byte, bit int, what string) {
				b[bit/8] ^= 1 << (bit % 8)
				refused(t, a, rec, sealed, fmt.Sprintf("bit %d of the %s flipped", bit, what))
				b[bit/8] ^= 1 << (bit % 8)
			}
			for bit := range 8 * TagSize {
				flip(sealed[n+1:], bit, "tag")
			}
			for range 200 {
				flip(sealed[:n+1], r.IntN(8*(n+1)), "ciphertext")
			}
			for bit := range 8 * headerSize {
				flip(rec.header, bit, "header")
			}
			for bit := range 8 * nonceSize {
				flip(rec.nonce[:], bit, "nonce")
			}
			refused(t, a, rec, sealed[:len(sealed)-1], "its last byte missing")
			refused(t, a, rec, append(slices.Clip(sealed), 0), "a byte more")
			if err := a.Open(make([]byte, n+1), &rec.nonce, rec.header, sealed); err != nil {
				t.Errorf("the record as it was: %v", err)
			}
		}
	})
}

func TestNewRefusesLengths(t *testing.T) {
	for _, n := range []int{0, 15, 17, 24, 31, 33, 64} {
		for name, f := range map[string]func([]byte) (*AEAD, error){"New": New, "NewGeneric": NewGeneric} {
			if _, err := f(make([]byte, n)); err == nil {
				t.Errorf("%s took a key of %d bytes", name, n)
			}
		}
	}
}

func TestNew_Vector(t *testing.T) {
	a, err := New(make([]byte, 16))
	if err != nil {
		t.Fatal(err)
	}
	g, err := NewGeneric(make([]byte, 16))
	if err != nil {
		t.Fatal(err)
	}
	if g.vector != nil {
		t.Error("NewGeneric made an accelerated AEAD")
	}
	if (a.vector != nil) != (vectorSupported && !fips140.Enabled()) {
		t.Errorf("New: accelerated is %v on %s", a.vector != nil, runtime.GOARCH)
	}
}

func TestPanics(t *testing.T) {
	forEach(t, func(t *testing.T, a *AEAD, _ oracle) {
		var nonce [nonceSize]byte
		b := make([]byte, 200)
		for name, f := range map[string]func(){
			"short output of Seal":   func() { a.Seal(b[:100+Overhead-1], &nonce, b[:5], make([]byte, 100), 23) },
			"long output of Seal":    func() { a.Seal(b[:100+Overhead+1], &nonce, b[:5], make([]byte, 100), 23) },
			"header of Seal":         func() { a.Seal(b[:100+Overhead], &nonce, b[:6], make([]byte, 100), 23) },
			"overlap in Seal":        func() { a.Seal(b[:100+Overhead], &nonce, make([]byte, 5), b[1:101], 23) },
			"overlap behind in Seal": func() { a.Seal(b[50:150+Overhead], &nonce, make([]byte, 5), b[:100], 23) },
			"output of Open":         func() { _ = a.Open(b[:100], &nonce, b[:5], make([]byte, 100)) },
			"no tag":                 func() { _ = a.Open(nil, &nonce, b[:5], make([]byte, TagSize-1)) },
			"header of Open":         func() { _ = a.Open(b[:84], &nonce, b[:4], make([]byte, 100)) },
			"overlap in Open":        func() { _ = a.Open(b[:84], &nonce, make([]byte, 5), b[5:105]) },
		} {
			t.Run(name, func(t *testing.T) {
				defer func() {
					if recover() == nil {
						t.Error("no panic")
					}
				}()
				f()
			})
		}
	})
}

func TestNoAllocation(t *testing.T) {
	forEach(t, func(t *testing.T, a *AEAD, _ oracle) {
		out, payload, plain := make([]byte, 1000+Overhead), make([]byte, 1000), make([]byte, 1001)
		i := byte(0)
		allocs := testing.AllocsPerRun(100, func() {
			// As a caller would have them: on the stack.
			nonce, header := [nonceSize]byte{i}, [headerSize]byte{i}
			i++
			a.Seal(out, &nonce, header[:], payload, 23)
			if err := a.Open(plain, &nonce, header[:], out); err != nil {
				t.Fatal(err)
			}
		})
		if allocs != 0 {
			t.Errorf("%v allocations", allocs)
		}
	})
}
