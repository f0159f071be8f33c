// AES-GCM with 512-bit vectors: AVX512F, BW, DQ, VL, BMI2, VAES, VPCLMULQDQ. ghash.go has the mathematics of the hash: the
// representation of field elements, what H^e means here, the reduction, and the four lanes of the sum.
//
// Registers of both functions:
//
//	AX   schedule             SI   next input          R8   full chunks of 256 bytes left
//	BX   powers for the tail  DI   next output         CX   bytes of input in the tail, DX of output
//	R10  schedule.long        R9   nonce               R11-R13 scratch

#define S0 Z0 // four vectors of four blocks: counters, then keystream, then output
#define S1 Z1
#define S2 Z2
#define S3 Z3
#define D0 Z4 // the ciphertext to be hashed, every block with its bytes reversed
#define D1 Z5
#define D2 Z6
#define D3 Z7
#define SUM Z8 // four lanes, see ghash.go
#define XSUM X8
#define YSUM Y8
#define LO Z9 // a product of 255 bits in each lane is LO + MID*y^64 + HI*y^128
#define MID Z10
#define HI Z11
#define FACTOR Z12
#define XFACTOR X12
#define T0 Z13
#define XT0 X13
#define YT0 Y13
#define T1 Z14
#define XT1 X14
#define CTR Z15 // the next four counter blocks, every one with its bytes reversed
#define XCTR X15
#define RK0 Z16 // the round keys, each in all lanes; AES-128 uses RK0-RK9 and RK14
#define RK1 Z17
#define RK2 Z18
#define RK3 Z19
#define RK4 Z20
#define RK5 Z21
#define RK6 Z22
#define RK7 Z23
#define RK8 Z24
#define RK9 Z25
#define RK10 Z26
#define RK11 Z27
#define RK12 Z28
#define RK13 Z29
#define RK14 Z30
#define REV Z31 // the shuffle that reverses the bytes of a block
#define XREV X31

// The offsets of the fields of schedule.
#define POWER(e) (240+16*(21-e))
#define LONG 608

DATA reverse512<>+0(SB)/8, $0x08090a0b0c0d0e0f
DATA reverse512<>+8(SB)/8, $0x0001020304050607
GLOBL reverse512<>(SB), RODATA|NOPTR, $16

// The low half of the modulus without its 1: y^63 + y^62 + y^57.
DATA modulus512<>+0(SB)/8, $0xc200000000000000
GLOBL modulus512<>(SB), RODATA|NOPTR, $8

// The data begin with counter 2; counter 1 is for the tag.
DATA first512<>+0(SB)/8, $2
DATA first512<>+8(SB)/8, $0
DATA first512<>+16(SB)/8, $3
DATA first512<>+24(SB)/8, $0
DATA first512<>+32(SB)/8, $4
DATA first512<>+40(SB)/8, $0
DATA first512<>+48(SB)/8, $5
DATA first512<>+56(SB)/8, $0
GLOBL first512<>(SB), RODATA|NOPTR, $64

DATA four512<>+0(SB)/8, $4
DATA four512<>+8(SB)/8, $0
GLOBL four512<>(SB), RODATA|NOPTR, $16

DATA one512<>+0(SB)/8, $1
DATA one512<>+8(SB)/8, $0
GLOBL one512<>(SB), RODATA|NOPTR, $16

// LOADKEYS fills the registers that stay as they are. Uses AX.
#define LOADKEYS \
	MOVQ            LONG(AX), R10; \
	VBROADCASTI32X4 reverse512<>(SB), REV; \
	VBROADCASTI32X4 0(AX), RK0; \
	VBROADCASTI32X4 16(AX), RK1; \
	VBROADCASTI32X4 32(AX), RK2; \
	VBROADCASTI32X4 48(AX), RK3; \
	VBROADCASTI32X4 64(AX), RK4; \
	VBROADCASTI32X4 80(AX), RK5; \
	VBROADCASTI32X4 96(AX), RK6; \
	VBROADCASTI32X4 112(AX), RK7; \
	VBROADCASTI32X4 128(AX), RK8; \
	VBROADCASTI32X4 144(AX), RK9; \
	VBROADCASTI32X4 160(AX), RK10; \
	VBROADCASTI32X4 176(AX), RK11; \
	VBROADCASTI32X4 192(AX), RK12; \
	VBROADCASTI32X4 208(AX), RK13; \
	VBROADCASTI32X4 224(AX), RK14

// NONCE puts the nonce at R9 with counter zero, reversed, into the low lane of x, and zero into the others.
#define NONCE(x) \
	VMOVQ   0(R9), x; \
	VPINSRD $2, 8(R9), x, x; \
	VPSHUFB XREV, x, x

// START makes the first counters from the nonce at R9, and the sum from the header at BX: as the header is the block
// right before the first chunk, it is the last lane. Changes R11, R12.
#define START \
	NONCE(XCTR); \
	VSHUFI64X2   $0, CTR, CTR, CTR; \
	VPADDD       first512<>(SB), CTR, CTR; \
	MOVL         0(BX), R11; \
	MOVBQZX      4(BX), R12; \
	SHLQ         $32, R12; \
	ORQ          R12, R11; \
	VMOVQ        R11, XT0; \
	VPSHUFB      XREV, XT0, XT0; \
	VPXORQ       SUM, SUM, SUM; \
	VINSERTI64X2 $3, XT0, SUM, SUM

#define ROUND(key) \
	VAESENC key, S0, S0; \
	VAESENC key, S1, S1; \
	VAESENC key, S2, S2; \
	VAESENC key, S3, S3

#define LASTROUND \
	VAESENCLAST RK14, S0, S0; \
	VAESENCLAST RK14, S1, S1; \
	VAESENCLAST RK14, S2, S2; \
	VAESENCLAST RK14, S3, S3

// COUNTERS begins sixteen blocks of keystream. Changes T0.
#define COUNTERS \
	VBROADCASTI32X4 four512<>(SB), T0; \
	VPSHUFB         REV, CTR, S0; \
	VPADDD          T0, CTR, CTR; \
	VPSHUFB         REV, CTR, S1; \
	VPADDD          T0, CTR, CTR; \
	VPSHUFB         REV, CTR, S2; \
	VPADDD          T0, CTR, CTR; \
	VPSHUFB         REV, CTR, S3; \
	VPADDD          T0, CTR, CTR; \
	VPXORQ          RK0, S0, S0; \
	VPXORQ          RK0, S1, S1; \
	VPXORQ          RK0, S2, S2; \
	VPXORQ          RK0, S3, S3

// MULTIPLY sets the product to d times FACTOR, in each lane. Changes T0.
#define MULTIPLY(d) \
	VPCLMULQDQ $0x00, FACTOR, d, LO; \
	VPCLMULQDQ $0x11, FACTOR, d, HI; \
	VPCLMULQDQ $0x01, FACTOR, d, MID; \
	VPCLMULQDQ $0x10, FACTOR, d, T0; \
	VPXORQ     T0, MID, MID

// MULTIPLYADD adds d times FACTOR to the product. Changes T0, T1.
#define MULTIPLYADD(d) \
	VPCLMULQDQ $0x00, FACTOR, d, T0; \
	VPCLMULQDQ $0x11, FACTOR, d, T1; \
	VPXORQ     T0, LO, LO; \
	VPXORQ     T1, HI, HI; \
	VPCLMULQDQ $0x01, FACTOR, d, T0; \
	VPCLMULQDQ $0x10, FACTOR, d, T1; \
	VPTERNLOGQ $0x96, T0, T1, MID

// REDUCE sets HI to the product divided by y^128, modulo the modulus. Changes FACTOR, T0, LO, MID.
#define REDUCE \
	VPBROADCASTQ modulus512<>(SB), FACTOR; \
	VPCLMULQDQ   $0x00, FACTOR, LO, T0; \
	VPSHUFD      $0x4e, LO, LO; \
	VPTERNLOGQ   $0x96, T0, LO, MID; \
	VPCLMULQDQ   $0x00, FACTOR, MID, T0; \
	VPSHUFD      $0x4e, MID, MID; \
	VPTERNLOGQ   $0x96, T0, MID, HI

// The hash of the chunk in D0-D3 is SUM = SUM*H^16 + D0*H^12 + D1*H^8 + D2*H^4 + D3. SUM is multiplied last, because it
// comes out of the chunk before.
#define HASH0 VBROADCASTI32X4 POWER(12)(AX), FACTOR; MULTIPLY(D0)
#define HASH1 VBROADCASTI32X4 POWER(8)(AX), FACTOR; MULTIPLYADD(D1)
#define HASH2 VBROADCASTI32X4 POWER(4)(AX), FACTOR; MULTIPLYADD(D2)
#define HASH3 VBROADCASTI32X4 POWER(16)(AX), FACTOR; VPXORQ D3, HI, HI; MULTIPLYADD(SUM)
#define HASH4 REDUCE; VMOVDQA64 HI, SUM

// REVERSE makes what is to be hashed of the four vectors.
#define REVERSE(a, b, c, d) \
	VPSHUFB REV, a, D0; \
	VPSHUFB REV, b, D1; \
	VPSHUFB REV, c, D2; \
	VPSHUFB REV, d, D3

#define LOADINPUT \
	VMOVDQU64 0(SI), D0; \
	VMOVDQU64 64(SI), D1; \
	VMOVDQU64 128(SI), D2; \
	VMOVDQU64 192(SI), D3

// XORINPUT makes output of the keystream.
#define XORINPUT \
	VPXORQ 0(SI), S0, S0; \
	VPXORQ 64(SI), S1, S1; \
	VPXORQ 128(SI), S2, S2; \
	VPXORQ 192(SI), S3, S3

#define STORE \
	VMOVDQU64 S0, 0(DI); \
	VMOVDQU64 S1, 64(DI); \
	VMOVDQU64 S2, 128(DI); \
	VMOVDQU64 S3, 192(DI); \
	ADDQ      $256, SI; \
	ADDQ      $256, DI

// FIRSTROUNDS are the rounds of S0 alone that both lengths of key have.
#define FIRSTROUNDS \
	VPXORQ  RK0, S0, S0; \
	VAESENC RK1, S0, S0; \
	VAESENC RK2, S0, S0; \
	VAESENC RK3, S0, S0; \
	VAESENC RK4, S0, S0; \
	VAESENC RK5, S0, S0; \
	VAESENC RK6, S0, S0; \
	VAESENC RK7, S0, S0; \
	VAESENC RK8, S0, S0; \
	VAESENC RK9, S0, S0

// LONGROUNDS are the rounds of S0 alone that only a key of 32 bytes has.
#define LONGROUNDS \
	VAESENC RK10, S0, S0; \
	VAESENC RK11, S0, S0; \
	VAESENC RK12, S0, S0; \
	VAESENC RK13, S0, S0

// TAILFACTORS begins the hash of the tail of DX bytes: it sets BX to the powers for its first vector, and the product to
// the sum times its powers. Changes R11.
#define TAILFACTORS \
	LEAQ      15(DX), R11; \
	ANDQ      $~15, R11; \
	LEAQ      POWER(1)(AX), BX; \
	SUBQ      R11, BX; \
	VMOVDQU64 -64(BX), FACTOR; \
	MULTIPLY(SUM)

// TAILCOUNTERS begins four blocks of keystream in S0.
#define TAILCOUNTERS \
	VPSHUFB         REV, CTR, S0; \
	VBROADCASTI32X4 four512<>(SB), T0; \
	VPADDD          T0, CTR, CTR

// MASK sets k to those bytes of a vector that exist when n bytes are left, n not negative. Changes R11, R12.
#define MASK(n, k) \
	MOVQ    $64, R11; \
	CMPQ    n, R11; \
	CMOVQLT n, R11; \
	MOVQ    $-1, R12; \
	BZHIQ   R11, R12, R12; \
	KMOVQ   R12, k

// TAILHASH hashes the ciphertext in d and goes to the next vector of the tail.
#define TAILHASH(d) \
	VPSHUFB   REV, d, D0; \
	VMOVDQU64 (BX), FACTOR; \
	MULTIPLYADD(D0); \
	ADDQ      $64, BX; \
	ADDQ      $64, SI; \
	ADDQ      $64, DI

// LENGTHS adds the last block of the hash to the product: the lengths in bits of the header and of R8 bytes of
// ciphertext. Then it adds up the lanes to the hash in XSUM, in the order of bytes of a tag. Changes R11, R12.
#define LENGTHS \
	LEAQ          (R8*8), R12; \
	MOVL          $40, R11; \
	VMOVQ         R12, XSUM; \
	VPINSRQ       $1, R11, XSUM, XSUM; \
	VMOVDQU       POWER(1)(AX), XFACTOR; \
	MULTIPLYADD(SUM); \
	REDUCE; \
	VEXTRACTI64X4 $1, HI, YT0; \
	VPXORQ        T0, HI, SUM; \
	VEXTRACTI32X4 $1, YSUM, XT0; \
	VPXORQ        XT0, XSUM, XSUM; \
	VPSHUFB       XREV, XSUM, XSUM
