# 64-bit checksum of n bytes; the seed (the slot) makes data that belongs elsewhere fail as well.
from libc.stdint cimport uint8_t, uint64_t

cdef uint64_t checksum(const uint8_t *data, uint64_t n, uint64_t seed) noexcept nogil
