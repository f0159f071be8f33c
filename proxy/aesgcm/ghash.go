package aesgcm

import "encoding/binary"

// The mathematics of the hash, for the assembly (NIST SP 800-38D sections 6.3 and 6.4 define it).
//
// Blocks are polynomials modulo x^128+x^7+x^2+x+1, and the first bit of a block is the coefficient of x^0. A block whose
// bytes are reversed, read as a little-endian integer, has that coefficient in bit 127. So we call the bits powers of y,
// with x^i = y^(127-i), and compute modulo the reversed polynomial
//
//	P = y^128 + y^127 + y^126 + y^121 + 1 = y^128 + Q*y^64 + 1    with Q = y^63 + y^62 + y^57.
//
// The product of GCM is then a*b*y^-127 mod P. The carry-less multiplication gives c = a*b. It is divided by y^64 twice:
// adding the lowest word c0 times P makes that word zero, so c/y^64 = (c + c0*P)/y^64, which is the rest of c, plus c0*Q,
// plus c0*y^64. With a word for each power of y^64 and + for exclusive or:
//
//	c3 c2 c1 c0  ->  c3  c2+c0  c1  +  c0*Q     (c0*Q has two words)
//
// In registers LO, MID, HI that mean LO + MID*y^64 + HI*y^128, adding c1 and c0 is adding LO with its words swapped:
//
//	MID += swap(LO)  + LO.low*Q         then   HI += swap(MID) + MID.low*Q
//
// and HI is a*b*y^-128 mod P. The missing y is put into the powers of the hash key H beforehand: H^e stands for the
// reversed block of H^e times y mod P. The same multiplication makes H^(e+1) of H^e and H^1.
//
// The hash of the blocks B1...Bn is B1*H^n + B2*H^(n-1) + ... + Bn*H^1. A vector of four blocks has a lane for each. The
// sum of the lanes s0...s3 is kept such that
//
//	hash of all so far = s0*H^4 + s1*H^3 + s2*H^2 + s3*H^1
//
// which means that the last vector of blocks is added to it as it is. So the next sixteen blocks D0...D3 are taken in by
//
//	s = s*H^16 + D0*H^12 + D1*H^8 + D2*H^4 + D3
//
// with the same power in all lanes, the lanes never meet, and there is one reduction for sixteen blocks. The m last
// blocks and the block of the lengths are taken in with
//
//	s times the lanes H^(m+5)...H^(m+2), the next blocks times H^(m+1)..., and the block of the lengths times H^1
//
// and only then the lanes are added up. The same holds with two lanes and half of all numbers in the narrow code.

// hashKey makes H^1 of the block of H: it reverses the bytes and multiplies by y.
func hashKey(block [16]byte) [16]byte {
	high, low := binary.BigEndian.Uint64(block[:]), binary.BigEndian.Uint64(block[8:])
	carry := -(high >> 63) // all ones, if y^128 is to be replaced by the rest of P
	high, low = high<<1|low>>63, low<<1
	high ^= carry & (0xc2 << 56)
	low ^= carry & 1
	var h [16]byte
	binary.LittleEndian.PutUint64(h[:], low)
	binary.LittleEndian.PutUint64(h[8:], high)
	return h
}
