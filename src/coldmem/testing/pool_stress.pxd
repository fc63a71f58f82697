# Native threads that toggle, read and verify objects of shared slots; see pool_stress.py.
cimport cython
from libc.stdint cimport int32_t, uint8_t, uint32_t, uint64_t

from coldmem.zsmalloc.core cimport PoolC

cdef struct Slot:
    int32_t lock                # >0 readers, WRITER one writer
    uint32_t length             # writer
    uint64_t handle             # writer
    uint64_t version            # writer
    PoolC *pool                 # constant

ctypedef Slot *SlotP

@cython.final
cdef class PoolStress:
    cdef Slot *slots
    cdef uint32_t slots_n
    cdef uint32_t size_max
    cdef int32_t stop
    cdef object keep
    cdef PoolC **pools
    cdef uint32_t pools_n
    cdef uint64_t _work(self, uint64_t seed, uint64_t *bad, uint64_t *full) noexcept nogil
