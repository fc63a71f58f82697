# Index of a shard: open addressing with linear probing, no tombstones. The caller holds Shard.lock.
from libc.stdint cimport int32_t, uint32_t, uint64_t

from coldmem.linux.atomic cimport a32_load_rlx, a64_load_rlx, prefetch
from coldmem.zswap.state cimport Shard, ZswapC

cdef enum:
    CELLS_MIN = 64

ctypedef uint64_t *U64P
ctypedef int32_t *I32P

cdef int index_init(ZswapC *z, Shard *s) noexcept nogil
cdef void index_destroy(Shard *s) noexcept nogil
# Make sure that one more entry fits; False: no memory.
cdef bint index_grow(ZswapC *z, Shard *s) noexcept nogil
cdef bint index_rehash(ZswapC *z, Shard *s, uint64_t cells_n) noexcept nogil
cdef void index_remove(ZswapC *z, Shard *s, uint64_t hash, uint32_t entry) noexcept nogil


# Both halves are well mixed: the low bits choose the shard, the high half is the tag in the index.
cdef inline uint64_t slot_hash(uint64_t slot) noexcept nogil:
    cdef uint64_t h = slot ^ (slot >> 32)
    h *= <uint64_t> 0xD6E8FEB86659FD93
    h ^= h >> 32
    h *= <uint64_t> 0xD6E8FEB86659FD93
    return h ^ (h >> 32)


cdef inline Shard *shard_of(ZswapC *z, uint64_t hash) noexcept nogil:
    return z.shards + (<uint32_t> hash & z.shards_mask)


# Begin to fetch the cell of a slot. Takes no lock: a table that is just being replaced costs the
# prefetch its use, no more.
cdef inline void index_prefetch(ZswapC *z, uint64_t slot) noexcept nogil:
    cdef uint64_t hash = slot_hash(slot)
    cdef Shard *s = shard_of(z, hash)
    cdef uint32_t mask = <uint32_t> a32_load_rlx(<I32P> &s.cells_mask)
    prefetch(<U64P> a64_load_rlx(<U64P> &s.cells) + (<uint32_t> (hash >> 32) & mask))


# The entry of `slot`, or 0.
cdef inline uint32_t index_find(ZswapC *z, Shard *s, uint64_t hash, uint64_t slot) noexcept nogil:
    cdef uint64_t tag = hash >> 32
    cdef uint64_t cell
    cdef uint32_t mask = s.cells_mask
    cdef uint32_t at = <uint32_t> tag & mask
    while True:
        cell = s.cells[at]
        if cell == 0:
            return 0
        if cell >> 32 == tag and z.entries[<uint32_t> cell].slot == slot:
            return <uint32_t> cell
        at = (at + 1) & mask


# After index_grow said True.
cdef inline void index_insert(Shard *s, uint64_t hash, uint32_t entry) noexcept nogil:
    cdef uint32_t mask = s.cells_mask
    cdef uint32_t at = <uint32_t> (hash >> 32) & mask
    while s.cells[at] != 0:
        at = (at + 1) & mask
    s.cells[at] = (hash >> 32 << 32) | entry
    s.used += 1


cdef inline bint index_room(Shard *s) noexcept nogil:
    return (s.used + 1) * <uint64_t> 4 <= (<uint64_t> s.cells_mask + 1) * 3
