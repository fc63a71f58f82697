# Making room, and dropping what is too old.
from libc.stdint cimport uint32_t, uint64_t

from coldmem.cache.state cimport CacheC, Shard

cdef Shard *shard_of(CacheC *c, uint64_t hash) noexcept nogil
cdef uint32_t now_tick(CacheC *c) noexcept nogil
# Evict until about `need` bytes are free: whether anything went or was compacted.
cdef bint room_make(CacheC *c, uint64_t need) noexcept nogil
# Compact the pool where that gives back much: bytes.
cdef uint64_t room_compact(CacheC *c) noexcept nogil
# Evict the entries of a shard that are past their time, of numbers start..start+255: the next number,
# 0 at the end.
cdef uint32_t expire_some(CacheC *c, Shard *s, uint32_t start, uint64_t *dropped) noexcept nogil
# Evict everything of a shard: entries.
cdef uint64_t clear_shard(CacheC *c, Shard *s, uint32_t event) noexcept nogil
