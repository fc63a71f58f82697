"""`check_valid` of a Zswap.

Cheap: the counts of each shard agree with its index and its free list. Full: every entry can be
found under its slot, is in the state it says, on the LRU if and only if it is in RAM, with an object
of the right size; every count, and every charge of every group, is what recounting gives.
Assumes: the caller is alone, so no call is under way: each entry has one reference, none is marked.
"""

import cython
from cython.cimports.coldmem.zsmalloc.pool import zs_size
from cython.cimports.coldmem.zswap.entry import pool_of
from cython.cimports.coldmem.zswap.group import group_below
from cython.cimports.coldmem.zswap.index import index_find, slot_hash
from cython.cimports.coldmem.zswap.lru import lru_at
from cython.cimports.coldmem.zswap.state import (
    CODEC_NONE,
    CODECS_MAX,
    ENTRY_DISK,
    ENTRY_FREE,
    ENTRY_RAM,
    ENTRY_SAME,
    GROUP_FREE,
    GROUPS_MAX,
    METADATA_BYTES,
    EntryP,
    GroupLruP,
    GroupP,
    ShardP,
)
from cython.cimports.coldmem.zswap.swapfile import swap_charge
from cython.cimports.libc.stdint import uint32_t, uint64_t
from cython.cimports.libc.stdlib import calloc, free
from cython.cimports.libc.string import memset


def wrong(out, what, shard, group, slot):
    out.what = what
    out.shard = shard
    out.group = group
    out.slot = slot
    return False


def zswap_check(z, full, out):
    shard: uint32_t
    i: uint32_t
    handed: uint64_t = 1
    sums: SumsP
    all: SumsP
    out.what = cython.NULL
    if z.events.internal_errors:
        wrong(out, b"a pool refused to read or free an object that an entry held", 0, 0, 0)
        return
    for shard in range(z.shards_mask + 1):
        handed += z.shards[shard].used + z.shards[shard].free_units
        if not check_shard(z, shard, out):
            return
    if handed != z.entries_next:
        wrong(out, b"an entry is neither in an index nor in a free list", 0, 0, 0)
        return
    if not full:
        return
    sums = cython.cast(SumsP, calloc(2 * GROUPS_MAX, cython.sizeof(Sums)))
    if sums == cython.NULL:
        wrong(out, b"no memory to check", 0, 0, 0)
        return
    all = sums + GROUPS_MAX
    for shard in range(z.shards_mask + 1):
        memset(sums, 0, GROUPS_MAX * cython.sizeof(Sums))
        if not check_entries(z, shard, sums, out) or not check_lrus(z, shard, sums, out):
            break
        for i in range(GROUPS_MAX):
            all[i].same_units += sums[i].same_units
            all[i].ram_units += sums[i].ram_units
            all[i].disk_units += sums[i].disk_units
            all[i].ram_bytes += sums[i].ram_bytes
            all[i].disk_bytes += sums[i].disk_bytes
    if out.what == cython.NULL:
        check_charges(z, all, out)
    free(sums)


def check_shard(z, shard, out):
    s: ShardP = z.shards + shard
    l: GroupLruP
    g: uint32_t
    units: uint64_t = 0
    objects: uint64_t = 0
    by_codec: uint64_t = 0
    for g in range(z.groups_end):
        l = lru_at(z, shard, g)
        units += l.same_units + l.ram_units + l.disk_units
        objects += l.ram_units + l.disk_units
        if (l.head == 0) != (l.ram_units == 0) or (l.tail == 0) != (l.ram_units == 0):
            return wrong(out, b"an LRU and its count disagree", shard, g, 0)
        if l.raw_units > l.ram_units:
            return wrong(out, b"more raw units than units", shard, g, 0)
    for g in range(CODECS_MAX):
        by_codec += s.codec_units[g]
    if units != s.used:
        return wrong(out, b"the counts of groups do not add up to the index", shard, 0, 0)
    if by_codec != objects:
        return wrong(out, b"the counts of codecs do not add up", shard, 0, 0)
    if s.used > s.cells_mask:
        return wrong(out, b"the index has no empty cell", shard, 0, 0)
    return True


def check_entries(z, shard, sums, out):
    s: ShardP = z.shards + shard
    e: EntryP
    i: uint32_t
    entry: uint32_t
    hash: uint64_t
    seen: uint64_t = 0
    for i in range(s.cells_mask + 1):
        if s.cells[i] == 0:
            continue
        seen += 1
        entry = cython.cast(uint32_t, s.cells[i])
        if entry >= z.entries_next:
            return wrong(out, b"a cell names no entry", shard, 0, 0)
        e = z.entries + entry
        hash = slot_hash(e.slot)
        if (cython.cast(uint32_t, hash) & z.shards_mask) != shard or s.cells[i] >> 32 != hash >> 32:
            return wrong(out, b"an entry is in the wrong place", shard, e.group, e.slot)
        if index_find(z, s, hash, e.slot) != entry:
            return wrong(out, b"an entry cannot be found", shard, e.group, e.slot)
        if not e.linked or e.refs != 1 or e.writeback:
            return wrong(out, b"an entry is in use although nobody uses it", shard, e.group, e.slot)
        if e.group >= z.groups_end or z.groups[e.group].state == GROUP_FREE:
            return wrong(out, b"an entry belongs to no group", shard, e.group, e.slot)
        if e.state == ENTRY_SAME:
            sums[e.group].same_units += 1
        elif e.state == ENTRY_RAM:
            sums[e.group].ram_units += 1
            sums[e.group].cold_units += e.codec == z.cold_codec and e.codec != CODEC_NONE
            sums[e.group].ram_bytes += e.length
            if e.length == z.unit_bytes:
                sums[e.group].raw_units += 1
            if zs_size(pool_of(z, e.slot), e.body) != e.length:
                return wrong(out, b"an object has another size", shard, e.group, e.slot)
        elif e.state == ENTRY_DISK:
            sums[e.group].disk_units += 1
            sums[e.group].disk_bytes += swap_charge(z.swap, e.length)
        else:
            return wrong(out, b"an entry in the index is free", shard, e.group, e.slot)
    if seen != s.used:
        return wrong(out, b"the index has lost count", shard, 0, 0)
    seen = 0
    entry = s.free
    while entry != 0 and seen <= s.free_units:
        if z.entries[entry].state != ENTRY_FREE:
            return wrong(out, b"a free entry is in use", shard, 0, z.entries[entry].slot)
        entry = z.entries[entry].next
        seen += 1
    if seen != s.free_units:
        return wrong(out, b"the free list has lost count", shard, 0, 0)
    return True


def check_lrus(z, shard, sums, out):
    l: GroupLruP
    e: EntryP
    g: uint32_t
    entry: uint32_t
    before: uint32_t
    units: uint64_t
    walk: cython.bint
    for g in range(z.groups_end):
        l = lru_at(z, shard, g)
        walk = l.walk == 0
        if (
            l.same_units != sums[g].same_units or l.ram_units != sums[g].ram_units
            or l.raw_units != sums[g].raw_units or l.disk_units != sums[g].disk_units
            or l.cold_units != sums[g].cold_units
            or l.ram_bytes != sums[g].ram_bytes or l.disk_bytes != sums[g].disk_bytes
        ):
            return wrong(out, b"a count is not what recounting gives", shard, g, 0)
        units = 0
        before = 0
        entry = l.head
        while entry != 0 and units <= l.ram_units:
            e = z.entries + entry
            if e.state != ENTRY_RAM or e.group != g or not e.linked:
                return wrong(out, b"an LRU holds what does not belong there", shard, g, e.slot)
            if e.prev != before:
                return wrong(out, b"an LRU is torn", shard, g, e.slot)
            walk |= l.walk == entry
            before = entry
            entry = e.next
            units += 1
        if not walk:
            return wrong(out, b"recompression is at a unit that is not on its LRU", shard, g, 0)
        if units != l.ram_units or l.tail != before:
            return wrong(out, b"an LRU has lost units", shard, g, 0)
    return True


def check_charges(z, all, out):
    top: uint32_t
    g: uint32_t
    zswap: uint64_t
    units: uint64_t
    swap: uint64_t
    c: GroupP
    for top in range(1, z.groups_end):
        c = z.groups + top
        if c.state == GROUP_FREE:
            continue
        zswap = 0
        units = 0
        swap = 0
        for g in range(1, z.groups_end):
            if z.groups[g].state != GROUP_FREE and group_below(z, g, top):
                units += all[g].same_units + all[g].ram_units + all[g].disk_units
                zswap += all[g].ram_bytes
                swap += all[g].disk_bytes
        if c.zswap_bytes != zswap:
            return wrong(out, b"a group's zswap charge is wrong", 0, top, c.zswap_bytes - zswap)
        if c.swap_bytes != swap:
            return wrong(out, b"a group's swap charge is wrong", 0, top, c.swap_bytes - swap)
        if c.memory_bytes != zswap + units * METADATA_BYTES + c.hot_bytes:
            return wrong(out, b"a group's memory charge is wrong", 0, top, c.memory_bytes)
    return True
