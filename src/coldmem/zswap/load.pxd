from libc.stdint cimport int32_t, uint8_t, uint32_t, uint64_t

from coldmem.zswap.state cimport WorkContext, ZswapC

# Fill out[0:unit_bytes] with what is stored: bytes written, or a ZswapError. Exclusive: on success
# the unit is removed as well, and of several such loads one gets it. `out` may hold anything after
# an error.
cdef int32_t zswap_load(ZswapC *z, uint64_t slot, uint8_t *out, bint exclusive,
                        WorkContext *w) noexcept nogil
# Forget what is stored: whether there was anything.
cdef bint zswap_invalidate(ZswapC *z, uint64_t slot, WorkContext *w) noexcept nogil
cdef bint zswap_contains(ZswapC *z, uint64_t slot) noexcept nogil
