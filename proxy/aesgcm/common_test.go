package aesgcm

import (
	"crypto/aes"
	"crypto/cipher"
	"errors"
	"math/rand/v2"
	"slices"
	"testing"
)

// implementation is one way to make an AEAD. Its make returns errors.ErrUnsupported where the processor cannot run it.
type implementation struct {
	name string
	make func(key []byte) (*AEAD, error)
}

// implementations are all there are for this architecture. Other files of the tests add to them.
var implementations = []implementation{{"generic", NewGeneric}}

// new makes an AEAD, or skips the test with a reason.
func (i implementation) new(t testing.TB, key []byte) *AEAD {
	t.Helper()
	a, err := i.make(key)
	if errors.Is(err, errors.ErrUnsupported) {
		t.Skipf("this processor cannot run %s", i.name)
	}
	if err != nil {
		t.Fatal(err)
	}
	return a
}

// forEach runs a test with every implementation and both lengths of key.
func forEach(t *testing.T, test func(t *testing.T, a *AEAD, o oracle)) {
	for _, impl := range implementations {
		for _, size := range []int{16, 32} {
			t.Run(impl.name+map[int]string{16: "/aes128", 32: "/aes256"}[size], func(t *testing.T) {
				key := random(rand.New(rand.NewPCG(uint64(size), 1)), size)
				test(t, impl.new(t, key), newOracle(t, key))
			})
		}
	}
}

// oracle is crypto/cipher, used in the most direct way.
type oracle struct{ gcm cipher.AEAD }

func newOracle(t testing.TB, key []byte) oracle {
	t.Helper()
	block, err := aes.NewCipher(key)
	if err != nil {
		t.Fatal(err)
	}
	gcm, err := cipher.NewGCM(block)
	if err != nil {
		t.Fatal(err)
	}
	return oracle{gcm}
}

func (o oracle) seal(nonce *[nonceSize]byte, header, payload []byte, typ byte) []byte {
	return o.gcm.Seal(nil, nonce[:], append(slices.Clip(payload), typ), header)
}

func random(r *rand.Rand, n int) []byte {
	b := make([]byte, n)
	for i := range b {
		b[i] = byte(r.Uint32())
	}
	return b
}

// record is the input of Seal.
type record struct {
	nonce   [nonceSize]byte
	header  []byte
	payload []byte
	typ     byte
}

func randomRecord(r *rand.Rand, n int) record {
	return record{[nonceSize]byte(random(r, nonceSize)), random(r, headerSize), random(r, n), byte(r.Uint32())}
}

// guarded is a buffer between guard bytes, at an alignment of choice.
type guarded struct {
	all  []byte
	data []byte
}

const guard, guardByte = 300, 0xa5 // more than a chunk of the widest code

func newGuarded(n, alignment int) guarded {
	g := guarded{all: make([]byte, guard+alignment+n+guard)}
	for i := range g.all {
		g.all[i] = guardByte
	}
	g.data = g.all[guard+alignment:][:n:n]
	return g
}

// check fails the test when a byte outside of the first n of data was written.
func (g guarded) check(t *testing.T, n int) {
	t.Helper()
	begin := len(g.all) - guard - len(g.data)
	for i, b := range g.all {
		if b != guardByte && (i < begin || i >= begin+n) {
			t.Fatalf("byte %d of a buffer of %d was written", i-begin, n)
		}
	}
}
