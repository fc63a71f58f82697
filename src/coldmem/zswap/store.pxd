from libc.stdint cimport int32_t, uint8_t, uint32_t, uint64_t

from coldmem.zswap.state cimport WorkContext, ZswapC

# What is to be published.
cdef struct Unit:
    uint64_t slot
    uint64_t body
    uint32_t length
    uint32_t group
    uint8_t state
    uint8_t codec

ctypedef Unit *UnitP
ctypedef const uint8_t *U8CP
ctypedef const uint64_t *U64CP

# Keep the unit_bytes at src under `slot`, in place of what was there: ZW_OK or a ZswapError.
# After an error nothing is stored under the slot. `group` is a group's id, GROUP_ROOT for none.
cdef int32_t zswap_store(ZswapC *z, uint64_t slot, const uint8_t *src, uint32_t group,
                         WorkContext *w) noexcept nogil
# The same, but after an error the slot holds what it held before.
cdef int32_t zswap_replace(ZswapC *z, uint64_t slot, const uint8_t *src, uint32_t group,
                           WorkContext *w) noexcept nogil
# As zswap_store for n bytes (1..unit_bytes) that are compressed already: kept as they are, and
# zswap_load hands out these n bytes. For workloads without a codec.
cdef int32_t zswap_store_compressed(ZswapC *z, uint64_t slot, const uint8_t *data, uint32_t n,
                                    uint32_t group, WorkContext *w) noexcept nogil

# Parts of it -------------------------------------------------------------------
# The word that fills the unit: whether there is one.
cdef bint same_filled(const uint8_t *src, uint32_t n, uint64_t *word) noexcept nogil
# Nobody is let in while a full pool comes down to its accept threshold; not with "writeback".
cdef bint store_refused(ZswapC *z) noexcept nogil
cdef int32_t store_same(ZswapC *z, uint64_t slot, uint64_t word, uint32_t group,
                        WorkContext *w) noexcept nogil
# Group room for a whole unit is reserved; keep n bytes and give the rest back.
cdef int32_t store_object(ZswapC *z, uint64_t slot, const uint8_t *data, uint32_t n,
                          uint32_t codec, uint32_t group, WorkContext *w) noexcept nogil
# Link the unit in place of an older one; False: no entry, and nothing has changed.
cdef bint publish(ZswapC *z, Unit *u) noexcept nogil
cdef int32_t store_failed(uint64_t *event, int32_t error) noexcept nogil
