// AES-GCM with 256-bit vectors: AVX2, VAES, VPCLMULQDQ, for processors without AVX-512. Same scheme as avx512_amd64.s with
// half of the width: a chunk is 128 bytes, a vector two blocks, and the sum has two lanes. There are only 16 registers,
// so the round keys come from memory; and no masks, so the last bytes go through 32 bytes of stack.
//
// Registers of both functions:
//
//	AX   schedule             SI   next input          R8   full chunks of 128 bytes left
//	BX   powers for the tail  DI   next output         CX   bytes of input in the tail, DX of output
//	R10  schedule.long        R9   nonce, later scratch    R11-R13 scratch

#define S0 Y0 // four vectors of two blocks: counters, then keystream, then output
#define S1 Y1
#define S2 Y2
#define S3 Y3
#define TAG X3 // after the chunks: the mask of the tag
#define D0 Y4 // the ciphertext to be hashed, every block with its bytes reversed
#define D1 Y5
#define D2 Y6
#define D3 Y7
#define SUM Y8 // two lanes, see ghash.go
#define XSUM X8
#define LO Y9 // a product of 255 bits in each lane is LO + MID*y^64 + HI*y^128
#define MID Y10
#define HI Y11
#define XHI X11
#define FACTOR Y12
#define XFACTOR X12
#define T0 Y13
#define XT0 X13
#define T1 Y14
#define XT1 X14
#define CTR Y15 // the next two counter blocks, every one with its bytes reversed
#define XCTR X15

// The offsets of the fields of schedule.
#define KEY(i) (16*(i))
#define POWER(e) (240+16*(21-e))
#define LONG 608

// The shuffle that reverses the bytes of a block.
DATA reverse256<>+0(SB)/8, $0x08090a0b0c0d0e0f
DATA reverse256<>+8(SB)/8, $0x0001020304050607
DATA reverse256<>+16(SB)/8, $0x08090a0b0c0d0e0f
DATA reverse256<>+24(SB)/8, $0x0001020304050607
GLOBL reverse256<>(SB), RODATA|NOPTR, $32

// The low half of the modulus without its 1: y^63 + y^62 + y^57.
DATA modulus256<>+0(SB)/8, $0xc200000000000000
GLOBL modulus256<>(SB), RODATA|NOPTR, $8

// The data begin with counter 2; counter 1 is for the tag.
DATA first256<>+0(SB)/8, $2
DATA first256<>+8(SB)/8, $0
DATA first256<>+16(SB)/8, $3
DATA first256<>+24(SB)/8, $0
GLOBL first256<>(SB), RODATA|NOPTR, $32

DATA two256<>+0(SB)/8, $2
DATA two256<>+8(SB)/8, $0
DATA two256<>+16(SB)/8, $2
DATA two256<>+24(SB)/8, $0
GLOBL two256<>(SB), RODATA|NOPTR, $32

DATA one256<>+0(SB)/8, $1
DATA one256<>+8(SB)/8, $0
GLOBL one256<>(SB), RODATA|NOPTR, $16

// The 32 bytes that begin n before the middle keep the first n bytes of a vector.
DATA keep256<>+0(SB)/8, $-1
DATA keep256<>+8(SB)/8, $-1
DATA keep256<>+16(SB)/8, $-1
DATA keep256<>+24(SB)/8, $-1
DATA keep256<>+32(SB)/8, $0
DATA keep256<>+40(SB)/8, $0
DATA keep256<>+48(SB)/8, $0
DATA keep256<>+56(SB)/8, $0
GLOBL keep256<>(SB), RODATA|NOPTR, $64

// NONCE puts the nonce at R9 with counter zero, reversed, into x.
#define NONCE(x) \
	VMOVQ   0(R9), x; \
	VPINSRD $2, 8(R9), x, x; \
	VPSHUFB reverse256<>(SB), x, x

// START makes the first counters from the nonce at R9, and the sum from the header at BX: as the header is the block
// right before the first chunk, it is the last lane. Changes R11, R12.
#define START \
	MOVQ        LONG(AX), R10; \
	NONCE(XCTR); \
	VINSERTI128 $1, XCTR, CTR, CTR; \
	VPADDD      first256<>(SB), CTR, CTR; \
	MOVL        0(BX), R11; \
	MOVBQZX     4(BX), R12; \
	SHLQ        $32, R12; \
	ORQ         R12, R11; \
	VMOVQ       R11, XT0; \
	VPSHUFB     reverse256<>(SB), XT0, XT0; \
	VPXOR       SUM, SUM, SUM; \
	VINSERTI128 $1, XT0, SUM, SUM

// COUNTERS begins eight blocks of keystream. Changes T0, T1.
#define COUNTERS \
	VMOVDQU        reverse256<>(SB), T0; \
	VPSHUFB        T0, CTR, S0; \
	VPADDD         two256<>(SB), CTR, CTR; \
	VPSHUFB        T0, CTR, S1; \
	VPADDD         two256<>(SB), CTR, CTR; \
	VPSHUFB        T0, CTR, S2; \
	VPADDD         two256<>(SB), CTR, CTR; \
	VPSHUFB        T0, CTR, S3; \
	VPADDD         two256<>(SB), CTR, CTR; \
	VBROADCASTI128 KEY(0)(AX), T1; \
	VPXOR          T1, S0, S0; \
	VPXOR          T1, S1, S1; \
	VPXOR          T1, S2, S2; \
	VPXOR          T1, S3, S3

// ROUND does round i. Changes T1.
#define ROUND(i) \
	VBROADCASTI128 KEY(i)(AX), T1; \
	VAESENC        T1, S0, S0; \
	VAESENC        T1, S1, S1; \
	VAESENC        T1, S2, S2; \
	VAESENC        T1, S3, S3

// LASTROUND changes T1.
#define LASTROUND \
	VBROADCASTI128 KEY(14)(AX), T1; \
	VAESENCLAST    T1, S0, S0; \
	VAESENCLAST    T1, S1, S1; \
	VAESENCLAST    T1, S2, S2; \
	VAESENCLAST    T1, S3, S3

// MULTIPLY sets the product to d times FACTOR, in each lane. Changes T0.
#define MULTIPLY(d) \
	VPCLMULQDQ $0x00, FACTOR, d, LO; \
	VPCLMULQDQ $0x11, FACTOR, d, HI; \
	VPCLMULQDQ $0x01, FACTOR, d, MID; \
	VPCLMULQDQ $0x10, FACTOR, d, T0; \
	VPXOR      T0, MID, MID

// MULTIPLYADD adds d times FACTOR to the product. Changes T0, T1.
#define MULTIPLYADD(d) \
	VPCLMULQDQ $0x00, FACTOR, d, T0; \
	VPCLMULQDQ $0x11, FACTOR, d, T1; \
	VPXOR      T0, LO, LO; \
	VPXOR      T1, HI, HI; \
	VPCLMULQDQ $0x01, FACTOR, d, T0; \
	VPCLMULQDQ $0x10, FACTOR, d, T1; \
	VPXOR      T0, MID, MID; \
	VPXOR      T1, MID, MID

// REDUCE sets HI to the product divided by y^128, modulo the modulus. Changes FACTOR, T0, LO, MID.
#define REDUCE \
	VPBROADCASTQ modulus256<>(SB), FACTOR; \
	VPCLMULQDQ   $0x00, FACTOR, LO, T0; \
	VPSHUFD      $0x4e, LO, LO; \
	VPXOR        LO, MID, MID; \
	VPXOR        T0, MID, MID; \
	VPCLMULQDQ   $0x00, FACTOR, MID, T0; \
	VPSHUFD      $0x4e, MID, MID; \
	VPXOR        MID, HI, HI; \
	VPXOR        T0, HI, HI

// The hash of the chunk in D0-D3 is SUM = SUM*H^8 + D0*H^6 + D1*H^4 + D2*H^2 + D3. SUM is multiplied last, because it
// comes out of the chunk before.
#define HASH0 VBROADCASTI128 POWER(6)(AX), FACTOR; MULTIPLY(D0)
#define HASH1 VBROADCASTI128 POWER(4)(AX), FACTOR; MULTIPLYADD(D1)
#define HASH2 VBROADCASTI128 POWER(2)(AX), FACTOR; MULTIPLYADD(D2)
#define HASH3 VBROADCASTI128 POWER(8)(AX), FACTOR; VPXOR D3, HI, HI; MULTIPLYADD(SUM)
#define HASH4 REDUCE; VMOVDQA HI, SUM

#define LOADINPUT \
	VMOVDQU 0(SI), D0; \
	VMOVDQU 32(SI), D1; \
	VMOVDQU 64(SI), D2; \
	VMOVDQU 96(SI), D3

// REVERSE makes what is to be hashed of the four vectors. Changes T0.
#define REVERSE(a, b, c, d) \
	VMOVDQU reverse256<>(SB), T0; \
	VPSHUFB T0, a, D0; \
	VPSHUFB T0, b, D1; \
	VPSHUFB T0, c, D2; \
	VPSHUFB T0, d, D3

// XORINPUT makes output of the keystream.
#define XORINPUT \
	VPXOR 0(SI), S0, S0; \
	VPXOR 32(SI), S1, S1; \
	VPXOR 64(SI), S2, S2; \
	VPXOR 96(SI), S3, S3

#define STORE \
	VMOVDQU S0, 0(DI); \
	VMOVDQU S1, 32(DI); \
	VMOVDQU S2, 64(DI); \
	VMOVDQU S3, 96(DI); \
	SUBQ    $-128, SI; \
	SUBQ    $-128, DI

// ROUND1 does round i of S0 alone. Changes T1.
#define ROUND1(i) VBROADCASTI128 KEY(i)(AX), T1; VAESENC T1, S0, S0

// FIRSTROUNDS are the rounds of S0 alone that both lengths of key have. Changes T1.
#define FIRSTROUNDS \
	VBROADCASTI128 KEY(0)(AX), T1; \
	VPXOR          T1, S0, S0; \
	ROUND1(1); \
	ROUND1(2); \
	ROUND1(3); \
	ROUND1(4); \
	ROUND1(5); \
	ROUND1(6); \
	ROUND1(7); \
	ROUND1(8); \
	ROUND1(9)

// LONGROUNDS are the rounds of S0 alone that only a key of 32 bytes has. Changes T1.
#define LONGROUNDS \
	ROUND1(10); \
	ROUND1(11); \
	ROUND1(12); \
	ROUND1(13)

// TAGCOUNTER begins the mask of the tag in S0.
#define TAGCOUNTER \
	NONCE(X0); \
	VPADDD  one256<>(SB), X0, X0; \
	VPSHUFB reverse256<>(SB), X0, X0

// TAILFACTORS begins the hash of the tail of DX bytes: it sets BX to the powers for its first vector, and the product to
// the sum times its powers. Changes R11, T0.
#define TAILFACTORS \
	LEAQ    15(DX), R11; \
	ANDQ    $~15, R11; \
	LEAQ    POWER(1)(AX), BX; \
	SUBQ    R11, BX; \
	VMOVDQU -32(BX), FACTOR; \
	MULTIPLY(SUM)

// TAILCOUNTERS begins two blocks of keystream in S0.
#define TAILCOUNTERS \
	VPSHUFB reverse256<>(SB), CTR, S0; \
	VPADDD  two256<>(SB), CTR, CTR

// TAILHASH hashes the ciphertext in d and goes to the next vector of the tail.
#define TAILHASH(d) \
	VPSHUFB reverse256<>(SB), d, D0; \
	VMOVDQU (BX), FACTOR; \
	MULTIPLYADD(D0); \
	ADDQ    $32, BX; \
	ADDQ    $32, SI; \
	ADDQ    $32, DI

// LENGTHS adds the last block of the hash to the product: the lengths in bits of the header and of R8 bytes of
// ciphertext. Then it adds up the lanes to the hash in XSUM, in the order of bytes of a tag. Changes R11, R12.
#define LENGTHS \
	LEAQ         (R8*8), R12; \
	MOVL         $40, R11; \
	VMOVQ        R12, XSUM; \
	VPINSRQ      $1, R11, XSUM, XSUM; \
	VMOVDQU      POWER(1)(AX), XFACTOR; \
	MULTIPLYADD(SUM); \
	REDUCE; \
	VEXTRACTI128 $1, HI, XT0; \
	VPXOR        XT0, XHI, XSUM; \
	VPSHUFB      reverse256<>(SB), XSUM, XSUM
