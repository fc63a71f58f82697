"""`check_valid` of a cache: do index, queues, counts and objects agree?

Locks: each shard's while it is looked at. The sum over shards is exact only when nobody writes.
"""

import cython
from cython.cimports.coldmem.cache.body import entry_length, entry_stored, entry_weight
from cython.cimports.coldmem.cache.state import (
    E_DISK,
    E_FREE,
    E_LARGE,
    E_SMALL,
    F_ON_DISK,
    Q_DISK,
    Q_NONE,
    QUEUES,
    BodyP,
    CacheP,
    EntryP,
    FifoP,
    ShardP,
    entry_at,
)
from cython.cimports.coldmem.linux.lock import mutex_lock, mutex_unlock
from cython.cimports.coldmem.zsmalloc.core import zs_size
from cython.cimports.libc.stdint import uint32_t, uint64_t


def cache_check(c):
    n: uint32_t
    for n in range(c.shards_mask + 1):
        wrong = _check_shard(c, c.shards + n)
        if wrong is not None:
            return f"shard {n}: {wrong}"
    return None


def _check_shard(c, s):
    mutex_lock(cython.address(s.lock))
    try:
        return _index(c, s) or _queues(c, s)
    finally:
        mutex_unlock(cython.address(s.lock))


@cython.cfunc
def _index(c: CacheP, s: ShardP):
    i: uint32_t
    bucket: uint32_t
    e: EntryP
    b: BodyP
    live: uint32_t = 0
    reached: uint32_t = 0
    spare: uint32_t = 0
    original: uint64_t = 0
    stored: uint64_t = 0
    disk: uint64_t = 0
    for bucket in range(s.mask + 1):
        i = s.buckets[bucket]
        while i:
            e = entry_at(s, i)
            if e.state == E_FREE or e.hash & s.mask != bucket:
                return f"entry {i} does not belong into bucket {bucket}"
            reached += 1
            if reached > s.count:
                return "the chains of the index hold more entries than there are"
            i = e.chain
    i = s.free_head
    while i:
        spare += 1
        if spare > s.end or entry_at(s, i).state != E_FREE:
            return f"entry {i} is on the list of free entries and is not free"
        i = entry_at(s, i).chain
    for i in range(1, s.end):
        e = entry_at(s, i)
        if e.state == E_FREE:
            continue
        live += 1
        original += entry_length(e)
        stored += entry_stored(c, e)
        if e.flags & F_ON_DISK:
            disk += e.disk_bytes
        if e.state == E_SMALL and zs_size(c.pool, e.body) < e.key_bytes:
            return f"the object of entry {i} is smaller than its key"
        if e.state == E_LARGE:
            b = cython.cast(BodyP, e.body)
            if b.filled != b.pieces or b.dead:
                return f"the body of entry {i} is not whole"
        if e.state == E_DISK and not e.flags & F_ON_DISK:
            return f"entry {i} is on disk and has no place there"
        if (e.state == E_DISK) != (e.queue == Q_DISK):
            return f"entry {i} of state {e.state} is in queue {e.queue}"
        if e.hot and (e.hot > s.hot_count or s.hot[e.hot - 1].entry != i):
            return f"the hot copy of entry {i} is another's"
    if not live == reached == s.count or live + spare + 1 != s.end:
        return f"{live} entries live, {reached} in the index, {s.count} counted, {spare} free of {s.end}"
    if original != s.original_bytes or stored != s.stored_bytes or disk != s.disk_bytes:
        return (f"bytes original/stored/on disk are {original}/{stored}/{disk}, counted "
                f"{s.original_bytes}/{s.stored_bytes}/{s.disk_bytes}")
    return None


@cython.cfunc
def _queues(c: CacheP, s: ShardP):
    number: uint32_t
    i: uint32_t
    before: uint32_t
    q: FifoP
    e: EntryP
    count: uint64_t
    size: uint64_t
    queued: uint64_t = 0
    loose: uint64_t = 0
    for number in range(1, QUEUES):
        q = cython.address(s.queues[number])
        count = 0
        size = 0
        before = 0
        i = q.newest
        while i:
            e = entry_at(s, i)
            if e.queue != number or e.prev != before:
                return f"entry {i} is not rightly linked in queue {number}"
            count += 1
            if count > s.count:
                return f"queue {number} is longer than there are entries"
            size += entry_weight(c, e)
            before = i
            i = e.next
        if before != q.oldest or count != q.count or size != q.bytes:
            return f"queue {number} holds {count} entries, {size} bytes; counted {q.count}, {q.bytes}"
        queued += count
    for i in range(1, s.end):
        e = entry_at(s, i)
        if e.state != E_FREE and e.queue == Q_NONE:
            loose += 1
    if queued + loose != s.count:
        return f"{queued} entries are queued and {loose} not, of {s.count}"
    return None
