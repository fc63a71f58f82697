# Bit planes of shuffled numbers, each stored in the cheapest of six ways.
from libc.stdint cimport int32_t, uint8_t, uint32_t, uint64_t

from coldmem.codecs.bitshuffle cimport Shuffler, load64

cdef enum Kind:                 # 3 bits in the format
    ZEROS = 0
    ONES = 1
    SAME = 2                    # as the plane before
    VERBATIM = 3
    CHANGES = 4                 # only the bytes that differ from the byte before them
    CROSS = 5                   # only the bytes that differ from the plane before

cdef enum:
    PLANES_MAX = 64
    RUN_MAX = 32                # planes that one byte of the list of kinds can stand for
    BLOCK_BYTES = 16384         # shuffled at a time: what the first-level cache holds

ctypedef const uint8_t *ConstBytes
ctypedef uint8_t *MutBytes

# Whether units of n bytes can be stored this way, as items of this width.
cdef bint planes_fit(uint32_t n, int32_t width) noexcept nogil
# Filter and store n bytes; bytes written to dst, 0 when cap is too small for them (it may ask for a
# few bytes too many), or negative. a, b: BLOCK_BYTES each.
cdef int32_t planes_compress(Shuffler *s, int32_t width, bint with_delta, const uint8_t *src,
                             uint32_t n, uint8_t *a, uint8_t *b,
                             uint8_t *dst, uint32_t cap) noexcept nogil
cdef int32_t planes_decompress(Shuffler *s, int32_t width, bint with_delta, const uint8_t *src,
                               uint32_t n, uint8_t *a, uint8_t *dst, uint32_t cap) noexcept nogil

# One block of shuffled bytes.
cdef uint32_t write_block(bint simd, const uint8_t *src, uint32_t m, uint32_t planes,
                          uint8_t *dst, uint32_t cap) noexcept nogil
cdef int32_t read_block(bint simd, const uint8_t *src, uint32_t n, uint32_t m, uint32_t planes,
                        uint8_t *dst) noexcept nogil
cdef uint32_t write_kinds(const uint8_t *kinds, uint32_t planes, uint8_t *dst, uint32_t cap) noexcept nogil
cdef uint32_t write_changes(const uint8_t *p, uint32_t m, bint cross, uint8_t *dst,
                            uint32_t cap) noexcept nogil
cdef int32_t read_changes(const uint8_t *src, uint32_t n, bint cross, uint8_t *p,
                          uint32_t m) noexcept nogil


# The kind of the plane of m bytes at p. Inline so that the common m becomes straight code.
cdef inline uint32_t kind_of(const uint8_t *p, uint32_t m, bint first) noexcept nogil:
    cdef uint64_t x = load64(p)
    cdef uint64_t differs = 0
    cdef uint32_t along = 0
    cdef uint32_t across = 0
    cdef uint32_t step
    cdef uint32_t i
    if x == 0 or ~x == 0:
        for i in range(0, m, 8):
            differs |= load64(p + i) ^ x
        if differs == 0:
            return ZEROS if x == 0 else ONES
    if not first and x == load64(p - m):
        differs = 0
        for i in range(0, m, 8):
            differs |= load64(p + i) ^ load64(p + i - m)
        if differs == 0:
            return SAME
    # Noise has no runs. Look in up to 16 places for five equal bytes, or four that are as in the
    # plane before; one in sixteen is enough.
    step = m // 128 * 8
    if step < 8:
        step = 8
    i = 0
    if first:
        while i < m:
            x = load64(p + i)
            along += <uint32_t> (x ^ (x >> 8)) == 0
            i += step
    else:
        while i < m:
            x = load64(p + i)
            along += <uint32_t> (x ^ (x >> 8)) == 0
            across += <uint32_t> (x ^ load64(p + i - m)) == 0
            i += step
    if across > along:
        return CROSS if across * 16 >= m // step else VERBATIM
    return CHANGES if along != 0 and along * 16 >= m // step else VERBATIM
