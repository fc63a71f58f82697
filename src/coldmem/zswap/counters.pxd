# Counters and statistics as Python dictionaries. The caller holds a context.
from libc.stdint cimport uint32_t, uint64_t

from coldmem.zswap.state cimport ZswapC

# Sum of a count over the groups at or below `top`; all groups for GROUP_ROOT.
cdef uint64_t total(ZswapC *z, uint32_t top, uint32_t field) noexcept nogil
cdef dict zswap_counters(ZswapC *z)
cdef dict zswap_stats(ZswapC *z)
cdef dict group_stats(ZswapC *z, uint32_t group)
cdef uint64_t metadata_bytes(ZswapC *z) noexcept nogil
cdef dict codec_units(ZswapC *z, list names)
cdef tuple shard_lock_counts(ZswapC *z)
