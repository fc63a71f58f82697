# Which entry goes next: S3-FIFO by bytes with a small queue that adapts, or LRU. Shard lock held.
from libc.stdint cimport uint32_t, uint64_t

from coldmem.cache.state cimport CacheC, Entry, Fifo, Shard

# Put an entry that is in no queue into the one where a new one (or one back from disk) belongs.
cdef void queue_new(CacheC *c, Shard *s, uint32_t i, bint known) noexcept nogil
# An entry counts in its queue for what `entry_weight` says, which does not change while it is in one.
cdef void queue_push(CacheC *c, Shard *s, uint32_t i, uint32_t queue) noexcept nogil
cdef void queue_push_oldest(CacheC *c, Shard *s, uint32_t i, uint32_t queue) noexcept nogil
cdef void queue_drop(CacheC *c, Shard *s, uint32_t i) noexcept nogil
cdef void queue_hit(CacheC *c, Shard *s, uint32_t i) noexcept nogil
# The entry that is to leave RAM, out of its queue already; 0: there is none.
cdef uint32_t queue_victim(CacheC *c, Shard *s) noexcept nogil

cdef bint _ghost_take(Shard *s, uint32_t hash, uint32_t *was_main) noexcept nogil
cdef void _ghost_put(CacheC *c, Shard *s, uint32_t hash, uint32_t was_main) noexcept nogil
cdef void _adapt(Shard *s) noexcept nogil
