from libc.stdint cimport int32_t, int64_t, uint8_t, uint32_t, uint64_t

from coldmem.zswap.state cimport WorkContext, ZswapC

ctypedef const uint8_t *U8CP

# Fill out[0:unit_bytes] with what is stored: bytes written, or a ZswapError. Exclusive: on success
# the unit is removed as well, and of several such loads one gets it. `out` may hold anything after
# an error.
cdef int32_t zswap_load(ZswapC *z, uint64_t slot, uint8_t *out, bint exclusive,
                        WorkContext *w) noexcept nogil
# Forget what is stored: whether there was anything.
cdef bint zswap_invalidate(ZswapC *z, uint64_t slot, WorkContext *w) noexcept nogil
cdef bint zswap_contains(ZswapC *z, uint64_t slot, WorkContext *w) noexcept nogil
# How it is stored: an EntryState, ENTRY_FREE for not at all. Of ENTRY_SAME, *word is the word.
cdef uint8_t zswap_peek(ZswapC *z, uint64_t slot, uint64_t *word) noexcept nogil

# Parts of it -------------------------------------------------------------------
cdef void fill(uint8_t *out, uint32_t n, uint64_t word) noexcept nogil
cdef int32_t load_object(ZswapC *z, uint64_t slot, uint64_t handle, uint32_t length, uint32_t codec,
                         uint8_t *out, WorkContext *w) noexcept nogil
cdef int32_t load_disk(ZswapC *z, uint64_t slot, int64_t offset, uint32_t length, uint32_t codec,
                       uint64_t sum, uint8_t *out, WorkContext *w) noexcept nogil
cdef int32_t unpack(ZswapC *z, const uint8_t *src, uint32_t length, uint32_t codec, uint8_t *out,
                    WorkContext *w) noexcept nogil
cdef void load_failed(ZswapC *z, uint64_t hash, uint32_t entry, uint8_t state,
                      bint cold) noexcept nogil
