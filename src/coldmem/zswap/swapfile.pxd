# The swap file as C sees it. All functions may be called by any thread, without the GIL.
from libc.stdint cimport int32_t, int64_t, uint8_t, uint32_t, uint64_t

from coldmem.linux.lock cimport LockCounts, Mutex

cdef struct SwapFileC:
    Mutex lock                  # guards the map and every field below it up to `fd`
    uint64_t used_bytes         # granules in use, in bytes; read without the lock as a hint (a64_load_rlx)

ctypedef SwapFileC *SwapFileP

# Reserve room for n bytes (n <= unit_bytes): the offset, or -ENOSPC when swap_max is reached.
cdef int64_t swap_alloc(SwapFileC *f, uint32_t n) noexcept nogil
# Give it back. n is the n of swap_alloc.
cdef void swap_free(SwapFileC *f, int64_t offset, uint32_t n) noexcept nogil
# Bytes that an entry of n bytes occupies.
cdef uint32_t swap_charge(SwapFileC *f, uint32_t n) noexcept nogil
# Whole transfers (short ones are continued): 0 or -errno.
cdef int32_t swap_write(SwapFileC *f, const uint8_t *src, uint64_t n, int64_t offset) noexcept nogil
cdef int32_t swap_read(SwapFileC *f, uint8_t *dst, uint64_t n, int64_t offset) noexcept nogil
# 64-bit checksum of n bytes; the seed (the slot) makes data that belongs elsewhere fail as well.
cdef uint64_t checksum(const uint8_t *data, uint64_t n, uint64_t seed) noexcept nogil

cdef class SwapFile:
    cdef SwapFileC c
