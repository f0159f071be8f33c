#include "textflag.h"

// What New needs, in instructions that every processor with the vector code has. It runs in constant time.

DATA modulus<>+0(SB)/8, $0xc200000000000000
GLOBL modulus<>(SB), RODATA|NOPTR, $8

// func subWord(w uint32) uint32
//
// The last round of AES is SubBytes, ShiftRows and the addition of the key. With w in all four columns ShiftRows changes
// nothing, and the key is zero here.
TEXT ·subWord(SB), NOSPLIT, $0-12
	MOVL        w+0(FP), AX
	VMOVD       AX, X0
	VPSHUFD     $0, X0, X0
	VPXOR       X1, X1, X1
	VAESENCLAST X1, X0, X0
	VMOVD       X0, AX
	MOVL        AX, ret+8(FP)
	RET

// func multiply(product, a, b *[16]byte)
//
// ghash.go says what the product is and why this is its reduction.
TEXT ·multiply(SB), NOSPLIT, $0-24
	MOVQ       product+0(FP), DI
	MOVQ       a+8(FP), AX
	MOVQ       b+16(FP), BX
	VMOVDQU    (AX), X0
	VMOVDQU    (BX), X1
	VPCLMULQDQ $0x00, X0, X1, X2 // X2 + X3*y^64 + X4*y^128
	VPCLMULQDQ $0x01, X0, X1, X3
	VPCLMULQDQ $0x10, X0, X1, X5
	VPXOR      X5, X3, X3
	VPCLMULQDQ $0x11, X0, X1, X4
	VMOVQ      modulus<>(SB), X6
	VPCLMULQDQ $0x00, X6, X2, X5
	VPSHUFD    $0x4e, X2, X2
	VPXOR      X5, X3, X3
	VPXOR      X2, X3, X3
	VPCLMULQDQ $0x00, X6, X3, X5
	VPSHUFD    $0x4e, X3, X3
	VPXOR      X5, X4, X4
	VPXOR      X3, X4, X4
	VMOVDQU    X4, (DI)
	RET

// func leaf7() (ecx uint32)
TEXT ·leaf7(SB), NOSPLIT, $0-4
	MOVL  $7, AX
	XORL  CX, CX
	CPUID
	MOVL  CX, ecx+0(FP)
	RET
