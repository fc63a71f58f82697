"""The life of an entry.

Owns: the table of entries, reserved as address space once and touched as it fills; and the free
list of each shard, refilled from the table in chunks. An entry stays with the shard that took it
first, since only slots of that shard use it.

Life: taken and linked under the shard lock with one reference, the index's. A load or a writeback
adds a reference under that lock and drops it without. Unlinking (invalidate, overwrite, exclusive
load) drops the index's. Whoever drops the last one frees the object, uncharges the group and gives
the entry back. So load, invalidate, store and writeback of one slot may meet in any order, and
each sees a whole version or none.

Guarantees: a linked entry has at least one reference; an unlinked one no longer changes.
Locks: as entry.pxd says per function. No lock of pool or swap file is taken under a shard lock.
"""

import cython
from cython.cimports.coldmem.linux.atomic import (
    a32_fetch_add_acq_rel,
    a32_load_acq,
    a32_load_rlx,
    a32_store_rlx,
    a64_cas,
    a64_fetch_add_rlx,
    a64_load_rlx,
)
from cython.cimports.coldmem.linux.lock import mutex_lock, mutex_unlock
from cython.cimports.coldmem.linux.memory import memory_release, memory_reserve
from cython.cimports.coldmem.zsmalloc.pool import zs_free
from cython.cimports.coldmem.zswap.group import group_uncharge
from cython.cimports.coldmem.zswap.index import index_remove, shard_of, slot_hash
from cython.cimports.coldmem.zswap.lru import count_add, lru_of, lru_remove
from cython.cimports.coldmem.zswap.state import (
    CODEC_NONE,
    ENTRY_DISK,
    ENTRY_FREE,
    ENTRY_RAM,
    ENTRY_SAME,
    METADATA_BYTES,
    EntryP,
    GroupLruP,
    ShardP,
)
from cython.cimports.coldmem.zswap.swapfile import swap_charge, swap_free
from cython.cimports.libc.stdint import int64_t, uint32_t, uint64_t


def entries_init(z):
    """Reserve the table; 0, or -1."""
    z.entries = cython.cast(
        EntryP, memory_reserve(cython.cast(uint64_t, z.entries_max) * cython.sizeof(Entry))
    )
    if z.entries == cython.NULL:
        return -1
    z.entries_next = 1
    return 0


def entries_destroy(z):
    if z.entries != cython.NULL:
        memory_release(z.entries, cython.cast(uint64_t, z.entries_max) * cython.sizeof(Entry))
        z.entries = cython.NULL


def entry_take(z, s):
    first: uint64_t
    n: uint64_t
    i: uint64_t
    entry: uint32_t = s.free
    if entry == 0:
        while True:
            first = a64_load_rlx(cython.address(z.entries_next))
            n = z.entries_max - first
            if n == 0:
                return 0
            if n > z.entries_chunk:
                n = z.entries_chunk
            if a64_cas(cython.address(z.entries_next), first, first + n):
                break
        for i in range(1, n):
            z.entries[first + i].next = cython.cast(uint32_t, first + i + 1) if i + 1 < n else 0
        entry = cython.cast(uint32_t, first)
        s.free = entry + 1 if n > 1 else 0
        s.free_units += cython.cast(uint32_t, n - 1)
    else:
        s.free = z.entries[entry].next
        s.free_units -= 1
    return entry


def entry_give(z, s, entry):
    z.entries[entry].state = ENTRY_FREE
    z.entries[entry].next = s.free
    s.free = entry
    s.free_units += 1


def entry_count(z, hash, e, sign):
    l: GroupLruP = lru_of(z, hash, e.group)
    one: uint64_t = cython.cast(uint64_t, cython.cast(int64_t, sign))  # -1 wraps round as it should
    if e.state == ENTRY_SAME:
        count_add(cython.address(l.same_units), one)
        return
    if e.state == ENTRY_RAM:
        count_add(cython.address(l.ram_units), one)
        count_add(cython.address(l.ram_bytes), one * e.length)
        if e.length == z.unit_bytes:
            count_add(cython.address(l.raw_units), one)
        if e.codec == z.cold_codec and e.codec != CODEC_NONE:
            a32_store_rlx(
                cython.address(l.cold_units), a32_load_rlx(cython.address(l.cold_units)) + sign
            )
    else:
        count_add(cython.address(l.disk_units), one)
        count_add(cython.address(l.disk_bytes), one * swap_charge(z.swap, e.length))
    count_add(cython.address(shard_of(z, hash).codec_units[e.codec]), one)


def entry_unlink(z, s, hash, entry, held):
    e: EntryP = z.entries + entry
    index_remove(z, s, hash, entry)
    entry_count(z, hash, e, -1)
    if e.state == ENTRY_RAM:
        lru_remove(z, lru_of(z, hash, e.group), entry)
    e.linked = 0
    # References are added under this lock only, so 1 stays 1. The acquire pairs with the release
    # of the reader that was here last: its reads are over before the object is freed.
    if a32_load_acq(cython.address(e.refs)) != 1 and (
        a32_fetch_add_acq_rel(cython.address(e.refs), -1) != 1
    ):
        held.state = ENTRY_FREE
        return
    held_copy(held, e)
    entry_give(z, s, entry)


def entry_put_last(z, entry):
    held: Held
    s: ShardP
    held_copy(cython.address(held), z.entries + entry)
    s = shard_of(z, slot_hash(held.slot))
    mutex_lock(cython.address(s.lock))
    entry_give(z, s, entry)
    mutex_unlock(cython.address(s.lock))
    held_free(z, cython.address(held))


def held_free(z, held):
    """Free what an entry held, and uncharge it."""
    if held.state == ENTRY_RAM:
        if zs_free(pool_of(z, held.slot), held.body) != 0:
            a64_fetch_add_rlx(cython.address(z.events.internal_errors), 1)
        group_uncharge(z, held.group, METADATA_BYTES + held.length, held.length, 0)
    elif held.state == ENTRY_DISK:
        swap_free(z.swap, cython.cast(int64_t, held.body), held.length)
        group_uncharge(z, held.group, METADATA_BYTES, 0, swap_charge(z.swap, held.length))
    elif held.state == ENTRY_SAME:
        group_uncharge(z, held.group, METADATA_BYTES, 0, 0)
