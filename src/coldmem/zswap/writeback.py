"""Writeback: the coldest units go to the swap file, compressed as they are.

The order of work, which is what makes it safe against all else:

1. `batch_gather`, under the shard lock: from the tail of an LRU. The entry is marked, given a
   reference and rotated to the head *before* the lock is dropped, so nobody picks it a second time
   and a failing unit does not block the ones behind it.
2. `batch_place`, no lock: room in the swap file, a checksum, and the bytes beside each other in one
   buffer; neighbours in the file become one write.
3. `item_finish`, shard lock again: only if *the same entry* is still linked (the reference keeps it
   from being reused, so its number is its identity) and nobody but the index and we use it, does it
   become a disk entry. Its object is freed after unlocking.

Until step 3 the unit is in RAM, after it on disk: it is findable at every moment. A unit that was
read, overwritten or removed meanwhile, and one that could not be written, stays as it is, and its
room in the file is given back.

Guarantees: every unit gathered ends either on disk or unmarked; nothing is retried here.
Locks: a shard lock at a time; none during I/O.
"""

import cython
from cython.cimports.coldmem.linux.atomic import (
    a32_fetch_add,
    a32_fetch_add_acq_rel,
    a32_load_acq,
    a64_fetch_add_rlx,
)
from cython.cimports.coldmem.linux.lock import mutex_lock, mutex_unlock
from cython.cimports.coldmem.zsmalloc.pool import zs_free, zs_read_begin, zs_read_end
from cython.cimports.coldmem.zswap.context import context_batch
from cython.cimports.coldmem.zswap.entry import entry_count, entry_put, pool_of
from cython.cimports.coldmem.zswap.group import (
    group_reserve_swap,
    group_uncharge,
    group_uncharge_upto,
)
from cython.cimports.coldmem.zswap.index import shard_of, slot_hash
from cython.cimports.coldmem.zswap.lru import count_add, lru_at, lru_of, lru_remove, lru_rotate
from cython.cimports.coldmem.zswap.state import (
    BATCH_UNITS_MAX,
    ENTRY_DISK,
    GROUP_ROOT,
    REFERENCED,
    EntryP,
    GroupLruP,
    ShardP,
)
from cython.cimports.coldmem.zswap.swapfile import (
    checksum,
    swap_alloc,
    swap_charge,
    swap_free,
    swap_write,
)
from cython.cimports.libc.stdint import int32_t, int64_t, uint32_t, uint64_t
from cython.cimports.libc.string import memcpy, memset


def batch_init(b):
    b.n = 0
    b.bytes = 0
    b.full = 0
    b.scanned = 0
    b.written = 0
    b.raced = 0
    b.failed = 0
    b.freed_bytes = 0


def batch_gather(z, b, shard, group, quota, scan, force):
    s: ShardP = z.shards + shard
    l: GroupLruP = lru_at(z, shard, group)
    e: EntryP
    entry: uint32_t
    charge: uint32_t
    item: ItemP
    end: uint32_t = b.n + quota
    if end > BATCH_UNITS_MAX:
        end = BATCH_UNITS_MAX
    mutex_lock(cython.address(s.lock))
    while b.n < end and scan > 0:
        entry = l.tail
        if entry == 0:
            break
        scan -= 1
        b.scanned += 1
        e = z.entries + entry
        if e.writeback or (e.referenced & REFERENCED and not force and not z.protected_rule):
            e.referenced &= ~REFERENCED
            lru_rotate(z, l, entry)
            continue
        charge = swap_charge(z.swap, e.length)
        if b.bytes + charge > z.batch_bytes:
            b.full = 1
            break
        item = cython.address(b.item[b.n])
        item.slot = e.slot
        item.handle = e.body
        item.entry = entry
        item.length = e.length
        item.charge = charge
        item.group = e.group
        item.offset = -1
        item.written = 0
        b.n += 1
        b.bytes += charge
        e.referenced &= ~REFERENCED
        e.writeback = 1
        a32_fetch_add(cython.address(e.refs), 1)
        lru_rotate(z, l, entry)
    mutex_unlock(cython.address(s.lock))


def batch_write(z, b, w):
    i: uint32_t
    if b.n == 0:
        return
    if context_batch(z, w):
        batch_place(z, b, w)
    for i in range(b.n):
        item_finish(z, b, cython.address(b.item[i]))
    b.n = 0
    b.bytes = 0


def batch_place(z, b, w):
    """Copy each unit's bytes to the buffer, and write each run of neighbours."""
    i: uint32_t
    first: uint32_t = 0  # of the run that is in the buffer
    run: uint64_t = 0  # bytes of the run, each unit rounded up to what it occupies
    end: uint64_t = 0  # without the padding of its last unit
    item: ItemP
    for i in range(b.n):
        item = cython.address(b.item[i])
        if group_reserve_swap(z, item.group, item.charge) != GROUP_ROOT:
            a64_fetch_add_rlx(cython.address(z.groups[item.group].writeback_fail), 1)
            continue
        item.offset = swap_alloc(z.swap, item.length)
        if item.offset < 0:
            group_uncharge(z, item.group, 0, 0, item.charge)
            continue
        if run and item.offset != b.item[first].offset + cython.cast(int64_t, run):
            if not batch_flush(z, b, w, first, i, end):
                return  # the file is in trouble: the rest stays in RAM
            run = 0
        if run == 0:
            first = i
        item_copy(z, item, w.batch + run)
        end = run + item.length
        run += item.charge
        memset(w.batch + end, 0, run - end)
    if run:
        batch_flush(z, b, w, first, b.n, end)


def item_copy(z, item, dst):
    """The unit's bytes as they are in the pool, and their checksum."""
    token: uint64_t
    error: int32_t
    src: U8CP = zs_read_begin(
        pool_of(z, item.slot), item.handle, cython.address(token), cython.address(error)
    )
    if src == cython.NULL:
        # We hold a reference, so this cannot be; if it were, the checksum would fail on reading.
        a64_fetch_add_rlx(cython.address(z.events.internal_errors), 1)
        return
    memcpy(dst, src, item.length)
    zs_read_end(pool_of(z, item.slot), item.handle, token)
    item.checksum = checksum(dst, item.length, item.slot)


def batch_flush(z, b, w, first, end, n):
    """Write the run that began with item `first`: n bytes of the buffer."""
    i: uint32_t
    if swap_write(z.swap, w.batch, n, b.item[first].offset) != 0:
        a64_fetch_add_rlx(cython.address(z.events.write_errors), 1)
        return False
    for i in range(first, end):
        if b.item[i].offset >= 0:
            b.item[i].written = 1
    return True


def item_finish(z, b, item):
    """Switch one unit to disk, or leave it as it is."""
    hash: uint64_t = slot_hash(item.slot)
    s: ShardP = shard_of(z, hash)
    e: EntryP = z.entries + item.entry
    group: uint32_t
    mutex_lock(cython.address(s.lock))
    e.writeback = 0
    group = e.group
    # Two references: the index's and ours. A third is a load in progress: the unit is warm.
    if (item.written and e.linked and not e.referenced & REFERENCED
            and a32_load_acq(cython.address(e.refs)) == 2):
        lru_remove(z, lru_of(z, hash, group), item.entry)
        entry_count(z, hash, e, -1)
        e.state = ENTRY_DISK
        e.body = cython.cast(uint64_t, item.offset)
        e.checksum = item.checksum
        entry_count(z, hash, e, 1)
        count_add(cython.address(lru_of(z, hash, group).written_back), 1)
        a32_fetch_add_acq_rel(cython.address(e.refs), -1)
        mutex_unlock(cython.address(s.lock))
        if zs_free(pool_of(z, item.slot), item.handle) != 0:
            a64_fetch_add_rlx(cython.address(z.events.internal_errors), 1)
        group_uncharge(z, group, item.length, item.length, 0)
        # Its group was removed meanwhile: the unit belongs to a group above it now.
        group_uncharge_upto(z, item.group, group, 0, 0, item.charge)
        b.written += 1
        b.freed_bytes += item.length
        return
    mutex_unlock(cython.address(s.lock))
    if item.offset >= 0:
        swap_free(z.swap, item.offset, item.length)
        group_uncharge(z, item.group, 0, 0, item.charge)
    if item.written:
        b.raced += 1
        a64_fetch_add_rlx(cython.address(z.events.writeback_raced), 1)
    else:
        b.failed += 1
        a64_fetch_add_rlx(cython.address(z.events.writeback_fail), 1)
    entry_put(z, item.entry)
