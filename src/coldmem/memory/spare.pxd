# Runs that a whole program's NumPy has given back, with their pages, for the arrays that it makes next.
from libc.stdint cimport int32_t, uint32_t, uint64_t

from coldmem.memory.state cimport MemoryC

cdef enum:
    SPARES = 16

cdef struct Spares:
    int32_t busy                # only ever tried; guards the rest
    int32_t on                  # constant once set
    Spares *next                # of all that are on; constant once set
    uint64_t evicted            # the Memory's clock when the first was put here; read without `busy`, too
    uint64_t bytes              # of all; read without `busy`, too
    uint64_t size[SPARES]       # 0: nothing there
    void *start[SPARES]
    uint32_t turn

ctypedef Spares *SparesP

# From now on, for ever, runs are kept here. Not by two threads at once.
cdef void spare_begin(Spares *s) noexcept nogil
# Around a fork: nobody is inside.
cdef void spares_stop() noexcept nogil
cdef void spares_resume() noexcept nogil
# A run of at least `size` bytes and not much more, content as it was left; NULL: none.
cdef void *spare_take(MemoryC *m, Spares *s, uint64_t size) noexcept nogil
# Keep a run. 0: the caller frees it.
cdef bint spare_put(MemoryC *m, Spares *s, void *start) noexcept nogil
# Give all of them back to the Memory.
cdef void spare_drop(MemoryC *m, Spares *s) noexcept nogil
