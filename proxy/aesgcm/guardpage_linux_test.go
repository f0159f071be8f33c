package aesgcm

import (
	"bytes"
	"math/rand/v2"
	"os"
	"syscall"
	"testing"
)

// pages is memory between two pages that cannot be touched.
type pages []byte

func newPages(t *testing.T, n int) pages {
	t.Helper()
	page := os.Getpagesize()
	n = (n + page - 1) / page * page
	all, err := syscall.Mmap(-1, 0, n+2*page, syscall.PROT_READ|syscall.PROT_WRITE, syscall.MAP_ANON|syscall.MAP_PRIVATE)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := syscall.Munmap(all); err != nil {
			t.Error(err)
		}
	})
	for _, p := range [][]byte{all[:page], all[page+n:]} {
		if err := syscall.Mprotect(p, syscall.PROT_NONE); err != nil {
			t.Fatal(err)
		}
	}
	return all[page:][:n:n]
}

// at returns the first or the last n bytes.
func (p pages) at(n int, end bool) []byte {
	if end {
		return p[len(p)-n:]
	}
	return p[:n]
}

// The assembly must not touch a byte beside its buffers, not even to read it: the test dies if it does.
func TestGuardPages(t *testing.T) {
	forEach(t, func(t *testing.T, a *AEAD, o oracle) {
		r := rand.New(rand.NewPCG(13, 14))
		in, out, head, number := newPages(t, 4096), newPages(t, 4096), newPages(t, 1), newPages(t, 1)
		for n := range 700 {
			for _, end := range []bool{false, true} {
				rec := randomRecord(r, n)
				want := o.seal(&rec.nonce, rec.header, rec.payload, rec.typ)
				header, nonce := head.at(headerSize, end), (*[nonceSize]byte)(number.at(nonceSize, end))
				copy(header, rec.header)
				*nonce = rec.nonce

				payload, sealed := in.at(n, end), out.at(n+Overhead, end)
				copy(payload, rec.payload)
				a.Seal(sealed, nonce, header, payload, rec.typ)
				if !bytes.Equal(sealed, want) {
					t.Fatalf("Seal of %d bytes: wrong", n)
				}
				if err := a.Open(in.at(n+1, end), nonce, header, sealed); err != nil {
					t.Fatalf("Open of %d bytes: %v", n, err)
				}
			}
		}
	})
}
