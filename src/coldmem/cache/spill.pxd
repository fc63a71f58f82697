# To disk and back.
from libc.stdint cimport uint8_t, uint32_t, uint64_t

from coldmem.cache.engine cimport Engine
from coldmem.cache.state cimport Body, CacheC, Entry, Shard

cdef enum:
    PICKED_MAX = 64

# Entries on their way to disk, as they were.
cdef struct Picked:
    uint32_t count
    uint32_t numbers[PICKED_MAX]
    Entry entries[PICKED_MAX]

cdef class Spill(Engine):
    cdef uint32_t _next_shard(self) noexcept
    cdef int _pick(self, Shard *s, uint32_t i, Picked *picked, list keys, list payloads) except -1
    cdef int _rows(self, uint32_t number, Picked *picked, list keys, list payloads,
                   list out) except -1
    cdef int _unpick(self, Shard *s, Picked *picked) except -1
    cdef int _give_back(self, Shard *s, uint32_t i, uint64_t body, bint newest) except -1
    cdef bytes _payload(self, Body *b)
    cdef int _place(self, Shard *s, Entry *e, uint32_t segment, uint32_t offset, uint32_t size,
                    uint8_t flags) except -1
    cdef int _unpin(self, Shard *s, uint64_t body) except -1

# Give up the memory of an entry that has a place on disk; it is in no queue. False: no memory for its key.
cdef bint to_disk(CacheC *c, Shard *s, uint32_t i) noexcept nogil
