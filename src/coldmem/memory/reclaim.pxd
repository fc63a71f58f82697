# Taking units out: sweeps by the reclaimer thread, by faulting threads at the limit, by request.
from libc.stdint cimport uint32_t, uint64_t

from coldmem.memory.state cimport MemoryC, Place
from coldmem.zswap.state cimport WorkContext

# One sweep: look at the next window of units, take up to `want` that are cold. Units that left.
cdef uint32_t sweep(MemoryC *m, uint32_t want, WorkContext *w) noexcept nogil
# Take out what can be taken of [first, first + n), cold or not. Units that left.
cdef uint64_t take_out(MemoryC *m, uint64_t first, uint64_t n, WorkContext *w) noexcept nogil
# Make room for nbytes and count them as hot; above the limit where nothing can be freed.
cdef void make_room(MemoryC *m, uint64_t nbytes, WorkContext *w) noexcept nogil
# The loop of the background thread; returns when m.stop is set.
cdef void reclaimer_loop(MemoryC *m) noexcept nogil
cdef void reclaimer_stop(MemoryC *m) noexcept nogil
# Buffers of a context, made on first use; NULL: no memory.
cdef Place *place_of(MemoryC *m, WorkContext *w) noexcept nogil
# Parts of a sweep: candidates in place.units[0:n], in order of address.
cdef uint32_t _pick(MemoryC *m, Place *p, uint64_t first, uint64_t last, uint32_t want,
                    bint force, WorkContext *w) noexcept nogil
cdef void _protect(MemoryC *m, Place *p, uint32_t n) noexcept nogil
cdef void _compress(MemoryC *m, Place *p, uint32_t n, WorkContext *w) noexcept nogil
cdef uint32_t _drop(MemoryC *m, Place *p, uint32_t n, bint force) noexcept nogil
