#include "textflag.h"
#include "avx512_amd64.h"

// func sealAVX512(s *schedule, out *byte, nonce *[12]byte, header, payload *byte, n int, typ byte)
TEXT ·sealAVX512(SB), NOSPLIT, $0-49
	MOVQ s+0(FP), AX
	MOVQ out+8(FP), DI
	MOVQ nonce+16(FP), R9
	MOVQ header+24(FP), BX
	MOVQ payload+32(FP), SI
	MOVQ n+40(FP), R8
	MOVQ R8, CX
	ANDQ $255, CX
	LEAQ 1(CX), DX // the type
	SHRQ $8, R8
	LOADKEYS
	START
	TESTQ R8, R8
	JZ    tail

	// The first chunk is only encrypted. From then on one chunk is encrypted while the one before is hashed.
	COUNTERS
	ROUND(RK1)
	ROUND(RK2)
	ROUND(RK3)
	ROUND(RK4)
	ROUND(RK5)
	ROUND(RK6)
	ROUND(RK7)
	ROUND(RK8)
	ROUND(RK9)
	TESTQ R10, R10
	JZ    firstlast
	ROUND(RK10)
	ROUND(RK11)
	ROUND(RK12)
	ROUND(RK13)

firstlast:
	LASTROUND
	XORINPUT
	STORE
	REVERSE(S0, S1, S2, S3)
	DECQ R8
	JZ   hash

chunk:
	COUNTERS
	ROUND(RK1)
	HASH0
	ROUND(RK2)
	ROUND(RK3)
	HASH1
	ROUND(RK4)
	ROUND(RK5)
	HASH2
	ROUND(RK6)
	ROUND(RK7)
	HASH3
	ROUND(RK8)
	ROUND(RK9)
	HASH4
	TESTQ R10, R10
	JZ    last
	ROUND(RK10)
	ROUND(RK11)
	ROUND(RK12)
	ROUND(RK13)

last:
	LASTROUND
	XORINPUT
	STORE
	REVERSE(S0, S1, S2, S3)
	DECQ R8
	JNZ  chunk

hash:
	HASH0
	HASH1
	HASH2
	HASH3
	HASH4

tail:
	NONCE(X0)
	VPADDD one512<>(SB), X0, X0
	VPSHUFB XREV, X0, X0
	FIRSTROUNDS
	TESTQ R10, R10
	JZ    taglast
	LONGROUNDS

taglast:
	VAESENCLAST RK14, S0, S1 // the mask of the tag
	TAILFACTORS
	MOVBLZX typ+48(FP), R11
	VPBROADCASTB R11, S2

tailvector:
	TAILCOUNTERS
	FIRSTROUNDS
	TESTQ R10, R10
	JZ    taillast
	LONGROUNDS

taillast:
	VAESENCLAST RK14, S0, S0
	MASK(CX, K1)
	MASK(DX, K2)
	KANDNQ      K2, K1, K3 // where the type is
	VMOVDQU8.Z  (SI), K1, D0
	VMOVDQU8    S2, K3, D0
	VPXORQ      D0, S0, S0
	VMOVDQU8.Z  S0, K2, S0
	VMOVDQU8    S0, K2, (DI)
	TAILHASH(S0)
	SUBQ        $64, CX
	SUBQ        $64, DX
	JGT         tailvector

	MOVQ    n+40(FP), R8
	INCQ    R8
	LENGTHS
	VPXORQ  X1, XSUM, XSUM
	MOVQ    out+8(FP), DI
	VMOVDQU XSUM, (DI)(R8*1)
	VZEROUPPER
	RET

// func openAVX512(s *schedule, out *byte, nonce *[12]byte, header, sealed *byte, n int) bool
TEXT ·openAVX512(SB), NOSPLIT, $0-49
	MOVQ s+0(FP), AX
	MOVQ out+8(FP), DI
	MOVQ nonce+16(FP), R9
	MOVQ header+24(FP), BX
	MOVQ sealed+32(FP), SI
	MOVQ n+40(FP), R8
	MOVQ R8, DX
	ANDQ $255, DX
	SHRQ $8, R8
	LOADKEYS
	START
	TESTQ R8, R8
	JZ    tail

chunk:
	COUNTERS
	LOADINPUT
	REVERSE(D0, D1, D2, D3)
	ROUND(RK1)
	HASH0
	ROUND(RK2)
	ROUND(RK3)
	HASH1
	ROUND(RK4)
	ROUND(RK5)
	HASH2
	ROUND(RK6)
	ROUND(RK7)
	HASH3
	ROUND(RK8)
	ROUND(RK9)
	HASH4
	TESTQ R10, R10
	JZ    last
	ROUND(RK10)
	ROUND(RK11)
	ROUND(RK12)
	ROUND(RK13)

last:
	LASTROUND
	XORINPUT
	STORE
	DECQ R8
	JNZ  chunk

tail:
	NONCE(X0)
	VPADDD one512<>(SB), X0, X0
	VPSHUFB XREV, X0, X0
	FIRSTROUNDS
	TESTQ R10, R10
	JZ    taglast
	LONGROUNDS

taglast:
	VAESENCLAST RK14, S0, S1 // the mask of the tag
	TAILFACTORS
	TESTQ DX, DX
	JZ    verify

tailvector:
	TAILCOUNTERS
	FIRSTROUNDS
	TESTQ R10, R10
	JZ    taillast
	LONGROUNDS

taillast:
	VAESENCLAST RK14, S0, S0
	MASK(DX, K2)
	VMOVDQU8.Z  (SI), K2, D1
	VPXORQ      D1, S0, S0
	VMOVDQU8    S0, K2, (DI)
	TAILHASH(D1)
	SUBQ        $64, DX
	JGT         tailvector

verify:
	MOVQ    n+40(FP), R8
	LENGTHS
	VPXORQ  X1, XSUM, XSUM
	MOVQ    sealed+32(FP), SI
	VPXOR   (SI)(R8*1), XSUM, XSUM
	VPTEST  XSUM, XSUM
	SETEQ   ret+48(FP)
	VZEROUPPER
	RET
