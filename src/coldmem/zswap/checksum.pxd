# 64-bit checksum of n bytes; the seed (the slot) makes data that belongs elsewhere fail as well.
from libc.stdint cimport uint8_t, uint32_t, uint64_t

cdef extern from *:
    void prefetch "__builtin_prefetch" (const void *address) noexcept nogil

# A checksum under way, of data that comes in pieces. It belongs to who makes it.
ctypedef struct Sum:
    uint64_t lanes[4]
    uint8_t rest[32]  # bytes that wait until there are 32 of them
    uint32_t resting

cdef uint64_t checksum(const uint8_t *data, uint64_t n, uint64_t seed) noexcept nogil

# The same of n bytes that come in pieces, of any size: begin, add, add, end.
cdef void sum_begin(Sum *sum, uint64_t n, uint64_t seed) noexcept nogil
cdef void sum_add(Sum *sum, const uint8_t *data, uint64_t n) noexcept nogil
cdef uint64_t sum_end(Sum *sum) noexcept nogil
