/* What Cython cannot say: AVX2, and AVX-512 with GFNI, for the bit shuffle and for planes.
 *
 * The formats are those of bitshuffle.py and planes.py, byte for byte. Where avx2_init() or
 * avx512_init() say 0 (another CPU, another compiler) what has that name must not be called.
 * The tables are static: only the module that called avx512_init() may shuffle. */
#ifndef COLDMEM_SIMD_H
#define COLDMEM_SIMD_H
#include <stdint.h>

#if defined(__x86_64__) && (defined(__clang__) || __GNUC__ >= 11)
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
static uint8_t simd_sums[3][4][64] __attribute__((aligned(64))); /* last item of 16, 32, 64 bytes */
static uint8_t simd_swap[2][64] __attribute__((aligned(64)));    /* (a b) to (b a); to (b ~a) */

/* Whether this CPU has it all. Called under the GIL; the tables are written by the first call only. */
static int avx512_init(void) {
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
            for (int n = 0; n < 3; n++) {
                int part = 16 << n;
                simd_sums[n][k][d] = (uint8_t)(((d & -part) - (n < 2 ? part : 0)) & 63);
                simd_sums[n][k][d] = (uint8_t)(simd_sums[n][k][d] + part - w + (d & (w - 1)));
            }
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
SIMD_INLINE __m512i add(int k, __m512i x, __m512i y) {
    return k == 3 ? _mm512_add_epi64(x, y) : k == 2 ? _mm512_add_epi32(x, y)
         : k == 1 ? _mm512_add_epi16(x, y) : _mm512_add_epi8(x, y);
}
SIMD_INLINE __m512i subtract(int k, __m512i x, __m512i y) {
    return k == 3 ? _mm512_sub_epi64(x, y) : k == 2 ? _mm512_sub_epi32(x, y)
         : k == 1 ? _mm512_sub_epi16(x, y) : _mm512_sub_epi8(x, y);
}
/* The items one place before those at p, of which the first is `before`, and not read. */
SIMD_INLINE __m512i load_before(int w, const uint8_t *p, uint64_t before) {
    return _mm512_or_si512(_mm512_maskz_loadu_epi8(~0ull << w, p - w),
                           _mm512_zextsi128_si512(_mm_cvtsi64_si128((long long)before)));
}
/* Running sums of the items of x. */
SIMD_INLINE __m512i sums(int k, __m512i x) {
    if (k == 0) x = add(k, x, _mm512_bslli_epi128(x, 1));
    if (k <= 1) x = add(k, x, _mm512_bslli_epi128(x, 2));
    if (k <= 2) x = add(k, x, _mm512_bslli_epi128(x, 4));
    x = add(k, x, _mm512_bslli_epi128(x, 8));
    x = add(k, x, _mm512_maskz_permutexvar_epi8(0xFFFF0000FFFF0000ull,
                                                _mm512_load_si512(simd_sums[0][k]), x));
    return add(k, x, _mm512_maskz_permutexvar_epi8(0xFFFFFFFF00000000ull,
                                                   _mm512_load_si512(simd_sums[1][k]), x));
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
            if (with_delta)
                v = subtract(k, v, g + z ? _mm512_loadu_si512(q - w) : load_before(w, q, before));
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
SIMD_INLINE void backward(int k, int with_delta, uint64_t before, const uint8_t *src, uint64_t stride,
                          uint8_t *p) {
    const int w = 1 << k;
    __m512i between[8][8], x[8], sum = _mm512_set1_epi64((long long)before);
    if (k == 2) sum = _mm512_set1_epi32((int)before);
    if (k == 1) sum = _mm512_set1_epi16((short)before);
    if (k == 0) sum = _mm512_set1_epi8((char)before);
    for (int t = 0; t < 8; t++) {
        for (int j = 0; j < w; j++) x[j] = _mm512_loadu_si512(src + (uint64_t)(j * 8 + t) * stride);
        transpose_parts(w, x);
        for (int g = 0; g < w; g++) between[g][t] = w == 1 ? x[g] : permute(simd_inner[k], x[g]);
    }
    for (int g = 0; g < w; g++) {
        for (int t = 0; t < 8; t++) x[t] = between[g][t];
        transpose_words(x);
        for (int z = 0; z < 8; z++) {
            __m512i v = permute(simd_items[k], transpose_bits(permute(simd_swap[1], x[z])));
            if (with_delta) {
                v = add(k, sums(k, v), sum);
                sum = permute(simd_sums[2][k], v);
            }
            _mm512_storeu_si512(p + (g * 8 + z) * 64, v);
        }
    }
}

SIMD_FN static void avx512_forward(int width, const uint8_t *p, uint8_t *dst, uint64_t stride) {
    if (width == 8) forward(3, 0, 0, p, dst, stride);
    else if (width == 4) forward(2, 0, 0, p, dst, stride);
    else if (width == 2) forward(1, 0, 0, p, dst, stride);
    else forward(0, 0, 0, p, dst, stride);
}
/* The same for differences; `before` is what the first item is taken from. */
SIMD_FN static void avx512_delta_forward(int width, uint64_t before, const uint8_t *p, uint8_t *dst,
                                       uint64_t stride) {
    if (width == 8) forward(3, 1, before, p, dst, stride);
    else if (width == 4) forward(2, 1, before, p, dst, stride);
    else if (width == 2) forward(1, 1, before, p, dst, stride);
    else forward(0, 1, before, p, dst, stride);
}
SIMD_FN static void avx512_backward(int width, const uint8_t *src, uint64_t stride, uint8_t *p) {
    if (width == 8) backward(3, 0, 0, src, stride, p);
    else if (width == 4) backward(2, 0, 0, src, stride, p);
    else if (width == 2) backward(1, 0, 0, src, stride, p);
    else backward(0, 0, 0, src, stride, p);
}
SIMD_FN static void avx512_delta_backward(int width, uint64_t before, const uint8_t *src,
                                        uint64_t stride, uint8_t *p) {
    if (width == 8) backward(3, 1, before, src, stride, p);
    else if (width == 4) backward(2, 1, before, src, stride, p);
    else if (width == 2) backward(1, 1, before, src, stride, p);
    else backward(0, 1, before, src, stride, p);
}

/* -- AVX2: 32 items at a time ------------------------------------------------------------------ */
#define AVX2_FN __attribute__((target("avx2")))
#define AVX2_INLINE AVX2_FN static inline __attribute__((always_inline))

static int avx2_init(void) {
    __builtin_cpu_init();
    return __builtin_cpu_supports("avx2") != 0;
}
/* w registers, both lanes alike: the address of a byte, register and place in the lane, is rotated
 * left by `rounds` bits. Four rounds take (i j) to (j i), log2(w) rounds take it back. */
AVX2_INLINE void rotate(int w, int rounds, __m256i *x) {
    __m256i y[8];
    for (int r = 0; r < rounds && w > 1; r++) {
        for (int k = 0; k < w / 2; k++) {
            y[2 * k] = _mm256_unpacklo_epi8(x[k], x[k + w / 2]);
            y[2 * k + 1] = _mm256_unpackhi_epi8(x[k], x[k + w / 2]);
        }
        for (int k = 0; k < w; k++) x[k] = y[k];
    }
}
AVX2_INLINE __m256i swap_bits(__m256i x, int shift, uint64_t mask) {
    __m256i t = _mm256_and_si256(_mm256_xor_si256(x, _mm256_srli_epi64(x, shift)),
                                 _mm256_set1_epi64x((long long)mask));
    return _mm256_xor_si256(_mm256_xor_si256(x, t), _mm256_slli_epi64(t, shift));
}
AVX2_INLINE void forward32(int w, const uint8_t *p, uint8_t *dst, uint64_t stride) {
    __m256i x[8];
    for (int c = 0; c < 16; c++, p += 32 * w, dst += 4) {
        for (int r = 0; r < w; r++)
            x[r] = _mm256_loadu2_m128i((const __m128i *)(p + 16 * w + 16 * r),
                                       (const __m128i *)(p + 16 * r));
        rotate(w, 4, x);
        for (int j = 0; j < w; j++)
            for (int t = 7; t >= 0; t--) {
                int bits = _mm256_movemask_epi8(x[j]);
                __builtin_memcpy(dst + (uint64_t)(8 * j + t) * stride, &bits, 4);
                x[j] = _mm256_add_epi8(x[j], x[j]);
            }
    }
}
/* Four bytes of each of four rows. */
AVX2_INLINE __m128i load_rows(const uint8_t *p, uint64_t stride) {
    __m128i a = _mm_unpacklo_epi32(_mm_loadu_si32(p), _mm_loadu_si32(p + stride));
    __m128i b = _mm_unpacklo_epi32(_mm_loadu_si32(p + 2 * stride), _mm_loadu_si32(p + 3 * stride));
    return _mm_unpacklo_epi64(a, b);
}
AVX2_INLINE void backward32(int w, const uint8_t *src, uint64_t stride, uint8_t *p) {
    const __m256i columns = _mm256_broadcastsi128_si256(
        _mm_setr_epi8(0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15));
    const __m256i pairs = _mm256_setr_epi32(0, 4, 1, 5, 2, 6, 3, 7);
    __m256i x[8];
    for (int c = 0; c < 16; c++, p += 32 * w, src += 4) {
        for (int j = 0; j < w; j++) {
            const uint8_t *row = src + (uint64_t)(8 * j) * stride;
            __m256i v = _mm256_set_m128i(load_rows(row + 4 * stride, stride), load_rows(row, stride));
            v = _mm256_permutevar8x32_epi32(_mm256_shuffle_epi8(v, columns), pairs);
            v = swap_bits(v, 7, 0x00AA00AA00AA00AAull);
            v = swap_bits(v, 14, 0x0000CCCC0000CCCCull);
            x[j] = swap_bits(v, 28, 0x00000000F0F0F0F0ull);
        }
        rotate(w, w == 8 ? 3 : w == 4 ? 2 : 1, x);
        for (int r = 0; r < w; r++)
            _mm256_storeu2_m128i((__m128i *)(p + 16 * w + 16 * r), (__m128i *)(p + 16 * r), x[r]);
    }
}
AVX2_FN static void avx2_forward(int width, const uint8_t *p, uint8_t *dst, uint64_t stride) {
    if (width == 8) forward32(8, p, dst, stride);
    else if (width == 4) forward32(4, p, dst, stride);
    else if (width == 2) forward32(2, p, dst, stride);
    else forward32(1, p, dst, stride);
}
AVX2_FN static void avx2_backward(int width, const uint8_t *src, uint64_t stride, uint8_t *p) {
    if (width == 8) backward32(8, src, stride, p);
    else if (width == 4) backward32(4, src, stride, p);
    else if (width == 2) backward32(2, src, stride, p);
    else backward32(1, src, stride, p);
}

/* -- planes.py, for planes of a multiple of 64 bytes ------------------------------------------- */
#define ROW(q) 64 + (q), 8 * (q), 8 * (q) + 1, 8 * (q) + 2, 8 * (q) + 3, 8 * (q) + 4, \
               8 * (q) + 5, 8 * (q) + 6, 8 * (q) + 7
/* A byte of the second register before each eight bytes of the first. */
static const uint8_t simd_headed[2][64] __attribute__((aligned(64))) = {
    {ROW(0), ROW(1), ROW(2), ROW(3)}, {ROW(4), ROW(5), ROW(6), ROW(7)}};
#undef ROW
#define HEADS 0x0000000008040201ull  /* every ninth of 36 bits */
#define BODIES 0x0000000FF7FBFDFEull /* the others */

/* kind_of(). The numbers are enum Kind's. */
SIMD_FN static uint32_t avx512_kind(const uint8_t *p, uint32_t m, int first) {
    const __m512i low = _mm512_set1_epi64(0xFFFFFFFF), x0 = _mm512_loadu_si512(p);
    uint32_t step = m / 128 * 8, along = 0, across = 0;
    __mmask8 sampled = step >= 64 ? 0x01 : step == 32 ? 0x11 : step == 16 ? 0x55 : 0xFF;
    uint32_t stride = step > 64 ? step : 64;
    uint64_t x = (uint64_t)_mm_cvtsi128_si64(_mm512_castsi512_si128(x0)), y = ~x;
    if (step < 8) step = 8;
    if (x == 0 || y == 0) {
        const __m512i all = _mm512_set1_epi64((long long)x);
        uint32_t i = 0;
        while (i < m && _mm512_cmpneq_epi64_mask(_mm512_loadu_si512(p + i), all) == 0) i += 64;
        if (i >= m) return x == 0 ? 0 : 1;
    }
    if (!first) {
        uint32_t i = 0;
        while (i < m && _mm512_cmpneq_epi64_mask(_mm512_loadu_si512(p + i),
                                                 _mm512_loadu_si512(p + i - m)) == 0)
            i += 64;
        if (i >= m) return 2;
    }
    for (uint32_t i = 0; i < m; i += stride) {
        __m512i v = _mm512_loadu_si512(p + i);
        __m512i next = _mm512_xor_si512(v, _mm512_srli_epi64(v, 8));
        along += (uint32_t)__builtin_popcount(_mm512_mask_testn_epi64_mask(sampled, next, low));
        if (!first) {
            v = _mm512_xor_si512(v, _mm512_loadu_si512(p + i - m));
            across += (uint32_t)__builtin_popcount(_mm512_mask_testn_epi64_mask(sampled, v, low));
        }
    }
    if (across > along) return across * 16 >= m / step ? 5 : 3;
    return along != 0 && along * 16 >= m / step ? 4 : 3;
}

/* write_changes(): the same bytes, and 0 for the same caps. */
SIMD_FN static uint32_t avx512_write_changes(const uint8_t *p, uint32_t m, int cross, uint8_t *dst,
                                           uint32_t cap) {
    uint32_t at = 0;
    for (uint32_t i = 0; i < m; i += 64) {
        __m512i v = _mm512_loadu_si512(p + i), other, heads;
        uint64_t mask, flags, bodies, heads_at;
        if (cross) other = _mm512_loadu_si512(p + i - m);
        else if (i) other = _mm512_loadu_si512(p + i - 1);
        else other = _mm512_maskz_loadu_epi8(~1ull, p - 1);
        v = _mm512_xor_si512(v, other);
        mask = _mm512_test_epi8_mask(v, v);
        flags = _mm512_test_epi64_mask(v, v);
        /* Where the last word would begin, and room for it. */
        if (at + 11 + (uint32_t)__builtin_popcountll(mask << 8)
            + (uint32_t)__builtin_popcountll(flags & 0x7F) > cap)
            return 0;
        dst[at++] = (uint8_t)flags;
        heads = _mm512_set1_epi64((long long)mask);
        for (int half = 0; half < 2; half++) {
            __m512i rows = _mm512_permutex2var_epi8(v, _mm512_load_si512(simd_headed[half]), heads);
            uint32_t count;
            bodies = _pdep_u64(mask >> (32 * half), BODIES);
            heads_at = _pdep_u64(flags >> (4 * half), HEADS);
            count = (uint32_t)__builtin_popcountll(bodies | heads_at);
            _mm512_mask_storeu_epi8(dst + at, _bzhi_u64(~0ull, count),
                                    _mm512_maskz_compress_epi8(bodies | heads_at, rows));
            at += count;
        }
    }
    return at;
}

/* read_changes(). */
SIMD_FN static int32_t avx512_read_changes(const uint8_t *src, uint32_t n, int cross, uint8_t *p,
                                         uint32_t m) {
    uint32_t at = 0;
    uint64_t last = 0;
    for (uint32_t i = 0; i < m; i += 64) {
        uint32_t flags;
        if (at >= n) return -1;
        flags = src[at++];
        for (uint32_t k = i; k < i + 64; k += 8, flags >>= 1) {
            uint64_t word = 0, other;
            if (flags & 1) {
                uint32_t count;
                if (at >= n) return -1;
                uint64_t mask = src[at++];
                count = (uint32_t)__builtin_popcountll(mask);
                if (n - at >= 8) __builtin_memcpy(&word, src + at, 8);
                else if (n - at >= count) __builtin_memcpy(&word, src + at, count);
                else return -1;
                at += count;
                mask = _pdep_u64(mask, 0x0101010101010101ull);
                word = _pdep_u64(word, (mask << 8) - mask);
            }
            if (cross) {
                __builtin_memcpy(&other, p + k - m, 8);
                word ^= other;
            } else {
                word ^= word << 8;
                word ^= word << 16;
                word ^= word << 32;
                word ^= last;
                last = (word >> 56) * 0x0101010101010101ull;
            }
            __builtin_memcpy(p + k, &word, 8);
        }
    }
    return (int32_t)at;
}
#else
static inline int avx512_init(void) { return 0; }
static inline int avx2_init(void) { return 0; }
static inline void avx2_forward(int w, const uint8_t *p, uint8_t *d, uint64_t n) {
    (void)w, (void)p, (void)d, (void)n;
}
static inline void avx2_backward(int w, const uint8_t *p, uint64_t n, uint8_t *d) {
    (void)w, (void)p, (void)n, (void)d;
}
static inline void avx512_forward(int w, const uint8_t *p, uint8_t *d, uint64_t n) {
    (void)w, (void)p, (void)d, (void)n;
}
static inline void avx512_delta_forward(int w, uint64_t b, const uint8_t *p, uint8_t *d, uint64_t n) {
    (void)w, (void)b, (void)p, (void)d, (void)n;
}
static inline void avx512_backward(int w, const uint8_t *p, uint64_t n, uint8_t *d) {
    (void)w, (void)p, (void)d, (void)n;
}
#endif
#endif
