from libc.stdint cimport int32_t, uint8_t, uint32_t, uint64_t

from coldmem.codecs.codec cimport Codec, CodecC

ctypedef uint8_t *Bytes

# A buffer whose last byte is followed by a page that cannot be touched, and whose first byte follows
# bytes that are checked.
cdef struct Guarded:
    uint8_t *map
    uint64_t map_bytes
    uint8_t *data
    uint64_t size

cdef int guarded_new(Guarded *g, uint64_t size) noexcept nogil
cdef bint guarded_intact(Guarded *g) noexcept nogil
cdef void guarded_free(Guarded *g) noexcept nogil
