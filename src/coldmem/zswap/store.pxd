from libc.stdint cimport int32_t, uint8_t, uint32_t, uint64_t

from coldmem.zswap.state cimport WorkContext, ZswapC

# Keep the unit_bytes at src under `slot`, in place of what was there: ZW_OK or a ZswapError.
# After an error nothing is stored under the slot. `group` is a group's id, GROUP_ROOT for none.
cdef int32_t zswap_store(ZswapC *z, uint64_t slot, const uint8_t *src, uint32_t group,
                         WorkContext *w) noexcept nogil
# The same for n bytes (1..unit_bytes) that are compressed already: kept as they are, and
# zswap_load hands out these n bytes. For workloads without a codec.
cdef int32_t zswap_store_compressed(ZswapC *z, uint64_t slot, const uint8_t *data, uint32_t n,
                                    uint32_t group, WorkContext *w) noexcept nogil
