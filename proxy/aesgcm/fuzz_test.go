package aesgcm

import (
	"bytes"
	"math/rand/v2"
	"testing"
)

// FuzzAEAD seals and opens with every implementation, compares with crypto/cipher, and changes one bit. The length of the
// record, the alignments and most bytes come from the seed, so that the fuzzer need not make long inputs.
func FuzzAEAD(f *testing.F) {
	for _, n := range []int{0, 1, 31, 32, 127, 128, 255, 256, 257, 1024, 16384} {
		f.Add(uint64(n), uint16(n), []byte("payload"), uint32(n), n%2 == 0)
	}
	f.Fuzz(func(t *testing.T, seed uint64, n uint16, begin []byte, flip uint32, inPlace bool) {
		r := rand.New(rand.NewPCG(seed, 0))
		key := random(r, 16+16*r.IntN(2))
		rec := randomRecord(r, int(n)%17001)
		copy(rec.payload, begin)
		o := newOracle(t, key)
		sealed := o.seal(&rec.nonce, rec.header, rec.payload, rec.typ)
		alignOut, alignIn := r.IntN(64), r.IntN(64)
		for _, impl := range implementations {
			a, err := impl.make(key)
			if err != nil {
				continue // TestEveryShortLength says which cannot run
			}
			checkRecord(t, a, o, rec, alignOut, alignIn, inPlace)
			changed := bytes.Clone(sealed)
			bit := int(flip) % (8 * len(changed))
			changed[bit/8] ^= 1 << (bit % 8)
			refused(t, a, rec, changed, impl.name+" and a bit flipped")
		}
	})
}
