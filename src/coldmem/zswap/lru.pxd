# LRU of one group in one shard, and its counts. The caller holds Shard.lock.
from libc.stdint cimport uint32_t, uint64_t

from coldmem.linux.atomic cimport a64_load_rlx, a64_store_rlx
from coldmem.zswap.state cimport Entry, GroupLru, ZswapC

ctypedef uint64_t *U64P

# Places in GroupLru, in 64-bit words.
cdef enum LruField:
    F_PROTECTED = 1
    F_SAME_UNITS = 2
    F_RAM_UNITS = 3
    F_RAW_UNITS = 4
    F_DISK_UNITS = 5
    F_RAM_BYTES = 6
    F_DISK_BYTES = 7
    F_STORES = 8
    F_LOADS = 9
    F_DISK_LOADS = 10
    F_WRITTEN_BACK = 11
    F_RAW_STORES = 12
    F_SAME_STORES = 13

cdef void lru_rotate(ZswapC *z, GroupLru *l, uint32_t entry) noexcept nogil
# Sum of one count over all shards. No lock.
cdef uint64_t lru_sum(ZswapC *z, uint32_t group, uint32_t field) noexcept nogil


# Guarded by the shard lock, so a load and a store will do; both are atomic for those who only read.
cdef inline void count_add(uint64_t *count, uint64_t n) noexcept nogil:
    a64_store_rlx(count, a64_load_rlx(count) + n)


cdef inline void count_sub(uint64_t *count, uint64_t n) noexcept nogil:
    a64_store_rlx(count, a64_load_rlx(count) - n)


# Those of one group lie side by side: a stride of a power of two would put them all in a few sets
# of the processor's caches.
cdef inline GroupLru *lru_at(ZswapC *z, uint32_t shard, uint32_t group) noexcept nogil:
    return z.lrus + (<uint64_t> group * (<uint64_t> z.shards_mask + 1) + shard)


cdef inline GroupLru *lru_of(ZswapC *z, uint64_t hash, uint32_t group) noexcept nogil:
    return lru_at(z, <uint32_t> hash & z.shards_mask, group)


cdef inline void lru_push(ZswapC *z, GroupLru *l, uint32_t entry) noexcept nogil:
    cdef Entry *e = z.entries + entry
    e.prev = 0
    e.next = l.head
    if l.head:
        z.entries[l.head].prev = entry
    else:
        l.tail = entry
    l.head = entry


cdef inline void lru_remove(ZswapC *z, GroupLru *l, uint32_t entry) noexcept nogil:
    cdef Entry *e = z.entries + entry
    if l.walk == entry:
        l.walk = e.prev
    if e.prev:
        z.entries[e.prev].next = e.next
    else:
        l.head = e.next
    if e.next:
        z.entries[e.next].prev = e.prev
    else:
        l.tail = e.prev
