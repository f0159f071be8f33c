package aesgcm

import (
	"crypto/aes"
	"encoding/binary"
	"fmt"
	"unsafe"

	"golang.org/x/sys/cpu"
)

// The widths of vectors that this processor has. The package cpu also knows that the system keeps the registers.
var (
	avx2Supported   = cpu.X86.HasAES && cpu.X86.HasPCLMULQDQ && cpu.X86.HasAVX2 && wideAES()
	avx512Supported = avx2Supported && cpu.X86.HasBMI2 &&
		cpu.X86.HasAVX512F && cpu.X86.HasAVX512BW && cpu.X86.HasAVX512DQ && cpu.X86.HasAVX512VL
	vectorSupported = avx2Supported
)

// wideAES asks the processor for VAES and VPCLMULQDQ. The package cpu tells of them only together with AVX-512. Every
// processor with AVX2 can be asked.
func wideAES() bool {
	const vaes, vpclmulqdq = 1 << 9, 1 << 10
	return cpu.X86.HasAVX2 && leaf7()&(vaes|vpclmulqdq) == vaes|vpclmulqdq
}

// vector does the work with vectors of several blocks. It does not change after newVector.
type vector struct {
	schedule schedule
	wide     bool // with the code for 512 bits
}

const (
	// keyCount is the number of round keys of AES-256. AES-128 has four less.
	keyCount = 15
	// maxPower is the highest power of the hash key that the end of a record needs: see TAILFACTORS in the assembly.
	maxPower = 21
)

// schedule is what the assembly gets; it knows the offsets.
type schedule struct {
	// keys are the round keys in their order, but that of the last round is always the last here.
	keys [keyCount][16]byte
	// powers are the powers of the hash key as described in ghash.go, the highest first, H^1 at index maxPower-1. The two
	// after it are zero: they are loaded together with the ones before, and multiplied with nothing.
	powers [maxPower + 2][16]byte
	// long is not zero if the rounds that only AES-256 has are to be done.
	long uint64
}

// leaf7 returns ECX of CPUID leaf 7, sub-leaf 0.
func leaf7() (ecx uint32)

func subWord(w uint32) uint32

//go:noescape
func multiply(product, a, b *[16]byte)

//go:noescape
func sealAVX512(s *schedule, out *byte, nonce *[nonceSize]byte, header, payload *byte, n int, typ byte)

//go:noescape
func openAVX512(s *schedule, out *byte, nonce *[nonceSize]byte, header, sealed *byte, n int) bool

//go:noescape
func sealAVX2(s *schedule, out *byte, nonce *[nonceSize]byte, header, payload *byte, n int, typ byte)

//go:noescape
func openAVX2(s *schedule, out *byte, nonce *[nonceSize]byte, header, sealed *byte, n int) bool

func newVector(key []byte) (*vector, error) {
	block, err := aes.NewCipher(key)
	if err != nil {
		return nil, fmt.Errorf("aesgcm: making the cipher: %w", err)
	}
	v := vector{wide: avx512Supported}
	v.schedule.expand(key)
	var h [16]byte
	block.Encrypt(h[:], h[:])
	v.schedule.raise(h)
	return &v, nil
}

// expand sets the round keys as FIPS 197 section 5.2 says.
func (s *schedule) expand(key []byte) {
	words := len(key) / 4
	var w [4 * keyCount]uint32
	for i := range words {
		w[i] = binary.LittleEndian.Uint32(key[4*i:])
	}
	rounds := words + 6
	constant := uint32(1)
	for i := words; i < 4*(rounds+1); i++ {
		t := w[i-1]
		switch {
		case i%words == 0:
			t = subWord(t>>8|t<<24) ^ constant
			constant = constant<<1 ^ constant>>7*0x11b
		case words == 8 && i%words == 4:
			t = subWord(t)
		}
		w[i] = w[i-words] ^ t
	}
	for i := range rounds + 1 {
		at := i
		if i == rounds {
			at = keyCount - 1
		}
		for j := range 4 {
			binary.LittleEndian.PutUint32(s.keys[at][4*j:], w[4*i+j])
		}
	}
	if words == 8 {
		s.long = 1
	}
}

// raise sets the powers of the hash key.
func (s *schedule) raise(key [16]byte) {
	const one = maxPower - 1 // the index of H^1
	s.powers[one] = hashKey(key)
	for i := one - 1; i >= 0; i-- {
		multiply(&s.powers[i], &s.powers[i+1], &s.powers[one])
	}
}

func (v *vector) seal(out []byte, nonce *[nonceSize]byte, header, payload []byte, typ byte) {
	if v.wide {
		sealAVX512(&v.schedule, &out[0], nonce, &header[0], unsafe.SliceData(payload), len(payload), typ)
		return
	}
	sealAVX2(&v.schedule, &out[0], nonce, &header[0], unsafe.SliceData(payload), len(payload), typ)
}

func (v *vector) open(out []byte, nonce *[nonceSize]byte, header, sealed []byte) bool {
	n := len(sealed) - TagSize
	if v.wide {
		return openAVX512(&v.schedule, unsafe.SliceData(out), nonce, &header[0], &sealed[0], n)
	}
	return openAVX2(&v.schedule, unsafe.SliceData(out), nonce, &header[0], &sealed[0], n)
}
