# The Python face of a group.
from libc.stdint cimport uint32_t

from coldmem.zswap.state cimport WorkContext, ZswapC

cdef class Group:
    cdef ZswapC *c
    cdef readonly object zswap      # keeps c
    cdef readonly object parent     # Group or None
    cdef readonly str name
    cdef readonly uint32_t id
    cdef WorkContext *_enter(self) except NULL
