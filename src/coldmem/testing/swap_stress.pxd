# Native threads over one swap file, and the cost of its allocator; see swap_stress.py.
from libc.stdint cimport int64_t, uint32_t, uint64_t

cdef struct SwapEntry:
    int64_t offset              # < 0: empty
    uint32_t n
    uint32_t fill0
    uint64_t sum

ctypedef SwapEntry *SwapEntryP

cdef struct SwapTally:
    uint64_t operations
    uint64_t wrong              # data that is not what was written
    uint64_t full               # allocations that found no room
    uint64_t failed             # transfers that returned an error

ctypedef SwapTally *SwapTallyP
