"""Reclaim: which units go to disk when room is wanted.

Three callers. A *store* that finds the pool or its group full takes what is coldest, and after a
bounded search takes it even if it was used lately: the store is waiting. The *shrinker thread*
brings a full pool under its accept threshold. A *user* asks by `Zswap.shrink`, for a number of bytes
or, with ``gentle``, for what can go without hurting, which the rule in force says:

- "referenced" (6.12): all units on the LRU, less the units that lately had to come back from disk.
  A unit is marked when it is stored and when it is loaded; reclaim clears the mark and passes it
  over once.
- "protected" (6.11): the units on the LRU less a protected number, which grows with each store and
  each load from disk and is halved when it is more than a quarter of the LRU. No marks.

Either is scaled by stored bytes over unit bytes: what compresses well is cheap to keep.

A batch is gathered from several shards, a few units from each, so that the shards' lists age
together and behave as one LRU, while the write is still one large one.

Locks: none held between batches.
"""

import cython
from cython.cimports.coldmem.linux.atomic import (
    a32_load_acq,
    a32_store_rlx,
    a64_cas,
    a64_fetch_add_rlx,
    a64_load_rlx,
    a64_store_rlx,
    futex_wait,
)
from cython.cimports.coldmem.zsmalloc.compact import zs_can_compact, zs_compact
from cython.cimports.coldmem.zsmalloc.pool import PoolP, zs_drain, zs_malloc, zs_used_bytes
from cython.cimports.coldmem.zswap.entry import pool_of
from cython.cimports.coldmem.zswap.group import (
    group_below,
    group_may_write,
    group_reserve,
    group_uncharge,
)
from cython.cimports.coldmem.zswap.lru import (
    F_PROTECTED,
    F_RAM_BYTES,
    F_RAM_UNITS,
    U64P,
    lru_at,
    lru_sum,
)
from cython.cimports.coldmem.zswap.shrinker import shrinker_wake
from cython.cimports.coldmem.zswap.state import (
    BATCH_UNITS_MAX,
    GROUP_ROOT,
    ZW_ALLOC,
    ZW_FULL,
    GroupLruP,
    GroupP,
)
from cython.cimports.coldmem.zswap.writeback import Batch, batch_gather, batch_init, batch_write
from cython.cimports.libc.stdint import int32_t, int64_t, uint32_t, uint64_t

NONE = cython.declare(uint64_t, 0)
TRIES = cython.declare(cython.int, 64)
WAITS = cython.declare(cython.int, 40)  # of WAIT_NS, when other threads have all units in hand
WAIT_NS = cython.declare(int64_t, 1_000_000)
DIRECT_SCAN = cython.declare(cython.uint, 1024)  # units a waiting store passes over at most
VISIT_SCAN = cython.declare(cython.uint, 64)  # units looked at in one hold of a shard lock
VISIT_UNITS_MAX = cython.declare(cython.uint, 16)
ALL = cython.declare(cython.uint, 0xFFFFFFFF)


def reclaim_group(z, group, want, scan, force, w, out):
    """Gather over the shards, from where the last reclaim stopped, and write."""
    b: Batch
    at: uint32_t
    quota: uint32_t
    visits: uint64_t
    units: uint64_t = lru_sum(z, group, F_RAM_UNITS)
    here: uint64_t
    l: GroupLruP
    batch_init(cython.address(b))
    # A small group loses a part of itself per batch, not everything at once.
    if want > units // 16 + 1:
        want = cython.cast(uint32_t, units // 16 + 1)
    if want > BATCH_UNITS_MAX:
        want = BATCH_UNITS_MAX
    if scan > 2 * units:
        scan = cython.cast(uint32_t, 2 * units)  # after two rounds all marks have been cleared
    # Each visit looks at a unit or meets an empty list; so this many suffice, and it ends.
    for visits in range(4 * (cython.cast(uint64_t, z.shards_mask) + 1) + scan):
        if b.n >= want or b.full or (b.scanned >= scan and not force):
            break
        at = cython.cast(uint32_t, a64_fetch_add_rlx(cython.address(z.cursor), 1)) & z.shards_mask
        l = lru_at(z, at, group)
        here = a64_load_rlx(cython.address(l.ram_units))
        if here == 0:
            continue
        quota = VISIT_UNITS_MAX
        if quota > here // 16 + 1:
            quota = cython.cast(uint32_t, here // 16 + 1)
        if quota > want - b.n:
            quota = want - b.n
        batch_gather(
            z, cython.address(b), at, group, quota, VISIT_SCAN, force and b.scanned >= scan
        )
    batch_write(z, cython.address(b), w)
    out.written += b.written
    out.raced += b.raced
    out.freed_bytes += b.freed_bytes
    return b.written


def reclaim_next(z, scan, w):
    out: Reclaimed
    i: uint32_t
    g: uint32_t
    end: uint32_t = z.groups_end
    start: uint64_t = a64_load_rlx(cython.address(z.group_cursor))
    out.written = 0
    out.raced = 0
    out.freed_bytes = 0
    for i in range(end):
        g = cython.cast(uint32_t, (start + i) % end)
        if not group_has_units(z, g):
            continue
        a64_store_rlx(cython.address(z.group_cursor), cython.cast(uint64_t, g) + 1)
        return cython.cast(
            int32_t,
            reclaim_group(z, g, BATCH_UNITS_MAX, scan, True, w, cython.address(out)),
        )
    return -1


def group_has_units(z, group):
    """Is there anything that writeback may take? Cheap for groups with nothing."""
    if group != GROUP_ROOT and a64_load_rlx(cython.address(z.groups[group].zswap_bytes)) == 0:
        return False
    return group_may_write(z, group) and lru_sum(z, group, F_RAM_UNITS) != 0


def reclaim_below(z, top, w):
    out: Reclaimed
    g: uint32_t
    out.written = 0
    out.raced = 0
    out.freed_bytes = 0
    if z.swap == cython.NULL:
        return 0
    for g in range(1, z.groups_end):
        if group_below(z, g, top) and group_has_units(z, g):
            reclaim_group(z, g, BATCH_UNITS_MAX, DIRECT_SCAN, True, w, cython.address(out))
            if out.written:
                break
    return out.written


def reclaim_compact(z):
    freed: uint64_t = 0
    freeable: uint64_t
    i: uint32_t
    for i in range(z.pools_n):
        freeable = zs_can_compact(z.pools[i]) * z.unit_bytes
        if freeable * 32 * z.pools_n > zs_used_bytes(z.pools[i]):  # of all pools
            a64_fetch_add_rlx(cython.address(z.events.compactions), 1)
            freed += zs_compact(z.pools[i]) * z.unit_bytes
    return freed


def reclaim_malloc(z, slot, n, error, w):
    p: PoolP = pool_of(z, slot)
    handle: uint64_t
    tries: cython.int
    failures: cython.int = 0
    waits: cython.int = 0
    failed: uint64_t
    i: uint32_t
    r: int32_t
    for i in range(z.pools_n):
        zs_drain(z.pools[i])
    handle = zs_malloc(p, n)
    # Why it failed is decided here, once: the shrinker may free memory at any moment.
    error[0] = ZW_FULL if pool_at_limit(z) else ZW_ALLOC
    if handle != 0 or error[0] == ZW_ALLOC:
        return handle
    a64_fetch_add_rlx(cython.address(z.events.pool_limit_hit), 1)
    a32_store_rlx(cython.address(z.full), 1)
    shrinker_wake(z)
    if z.refuse_when_full:
        return 0
    a64_fetch_add_rlx(cython.address(z.events.direct_reclaims), 1)
    for tries in range(TRIES):
        if tries % 8 == 0:
            reclaim_compact(z)
        elif z.swap == cython.NULL:
            break
        else:
            failed = a64_load_rlx(cython.address(z.events.writeback_fail))
            r = reclaim_next(z, DIRECT_SCAN, w)
            if r <= 0 and failed != a64_load_rlx(cython.address(z.events.writeback_fail)):
                failures += 1
                if failures > 2:
                    break
            elif r <= 0:
                # Nothing failed, so others have all there is in hand: they write it back, or are
                # about to publish it. There is room on disk; let them get on.
                waits += 1
                if waits > WAITS:
                    break
                futex_wait(cython.address(z.never), 0, WAIT_NS)
        handle = zs_malloc(p, n)
        if handle != 0:
            break
    return handle


def reclaim_reserve(z, group, memory, zswap, w):
    g: GroupP
    at: uint32_t = GROUP_ROOT
    tries: cython.int
    for tries in range(TRIES):
        at = group_reserve(z, group, memory, zswap)
        if at == GROUP_ROOT:
            return True
        g = z.groups + at
        # What is larger than the limit itself never fits: do not empty the group for it.
        if zswap > a64_load_rlx(cython.address(g.zswap_max)) or (
            memory > a64_load_rlx(cython.address(g.memory_max))
        ):
            break
        if reclaim_below(z, at, w) == 0:
            break
    a64_fetch_add_rlx(cython.address(z.groups[at].reject_limit), 1)
    return False


def shrink_count(z, group, consume):
    units: uint64_t
    less: uint64_t
    left: uint64_t
    now: uint64_t
    count: U64P = cython.address(z.groups[group].swapins)
    all: uint64_t = lru_sum(z, group, F_RAM_UNITS)
    if all == 0 or z.swap == cython.NULL or not group_may_write(z, group):
        return 0
    units = all
    if z.protected_rule:
        less = lru_sum(z, group, F_PROTECTED)
        units -= less if less < units else units
    else:
        while True:
            now = a64_load_rlx(count)
            left = now - units if now > units else 0
            if not consume or a64_cas(count, now, left):
                break
        units -= now - left
    # Reading first what may shrink meanwhile: the quotient stays below 1 or nearly so.
    return units * lru_sum(z, group, F_RAM_BYTES) // (all * z.unit_bytes)


def shrink_bytes(z, top, bytes, gentle, w, out):
    g: uint32_t
    want: uint64_t
    left: uint64_t
    units: uint64_t
    mean: uint64_t
    out.written = 0
    out.raced = 0
    out.freed_bytes = 0
    for g in range(z.groups_end):
        if not group_below(z, g, top) or z.swap == cython.NULL or not group_may_write(z, g):
            continue
        left = shrink_count(z, g, True) if gentle else lru_sum(z, g, F_RAM_UNITS)
        while left > 0 and out.freed_bytes < bytes and not a32_load_acq(cython.address(z.closed)):
            units = lru_sum(z, g, F_RAM_UNITS)
            if units == 0:
                break
            mean = lru_sum(z, g, F_RAM_BYTES) // units + 1
            want = (bytes - out.freed_bytes) // mean + 1
            if want > left:
                want = left
            if want > BATCH_UNITS_MAX:
                want = BATCH_UNITS_MAX
            if gentle and z.protected_rule and lru_sum(z, g, F_PROTECTED) + want > units:
                break
            want = reclaim_group(z, g, cython.cast(uint32_t, want), ALL, False, w, out)
            # A unit that was used while it was on its way: this is the warm part of the list.
            if want == 0 or (gentle and out.raced):
                break
            left -= want if want < left else left


def group_charge_hot(z, group, bytes, w):
    if not reclaim_reserve(z, group, bytes, 0, w):
        return False
    while group != GROUP_ROOT:
        a64_fetch_add_rlx(cython.address(z.groups[group].hot_bytes), bytes)
        group = z.groups[group].parent
    return True


def group_uncharge_hot(z, group, bytes):
    at: uint32_t = group
    while at != GROUP_ROOT:
        a64_fetch_add_rlx(cython.address(z.groups[at].hot_bytes), NONE - bytes)
        at = z.groups[at].parent
    group_uncharge(z, group, bytes, 0, 0)
