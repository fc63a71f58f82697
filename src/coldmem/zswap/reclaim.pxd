# Making room: which units go, when a store, the shrinker or the user asks for it.
from libc.stdint cimport int32_t, uint32_t, uint64_t

from coldmem.linux.atomic cimport a64_load_rlx
from coldmem.zsmalloc.arena cimport MAX_CHAIN
from coldmem.zswap.state cimport WorkContext, ZswapC

cdef struct Reclaimed:
    uint32_t written            # units that went to disk
    uint32_t raced
    uint64_t freed_bytes

ctypedef Reclaimed *ReclaimedP

# One batch from one group: units written.
cdef uint32_t reclaim_group(ZswapC *z, uint32_t group, uint32_t want, uint32_t scan, bint force,
                            WorkContext *w, Reclaimed *out) noexcept nogil
# One batch from the next group that has something to give; -1: there is none.
cdef int32_t reclaim_next(ZswapC *z, uint32_t scan, WorkContext *w) noexcept nogil
cdef bint group_has_units(ZswapC *z, uint32_t group) noexcept nogil
# One batch from the groups at or below `top`.
cdef uint32_t reclaim_below(ZswapC *z, uint32_t top, WorkContext *w) noexcept nogil
# An object of n bytes for `slot` when the pool had no room at first: a handle, or 0 and *error.
cdef uint64_t reclaim_malloc(ZswapC *z, uint64_t slot, uint32_t n, int32_t *error,
                             WorkContext *w) noexcept nogil
# Charge a group, writing back from whatever stands at its limit as long as that helps.
cdef bint reclaim_reserve(ZswapC *z, uint32_t group, uint64_t memory, uint64_t zswap,
                          WorkContext *w) noexcept nogil
# Compaction of the pools where it frees more than 1/32 of them: bytes freed.
cdef uint64_t reclaim_compact(ZswapC *z) noexcept nogil
# Units that writeback can take without hurting, by the rule in force.
cdef uint64_t shrink_count(ZswapC *z, uint32_t group, bint consume) noexcept nogil
# Write back up to `bytes` (as stored) of the groups at or below `top`, coldest first; gentle: not
# more than shrink_count allows, and not beyond the first unit that proves to be in use.
cdef void shrink_bytes(ZswapC *z, uint32_t top, uint64_t bytes, bint gentle, WorkContext *w,
                       Reclaimed *out) noexcept nogil
# For a layer that keeps data uncompressed: count `bytes` against memory_max, writing back to make
# room. False: no room.
cdef bint group_charge_hot(ZswapC *z, uint32_t group, uint64_t bytes, WorkContext *w) noexcept nogil
cdef void group_uncharge_hot(ZswapC *z, uint32_t group, uint64_t bytes) noexcept nogil


# The next zspage might not fit any more.
cdef inline bint pool_at_limit(ZswapC *z) noexcept nogil:
    return a64_load_rlx(&z.budget.used_bytes) + <uint64_t> z.unit_bytes * MAX_CHAIN > z.max_pool_bytes
