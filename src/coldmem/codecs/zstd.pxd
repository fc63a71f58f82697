from libc.stdint cimport int32_t, uint8_t, uint32_t, uint64_t

from coldmem.codecs.codec cimport Codec
from coldmem.codecs.library cimport ZstdApi

cdef struct ZstdSettings:       # constant once the codec is made
    ZstdApi api
    int level

cdef struct ZstdContext:
    ZstdSettings *settings
    void *compressor            # made at first use, then reused: most threads only do one of both
    void *decompressor

ctypedef ZstdSettings *ZstdSettingsP
ctypedef ZstdContext *ZstdContextP
ctypedef ZstdApi *ZstdApiP

cdef int32_t zstd_compress(void *context, const uint8_t *src, uint32_t n,
                           uint8_t *dst, uint32_t cap, uint64_t hint) noexcept nogil
cdef int32_t zstd_decompress(void *context, const uint8_t *src, uint32_t n,
                             uint8_t *dst, uint32_t cap) noexcept nogil
cdef void *zstd_context_new(void *self, uint32_t unit_bytes) noexcept nogil
cdef void zstd_context_free(void *context) noexcept nogil

cdef class ZstdCodec(Codec):
    cdef ZstdSettings settings
