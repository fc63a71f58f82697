# How an entry is forgotten.
from libc.stdint cimport uint32_t, uint64_t

from coldmem.cache.core cimport Core
from coldmem.cache.state cimport Key

cdef struct Identity:
    uint64_t body
    uint32_t segment
    uint32_t offset

cdef class Dropper(Core):
    # Whether it was there; not NULL: only if it is still that value.
    cdef bint _forget(self, Key *k, Identity *only) except -1
