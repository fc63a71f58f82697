# The recompressor: a thread that packs what stays cold once more, while the machine has time for it.
from libc.stdint cimport uint64_t

from coldmem.memory.state cimport MemoryC
from coldmem.zswap.recompress cimport Recompressed

# What happened up to now, or in an interval.
cdef struct Heat:
    uint64_t loads
    uint64_t wanted             # refaults that would not have been, had all been recompressed
    uint64_t cold_loads         # loads that had to undo the slower codec
    uint64_t units              # in RAM, compressed
    uint64_t cold               # of these: recompressed

ctypedef Heat *HeatP

# The loop of the thread; returns when m.stop is set.
cdef void cool_loop(MemoryC *m) noexcept nogil
cdef void cool_stop(MemoryC *m) noexcept nogil
cdef void _measure(MemoryC *m, Heat *h) noexcept nogil
cdef bint _pays(Heat *h, Heat *before, uint64_t interval_ns) noexcept nogil
