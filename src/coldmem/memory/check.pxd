# Executable invariants. The caller is alone: it holds Zswap.admin and all contexts.
from libc.stdint cimport uint64_t

from coldmem.memory.state cimport MemoryC

cdef struct Finding:
    const char *what            # NULL: nothing wrong
    uint64_t unit
    uint64_t word
    uint64_t got
    uint64_t want

ctypedef Finding *FindingP

cdef void memory_check(MemoryC *m, bint full, Finding *out) noexcept nogil
