from libc.stdint cimport int32_t, uint8_t, uint32_t, uint64_t

from coldmem.codecs.codec cimport Codec
from coldmem.codecs.library cimport Lz4Api

cdef struct Lz4Settings:        # constant once the codec is made
    Lz4Api api
    int acceleration

cdef struct Lz4Context:
    Lz4Settings *settings
    uint64_t pad
    uint64_t state[1]           # as many bytes as LZ4_sizeofState says

ctypedef Lz4Settings *Lz4SettingsP
ctypedef Lz4Context *Lz4ContextP

cdef int32_t lz4_compress(void *context, const uint8_t *src, uint32_t n,
                          uint8_t *dst, uint32_t cap, uint64_t hint) noexcept nogil
cdef int32_t lz4_decompress(void *context, const uint8_t *src, uint32_t n,
                            uint8_t *dst, uint32_t cap) noexcept nogil
cdef void *lz4_context_new(void *self, uint32_t unit_bytes) noexcept nogil
cdef void lz4_context_free(void *context) noexcept nogil

cdef class Lz4Codec(Codec):
    cdef Lz4Settings settings
