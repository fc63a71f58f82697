/* What Cython cannot say: AVX-512 with GFNI, for the bit shuffle and for planes.
 *
 * The formats are those of bitshuffle.py and planes.py, byte for byte. Callers ask simd_init() first;
 * where it says 0 (another CPU, another compiler) the rest must not be called.
 * Included by one module only (bitshuffle): the tables are static. */
#ifndef COLDMEM_SIMD_H
#define COLDMEM_SIMD_H
#include <stdint.h>

#if defined(__x86_64__) && (defined(__clang__) || __GNUC__ >= 9)
#include <immintrin.h>
#define SIMD_FN __attribute__((target("avx512f,avx512bw,avx512vl,avx512vbmi,avx512vbmi2,gfni,bmi2,popcnt")))
#define SIMD_INLINE SIMD_FN static inline __attribute__((always_inline))

/* Byte permutations. A zmm register has 64 / w items of w bytes; in brackets the address bits of a
 * byte from the top: i item (ihi: which eight, ilo: which of the eight), j byte of the item, t bit of
 * the byte, z register. Bit matrices want their rows in reverse. */
static uint8_t simd_octets[4][64] __attribute__((aligned(64)));  /* (ihi ilo j) to (ihi j ~ilo) */
static uint8_t simd_items[4][64] __attribute__((aligned(64)));   /* its inverse, without the ~ */
static uint8_t simd_outer[4][64] __attribute__((aligned(64)));   /* (z ihi j) to (j z ihi) */
static uint8_t simd_inner[4][64] __attribute__((aligned(64)));   /* its inverse */
static uint8_t simd_swap[2][64] __attribute__((aligned(64)));    /* (a b) to (b a); to (b ~a) */

/* Whether this CPU has it all. Called under the GIL; the tables are written by the first call only. */
static int simd_init(void) {
    static int ready = 0;
    if (ready) return 1;
    __builtin_cpu_init();
    if (!__builtin_cpu_supports("avx512bw") || !__builtin_cpu_supports("avx512vl")
        || !__builtin_cpu_supports("avx512vbmi") || !__builtin_cpu_supports("avx512vbmi2")
        || !__builtin_cpu_supports("gfni") || !__builtin_cpu_supports("bmi2"))
        return 0;
    for (int d = 0; d < 64; d++) {
        for (int k = 0; k < 4; k++) {
            int w = 1 << k, octet = d >> 3 >> k, j = (d >> 3) & (w - 1);
            int outer = (d & (64 / w - 1)) * w + d / (64 / w);
            simd_octets[k][d] = (uint8_t)((octet * 8 + 7 - (d & 7)) * w + j);
            simd_items[k][(octet * 8 + (d & 7)) * w + j] = (uint8_t)d;
            simd_outer[k][d] = (uint8_t)outer;
            simd_inner[k][outer] = (uint8_t)d;
        }
        simd_swap[0][d] = (uint8_t)((d & 7) * 8 + (d >> 3));
        simd_swap[1][d] = (uint8_t)((7 - (d & 7)) * 8 + (d >> 3));
    }
    ready = 1;
    return 1;
}

SIMD_INLINE __m512i permute(const uint8_t *table, __m512i x) {
    return _mm512_permutexvar_epi8(_mm512_load_si512(table), x);
}
/* Each 8 x 8 bits transposed; the rows, bytes of x, come in reverse. */
SIMD_INLINE __m512i transpose_bits(__m512i x) {
    return _mm512_gf2p8affine_epi64_epi8(_mm512_set1_epi64((long long)0x8040201008040201ull), x, 0);
}
/* 4 x 4 lanes of 128 bits; x in steps of `step`. */
SIMD_INLINE void transpose_lanes(__m512i *x, int step) {
    __m512i a = _mm512_shuffle_i64x2(x[0], x[step], 0x88);
    __m512i b = _mm512_shuffle_i64x2(x[2 * step], x[3 * step], 0x88);
    __m512i c = _mm512_shuffle_i64x2(x[0], x[step], 0xDD);
    __m512i d = _mm512_shuffle_i64x2(x[2 * step], x[3 * step], 0xDD);
    x[0] = _mm512_shuffle_i64x2(a, b, 0x88);
    x[step] = _mm512_shuffle_i64x2(c, d, 0x88);
    x[2 * step] = _mm512_shuffle_i64x2(a, b, 0xDD);
    x[3 * step] = _mm512_shuffle_i64x2(c, d, 0xDD);
}
/* 8 x 8 words of 64 bits. */
SIMD_INLINE void transpose_words(__m512i *x) {
    for (int k = 0; k < 8; k += 2) {
        __m512i low = _mm512_unpacklo_epi64(x[k], x[k + 1]);
        x[k + 1] = _mm512_unpackhi_epi64(x[k], x[k + 1]);
        x[k] = low;
    }
    transpose_lanes(x, 2);
    transpose_lanes(x + 1, 2);
}
/* w registers, each of w parts: parts transposed. */
SIMD_INLINE void transpose_parts(int w, __m512i *x) {
    if (w == 8) transpose_words(x);
    if (w == 4) transpose_lanes(x, 1);
    if (w == 2) {
        __m512i low = _mm512_shuffle_i64x2(x[0], x[1], 0x44);
        x[1] = _mm512_shuffle_i64x2(x[0], x[1], 0xEE);
        x[0] = low;
    }
}
/* x minus the items one place before; the items before x are at p - w, the very first is `before`. */
SIMD_INLINE __m512i differences(int w, __m512i x, const uint8_t *p, int first, uint64_t before) {
    __m512i y;
    if (first)
        y = _mm512_or_si512(_mm512_maskz_loadu_epi8(~0ull << w, p - w),
                            _mm512_zextsi128_si512(_mm_cvtsi64_si128((long long)before)));
    else
        y = _mm512_loadu_si512(p - w);
    if (w == 8) return _mm512_sub_epi64(x, y);
    if (w == 4) return _mm512_sub_epi32(x, y);
    if (w == 2) return _mm512_sub_epi16(x, y);
    return _mm512_sub_epi8(x, y);
}

/* 512 items at p to 8 * w planes of 64 bytes, `stride` bytes apart. `before`: 0, or what the first
 * item is to be the difference to. */
SIMD_INLINE void forward(int k, int with_delta, uint64_t before, const uint8_t *p, uint8_t *dst,
                         uint64_t stride) {
    const int w = 1 << k;
    __m512i between[8][8], x[8];
    for (int g = 0; g < w; g++) {
        for (int z = 0; z < 8; z++) {
            const uint8_t *q = p + (g * 8 + z) * 64;
            __m512i v = _mm512_loadu_si512(q);
            if (with_delta) v = differences(w, v, q, g == 0 && z == 0, before);
            x[z] = permute(simd_swap[0], transpose_bits(permute(simd_octets[k], v)));
        }
        transpose_words(x); /* register t: (z ihi j) */
        for (int t = 0; t < 8; t++)
            between[t][g] = w == 1 ? x[t] : permute(simd_outer[k], x[t]);
    }
    for (int t = 0; t < 8; t++) {
        for (int g = 0; g < w; g++) x[g] = between[t][g];
        transpose_parts(w, x);
        for (int j = 0; j < w; j++) _mm512_storeu_si512(dst + (uint64_t)(j * 8 + t) * stride, x[j]);
    }
}
SIMD_INLINE void backward(int k, const uint8_t *src, uint64_t stride, uint8_t *p) {
    const int w = 1 << k;
    __m512i between[8][8], x[8];
    for (int t = 0; t < 8; t++) {
        for (int j = 0; j < w; j++) x[j] = _mm512_loadu_si512(src + (uint64_t)(j * 8 + t) * stride);
        transpose_parts(w, x);
        for (int g = 0; g < w; g++) between[g][t] = w == 1 ? x[g] : permute(simd_inner[k], x[g]);
    }
    for (int g = 0; g < w; g++) {
        for (int t = 0; t < 8; t++) x[t] = between[g][t];
        transpose_words(x);
        for (int z = 0; z < 8; z++)
            _mm512_storeu_si512(
                p + (g * 8 + z) * 64,
                permute(simd_items[k], transpose_bits(permute(simd_swap[1], x[z]))));
    }
}

SIMD_FN static void simd_forward(int width, const uint8_t *p, uint8_t *dst, uint64_t stride) {
    if (width == 8) forward(3, 0, 0, p, dst, stride);
    else if (width == 4) forward(2, 0, 0, p, dst, stride);
    else if (width == 2) forward(1, 0, 0, p, dst, stride);
    else forward(0, 0, 0, p, dst, stride);
}
/* The same for differences; `before` is what the first item is taken from. */
SIMD_FN static void simd_delta_forward(int width, uint64_t before, const uint8_t *p, uint8_t *dst,
                                       uint64_t stride) {
    if (width == 8) forward(3, 1, before, p, dst, stride);
    else if (width == 4) forward(2, 1, before, p, dst, stride);
    else if (width == 2) forward(1, 1, before, p, dst, stride);
    else forward(0, 1, before, p, dst, stride);
}
SIMD_FN static void simd_backward(int width, const uint8_t *src, uint64_t stride, uint8_t *p) {
    if (width == 8) backward(3, src, stride, p);
    else if (width == 4) backward(2, src, stride, p);
    else if (width == 2) backward(1, src, stride, p);
    else backward(0, src, stride, p);
}
#else
static inline int simd_init(void) { return 0; }
static inline void simd_forward(int w, const uint8_t *p, uint8_t *d, uint64_t n) {
    (void)w, (void)p, (void)d, (void)n;
}
static inline void simd_delta_forward(int w, uint64_t b, const uint8_t *p, uint8_t *d, uint64_t n) {
    (void)w, (void)b, (void)p, (void)d, (void)n;
}
static inline void simd_backward(int w, const uint8_t *p, uint64_t n, uint8_t *d) {
    (void)w, (void)p, (void)d, (void)n;
}
#endif
#endif
