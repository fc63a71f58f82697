# Magazines: per CPU and class a few objects that are live for the core and free for the owner.
from libc.stdint cimport int32_t, uint32_t, uint64_t

from coldmem.zsmalloc.core cimport PoolC, SizeClass

cdef int magazines_init(PoolC *p, uint32_t cpus, uint32_t capacity) noexcept nogil
# A pinned, unpublished object (handle index), or 0: none to be had here, ask the core.
cdef uint32_t magazine_take(PoolC *p, SizeClass *k, uint32_t node) noexcept nogil
# Whether the object was taken in.
cdef bint magazine_give(PoolC *p, SizeClass *k, uint32_t handle) noexcept nogil
cdef void magazines_drain(PoolC *p) noexcept nogil
# Objects that magazines hold of one class.
cdef uint64_t magazines_held(PoolC *p, SizeClass *k) noexcept nogil
