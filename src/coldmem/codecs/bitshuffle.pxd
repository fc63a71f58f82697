# Bit shuffle and delta, and the portable kernels behind them.
from libc.stdint cimport int32_t, uint8_t, uint16_t, uint32_t, uint64_t
from libc.string cimport memcpy

from coldmem.codecs.library cimport blosc2_shuffle_fn

ctypedef uint64_t *Words
ctypedef const uint8_t *ConstBytes
ctypedef uint8_t *MutBytes

cdef enum Way:
    PORTABLE = 0
    BLOSC2 = 1
    AVX2 = 2
    AVX512 = 3                  # with GFNI

# Functions that transpose the bits of n bytes of items `width` bytes wide, n a multiple of 8 * width.
# The bytes are the same for all ways.
cdef struct Shuffler:
    Way way
    blosc2_shuffle_fn forward
    blosc2_shuffle_fn backward
    blosc2_shuffle_fn backward_narrow   # for widths 1 and 2

# The best way there is, or the portable one. Takes the GIL's protection; raises nothing.
cdef void find_shuffler(Shuffler *s, bint portable)
# One way; false when it is not to be had here.
cdef bint use_way(Shuffler *s, Way way)

# Transposing 512 items, 8 * width planes of 64 bytes each, `stride` bytes apart.
ctypedef void (*forward_fn)(int32_t width, const uint8_t *p, uint8_t *dst, uint64_t stride) noexcept nogil
ctypedef void (*backward_fn)(int32_t width, const uint8_t *src, uint64_t stride, uint8_t *p) noexcept nogil

cdef void portable_forward(int32_t width, const uint8_t *p, uint8_t *dst, uint64_t stride) noexcept nogil
cdef void portable_backward(int32_t width, const uint8_t *src, uint64_t stride, uint8_t *p) noexcept nogil
cdef int32_t shuffle_blocks(forward_fn block, int32_t width, int32_t n, const void *src, void *dst) noexcept nogil
cdef int32_t unshuffle_blocks(backward_fn block, int32_t width, int32_t n, const void *src, void *dst) noexcept nogil
cdef int32_t portable_bitshuffle(int32_t width, int32_t n, const void *src, void *dst) noexcept nogil
cdef int32_t portable_bitunshuffle(int32_t width, int32_t n, const void *src, void *dst) noexcept nogil
cdef int32_t avx2_bitshuffle(int32_t width, int32_t n, const void *src, void *dst) noexcept nogil
cdef int32_t avx2_bitunshuffle(int32_t width, int32_t n, const void *src, void *dst) noexcept nogil
cdef int32_t avx512_bitshuffle(int32_t width, int32_t n, const void *src, void *dst) noexcept nogil
cdef int32_t avx512_bitunshuffle(int32_t width, int32_t n, const void *src, void *dst) noexcept nogil

# Any n: what is left over after the last 8 * width bytes is copied. src and dst do not overlap.
cdef int shuffle(Shuffler *s, int32_t width, uint32_t n, const uint8_t *src, uint8_t *dst) noexcept nogil
cdef int unshuffle(Shuffler *s, int32_t width, uint32_t n, const uint8_t *src, uint8_t *dst) noexcept nogil
cdef void delta(int32_t width, uint32_t n, const uint8_t *src, uint8_t *dst) noexcept nogil
cdef void undelta(int32_t width, uint32_t n, uint8_t *dst) noexcept nogil

# Delta and shuffle at once, n a multiple of 8 * width. The first item's difference is to the item at
# `before`, or to 0 when that is NULL. between: n bytes that it may write to.
cdef int shuffle_differences(Shuffler *s, int32_t width, uint32_t n, const uint8_t *src,
                             const uint8_t *before, uint8_t *between, uint8_t *dst) noexcept nogil
# The inverse.
cdef int unshuffle_differences(Shuffler *s, int32_t width, uint32_t n, const uint8_t *src,
                               const uint8_t *before, uint8_t *dst) noexcept nogil

# First item of p minus (or plus) the item at `other`: deltas of a block that goes on from another.
cdef void combine_item(int32_t width, uint8_t *p, const uint8_t *other, bint minus) noexcept nogil

cdef void transpose(int32_t width, uint64_t *a) noexcept nogil
cdef void transpose_back(int32_t width, uint64_t *a) noexcept nogil
cdef void undelta1(uint32_t n, uint8_t *dst) noexcept nogil


# Loads and stores of any alignment; a single instruction each.
cdef inline uint64_t load64(const uint8_t *p) noexcept nogil:
    cdef uint64_t v
    memcpy(&v, p, 8)
    return v

cdef inline uint32_t load32(const uint8_t *p) noexcept nogil:
    cdef uint32_t v
    memcpy(&v, p, 4)
    return v

cdef inline uint16_t load16(const uint8_t *p) noexcept nogil:
    cdef uint16_t v
    memcpy(&v, p, 2)
    return v


# Lane-wise a - b: borrows stop at the top bits, which are worked out on their own.
cdef inline uint64_t subtract_lanes(uint64_t a, uint64_t b, uint64_t top) noexcept nogil:
    return ((a | top) - (b & ~top)) ^ ((a ^ ~b) & top)


# Words a[i] of a 2-power many; each word stands for 8 lanes, one per group of 64 items. Swaps bit
# `distance` of the word's number with bit `shift` of the place inside the word; mask: places whose
# bit `shift` is 0. Its own inverse. With constant arguments this becomes straight SIMD code.
cdef inline void swap_stage(uint64_t *a, int words, int distance, int shift, uint64_t mask) noexcept nogil:
    cdef int base = 0
    cdef int i
    cdef int run = distance * 8
    cdef uint64_t t
    cdef uint64_t *low
    cdef uint64_t *high
    while base < words * 8:
        low = a + base
        high = a + base + run
        for i in range(run):
            t = ((low[i] >> shift) ^ high[i]) & mask
            high[i] ^= t
            low[i] ^= t << shift
        base += run * 2


# Which bit of the items ends up in word k of a transposed group.
cdef inline int plane_of_word(int32_t width, int k) noexcept nogil:
    if width == 4:
        return ((k & 15) << 1) | (k >> 4)
    if width == 2:
        return ((k & 3) << 2) | (k >> 2)
    return k
