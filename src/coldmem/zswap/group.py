"""Groups: memory cgroups in small.

Owns: `GroupC`, its limits and its charges. A group's charge includes those of the groups below it.
What is charged: memory (bytes as stored in RAM, 80 bytes of metadata a unit, and what another layer
charges as hot), zswap (bytes as stored in RAM), swap (bytes in the swap file).

Guarantees: a charge is reserved before the work and the difference given back after it, and
reserving is a compare-and-swap against the limit; so no limit is ever passed, however many threads
store at once (checking first and charging later would overshoot by what is in flight). Lowering a
limit below the charge is allowed: the group then grows no more until it fits.

A removed group's units go to its parent, as in the kernel: nothing stored is lost. Removal waits
until no call is under way, marks the group, and lets calls in again before it moves the units, a
shard at a time; a store that names the group from then on belongs to the parent. The id is used
again when nothing is charged to it any more.
Locks: none on charges. `group_make`, `group_remove`: Zswap.admin, then all contexts for a moment.
"""

import cython
from cython.cimports.coldmem.linux.atomic import (
    a32_load_rlx,
    a32_store_rlx,
    a64_cas,
    a64_fetch_add_rlx,
    a64_load_rlx,
)
from cython.cimports.coldmem.linux.lock import mutex_lock, mutex_unlock
from cython.cimports.coldmem.linux.memory import memory_release, memory_reserve
from cython.cimports.coldmem.zswap.context import contexts_resume, contexts_stop
from cython.cimports.coldmem.zswap.lru import U64P, count_add, count_sub, lru_at
from cython.cimports.coldmem.zswap.state import (
    GROUP_DEAD,
    GROUPS_MAX,
    METADATA_BYTES,
    EntryP,
    GroupLru,
    GroupLruP,
    GroupP,
    ShardP,
)
from cython.cimports.libc.stdint import uint32_t, uint64_t
from cython.cimports.libc.string import memset

NO_LIMIT = cython.declare(uint64_t, 0xFFFFFFFFFFFFFFFF)
NONE = cython.declare(uint64_t, 0)


def groups_init(z):
    """Reserve the tables; 0, or -1."""
    lrus_bytes: uint64_t = cython.cast(uint64_t, z.shards_mask) + 1
    lrus_bytes *= GROUPS_MAX * cython.sizeof(GroupLru)
    z.groups = cython.cast(GroupP, memory_reserve(GROUPS_MAX * cython.sizeof(GroupC)))
    z.lrus = cython.cast(GroupLruP, memory_reserve(lrus_bytes))
    if z.groups == cython.NULL or z.lrus == cython.NULL:
        return -1
    z.groups_end = 1
    z.groups[0].state = GROUP_LIVE
    z.groups[0].writeback = 1
    z.groups[0].memory_max = NO_LIMIT
    z.groups[0].zswap_max = NO_LIMIT
    z.groups[0].swap_max = NO_LIMIT
    return 0


def groups_destroy(z):
    lrus_bytes: uint64_t = cython.cast(uint64_t, z.shards_mask) + 1
    lrus_bytes *= GROUPS_MAX * cython.sizeof(GroupLru)
    if z.groups != cython.NULL:
        memory_release(z.groups, GROUPS_MAX * cython.sizeof(GroupC))
        z.groups = cython.NULL
    if z.lrus != cython.NULL:
        memory_release(z.lrus, lrus_bytes)
        z.lrus = cython.NULL


def charge_within(charge, n, max):
    now: uint64_t
    if n == 0:
        return True
    while True:
        now = a64_load_rlx(charge)
        if n > max or now > max - n:
            return False
        if a64_cas(charge, now, now + n):
            return True


def group_reserve(z, group, memory, zswap):
    g: GroupP
    at: uint32_t = group
    while at != GROUP_ROOT:
        g = z.groups + at
        if not charge_within(
            cython.address(g.memory_bytes), memory, a64_load_rlx(cython.address(g.memory_max))
        ):
            break
        if not charge_within(
            cython.address(g.zswap_bytes), zswap, a64_load_rlx(cython.address(g.zswap_max))
        ):
            a64_fetch_add_rlx(cython.address(g.memory_bytes), NONE - memory)
            break
        at = g.parent
    if at != GROUP_ROOT:
        group_uncharge_upto(z, group, at, memory, zswap, 0)
    return at


def group_reserve_swap(z, group, n):
    g: GroupP
    at: uint32_t = group
    while at != GROUP_ROOT:
        g = z.groups + at
        if not charge_within(
            cython.address(g.swap_bytes), n, a64_load_rlx(cython.address(g.swap_max))
        ):
            group_uncharge_upto(z, group, at, 0, 0, n)
            break
        at = g.parent
    return at


def group_uncharge_upto(z, group, top, memory, zswap, swap):
    g: GroupP
    while group != top:
        g = z.groups + group
        if swap:
            a64_fetch_add_rlx(cython.address(g.swap_bytes), NONE - swap)
        if zswap:
            a64_fetch_add_rlx(cython.address(g.zswap_bytes), NONE - zswap)
        if memory:
            a64_fetch_add_rlx(cython.address(g.memory_bytes), NONE - memory)
        group = g.parent


def group_may_write(z, group):
    while group != GROUP_ROOT:
        if not a32_load_rlx(cython.address(z.groups[group].writeback)):
            return False
        group = z.groups[group].parent
    return True


def group_below(z, group, top):
    while group != top:
        if group == GROUP_ROOT:
            return False
        group = z.groups[group].parent
    return True


def group_make(z, parent):
    id: uint32_t
    g: GroupP
    made: uint32_t = 0
    contexts_stop(z)
    for id in range(1, GROUPS_MAX):
        g = z.groups + id
        # Every stored unit is charged its metadata, so this says that none is left.
        if g.state == GROUP_LIVE or (g.state == GROUP_DEAD and g.memory_bytes != 0):
            continue
        memset(g, 0, cython.sizeof(GroupC))
        g.memory_max = NO_LIMIT
        g.zswap_max = NO_LIMIT
        g.swap_max = NO_LIMIT
        g.writeback = 1
        g.parent = parent
        g.state = GROUP_LIVE
        z.groups[parent].children += 1
        if id >= z.groups_end:
            z.groups_end = id + 1
        made = id
        break
    contexts_resume(z)
    return made


def group_remove(z, group):
    parent: uint32_t = z.groups[group].parent
    shard: uint32_t
    contexts_stop(z)
    z.groups[group].state = GROUP_DEAD
    z.groups[parent].children -= 1
    contexts_resume(z)
    for shard in range(z.shards_mask + 1):
        group_move_shard(z, shard, group, parent)


def group_move_shard(z, shard, group, parent):
    s: ShardP = z.shards + shard
    src: GroupLruP = lru_at(z, shard, group)
    dst: GroupLruP = lru_at(z, shard, parent)
    from_count: U64P = cython.address(src.protected_units)
    to_count: U64P = cython.address(dst.protected_units)
    counts: uint32_t = (cython.sizeof(GroupLru) - 8) // 8
    memory: uint64_t
    e: EntryP
    i: uint32_t
    mutex_lock(cython.address(s.lock))
    for i in range(s.cells_mask + 1):
        if s.cells[i] != 0:
            e = z.entries + cython.cast(uint32_t, s.cells[i])
            if e.group == group:
                e.group = parent
    # The group is over, so its units are the first that its parent will write back.
    if src.head:
        z.entries[src.head].prev = dst.tail
        if dst.tail:
            z.entries[dst.tail].next = src.head
        else:
            dst.head = src.head
        dst.tail = src.tail
        src.head = 0
        src.tail = 0
        src.walk = 0
        a32_store_rlx(cython.address(dst.cold_units), dst.cold_units + src.cold_units)
        a32_store_rlx(cython.address(src.cold_units), 0)
    memory = (src.same_units + src.ram_units + src.disk_units) * METADATA_BYTES + src.ram_bytes
    group_uncharge_upto(z, group, parent, memory, src.ram_bytes, src.disk_bytes)
    for i in range(counts):
        count_add(to_count + i, from_count[i])
        count_sub(from_count + i, from_count[i])
    mutex_unlock(cython.address(s.lock))
