# A cache's engine as a whole.
from libc.stdint cimport uint32_t, uint64_t

from coldmem.cache.put cimport Writer
from coldmem.cache.state cimport CacheC, Entry, Shard

cdef class Engine(Writer):
    pass

# The key with its kind in front. Shard lock held.
cdef bytes key_bytes(CacheC *c, Entry *e)
