# Groups: charges against limits, along the parents. The root has no limits and is not charged.
from libc.stdint cimport int32_t, uint32_t, uint64_t

from coldmem.zswap.state cimport GROUP_LIVE, GROUP_ROOT, GroupC, ZswapC

cdef int groups_init(ZswapC *z) noexcept nogil
cdef void groups_destroy(ZswapC *z) noexcept nogil
# Add n unless that passes max; a limit is thus never passed, not even for a moment.
cdef bint charge_within(uint64_t *charge, uint64_t n, uint64_t max) noexcept nogil
# Charge a group and all above it, or nobody: GROUP_ROOT, or the first group whose limit forbids it.
cdef uint32_t group_reserve(ZswapC *z, uint32_t group, uint64_t memory, uint64_t zswap) noexcept nogil
cdef uint32_t group_reserve_swap(ZswapC *z, uint32_t group, uint64_t n) noexcept nogil
# Take charges back from `group` and all above it up to, and without, `top`.
cdef void group_uncharge_upto(ZswapC *z, uint32_t group, uint32_t top, uint64_t memory,
                              uint64_t zswap, uint64_t swap) noexcept nogil
# May units of this group go to disk?
cdef bint group_may_write(ZswapC *z, uint32_t group) noexcept nogil
# Is `group` at or below `top`?
cdef bint group_below(ZswapC *z, uint32_t group, uint32_t top) noexcept nogil
# With z.admin held, no context: a new group's id (0: too many), and the end of one that has no
# children; its units go to its parent.
cdef uint32_t group_make(ZswapC *z, uint32_t parent) noexcept nogil
cdef void group_remove(ZswapC *z, uint32_t group) noexcept nogil
cdef void group_move_shard(ZswapC *z, uint32_t shard, uint32_t group, uint32_t parent) noexcept nogil


cdef inline void group_uncharge(ZswapC *z, uint32_t group, uint64_t memory, uint64_t zswap,
                                uint64_t swap) noexcept nogil:
    if group != GROUP_ROOT:
        group_uncharge_upto(z, group, GROUP_ROOT, memory, zswap, swap)


# A store into a group that is gone belongs to its parent.
cdef inline uint32_t group_alive(ZswapC *z, uint32_t group) noexcept nogil:
    while group != GROUP_ROOT and z.groups[group].state != GROUP_LIVE:
        group = z.groups[group].parent
    return group
