# Serving a fault, and what asks for units without one.
from libc.stdint cimport int32_t, uint32_t, uint64_t

from coldmem.memory.state cimport MemoryC, Place
from coldmem.zswap.state cimport WorkContext

# Make the page at an address usable for the access that failed. FAULT_OK or a FaultError.
# write: 1 for a write, 0 for a read, -1 where that is not known.
cdef int32_t fault_serve(MemoryC *m, uint64_t address, int32_t write) noexcept nogil
# The same for one unit, with a context.
cdef int32_t fault_unit(MemoryC *m, uint64_t unit, int32_t write, WorkContext *w) noexcept nogil
# Bring in what is not there of [first, first + n), as long as there is room without taking others
# out. Units brought in.
cdef uint64_t bring_in(MemoryC *m, uint64_t first, uint64_t n, uint64_t chance, WorkContext *w) noexcept nogil
# Parts of it
cdef uint32_t _gather(MemoryC *m, uint64_t first, uint32_t n, uint64_t state, uint64_t *words) noexcept nogil
cdef int32_t _load(MemoryC *m, Place *p, uint64_t first, uint32_t n, bint write, uint64_t chance,
                   WorkContext *w) noexcept nogil
cdef uint32_t _stream(MemoryC *m, uint64_t unit, uint64_t state, uint64_t hint) noexcept nogil
