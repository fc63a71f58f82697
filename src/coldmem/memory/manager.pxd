# A Memory without NumPy: limits, threads, extents. C callers: take c.
from libc.stdint cimport int32_t, uint64_t

from coldmem.memory.state cimport MemoryC
from coldmem.zswap.zswap cimport Zswap

cdef class Manager:
    cdef MemoryC *c                 # valid while the object lives; c.base is NULL once closed
    cdef object __weakref__
    cdef readonly Zswap zswap
    cdef readonly str delivery
    cdef readonly object memory_max
    cdef readonly object swap_max
    cdef readonly bint overcommit
    cdef object threads
    cdef readonly bint closed
    cdef uint64_t promise           # bytes of arrays that surely find room, whatever is in them
    cdef int _open_check(self) except -1
    cdef int _units(self, object array, uint64_t *first, uint64_t *n) except -1

# A run of units with the buffer protocol: the base of an array.
cdef class Extent:
    cdef Manager manager
    cdef void *start
    cdef Py_ssize_t nbytes

# Pins of one array.
cdef class Pin:
    cdef Manager manager
    cdef object array
    cdef uint64_t first
    cdef uint64_t n
    cdef bint held
    cdef void _release(self) noexcept

# A run for nbytes, within what is promised; NULL: no room. Needs no GIL.
cdef void *manager_alloc(MemoryC *m, uint64_t promise, uint64_t nbytes) noexcept nogil
