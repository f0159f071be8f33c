#include "textflag.h"
#include "avx2_amd64.h"

// copyShort copies R13 bytes, at most 32, from R11 to R12. It changes R9, R11, R12 and XT1.
TEXT copyShort<>(SB), NOSPLIT|NOFRAME, $0-0
	TESTQ   $32, R13
	JZ      sixteen
	VMOVDQU (R11), T1
	VMOVDQU T1, (R12)
	RET

sixteen:
	TESTQ   $16, R13
	JZ      eight
	VMOVDQU (R11), XT1
	VMOVDQU XT1, (R12)
	ADDQ    $16, R11
	ADDQ    $16, R12

eight:
	TESTQ $8, R13
	JZ    four
	MOVQ  (R11), R9
	MOVQ  R9, (R12)
	ADDQ  $8, R11
	ADDQ  $8, R12

four:
	TESTQ $4, R13
	JZ    two
	MOVL  (R11), R9
	MOVL  R9, (R12)
	ADDQ  $4, R11
	ADDQ  $4, R12

two:
	TESTQ $2, R13
	JZ    one
	MOVW  (R11), R9
	MOVW  R9, (R12)
	ADDQ  $2, R11
	ADDQ  $2, R12

one:
	TESTQ $1, R13
	JZ    done
	MOVB  (R11), R9
	MOVB  R9, (R12)

done:
	RET

// func sealAVX2(s *schedule, out *byte, nonce *[12]byte, header, payload *byte, n int, typ byte)
TEXT ·sealAVX2(SB), NOSPLIT, $32-49
	MOVQ s+0(FP), AX
	MOVQ out+8(FP), DI
	MOVQ nonce+16(FP), R9
	MOVQ header+24(FP), BX
	MOVQ payload+32(FP), SI
	MOVQ n+40(FP), R8
	MOVQ R8, CX
	ANDQ $127, CX
	LEAQ 1(CX), DX // the type
	SHRQ $7, R8
	START
	TESTQ R8, R8
	JZ    tail

	// The first chunk is only encrypted. From then on one chunk is encrypted while the one before is hashed.
	COUNTERS
	ROUND(1)
	ROUND(2)
	ROUND(3)
	ROUND(4)
	ROUND(5)
	ROUND(6)
	ROUND(7)
	ROUND(8)
	ROUND(9)
	TESTQ R10, R10
	JZ    firstlast
	ROUND(10)
	ROUND(11)
	ROUND(12)
	ROUND(13)

firstlast:
	LASTROUND
	XORINPUT
	STORE
	REVERSE(S0, S1, S2, S3)
	DECQ R8
	JZ   hash

chunk:
	COUNTERS
	ROUND(1)
	HASH0
	ROUND(2)
	ROUND(3)
	HASH1
	ROUND(4)
	ROUND(5)
	HASH2
	ROUND(6)
	ROUND(7)
	HASH3
	ROUND(8)
	ROUND(9)
	HASH4
	TESTQ R10, R10
	JZ    last
	ROUND(10)
	ROUND(11)
	ROUND(12)
	ROUND(13)

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
	TAGCOUNTER
	FIRSTROUNDS
	TESTQ R10, R10
	JZ    taglast
	LONGROUNDS

taglast:
	VAESENCLAST KEY(14)(AX), X0, TAG
	TAILFACTORS

tailvector:
	TAILCOUNTERS
	FIRSTROUNDS
	TESTQ R10, R10
	JZ    taillast
	LONGROUNDS

taillast:
	VBROADCASTI128 KEY(14)(AX), T1
	VAESENCLAST    T1, S0, S0
	CMPQ           CX, $32
	JLT            part
	VPXOR          (SI), S0, S0
	VMOVDQU        S0, (DI)
	TAILHASH(S0)
	SUBQ           $32, CX
	SUBQ           $32, DX
	JMP            tailvector

part:
	// The last CX bytes of payload, the type, and zeros.
	VPXOR   T0, T0, T0
	VMOVDQU T0, 0(SP)
	MOVQ    SI, R11
	LEAQ    0(SP), R12
	MOVQ    CX, R13
	CALL    copyShort<>(SB)
	MOVB    typ+48(FP), R9
	MOVB    R9, 0(SP)(CX*1)
	VPXOR   0(SP), S0, S0
	VMOVDQU S0, 0(SP)
	LEAQ    0(SP), R11
	MOVQ    DI, R12
	MOVQ    DX, R13
	CALL    copyShort<>(SB)
	LEAQ    keep256<>+32(SB), R11
	SUBQ    DX, R11
	VPAND   (R11), S0, S0
	TAILHASH(S0)

	MOVQ    n+40(FP), R8
	INCQ    R8
	LENGTHS
	VPXOR   TAG, XSUM, XSUM
	MOVQ    out+8(FP), DI
	VMOVDQU XSUM, (DI)(R8*1)
	VZEROUPPER
	RET

// func openAVX2(s *schedule, out *byte, nonce *[12]byte, header, sealed *byte, n int) bool
TEXT ·openAVX2(SB), NOSPLIT, $32-49
	MOVQ s+0(FP), AX
	MOVQ out+8(FP), DI
	MOVQ nonce+16(FP), R9
	MOVQ header+24(FP), BX
	MOVQ sealed+32(FP), SI
	MOVQ n+40(FP), R8
	MOVQ R8, DX
	ANDQ $127, DX
	SHRQ $7, R8
	START
	TESTQ R8, R8
	JZ    tail

chunk:
	COUNTERS
	LOADINPUT
	REVERSE(D0, D1, D2, D3)
	ROUND(1)
	HASH0
	ROUND(2)
	ROUND(3)
	HASH1
	ROUND(4)
	ROUND(5)
	HASH2
	ROUND(6)
	ROUND(7)
	HASH3
	ROUND(8)
	ROUND(9)
	HASH4
	TESTQ R10, R10
	JZ    last
	ROUND(10)
	ROUND(11)
	ROUND(12)
	ROUND(13)

last:
	LASTROUND
	XORINPUT
	STORE
	DECQ R8
	JNZ  chunk

tail:
	TAGCOUNTER
	FIRSTROUNDS
	TESTQ R10, R10
	JZ    taglast
	LONGROUNDS

taglast:
	VAESENCLAST KEY(14)(AX), X0, TAG
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
	VBROADCASTI128 KEY(14)(AX), T1
	VAESENCLAST    T1, S0, S0
	CMPQ           DX, $32
	JLT            part
	VMOVDQU        (SI), D1
	VPXOR          D1, S0, S0
	VMOVDQU        S0, (DI)
	TAILHASH(D1)
	SUBQ           $32, DX
	JNZ            tailvector
	JMP            verify

part:
	// The last DX bytes of ciphertext, and zeros.
	VPXOR   T0, T0, T0
	VMOVDQU T0, 0(SP)
	MOVQ    SI, R11
	LEAQ    0(SP), R12
	MOVQ    DX, R13
	CALL    copyShort<>(SB)
	VMOVDQU 0(SP), D1
	VPXOR   D1, S0, S0
	VMOVDQU S0, 0(SP)
	LEAQ    0(SP), R11
	MOVQ    DI, R12
	MOVQ    DX, R13
	CALL    copyShort<>(SB)
	VPXOR   T0, T0, T0
	VMOVDQU T0, 0(SP) // it was plaintext
	TAILHASH(D1)

verify:
	MOVQ   n+40(FP), R8
	LENGTHS
	VPXOR  TAG, XSUM, XSUM
	MOVQ   sealed+32(FP), SI
	VPXOR  (SI)(R8*1), XSUM, XSUM
	VPTEST XSUM, XSUM
	SETEQ  ret+48(FP)
	VZEROUPPER
	RET
