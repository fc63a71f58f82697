# Many units in one call, one context for all of them.
from libc.stdint cimport int32_t, uint8_t, uint32_t, uint64_t

from coldmem.zswap.state cimport WorkContext, ZswapC

# Which slots: those of `array`, or start, start + step, ...
cdef struct Slots:
    const uint64_t *array
    uint64_t start
    uint64_t step
    uint64_t n

ctypedef Slots *SlotsP
ctypedef const uint64_t *U64CP

cdef inline uint64_t slot_at(Slots *s, uint64_t i) noexcept nogil:
    return s.array[i] if s.array != NULL else s.start + i * s.step

# All or nothing: after an error no slot of the batch holds anything, and *failed is the first that
# could not be stored.
cdef int32_t batch_store(ZswapC *z, Slots *s, const uint8_t *src, uint32_t group, uint64_t *failed,
                         WorkContext *w) noexcept nogil
# Loads all that it can. result[i] is what zswap_load returned; errno_seen of the last read error.
# Returns how many failed.
cdef uint64_t batch_load(ZswapC *z, Slots *s, uint8_t *out, bint exclusive, int32_t *result,
                         WorkContext *w) noexcept nogil
# How many there were.
cdef uint64_t batch_invalidate(ZswapC *z, Slots *s, WorkContext *w) noexcept nogil
