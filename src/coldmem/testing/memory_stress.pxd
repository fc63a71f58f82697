from libc.stdint cimport int32_t, uint32_t, uint64_t

from coldmem.memory.state cimport MemoryC
from coldmem.zswap.state cimport WorkContext

cdef enum:
    WORKERS_MAX = 64            # as many words of each unit are counters

ctypedef uint64_t *U64P

cdef struct Block:              # of one unit, beside it in ordinary memory
    int32_t lock                # try only: who checks or changes the pattern
    uint32_t version            # lock

ctypedef Block *BlockP

cdef struct Result:
    uint64_t done
    uint64_t bad
    uint64_t rewritten

ctypedef Result *ResultP

cdef class MemoryStress:
    cdef object keep
    cdef MemoryC *m
    cdef uint64_t promise
    cdef uint64_t **units               # addresses
    cdef Block *blocks
    cdef uint64_t *counts               # [worker][unit]; each row is its worker's
    cdef uint32_t units_n
    cdef uint32_t words_n               # of a unit
    cdef int32_t stop
    cdef int32_t workers_n              # atomic
    cdef void work(self, uint32_t me, uint64_t seed, Result *r) noexcept nogil
    cdef void pattern(self, uint32_t unit, bint change, Result *r) noexcept nogil
    cdef uint64_t wrong_words(self, uint32_t unit) noexcept nogil
    cdef void disturb_one(self, uint64_t x, Result *r) noexcept nogil
    cdef void disturb_pin(self, uint64_t x, Result *r) noexcept nogil
    cdef void disturb_array(self, uint64_t x, Result *r) noexcept nogil

cdef void fill_words(uint64_t *out, uint32_t n, uint32_t unit, uint32_t version) noexcept nogil
