# The account of a Memory: what it uses, against memory_max.
from libc.stdint cimport uint32_t, uint64_t

from coldmem.memory.state cimport Counts, MemoryC

# Hot pages, compressed data, free memory of the pool that is still resident, metadata. In bytes.
cdef uint64_t footprint(MemoryC *m) noexcept nogil
cdef uint64_t metadata_bytes(MemoryC *m) noexcept nogil
# Count nbytes as hot if that stays below the limit.
cdef bint charge(MemoryC *m, uint64_t nbytes) noexcept nogil
# Count them in any case.
cdef void charge_always(MemoryC *m, uint64_t nbytes) noexcept nogil
cdef void uncharge(MemoryC *m, uint64_t nbytes) noexcept nogil
cdef void reclaimer_wake(MemoryC *m) noexcept nogil
