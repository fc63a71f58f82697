# What holds units of a Memory: an extent as the buffer of an array, a pin for a while. Both know the C
# side, which lives as long as the Memory that they keep alive; c.base is NULL once that is closed.
from libc.stdint cimport uint64_t

from coldmem.memory.state cimport MemoryC

# A run of units with the buffer protocol: the base of an array.
cdef class Extent:
    cdef MemoryC *c
    cdef object manager
    cdef void *start
    cdef Py_ssize_t nbytes

# Pins of one array.
cdef class Pin:
    cdef MemoryC *c
    cdef object keep                # the Memory and the array
    cdef uint64_t first
    cdef uint64_t n
    cdef bint held
    cdef void _release(self) noexcept
