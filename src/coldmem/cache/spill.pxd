# To disk and back.
from libc.stdint cimport uint32_t, uint64_t

from coldmem.cache.engine cimport Engine
from coldmem.cache.state cimport Body, CacheC, Entry, Shard

cdef class Spill(Engine):
    cdef uint32_t _next_shard(self) noexcept
    cdef tuple _victim(self, Shard *s, uint32_t number, uint32_t i)
    cdef list _payload(self, Entry *e, Body *b)
    cdef int _unpin(self, Shard *s, uint64_t body) except -1

# Give up the memory of an entry that has a place on disk; it is in no queue. False: no memory for its key.
cdef bint to_disk(CacheC *c, Shard *s, uint32_t i) noexcept nogil
