# The 32-pool workaround for zbud and z3fold: n pools that share one limit.
cimport cython
from libc.stdint cimport uint32_t

from coldmem.lab.backend_core cimport BackendC
from coldmem.zsmalloc.arena cimport Budget

ctypedef BackendC **BackendPP

@cython.final
cdef class Backends:
    cdef readonly tuple pools
    cdef BackendC **c           # of the pools, in their order
    cdef uint32_t n
    cdef Budget budget
