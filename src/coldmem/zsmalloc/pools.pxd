# The 32-pool workaround: n pools that share one limit; the pool of a slot is chosen by a hash.
cimport cython
from libc.stdint cimport uint32_t

from coldmem.zsmalloc.arena cimport Budget
from coldmem.zsmalloc.core cimport PoolC

@cython.final
cdef class Pools:
    cdef readonly tuple pools
    cdef PoolC **c              # of the pools, in their order
    cdef uint32_t n
    cdef Budget budget
