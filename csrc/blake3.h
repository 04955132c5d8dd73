/* BLAKE3 truncated to 128 bits, for short input first (BLAKE3 paper, sections 2.1 to 2.5; unkeyed hash mode only).
 *
 * Three code paths give the same bytes: portable C, SSE4.1 (one block, its four rows in four registers) and AVX2 (the same,
 * and eight blocks side by side: eight short inputs of a batch, or eight chunks of a long one). The path is chosen at
 * run time, so no -march flag is needed. Words are little-endian in memory, as on every machine Sadik runs on.
 *
 * Each extension that includes this header has its own copy of the chosen path; call b3_path_best once at import.
 */
#ifndef SADIK_BLAKE3_H
#define SADIK_BLAKE3_H

#include <stddef.h>
#include <stdint.h>
#include <string.h>

#if defined(__x86_64__) && defined(__GNUC__)
#define B3_X86 1
#include <immintrin.h>
#else
#define B3_X86 0
#endif

#if defined(__BYTE_ORDER__) && __BYTE_ORDER__ != __ORDER_LITTLE_ENDIAN__
#error "blake3.h reads words as they lie in memory: little-endian only"
#endif

#define B3_INLINE static inline __attribute__((always_inline))

enum { B3_PORTABLE = 0, B3_SSE41 = 1, B3_AVX2 = 2 };
enum { B3_CHUNK_START = 1, B3_CHUNK_END = 2, B3_PARENT = 4, B3_ROOT = 8 };
enum { B3_BLOCK = 64, B3_CHUNK = 1024, B3_DIGEST = 16, B3_WAYS = 8 };

/* The first 32 bits of the fractional parts of the square roots of the first eight primes (as SHA-256). */
static const uint32_t B3_IV[8] = {
    0x6A09E667u, 0xBB67AE85u, 0x3C6EF372u, 0xA54FF53Au, 0x510E527Fu, 0x9B05688Cu, 0x1F83D9ABu, 0x5BE0CD19u,
};

/* Row r: which message word stands at each place of round r; each row is the paper's permutation of the row before. */
static const uint8_t B3_ORDER[7][16] = {
    {0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15},
    {2, 6, 3, 10, 7, 0, 4, 13, 1, 11, 12, 5, 9, 14, 15, 8},
    {3, 4, 10, 12, 13, 2, 7, 14, 6, 5, 9, 0, 11, 15, 8, 1},
    {10, 7, 12, 9, 14, 3, 13, 15, 4, 0, 11, 2, 5, 8, 1, 6},
    {12, 13, 9, 11, 15, 10, 14, 8, 7, 2, 5, 3, 0, 1, 6, 4},
    {9, 14, 11, 5, 8, 12, 15, 1, 13, 3, 0, 10, 2, 6, 4, 7},
    {11, 15, 5, 0, 1, 9, 8, 6, 14, 10, 2, 12, 3, 4, 7, 13},
};

/* ---- portable ---- */

B3_INLINE uint32_t b3_rotate(uint32_t word, int bits) { return (word >> bits) | (word << (32 - bits)); }

B3_INLINE void b3_g(uint32_t *v, int a, int b, int c, int d, uint32_t x, uint32_t y) {
    v[a] += v[b] + x;
    v[d] = b3_rotate(v[d] ^ v[a], 16);
    v[c] += v[d];
    v[b] = b3_rotate(v[b] ^ v[c], 12);
    v[a] += v[b] + y;
    v[d] = b3_rotate(v[d] ^ v[a], 8);
    v[c] += v[d];
    v[b] = b3_rotate(v[b] ^ v[c], 7);
}

/* Replace the chaining value `cv` by the first half of the compression's output. */
static void b3_compress_portable(uint32_t cv[8], const uint8_t *block, uint32_t length, uint64_t counter, uint32_t flags) {
    uint32_t m[16];
    uint32_t v[16];
    memcpy(m, block, sizeof m);
    memcpy(v, cv, 32);
    memcpy(v + 8, B3_IV, 16);
    v[12] = (uint32_t)counter;
    v[13] = (uint32_t)(counter >> 32);
    v[14] = length;
    v[15] = flags;
    for (int r = 0; r < 7; r++) {
        const uint8_t *o = B3_ORDER[r];
        b3_g(v, 0, 4, 8, 12, m[o[0]], m[o[1]]);
        b3_g(v, 1, 5, 9, 13, m[o[2]], m[o[3]]);
        b3_g(v, 2, 6, 10, 14, m[o[4]], m[o[5]]);
        b3_g(v, 3, 7, 11, 15, m[o[6]], m[o[7]]);
        b3_g(v, 0, 5, 10, 15, m[o[8]], m[o[9]]);
        b3_g(v, 1, 6, 11, 12, m[o[10]], m[o[11]]);
        b3_g(v, 2, 7, 8, 13, m[o[12]], m[o[13]]);
        b3_g(v, 3, 4, 9, 14, m[o[14]], m[o[15]]);
    }
    for (int i = 0; i < 8; i++) cv[i] = v[i] ^ v[i + 8];
}

#if B3_X86

/* ---- one block in four registers ---- */

#define B3_TARGET_SSE __attribute__((target("sse4.1")))
#define B3_TARGET_AVX2 __attribute__((target("avx2")))
#define B3_LANES(first, second, third, fourth) _MM_SHUFFLE(fourth, third, second, first)

/* Two lanes of x, then two lanes of y (shufps, which has no integer name). */
#define B3_PICK(x, y, x0, x1, y0, y1) \
    _mm_castps_si128(_mm_shuffle_ps(_mm_castsi128_ps(x), _mm_castsi128_ps(y), B3_LANES(x0, x1, y0, y1)))
/* x with its lane `to` replaced by lane `from` of y. */
#define B3_PUT(x, to, y, from) \
    _mm_castps_si128(_mm_insert_ps(_mm_castsi128_ps(x), _mm_castsi128_ps(y), ((from) << 6) | ((to) << 4)))

static inline __attribute__((always_inline, target("sse4.1"))) void
b3_g_rows(__m128i *a, __m128i *b, __m128i *c, __m128i *d, __m128i x, __m128i y) {
    const __m128i by16 = _mm_setr_epi8(2, 3, 0, 1, 6, 7, 4, 5, 10, 11, 8, 9, 14, 15, 12, 13);
    const __m128i by8 = _mm_setr_epi8(1, 2, 3, 0, 5, 6, 7, 4, 9, 10, 11, 8, 13, 14, 15, 12);
    /* The message joins `a` first: that sum is not on the chain of dependencies, the one with `b` is. */
    *a = _mm_add_epi32(_mm_add_epi32(*a, x), *b);
    *d = _mm_shuffle_epi8(_mm_xor_si128(*d, *a), by16);
    *c = _mm_add_epi32(*c, *d);
    *b = _mm_xor_si128(*b, *c);
    *b = _mm_or_si128(_mm_srli_epi32(*b, 12), _mm_slli_epi32(*b, 20));
    *a = _mm_add_epi32(_mm_add_epi32(*a, y), *b);
    *d = _mm_shuffle_epi8(_mm_xor_si128(*d, *a), by8);
    *c = _mm_add_epi32(*c, *d);
    *b = _mm_xor_si128(*b, *c);
    *b = _mm_or_si128(_mm_srli_epi32(*b, 7), _mm_slli_epi32(*b, 25));
}

static inline __attribute__((always_inline, target("sse4.1"))) void
b3_compress_rows(uint32_t cv[8], const uint8_t *block, uint32_t length, uint64_t counter, uint32_t flags) {
    const __m128i m0 = _mm_loadu_si128((const __m128i *)block);
    const __m128i m1 = _mm_loadu_si128((const __m128i *)(block + 16));
    const __m128i m2 = _mm_loadu_si128((const __m128i *)(block + 32));
    const __m128i m3 = _mm_loadu_si128((const __m128i *)(block + 48));
    /* The four message vectors of a round: first and second words of the column step, then of the diagonal step. The latter
       are held one lane to the right, because the diagonal step leaves row b in place and moves the other rows instead:
       b is the row that is finished last. */
    __m128i column_x = B3_PICK(m0, m1, 0, 2, 0, 2); /* places 0 2 4 6 */
    __m128i column_y = B3_PICK(m0, m1, 1, 3, 1, 3); /* places 1 3 5 7 */
    __m128i diagonal_x = _mm_shuffle_epi32(B3_PICK(m2, m3, 0, 2, 0, 2), B3_LANES(3, 0, 1, 2)); /* 14 8 10 12 */
    __m128i diagonal_y = _mm_shuffle_epi32(B3_PICK(m2, m3, 1, 3, 1, 3), B3_LANES(3, 0, 1, 2)); /* 15 9 11 13 */
    __m128i a = _mm_loadu_si128((const __m128i *)cv);
    __m128i b = _mm_loadu_si128((const __m128i *)(cv + 4));
    __m128i c = _mm_loadu_si128((const __m128i *)B3_IV);
    __m128i d = _mm_setr_epi32((int)(uint32_t)counter, (int)(uint32_t)(counter >> 32), (int)length, (int)flags);

    for (int r = 0;; r++) {
        b3_g_rows(&a, &b, &c, &d, column_x, column_y);
        a = _mm_shuffle_epi32(a, B3_LANES(3, 0, 1, 2));
        c = _mm_shuffle_epi32(c, B3_LANES(1, 2, 3, 0));
        d = _mm_shuffle_epi32(d, B3_LANES(2, 3, 0, 1));
        b3_g_rows(&a, &b, &c, &d, diagonal_x, diagonal_y);
        a = _mm_shuffle_epi32(a, B3_LANES(1, 2, 3, 0));
        c = _mm_shuffle_epi32(c, B3_LANES(3, 0, 1, 2));
        d = _mm_shuffle_epi32(d, B3_LANES(2, 3, 0, 1));
        if (r == 6) break;
        /* B3_ORDER's second row, written for these vectors: places (2 3 7 4), (6 10 0 13), (15 1 12 9) and (8 11 5 14). */
        const __m128i x = column_x, y = column_y, dx = diagonal_x, dy = diagonal_y;
        const __m128i high = _mm_unpackhi_epi32(dx, dy);                     /* 10 11 12 13 */
        const __m128i mixed = _mm_unpackhi_epi32(dy, y);                     /* 11 5 13 7 */
        const __m128i nearly = B3_PUT(_mm_blend_epi16(dy, dx, 0xC0), 2, y, 0); /* 15 9 1 12 */
        column_x = _mm_shuffle_epi32(B3_PICK(x, y, 1, 2, 1, 3), B3_LANES(0, 2, 3, 1));
        column_y = _mm_shuffle_epi32(B3_PICK(x, high, 0, 3, 0, 3), B3_LANES(1, 2, 0, 3));
        diagonal_x = _mm_shuffle_epi32(nearly, B3_LANES(0, 2, 3, 1));
        diagonal_y = _mm_shuffle_epi32(B3_PICK(dx, mixed, 1, 0, 0, 1), B3_LANES(0, 2, 3, 1));
    }
    _mm_storeu_si128((__m128i *)cv, _mm_xor_si128(a, c));
    _mm_storeu_si128((__m128i *)(cv + 4), _mm_xor_si128(b, d));
}

B3_TARGET_SSE static void
b3_compress_sse41(uint32_t cv[8], const uint8_t *block, uint32_t length, uint64_t counter, uint32_t flags) {
    b3_compress_rows(cv, block, length, counter, flags);
}

/* The same source in three-operand encoding: fewer register moves. */
B3_TARGET_AVX2 static void
b3_compress_avx2(uint32_t cv[8], const uint8_t *block, uint32_t length, uint64_t counter, uint32_t flags) {
    b3_compress_rows(cv, block, length, counter, flags);
}

/* ---- eight blocks side by side: register i holds word i of all eight ---- */

#define B3_INLINE_AVX2 static inline __attribute__((always_inline, target("avx2")))

B3_INLINE_AVX2 void b3_g8(__m256i *v, int a, int b, int c, int d, __m256i x, __m256i y) {
    const __m256i by16 = _mm256_setr_epi8(2, 3, 0, 1, 6, 7, 4, 5, 10, 11, 8, 9, 14, 15, 12, 13,
                                          2, 3, 0, 1, 6, 7, 4, 5, 10, 11, 8, 9, 14, 15, 12, 13);
    const __m256i by8 = _mm256_setr_epi8(1, 2, 3, 0, 5, 6, 7, 4, 9, 10, 11, 8, 13, 14, 15, 12,
                                         1, 2, 3, 0, 5, 6, 7, 4, 9, 10, 11, 8, 13, 14, 15, 12);
    v[a] = _mm256_add_epi32(_mm256_add_epi32(v[a], x), v[b]);
    v[d] = _mm256_shuffle_epi8(_mm256_xor_si256(v[d], v[a]), by16);
    v[c] = _mm256_add_epi32(v[c], v[d]);
    v[b] = _mm256_xor_si256(v[b], v[c]);
    v[b] = _mm256_or_si256(_mm256_srli_epi32(v[b], 12), _mm256_slli_epi32(v[b], 20));
    v[a] = _mm256_add_epi32(_mm256_add_epi32(v[a], y), v[b]);
    v[d] = _mm256_shuffle_epi8(_mm256_xor_si256(v[d], v[a]), by8);
    v[c] = _mm256_add_epi32(v[c], v[d]);
    v[b] = _mm256_xor_si256(v[b], v[c]);
    v[b] = _mm256_or_si256(_mm256_srli_epi32(v[b], 7), _mm256_slli_epi32(v[b], 25));
}

/* The order of a round is a compile-time constant here, so every m[...] is a fixed place in memory or a register. */
#define B3_ROUND8(r)                                                     \
    b3_g8(v, 0, 4, 8, 12, m[B3_ORDER[r][0]], m[B3_ORDER[r][1]]);         \
    b3_g8(v, 1, 5, 9, 13, m[B3_ORDER[r][2]], m[B3_ORDER[r][3]]);         \
    b3_g8(v, 2, 6, 10, 14, m[B3_ORDER[r][4]], m[B3_ORDER[r][5]]);        \
    b3_g8(v, 3, 7, 11, 15, m[B3_ORDER[r][6]], m[B3_ORDER[r][7]]);        \
    b3_g8(v, 0, 5, 10, 15, m[B3_ORDER[r][8]], m[B3_ORDER[r][9]]);        \
    b3_g8(v, 1, 6, 11, 12, m[B3_ORDER[r][10]], m[B3_ORDER[r][11]]);      \
    b3_g8(v, 2, 7, 8, 13, m[B3_ORDER[r][12]], m[B3_ORDER[r][13]]);       \
    b3_g8(v, 3, 4, 9, 14, m[B3_ORDER[r][14]], m[B3_ORDER[r][15]]);

B3_INLINE_AVX2 void
b3_compress8(__m256i cv[8], const __m256i m[16], __m256i counter_low, __m256i counter_high, __m256i length, __m256i flags) {
    __m256i v[16];
    for (int i = 0; i < 8; i++) v[i] = cv[i];
    for (int i = 0; i < 4; i++) v[8 + i] = _mm256_set1_epi32((int)B3_IV[i]);
    v[12] = counter_low;
    v[13] = counter_high;
    v[14] = length;
    v[15] = flags;
    B3_ROUND8(0)
    B3_ROUND8(1)
    B3_ROUND8(2)
    B3_ROUND8(3)
    B3_ROUND8(4)
    B3_ROUND8(5)
    B3_ROUND8(6)
    for (int i = 0; i < 8; i++) cv[i] = _mm256_xor_si256(v[i], v[i + 8]);
}

/* Eight rows of eight words become eight columns, in place. */
B3_INLINE_AVX2 void b3_transpose8(__m256i r[8]) {
    __m256i pair[8];
    __m256i quad[8];
    for (int i = 0; i < 8; i += 2) {
        pair[i] = _mm256_unpacklo_epi32(r[i], r[i + 1]);
        pair[i + 1] = _mm256_unpackhi_epi32(r[i], r[i + 1]);
    }
    for (int i = 0; i < 8; i += 4) {
        quad[i] = _mm256_unpacklo_epi64(pair[i], pair[i + 2]);
        quad[i + 1] = _mm256_unpackhi_epi64(pair[i], pair[i + 2]);
        quad[i + 2] = _mm256_unpacklo_epi64(pair[i + 1], pair[i + 3]);
        quad[i + 3] = _mm256_unpackhi_epi64(pair[i + 1], pair[i + 3]);
    }
    for (int i = 0; i < 4; i++) {
        r[i] = _mm256_permute2x128_si256(quad[i], quad[i + 4], 0x20);
        r[i + 4] = _mm256_permute2x128_si256(quad[i], quad[i + 4], 0x31);
    }
}

/* 64 bytes of ones, 64 of zeros: read from place 64 - n it keeps the first n bytes of a block. */
static const uint8_t B3_KEEP[128] = {
#define B3_ONES 255, 255, 255, 255, 255, 255, 255, 255, 255, 255, 255, 255, 255, 255, 255, 255
    B3_ONES, B3_ONES, B3_ONES, B3_ONES,
#undef B3_ONES
};

/* Digests of eight inputs of one chunk at most that take the same number of blocks. `stop` ends the buffer that holds them
   all: a last block is read whole and masked where the buffer reaches that far, which it nearly always does, and copied
   where it does not. */
B3_TARGET_AVX2 static void b3_lanes8_avx2(
    const uint8_t *const inputs[8], const uint32_t lengths[8], uint32_t blocks, const uint8_t *stop, uint8_t *const outs[8]
) {
    __m256i cv[8];
    for (int i = 0; i < 8; i++) cv[i] = _mm256_set1_epi32((int)B3_IV[i]);
    for (uint32_t block = 0; block < blocks; block++) {
        const int last = block == blocks - 1;
        __m256i m[16];
        for (int i = 0; i < 8; i++) {
            const uint8_t *from = inputs[i] + (size_t)block * B3_BLOCK;
            uint8_t padded[B3_BLOCK];
            __m256i low, high;
            if (last && stop - from < B3_BLOCK) {
                memset(padded, 0, sizeof padded);
                memcpy(padded, from, lengths[i] - block * B3_BLOCK);
                from = padded;
            }
            low = _mm256_loadu_si256((const __m256i *)from);
            high = _mm256_loadu_si256((const __m256i *)(from + 32));
            if (last) {
                const uint8_t *keep = B3_KEEP + B3_BLOCK - (lengths[i] - block * B3_BLOCK);
                low = _mm256_and_si256(low, _mm256_loadu_si256((const __m256i *)keep));
                high = _mm256_and_si256(high, _mm256_loadu_si256((const __m256i *)(keep + 32)));
            }
            m[i] = low;
            m[i + 8] = high;
        }
        b3_transpose8(m);
        b3_transpose8(m + 8);
        const __m256i length = last ? _mm256_sub_epi32(_mm256_loadu_si256((const __m256i *)lengths),
                                                       _mm256_set1_epi32((int)(block * B3_BLOCK)))
                                    : _mm256_set1_epi32(B3_BLOCK);
        const int flags = (block == 0 ? B3_CHUNK_START : 0) | (last ? B3_CHUNK_END | B3_ROOT : 0);
        b3_compress8(cv, m, _mm256_setzero_si256(), _mm256_setzero_si256(), length, _mm256_set1_epi32(flags));
    }
    /* Only words 0 to 3 are wanted: a transpose of four rows leaves inputs i and i + 4 in the halves of one register. */
    const __m256i p0 = _mm256_unpacklo_epi32(cv[0], cv[1]), p1 = _mm256_unpackhi_epi32(cv[0], cv[1]);
    const __m256i p2 = _mm256_unpacklo_epi32(cv[2], cv[3]), p3 = _mm256_unpackhi_epi32(cv[2], cv[3]);
    const __m256i done[4] = {
        _mm256_unpacklo_epi64(p0, p2), _mm256_unpackhi_epi64(p0, p2),
        _mm256_unpacklo_epi64(p1, p3), _mm256_unpackhi_epi64(p1, p3),
    };
    for (int i = 0; i < 4; i++) {
        _mm_storeu_si128((__m128i *)outs[i], _mm256_castsi256_si128(done[i]));
        _mm_storeu_si128((__m128i *)outs[i + 4], _mm256_extracti128_si256(done[i], 1));
    }
}

/* Chaining values of eight whole chunks that lie one after another; the first one has number `counter`. */
B3_TARGET_AVX2 static void b3_chunks8_avx2(const uint8_t *input, uint64_t counter, uint32_t out[8][8]) {
    __m256i cv[8];
    uint32_t low[8], high[8];
    for (int i = 0; i < 8; i++) {
        cv[i] = _mm256_set1_epi32((int)B3_IV[i]);
        low[i] = (uint32_t)(counter + (uint64_t)i);
        high[i] = (uint32_t)((counter + (uint64_t)i) >> 32);
    }
    for (int block = 0; block < B3_CHUNK / B3_BLOCK; block++) {
        __m256i m[16];
        for (int i = 0; i < 8; i++) {
            const uint8_t *from = input + (size_t)i * B3_CHUNK + (size_t)block * B3_BLOCK;
            m[i] = _mm256_loadu_si256((const __m256i *)from);
            m[i + 8] = _mm256_loadu_si256((const __m256i *)(from + 32));
        }
        b3_transpose8(m);
        b3_transpose8(m + 8);
        const int flags = (block == 0 ? B3_CHUNK_START : 0) | (block == B3_CHUNK / B3_BLOCK - 1 ? B3_CHUNK_END : 0);
        b3_compress8(cv, m, _mm256_loadu_si256((const __m256i *)low), _mm256_loadu_si256((const __m256i *)high),
                     _mm256_set1_epi32(B3_BLOCK), _mm256_set1_epi32(flags));
    }
    b3_transpose8(cv);
    for (int i = 0; i < 8; i++) _mm256_storeu_si256((__m256i *)out[i], cv[i]);
}

#endif /* B3_X86 */

/* ---- any input ---- */

static int b3_path = B3_PORTABLE;

/* The fastest path this processor runs. */
static inline int b3_path_best(void) {
#if B3_X86
    __builtin_cpu_init();
    if (__builtin_cpu_supports("avx2")) return B3_AVX2;
    if (__builtin_cpu_supports("sse4.1")) return B3_SSE41;
#endif
    return B3_PORTABLE;
}

B3_INLINE void b3_compress(uint32_t cv[8], const uint8_t *block, uint32_t length, uint64_t counter, uint32_t flags) {
#if B3_X86
    if (b3_path == B3_AVX2) {
        b3_compress_avx2(cv, block, length, counter, flags);
        return;
    }
    if (b3_path == B3_SSE41) {
        b3_compress_sse41(cv, block, length, counter, flags);
        return;
    }
#endif
    b3_compress_portable(cv, block, length, counter, flags);
}

/* The chaining value of one chunk of at most 1024 bytes; `last` is B3_ROOT when it is the whole input, else 0. */
static void b3_chunk(const uint8_t *input, size_t length, uint64_t counter, uint32_t last, uint32_t cv[8]) {
    uint32_t start = B3_CHUNK_START;
    memcpy(cv, B3_IV, 32);
    while (length > B3_BLOCK) {
        b3_compress(cv, input, B3_BLOCK, counter, start);
        start = 0;
        input += B3_BLOCK;
        length -= B3_BLOCK;
    }
    uint8_t padded[B3_BLOCK];
    if (length < B3_BLOCK) {
        memset(padded, 0, sizeof padded);
        if (length) memcpy(padded, input, length);
        input = padded;
    }
    b3_compress(cv, input, (uint32_t)length, counter, start | B3_CHUNK_END | last);
}

/* The chaining value of two children, written over the left one. */
static void b3_parent(uint32_t left[8], const uint32_t right[8], uint32_t last) {
    uint32_t block[16];
    memcpy(block, left, 32);
    memcpy(block + 8, right, 32);
    memcpy(left, B3_IV, 32);
    b3_compress(left, (const uint8_t *)block, B3_BLOCK, 0, B3_PARENT | last);
}

/* More than one chunk: whole subtrees wait on a stack, one for each bit of the number of chunks seen, and are
   joined as that number carries. The last chunk never goes on it, so no join but the final one can be the root. */
static void b3_tree(const uint8_t *input, size_t length, uint32_t root[8]) {
    uint32_t stack[56][8]; /* 2**54 chunks are all that 64 bits of length can give, and eight chunks are pushed singly */
    uint32_t last[8];
    int depth = 0;
    uint64_t chunks = 0;
    while (length > B3_CHUNK) {
        uint32_t ready[B3_WAYS][8];
        int count = 1;
#if B3_X86
        if (b3_path == B3_AVX2 && length > B3_WAYS * B3_CHUNK) {
            b3_chunks8_avx2(input, chunks, ready);
            count = B3_WAYS;
        } else
#endif
            b3_chunk(input, B3_CHUNK, chunks, 0, ready[0]);
        for (int i = 0; i < count; i++) {
            memcpy(stack[depth++], ready[i], 32);
            for (uint64_t carry = ++chunks; (carry & 1) == 0; carry >>= 1) {
                depth--;
                b3_parent(stack[depth - 1], stack[depth], 0);
            }
        }
        input += (size_t)count * B3_CHUNK;
        length -= (size_t)count * B3_CHUNK;
    }
    b3_chunk(input, length, chunks, 0, last);
    while (depth > 1) {
        depth--;
        b3_parent(stack[depth], last, 0);
        memcpy(last, stack[depth], 32);
    }
    b3_parent(stack[0], last, B3_ROOT);
    memcpy(root, stack[0], 32);
}

/* The first 16 bytes of BLAKE3 of any input. `input` may be NULL when `length` is 0. */
static inline void b3_digest(const uint8_t *input, size_t length, uint8_t out[B3_DIGEST]) {
    uint32_t cv[8];
    if (length <= B3_CHUNK)
        b3_chunk(input, length, 0, B3_ROOT, cv);
    else
        b3_tree(input, length, cv);
    memcpy(out, cv, B3_DIGEST);
}

/* How many blocks an input of one chunk takes: 1 to 16. */
B3_INLINE uint32_t b3_blocks(size_t length) { return length ? (uint32_t)((length - 1) / B3_BLOCK) + 1 : 1; }

/* Digests of eight inputs that all take `blocks` blocks, at most one chunk, within a buffer that ends at `stop`. */
static inline void b3_lanes8(
    const uint8_t *const inputs[8], const uint32_t lengths[8], uint32_t blocks, const uint8_t *stop, uint8_t *const outs[8]
) {
#if B3_X86
    if (b3_path == B3_AVX2) {
        b3_lanes8_avx2(inputs, lengths, blocks, stop, outs);
        return;
    }
#endif
    for (int i = 0; i < B3_WAYS; i++) b3_digest(inputs[i], lengths[i], outs[i]);
    (void)blocks;
    (void)stop;
}

#endif
