package aesgcm

import (
	"fmt"
	"testing"
)

// forEachBench runs bench with both implementations, lengths of keys and some lengths of payload.
func forEachBench(b *testing.B, bench func(b *testing.B, a *AEAD, n int)) {
	for _, impl := range implementations {
		for _, keySize := range []int{16, 32} {
			for _, n := range []int{64, 1024, 4096, 16384} {
				b.Run(fmt.Sprintf("%s/aes%d/%d", impl.name, keySize*8, n), func(b *testing.B) {
					a := impl.new(b, make([]byte, keySize))
					b.SetBytes(int64(n))
					b.ReportAllocs()
					bench(b, a, n)
				})
			}
		}
	}
}

func BenchmarkSeal(b *testing.B) {
	forEachBench(b, func(b *testing.B, a *AEAD, n int) {
		var nonce [nonceSize]byte
		header, payload, out := make([]byte, headerSize), make([]byte, n), make([]byte, n+Overhead)
		for b.Loop() {
			a.Seal(out, &nonce, header, payload, 23)
		}
	})
}

func BenchmarkOpen(b *testing.B) {
	forEachBench(b, func(b *testing.B, a *AEAD, n int) {
		var nonce [nonceSize]byte
		header, sealed, out := make([]byte, headerSize), make([]byte, n+Overhead), make([]byte, n+1)
		a.Seal(sealed, &nonce, header, make([]byte, n), 23)
		for b.Loop() {
			if err := a.Open(out, &nonce, header, sealed); err != nil {
				b.Fatal(err)
			}
		}
	})
}
