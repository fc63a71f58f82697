# The range of addresses that arrays live in, and the runs of units that they get.
from libc.stdint cimport int32_t, uint8_t, uint32_t, uint64_t

from coldmem.memory.state cimport MemoryC
from coldmem.zswap.state cimport WorkContext

# Reserve and register: 0, or -errno with nothing left behind.
cdef int region_open(MemoryC *m, uint64_t capacity_bytes, bint sigbus) noexcept nogil
# Pages beyond the last unit, one for each handler thread: touching one makes a handler return.
cdef enum:
    BELLS = 64

cdef inline uint64_t region_bytes(MemoryC *m) noexcept nogil:
    return (m.units_max << m.unit_shift) + BELLS * 4096

cdef inline uint8_t *region_bell(MemoryC *m, uint32_t i) noexcept nogil:
    return m.base + (m.units_max << m.unit_shift) + <uint64_t> i * 4096

cdef void region_close(MemoryC *m) noexcept nogil
# A run of zeros for an array, unit-aligned; NULL: no addresses left.
cdef void *region_alloc(MemoryC *m, uint64_t nbytes) noexcept nogil
# Give an array back: its pages, its compressed data, its addresses. Waits for who works on it.
cdef void region_free(MemoryC *m, void *start) noexcept nogil
# Usable bytes of a live run; 0 when no run begins there.
cdef uint64_t region_size(MemoryC *m, void *start) noexcept nogil
# Forget the content of whole units of [start, start + nbytes): they read as zeros.
cdef void region_zero(MemoryC *m, uint64_t first, uint64_t n, WorkContext *w) noexcept nogil
# Keep the units there and writable until as many unpins: 0 or a FaultError. Then no system call and
# no device meets a page that is missing or protected.
cdef int32_t region_pin(MemoryC *m, uint64_t first, uint64_t n) noexcept nogil
cdef void region_unpin(MemoryC *m, uint64_t first, uint64_t n) noexcept nogil
# Is any of these units pinned?
cdef bint region_pinned(MemoryC *m, uint64_t first, uint64_t n) noexcept nogil
cdef void region_hint(MemoryC *m, uint64_t first, uint64_t n, uint32_t hint) noexcept nogil
