from libc.stdint cimport int32_t, uint8_t, uint32_t, uint64_t

from coldmem.codecs.bitshuffle cimport Shuffler
from coldmem.codecs.codec cimport BytesOut, Codec, CodecC

cdef struct FilterSettings:     # constant once the codec is made
    CodecC inner
    Shuffler shuffler
    int32_t width
    bint with_delta

cdef struct FilterContext:
    FilterSettings *settings
    void *inner
    uint32_t unit_bytes
    uint8_t *a                  # unit_bytes each, in one block with this struct
    uint8_t *b

ctypedef FilterSettings *FilterSettingsP
ctypedef FilterContext *FilterContextP

# Filter n bytes of src, with two buffers for the result and what lies between; where the result is,
# or NULL.
cdef uint8_t *apply_filter(Shuffler *s, int32_t width, bint with_delta, const uint8_t *src,
                           uint32_t n, uint8_t *a, uint8_t *b) noexcept nogil
# The inverse, from src to dst; 0 or -1.
cdef int undo_filter(Shuffler *s, int32_t width, bint with_delta, const uint8_t *src,
                     uint32_t n, uint8_t *dst) noexcept nogil

cdef int32_t filter_compress(void *context, const uint8_t *src, uint32_t n,
                             uint8_t *dst, uint32_t cap, uint64_t hint) noexcept nogil
cdef int32_t filter_decompress(void *context, const uint8_t *src, uint32_t n,
                               uint8_t *dst, uint32_t cap) noexcept nogil
cdef void *filter_context_new(void *self, uint32_t unit_bytes) noexcept nogil
cdef void filter_context_free(void *context) noexcept nogil

cdef class FilterCodec(Codec):
    cdef FilterSettings settings
    cdef readonly Codec inner
