# Small values again with another codec.
from libc.stdint cimport uint32_t, uint64_t

from coldmem.cache.state cimport CacheC, Context, Shard

# Of entries start.. of a shard, compress some that have another codec with `number`, where that makes them
# smaller: the next start, 0 at the end. Values of more than `most` bytes are left alone.
cdef uint32_t reencode_some(CacheC *c, Shard *s, uint32_t start, uint32_t number, uint32_t most,
                            Context *w, uint64_t *changed) noexcept nogil
cdef bint _reencode(CacheC *c, Shard *s, uint32_t i, uint32_t number, Context *w) noexcept nogil
