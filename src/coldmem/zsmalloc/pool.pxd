# The Python face of the pool; its C functions are in core.pxd, and may be cimported from here.
cimport cython
from libc.stdint cimport int32_t, uint8_t, uint32_t, uint64_t

from coldmem.zsmalloc.arena cimport Budget
from coldmem.zsmalloc.core cimport (
    LOCK_CLASS, LOCK_HANDLE, LOCK_POOL, ZS_BUSY, ZS_DOUBLE_FREE, ZS_FOREIGN, ZS_OK, ZS_STALE, PoolC,
    PoolP, zs_drain, zs_free, zs_malloc, zs_malloc_node, zs_prefetch, zs_publish, zs_read_begin,
    zs_read_end, zs_rewrite, zs_size, zs_used_bytes, zs_write,
)

@cython.final
cdef class Pool:
    cdef PoolC *c
    cdef int32_t users          # atomic: threads inside
    cdef int32_t views          # atomic: open views
    cdef int32_t closing        # atomic
    cdef object __weakref__
    cdef object owner           # the Pools whose budget this pool shares
    cdef readonly str name
    cdef readonly str locking
    cdef readonly int magazines
    cdef readonly int nodes
    cdef readonly object size_classes
    cdef _open(self, object unit_bytes, object chain, object chain_rule, object locking,
               object magazines, object limit, object capacity, bint lock_statistics,
               object compact_batch, object name, object nodes, Budget *budget)
    cdef uint32_t _size(self, object size) except 0
    cdef int32_t _node(self, object node) except -1
    cdef object _full(self, uint32_t size)
    cdef int _enter(self) except -1
    cdef void _leave(self) noexcept nogil

cdef inline uint32_t pool_index(uint64_t slot, uint32_t n) noexcept nogil:
    return <uint32_t> ((slot * <uint64_t> 0x9E3779B97F4A7C15) >> 40) % n
