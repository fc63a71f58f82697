# Values as they are, beside the compressed ones.
from libc.stdint cimport uint8_t, uint32_t

from coldmem.cache.state cimport CacheC, Entry, Shard

cdef void hot_drop(CacheC *c, Shard *s, Entry *e) noexcept nogil
cdef void hot_put(CacheC *c, Shard *s, uint32_t i, const uint8_t *data, uint32_t n) noexcept nogil
cdef void hot_destroy(Shard *s) noexcept nogil
