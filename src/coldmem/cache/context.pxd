# Working memory of one call, and a chunk through a codec.
from libc.stdint cimport int32_t, uint8_t, uint32_t, uint64_t

from coldmem.cache.state cimport CacheC, Context

cdef Context *context_get(CacheC *c) noexcept nogil     # NULL: no memory
cdef void context_put(CacheC *c, Context *w) noexcept nogil
cdef void contexts_destroy(CacheC *c) noexcept nogil

# Stored bytes, *result points to them (in src if raw); -1: the codec failed.
cdef int32_t chunk_compress(CacheC *c, Context *w, const uint8_t *src, uint32_t n, uint32_t codec,
                            uint64_t hint, const uint8_t **result) noexcept nogil
# 0, or -1: what is stored is damaged.
cdef int chunk_decompress(CacheC *c, Context *w, const uint8_t *src, uint32_t stored, uint32_t codec,
                          uint8_t *out, uint32_t n) noexcept nogil
