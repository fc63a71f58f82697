# Whether the structures of a cache agree with each other.
from coldmem.cache.state cimport CacheC, Shard

# None, or what is wrong.
cdef object cache_check(CacheC *c)
cdef object _check_shard(CacheC *c, Shard *s)
