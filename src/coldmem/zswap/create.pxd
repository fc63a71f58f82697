# Making and unmaking the C side of a Zswap.
from libc.stdint cimport uint32_t, uint64_t

from coldmem.zswap.state cimport ZswapC

# A closed Zswap: nothing but its door, which is shut. NULL: no memory.
cdef ZswapC *zswap_new() noexcept nogil
# Tables for it; 0, or -1 with nothing left behind. The door stays shut.
cdef int zswap_build(ZswapC *z, uint32_t shards, bint counting) noexcept nogil
# Keep calls out, wait for those that are in, end the shrinker, give the room on disk back and free
# the tables. Closing twice is fine.
cdef void zswap_close(ZswapC *z) noexcept nogil
cdef void zswap_free(ZswapC *z) noexcept nogil
cdef void tables_destroy(ZswapC *z) noexcept nogil
cdef void disk_destroy(ZswapC *z) noexcept nogil
