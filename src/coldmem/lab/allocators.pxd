# The pools of an arm, and the functions to call on them.
cimport cython
from libc.stdint cimport uint32_t

from coldmem.lab.allocator cimport AllocatorOps

@cython.final
cdef class Allocators:
    cdef AllocatorOps ops
    cdef void **pools
    cdef uint32_t n
    cdef object keep            # whatever the pools belong to
