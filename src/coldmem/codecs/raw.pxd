from libc.stdint cimport int32_t, uint8_t, uint32_t, uint64_t

from coldmem.codecs.codec cimport Codec

cdef int32_t raw_compress(void *context, const uint8_t *src, uint32_t n,
                          uint8_t *dst, uint32_t cap, uint64_t hint) noexcept nogil
cdef int32_t raw_decompress(void *context, const uint8_t *src, uint32_t n,
                            uint8_t *dst, uint32_t cap) noexcept nogil
cdef void *raw_context_new(void *self, uint32_t unit_bytes) noexcept nogil
cdef void raw_context_free(void *context) noexcept nogil

cdef class RawCodec(Codec):
    pass
