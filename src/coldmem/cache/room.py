"""Making room in RAM when nothing is behind it, and dropping what is past its time.

Shards lose in turn, a few entries each, so that they age together. Objects of many sizes go, and a
zspage is free only when its last object has gone, so the pool is compacted when that gives back a good
part of it.

Locks: one shard lock at a time.
"""

import cython
from cython.cimports.coldmem.cache.body import entry_weight
from cython.cimports.coldmem.cache.queues import queue_drop, queue_victim
from cython.cimports.coldmem.cache.state import (
    E_FREE,
    EV_EXPIRED,
    EV_MEMORY,
    EntryP,
    ShardP,
    entry_at,
)
from cython.cimports.coldmem.cache.table import entry_forget
from cython.cimports.coldmem.linux.atomic import a64_fetch_add_rlx, a64_load_rlx, now_ns
from cython.cimports.coldmem.linux.lock import mutex_lock, mutex_unlock
from cython.cimports.coldmem.zsmalloc.compact import zs_can_compact, zs_compact
from cython.cimports.coldmem.zsmalloc.core import zs_used_bytes
from cython.cimports.libc.stdint import uint32_t, uint64_t

from coldmem.cache.arguments import check_ttl

TICKS_PER_SECOND = 100
TTL_MAX = 0xFFFFFFFF // 100  # seconds: more than a tick can say, so for ever
TICK_NS = cython.declare(uint64_t, 10_000_000)
VISIT = cython.declare(uint32_t, 8)  # entries that a shard loses in one hold of its lock
WALK = cython.declare(uint32_t, 256)
COMPACT_LEAST = cython.declare(uint64_t, 1 << 17)
COMPACT_SHARE = cython.declare(uint64_t, 32)


def shard_of(c, hash):
    return c.shards + ((hash >> 40) & c.shards_mask)


def now_tick(c):
    return cython.cast(
        uint32_t, (now_ns() - c.birth_ns) // TICK_NS + 1 + a64_load_rlx(cython.address(c.clock_shift)))


def ticks_of(c, ttl):
    """The tick at which something expires that lives for `ttl` seconds, rounded up; 0: never."""
    if ttl is None:
        return 0
    if (type(ttl) is not int and type(ttl) is not float) or not ttl > 0:
        check_ttl(ttl)
        ttl = float(ttl)
    if ttl > TTL_MAX:
        return 0
    ticks = int(-(-ttl * TICKS_PER_SECOND // 1)) + now_tick(c)
    return ticks if ticks < 0xFFFFFFFF else 0


def room_compact(c):
    gain: uint64_t = zs_can_compact(c.pool) * c.pool.unit_bytes
    if gain < COMPACT_LEAST or gain < zs_used_bytes(c.pool) // COMPACT_SHARE:
        return 0
    return zs_compact(c.pool) * c.pool.unit_bytes


def room_make(c, need):
    freed: uint64_t = 0
    i: uint32_t
    e: EntryP
    s: ShardP
    empty: uint32_t = 0
    tick: uint32_t
    if room_compact(c) >= need:
        return True
    tick = now_tick(c)
    while freed < need and empty <= c.shards_mask:
        s = c.shards + (a64_fetch_add_rlx(cython.address(c.cursor), 1) & c.shards_mask)
        empty += 1
        mutex_lock(cython.address(s.lock))
        for _ in range(VISIT):
            if freed >= need:
                break
            i = queue_victim(c, s)
            if i == 0:
                break
            empty = 0
            e = entry_at(s, i)
            freed += entry_weight(c, e)
            if e.expires and e.expires <= tick:
                s.expirations += 1
                entry_forget(c, s, i, EV_EXPIRED)
            else:
                s.evictions += 1
                entry_forget(c, s, i, EV_MEMORY)
        mutex_unlock(cython.address(s.lock))
    return freed != 0


def expire_some(c, s, start, dropped):
    i: uint32_t
    end: uint32_t
    tick: uint32_t = now_tick(c)
    e: EntryP
    mutex_lock(cython.address(s.lock))
    end = min(s.end, start + WALK)
    for i in range(start, end):
        e = entry_at(s, i)
        if e.state != E_FREE and e.expires and e.expires <= tick:
            queue_drop(c, s, i)
            s.expirations += 1
            entry_forget(c, s, i, EV_EXPIRED)
            dropped[0] += 1
    if end >= s.end:
        end = 0
    mutex_unlock(cython.address(s.lock))
    return end


def clear_shard(c, s, event):
    i: uint32_t
    e: EntryP
    gone: uint64_t = 0
    mutex_lock(cython.address(s.lock))
    for i in range(1, s.end):
        e = entry_at(s, i)
        if e.state != E_FREE:
            queue_drop(c, s, i)
            entry_forget(c, s, i, event)
            gone += 1
    mutex_unlock(cython.address(s.lock))
    return gone
