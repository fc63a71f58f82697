# The contract of a codec, as C sees it.
from libc.stdint cimport int32_t, uint8_t, uint32_t, uint64_t

# compress: bytes written to dst (1..cap), 0 when the result does not fit in cap ("incompressible"),
# negative on error. hint: a key of the neighbourhood of the data (group and region of slots), so that
# a codec may remember per neighbourhood what worked; codecs without memory ignore it.
ctypedef int32_t (*compress_fn)(void *context, const uint8_t *src, uint32_t n,
                                uint8_t *dst, uint32_t cap, uint64_t hint) noexcept nogil
# decompress: bytes written to dst (at most cap), negative on error. Never reads outside src[0:n] nor
# writes outside dst[0:cap], whatever the input is.
ctypedef int32_t (*decompress_fn)(void *context, const uint8_t *src, uint32_t n,
                                  uint8_t *dst, uint32_t cap) noexcept nogil
# A context is working memory of one thread at a time for units of up to unit_bytes; NULL: no memory.
ctypedef void *(*context_new_fn)(void *self, uint32_t unit_bytes) noexcept nogil
ctypedef void (*context_free_fn)(void *context) noexcept nogil

cdef struct CodecC:
    compress_fn compress
    decompress_fn decompress
    context_new_fn context_new
    context_free_fn context_free
    void *self                  # what context_new gets; owned by the Codec object

ctypedef CodecC *CodecP

cdef class Codec:
    cdef CodecC c
    cdef readonly str name

# Short names for casts in pure-Python mode.
ctypedef const uint8_t *Bytes
ctypedef uint8_t *BytesOut

# One call with a context of its own; what the codec returns, or INT32_MIN + 1 without memory.
cdef int32_t c_compress(CodecC *c, const uint8_t *src, uint32_t n,
                        uint8_t *dst, uint32_t cap, uint64_t hint) noexcept nogil
cdef int32_t c_decompress(CodecC *c, const uint8_t *src, uint32_t n,
                          uint8_t *dst, uint32_t cap) noexcept nogil
