# The account of all memory that is not the pool's.
from libc.stdint cimport uint64_t

from coldmem.cache.state cimport CacheC

# Count bytes: whether there was room (always with `force`; then the pool has to come down).
cdef bint charge(CacheC *c, uint64_t nbytes, bint force) noexcept nogil
cdef void uncharge(CacheC *c, uint64_t nbytes) noexcept nogil
cdef uint64_t used_bytes(CacheC *c) noexcept nogil
