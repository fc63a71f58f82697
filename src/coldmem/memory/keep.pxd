# Whether units that are loaded keep their compressed copy.
from libc.stdint cimport int32_t, uint64_t

from coldmem.memory.state cimport MemoryC, Place

# Shall what is loaded now, to be read, keep its copy? cold: it was recompressed.
cdef bint keep_copies(MemoryC *m, Place *p, bint cold) noexcept nogil
# A unit came back that left `distance` evictions ago.
cdef void keep_refault(MemoryC *m, Place *p, uint64_t distance) noexcept nogil
# A copy was lost to a write.
cdef void keep_written(MemoryC *m) noexcept nogil
# A copy was used again.
cdef void keep_reused(MemoryC *m) noexcept nogil
# For (positive) or against copies.
cdef void keep_vote(MemoryC *m, int32_t vote) noexcept nogil
