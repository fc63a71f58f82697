# Entries: taken, linked into index and LRU, unlinked, given back.
from libc.stdint cimport int32_t, uint8_t, uint32_t, uint64_t

from coldmem.linux.atomic cimport a32_fetch_add_acq_rel, likely
from coldmem.zsmalloc.pool cimport PoolC, pool_index
from coldmem.zswap.state cimport Entry, Shard, ZswapC

# What an entry held, copied out under the lock and freed after it.
cdef struct Held:
    uint64_t slot
    uint64_t body
    uint32_t length
    uint32_t state              # ENTRY_FREE: nothing to free
    uint32_t group

ctypedef Held *HeldP

cdef int entries_init(ZswapC *z) noexcept nogil
cdef void entries_destroy(ZswapC *z) noexcept nogil
# Under the shard lock ---------------------------------------------------------
# A free entry, or 0: the table is full.
cdef uint32_t entry_take(ZswapC *z, Shard *s) noexcept nogil
cdef void entry_give(ZswapC *z, Shard *s, uint32_t entry) noexcept nogil
# Add to (sign 1) or take from (sign -1) the counts of its group, shard and codec.
cdef void entry_count(ZswapC *z, uint64_t hash, Entry *e, int32_t sign) noexcept nogil
# Out of index, LRU and counts, and drop the index's reference. `held` is what the caller frees with
# held_free once it has unlocked; nothing when others still use the entry.
cdef void entry_unlink(ZswapC *z, Shard *s, uint64_t hash, uint32_t entry, Held *held) noexcept nogil
# Without it -------------------------------------------------------------------
cdef void entry_put_last(ZswapC *z, uint32_t entry) noexcept nogil
cdef void held_free(ZswapC *z, Held *held) noexcept nogil


cdef inline void held_copy(Held *held, Entry *e) noexcept nogil:
    held.slot = e.slot
    held.body = e.body
    held.length = e.length
    held.state = e.state
    held.group = e.group


# Drop a reference taken under the shard lock.
cdef inline void entry_put(ZswapC *z, uint32_t entry) noexcept nogil:
    if not likely(a32_fetch_add_acq_rel(&z.entries[entry].refs, -1) != 1):
        entry_put_last(z, entry)


cdef inline PoolC *pool_of(ZswapC *z, uint64_t slot) noexcept nogil:
    if likely(z.pools_n == 1):
        return z.pools[0]
    return z.pools[pool_index(slot, z.pools_n)]
