# Invariants of a zbud or z3fold pool.
from libc.stdint cimport uint64_t

from coldmem.lab.backend_core cimport BackendC

ctypedef const char *text_t

cdef struct BackendFinding:
    text_t what                 # NULL: nothing was found
    uint64_t page               # number of the page in the arena
    uint64_t number

# A pool at one moment.
cdef struct BackendCounts:
    uint64_t objects
    uint64_t pages
    uint64_t headless
    uint64_t full               # pages of list 0
    uint64_t moved
    uint64_t compacted
    uint64_t resident_free_bytes
    uint64_t released_bytes
    uint64_t metadata_bytes

cdef void backend_counts(BackendC *b, BackendCounts *out) noexcept nogil
# Under the pool lock; `full`: every handle too.
cdef void backend_check(BackendC *b, bint three, bint full, BackendFinding *out) noexcept nogil
