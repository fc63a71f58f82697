# Index of a shard: open addressing with linear probing, no tombstones. The caller holds Shard.lock.
from libc.stdint cimport uint32_t, uint64_t

from coldmem.zswap.state cimport Shard, ZswapC

cdef enum:
    CELLS_MIN = 64

ctypedef uint64_t *U64P

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
