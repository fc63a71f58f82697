from libc.stdint cimport int32_t, uint8_t, uint32_t, uint64_t

from coldmem.codecs.codec cimport Codec
from coldmem.codecs.library cimport ZdictApi, ZdictFastCover, ZdictParams, ZstdApi, ZstdDictApi

cdef struct DictSettings:       # constant once the codec is made
    ZstdApi api
    ZstdDictApi dict_api
    void *cdict                 # both point into the bytes object `dictionary` of the codec
    void *ddict

cdef struct DictContext:
    DictSettings *settings
    void *compressor            # made at first use, then reused: most threads only do one of both
    void *decompressor
    void *cdict                 # what the compressor was last told to use

ctypedef DictSettings *DictSettingsP
ctypedef DictContext *DictContextP
ctypedef ZstdApi *ZstdApiP
ctypedef ZstdDictApi *ZstdDictApiP
ctypedef const size_t *SizesP

cdef void *new_compressor(DictSettings *s) noexcept nogil
cdef void *new_decompressor(DictSettings *s) noexcept nogil
cdef int32_t dict_compress(void *context, const uint8_t *src, uint32_t n,
                           uint8_t *dst, uint32_t cap, uint64_t hint) noexcept nogil
cdef bint one_frame(const uint8_t *src, uint32_t n) noexcept nogil
cdef int32_t dict_decompress(void *context, const uint8_t *src, uint32_t n,
                             uint8_t *dst, uint32_t cap) noexcept nogil
cdef void *dict_context_new(void *self, uint32_t unit_bytes) noexcept nogil
cdef void dict_context_free(void *context) noexcept nogil

# Make a context that one ZstdDictCodec gave out serve another: `self` is `c.self` of that one. Contexts
# are the larger part of the memory, so a thread needs one for all dictionaries. Both codecs must have
# been made from the same libzstd; the one left need not outlive the context.
cdef void dict_context_serve(void *context, void *self) noexcept nogil

cdef class ZstdDictCodec(Codec):
    cdef DictSettings settings
    cdef readonly bytes dictionary
    cdef readonly int level
