from libc.stdint cimport int32_t, uint8_t, uint32_t, uint64_t

from coldmem.zswap.state cimport WorkContext, ZswapC

cdef struct Slot:
    int32_t lock                # try only: whoever changes the slot, in the ruled half
    int32_t floor               # atomic: version of the last store that is over; 0: none
    int32_t next                # atomic: version of the last store that was begun
    int32_t present             # lock

ctypedef Slot *SlotP
ctypedef uint8_t *U8P
ctypedef uint64_t *U64P

cdef struct Result:
    uint64_t done
    uint64_t bad
    uint64_t refused

ctypedef Result *ResultP

cdef void fill_unit(uint8_t *out, uint32_t n, uint32_t slot, uint32_t version) noexcept nogil
cdef int32_t unit_version(const uint8_t *unit) noexcept nogil
cdef bint unit_valid(const uint8_t *unit, uint8_t *work, uint32_t n, uint32_t slot) noexcept nogil

cdef class ZswapStress:
    cdef object keep
    cdef ZswapC *z
    cdef Slot *slots
    cdef uint32_t slots_n
    cdef uint32_t groups_n
    cdef uint32_t groups[64]
    cdef int32_t stop
    cdef void run(self, uint64_t seed, uint8_t *unit, uint8_t *work, Result *r) noexcept nogil
    cdef void ruled(self, uint32_t slot, uint32_t what, uint32_t group, uint8_t *unit,
                    uint8_t *work, WorkContext *w, Result *r) noexcept nogil
    cdef void free_for_all(self, uint32_t slot, uint32_t what, uint32_t group, uint8_t *unit,
                           uint8_t *work, WorkContext *w, Result *r) noexcept nogil
