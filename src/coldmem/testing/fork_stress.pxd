# Forks while native threads use the runs that are kept for NumPy; see fork_stress.py.
from libc.stdint cimport int32_t, uint64_t

from coldmem.memory.spare cimport Spares
from coldmem.memory.state cimport MemoryC

cdef class SpareStress:
    cdef Spares *s                  # never freed: every fork looks at it
    cdef MemoryC *m
    cdef uint64_t nbytes
    cdef uint64_t promise
    cdef bint kept
    cdef int32_t stop_word          # atomic
    cdef object keep
    cdef uint64_t _turn(self) noexcept nogil
    cdef int _child(self) noexcept nogil
