"""A stress of the pool that verifies contents: any thread, any slot, at full speed.

Owns: a table of slots, each with a small reader-writer word (the owner's promise that an object is not
read and freed at once). Bytes of an object follow from its slot and version, so each read knows what it
must find. Use `worker` from several threads, with `compactor` and `migrator` beside them.
Locks: `Slot.lock`, tried only.
"""

import cython
from cython.cimports.coldmem.linux.atomic import (
    a32_cas,
    a32_fetch_add_acq,
    a32_fetch_add_rel,
    a32_load_acq,
    a32_store_rel,
    sched_yield,
)
from cython.cimports.coldmem.zsmalloc.compact import zs_compact
from cython.cimports.coldmem.zsmalloc.core import (
    PoolP,
    zs_drain,
    zs_free,
    zs_malloc_node,
    zs_read_begin,
    zs_read_end,
    zs_write,
)
from cython.cimports.coldmem.zsmalloc.migrate import zs_migrate
from cython.cimports.coldmem.zsmalloc.pool import Pool
from cython.cimports.libc.stdint import int32_t, uint8_t, uint32_t, uint64_t
from cython.cimports.libc.stdlib import calloc, free
from cython.cimports.libc.string import memcmp

WRITER = cython.declare(int32_t, -0x40000000)
MULTIPLIER = cython.declare(uint64_t, 0x9E3779B97F4A7C15)
bytes_p = cython.typedef(cython.pointer(uint8_t))


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def _fill(out: bytes_p, n: uint32_t, slot: uint64_t, version: uint64_t) -> cython.void:
    x: uint64_t = (slot + 1) * MULTIPLIER + version
    i: uint32_t
    for i in range(n):
        if i & 7 == 0:
            x = (x ^ (x >> 29)) * MULTIPLIER + 1
        out[i] = cython.cast(uint8_t, x >> ((i & 7) * 8))


class PoolStress:
    """Slots shared by all threads, over one pool or several.

    Parameters
    ----------
    pools : sequence of Pool
        Slot i lives in pool i modulo their number.
    slots : int
        How many slots.
    size_max : int
        Largest object in bytes, at most 4096.
    """

    def __init__(self, pools, slots=4096, size_max=4096):
        made: Pool
        i: uint32_t
        if not pools or slots < 1 or not 1 <= size_max <= 4096:
            raise ValueError("give at least one pool and one slot, and sizes of 1 to 4096 bytes")
        self.keep = tuple(pools)
        self.size_max = size_max
        self.slots_n = slots
        self.pools_n = len(pools)
        self.slots = cython.cast(SlotP, calloc(slots, cython.sizeof(Slot)))
        self.pools = cython.cast(cython.pointer(PoolP), calloc(len(pools), cython.sizeof(PoolP)))
        if self.slots == cython.NULL or self.pools == cython.NULL:
            raise MemoryError("no memory for the slots")
        for i, pool in enumerate(pools):
            made = pool
            self.pools[i] = made.c
        for i in range(self.slots_n):
            self.slots[i].pool = self.pools[i % self.pools_n]

    def __dealloc__(self):
        free(self.slots)
        free(self.pools)

    def stop_all(self):
        """Make every worker, compactor and migrator return."""
        a32_store_rel(cython.address(self.stop), 1)

    def worker(self, seed):
        """Toggle and read random slots until `stop_all`.

        Returns
        -------
        tuple of int
            Operations, objects that were not what they should be, and refused allocations.
        """
        bad: uint64_t = 0
        full: uint64_t = 0
        done: uint64_t
        start: uint64_t = seed
        with cython.nogil:
            done = self._work(start, cython.address(bad), cython.address(full))
        return done, bad, full

    def compactor(self, drain=False):
        """Compact all pools without rest until `stop_all`; units freed."""
        freed: uint64_t = 0
        i: uint32_t
        also_drain: cython.bint = drain
        with cython.nogil:
            while a32_load_acq(cython.address(self.stop)) == 0:
                for i in range(self.pools_n):
                    freed += zs_compact(self.pools[i])
                    if also_drain:
                        zs_drain(self.pools[i])
                sched_yield()
        return freed

    def migrator(self):
        """Migrate all pools to one of their nodes after the other until `stop_all`; units moved."""
        moved: uint64_t = 0
        i: uint32_t
        turn: uint32_t = 0
        with cython.nogil:
            while a32_load_acq(cython.address(self.stop)) == 0:
                for i in range(self.pools_n):
                    moved += zs_migrate(self.pools[i], turn % self.pools[i].arena.node_count, -1)
                turn += 1
                sched_yield()
        return moved

    def _work(self, seed, bad, full):
        x: uint64_t = (seed + 1) * MULTIPLIER
        done: uint64_t = 0
        expected: uint8_t[4096]
        s: SlotP
        n: uint64_t
        at: cython.pointer(cython.const[uint8_t])
        token: uint64_t = 0
        error: int32_t = 0
        read_only: cython.bint
        while a32_load_acq(cython.address(self.stop)) == 0:
            x ^= x << 13
            x ^= x >> 7
            x ^= x << 17
            n = (x >> 20) % self.slots_n
            s = cython.address(self.slots[n])
            read_only = (x & 3) != 0
            if read_only:
                if a32_fetch_add_acq(cython.address(s.lock), 1) < 0:
                    a32_fetch_add_rel(cython.address(s.lock), -1)
                    continue
            elif not a32_cas(cython.address(s.lock), 0, WRITER):
                continue
            if s.handle:
                at = zs_read_begin(s.pool, s.handle, cython.address(token), cython.address(error))
                _fill(expected, s.length, n, s.version)
                if at == cython.NULL or memcmp(at, expected, s.length) != 0:
                    bad[0] += 1
                if at != cython.NULL:
                    zs_read_end(s.pool, s.handle, token)
            if not read_only:
                if s.handle:
                    if zs_free(s.pool, s.handle) != 0:
                        bad[0] += 1
                    s.handle = 0
                else:
                    s.length = 1 + cython.cast(uint32_t, (x >> 40) % self.size_max)
                    s.version += 1
                    s.handle = zs_malloc_node(
                        s.pool, s.length, cython.cast(uint32_t, x >> 8) % s.pool.arena.node_count)
                    if s.handle:
                        _fill(expected, s.length, n, s.version)
                        zs_write(s.pool, s.handle, expected, s.length)
                    else:
                        full[0] += 1
            a32_fetch_add_rel(cython.address(s.lock), -1 if read_only else -WRITER)
            done += 1
        return done

    def live(self):
        """Slots that hold an object; call it when no worker runs."""
        i: uint32_t
        count = 0
        for i in range(self.slots_n):
            count += self.slots[i].handle != 0
        return count

    def clear(self):
        """Free every object; call it when no worker runs."""
        i: uint32_t
        for i in range(self.slots_n):
            if self.slots[i].handle:
                zs_free(self.slots[i].pool, self.slots[i].handle)
                self.slots[i].handle = 0
