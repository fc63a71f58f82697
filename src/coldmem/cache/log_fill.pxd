# Payloads straight from the file to where they are wanted.
from libc.stdint cimport uint8_t, uint32_t, uint64_t

from coldmem.zswap.checksum cimport Sum

cdef struct Parts:
    uint64_t sizes[255]
    uint64_t left  # bytes of the part under way that are still to come
    uint64_t sum   # of the parts before it
    uint32_t count
    uint32_t at
    Sum now
