# A Memory without NumPy: limits, threads, arrays. C callers: take c.
from libc.stdint cimport int32_t, uint64_t

from coldmem.memory.state cimport MemoryC
from coldmem.zswap.state cimport WorkContext
from coldmem.zswap.zswap cimport Zswap

ctypedef uint64_t (*work_on_units)(MemoryC *m, uint64_t first, uint64_t n, WorkContext *w) noexcept nogil

cdef class Manager:
    cdef MemoryC *c                 # valid while the object lives; c.base is NULL once closed
    cdef object __weakref__
    cdef readonly Zswap zswap
    cdef readonly str delivery
    cdef readonly object memory_max
    cdef readonly object swap_max
    cdef readonly bint overcommit
    cdef object threads             # of the process `pid`
    cdef object pid
    cdef readonly bint closed
    cdef uint64_t promise           # bytes of arrays that surely find room, whatever is in them
    cdef int _open_check(self) except -1
    cdef int _units(self, object array, uint64_t *first, uint64_t *n) except -1
    cdef object _all_units(self, object array, work_on_units work)

# A run for nbytes, within what is promised; NULL: no room. Needs no GIL.
cdef void *manager_alloc(MemoryC *m, uint64_t promise, uint64_t nbytes) noexcept nogil
# As `bring_in`, for what is not asked for yet, with a chance: it stays for one sweep.
cdef uint64_t bring_in_calm(MemoryC *m, uint64_t first, uint64_t n, WorkContext *w) noexcept nogil
