from libc.stdint cimport uint64_t

from coldmem.zsmalloc.core cimport PoolC, SizeClass

# Compact the whole pool: units freed. 0 at once when another thread compacts it already.
cdef uint64_t zs_compact(PoolC *p) noexcept nogil
# Units that compaction could free, without any lock.
cdef uint64_t zs_can_compact(PoolC *p) noexcept nogil
cdef uint64_t class_can_compact(SizeClass *k) noexcept nogil
