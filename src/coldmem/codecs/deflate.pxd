from libc.stdint cimport int32_t, uint8_t, uint32_t, uint64_t

from coldmem.codecs.codec cimport Codec
from coldmem.codecs.library cimport ZlibApi, ZStream

cdef struct ZlibSettings:       # constant once the codec is made
    ZlibApi api
    int level

cdef struct ZlibContext:
    ZlibSettings *settings
    int can_deflate             # each stream is made at first use, then reset
    int can_inflate
    ZStream deflate
    ZStream inflate

ctypedef ZlibSettings *ZlibSettingsP
ctypedef ZlibContext *ZlibContextP
ctypedef ZlibApi *ZlibApiP
ctypedef ZStream *ZStreamP

cdef int32_t zlib_compress(void *context, const uint8_t *src, uint32_t n,
                           uint8_t *dst, uint32_t cap, uint64_t hint) noexcept nogil
cdef int32_t zlib_decompress(void *context, const uint8_t *src, uint32_t n,
                             uint8_t *dst, uint32_t cap) noexcept nogil
cdef void *zlib_context_new(void *self, uint32_t unit_bytes) noexcept nogil
cdef void zlib_context_free(void *context) noexcept nogil

cdef class ZlibCodec(Codec):
    cdef ZlibSettings settings
