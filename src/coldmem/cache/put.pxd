# How a value is stored.
cimport cython
from libc.stdint cimport uint8_t, uint32_t, uint64_t

from coldmem.cache.drop cimport Dropper
from coldmem.cache.state cimport CacheC, Context, Entry, Key, Shard

# The bytes of a value that is to be stored, in parts.
cdef struct Source:
    Py_buffer *views
    uint32_t count
    uint32_t at                 # part
    uint64_t offset             # in it
    uint64_t total

# Where a value is, and what is known of it.
cdef struct Put:
    uint64_t body
    uint64_t length
    uint8_t state
    uint8_t codec
    uint8_t kind
    uint8_t flags
    uint32_t expires
    uint32_t segment
    uint32_t offset
    uint32_t disk_bytes
    uint8_t only_new            # not in place of what is there
    uint8_t too_large           # for memory

ctypedef Put *PutP
ctypedef Source *SourceP
ctypedef Py_buffer *ViewP

cdef class Writer(Dropper):
    cdef public int small_codec     # numbers
    cdef public int large_codec
    cdef public uint32_t small_max  # bytes: up to here the small codec
    cdef public uint32_t sample_period  # `_learn` hears of every so manieth small value; 0: of none
    cdef uint32_t sample_tick
    cdef uint64_t learnt_original   # of small values since it last did
    cdef uint64_t learnt_stored
    # 1, or 0 as `_link`; and the bytes of all parts.
    cdef int _put_parts(self, Key *k, object parts, uint8_t kind, uint32_t expires, bint only_new,
                        uint64_t *total) except -1
    cdef int _store(self, Key *k, Source *src, uint8_t kind, uint32_t expires,
                    bint only_new) except -1
    cdef int _store_large(self, Key *k, Source *src, Context *w, Put *put, uint32_t number,
                          const uint8_t *first, uint32_t stored) except -1
    cdef bytes _packed(self, Key *k, Source *src, Context *w, uint32_t number, uint64_t *nbytes)
    # 1, or 0: something is there and `only_new` is set; what was put is freed.
    cdef int _link(self, Key *k, Put *put) except -1
    cdef int _replace(self, Shard *s, Entry *e, Put *put) except -1
    cdef int _free_put(self, Put *put) except -1
    cdef int _sample(self, const uint8_t *data, uint32_t n, uint32_t stored) except -1
    cdef int _room(self, uint64_t need) except -1
    cdef object _too_large(self, uint64_t length)

cdef const uint8_t *source_take(Source *src, uint32_t n, uint8_t *gather) noexcept nogil
# Fill a fresh entry, or one that is in no queue, and count it. Shard lock held.
cdef void entry_fill(CacheC *c, Shard *s, Entry *e, Key *k, Put *put) noexcept nogil
