"""A stress of a Memory that verifies contents: native threads' work on units that come and go.

Owns: a record per unit in ordinary memory, which says what must be in the unit.
Each unit has two parts. Its first words are counters, one per worker, which only that worker reads and
writes, with no lock: so many threads write to one unit at once, and an update that is lost in eviction
is seen. The rest is a pattern that follows from the unit's number and version; whoever has the
unit's lock checks or replaces it. Meanwhile disturbers evict, prefetch, pin, make and free arrays, and
vote for and against keeping copies.
Locks: `Block.lock`, tried only.
"""

import cython
from cython.cimports.coldmem.linux.atomic import (
    a32_cas,
    a32_fetch_add,
    a32_load_acq,
    a32_store_rel,
    a64_load_acq,
)
from cython.cimports.coldmem.memory.fault import bring_in
from cython.cimports.coldmem.memory.keep import keep_vote
from cython.cimports.coldmem.memory.manager import Manager, manager_alloc
from cython.cimports.coldmem.memory.reclaim import take_out
from cython.cimports.coldmem.memory.region import region_free, region_pin, region_unpin
from cython.cimports.coldmem.memory.state import (
    FAULT_OK,
    PROTECTED,
    RESIDENT,
    STATE_MASK,
)
from cython.cimports.coldmem.zswap.context import context_get, context_put
from cython.cimports.coldmem.zswap.state import WorkContextP
from cython.cimports.libc.stdint import int32_t, uint32_t, uint64_t
from cython.cimports.libc.stdlib import calloc, free
from cython.cimports.libc.string import memset

MIX = cython.declare(uint64_t, 0x9E3779B97F4A7C15)
NIBBLES = cython.declare(uint64_t, 0x0F0F0F0F0F0F0F0F)
VOTES = cython.declare(int32_t, 1024)  # twice: over the line, wherever it was
RANGE_UNITS = cython.declare(uint32_t, 64)  # of one eviction or prefetch
PIN_UNITS = cython.declare(uint32_t, 8)
ARRAY_UNITS = cython.declare(uint32_t, 24)


def fill_words(out, n, unit, version):
    """A quarter of the units is one word over and over; the rest has 0 to 9 eighths of noise.

    A third of that is noise of four bits a byte, which only an entropy coder makes smaller.
    """
    name: uint64_t = (cython.cast(uint64_t, unit) << 32) | version
    x: uint64_t = (name + 1) * MIX
    i: uint32_t
    noisy: uint32_t
    mask: uint64_t = ~cython.cast(uint64_t, 0)
    x ^= x >> 29
    if x % 4 == 0:
        for i in range(n):
            out[i] = name
        return
    noisy = min(cython.cast(uint32_t, (x >> 8) % 10) * (n // 8), n)
    if (x >> 16) % 3 == 0:
        mask = NIBBLES
    memset(out, 0, n * 8)
    for i in range(noisy):
        x = (x ^ (x >> 29)) * MIX + 1
        out[i] = x & mask
    out[n - 1] = ~name


class MemoryStress:
    """Units of some arrays, which all threads use.

    Parameters
    ----------
    memory : Memory
    arrays : sequence of Extent
        Of ``memory.allocate``. They are kept until the end.
    """

    def __init__(self, memory, arrays):
        owner: Manager = memory
        n: uint32_t = 0
        i: uint32_t
        at: uint64_t
        self.keep = (memory, list(arrays))
        self.m = owner.c
        self.promise = owner.promise
        self.words_n = cython.cast(uint32_t, self.m.unit_bytes // 8)
        self.units_n = sum(len(array) // self.m.unit_bytes for array in arrays)
        if self.units_n < 2 * RANGE_UNITS:
            raise ValueError("give arrays of 128 units or more")
        self.units = cython.cast(cython.pointer(U64P), calloc(self.units_n, cython.sizeof(U64P)))
        self.blocks = cython.cast(BlockP, calloc(self.units_n, cython.sizeof(Block)))
        self.counts = cython.cast(U64P, calloc(WORKERS_MAX * self.units_n, 8))
        if self.units == cython.NULL or self.blocks == cython.NULL or self.counts == cython.NULL:
            raise MemoryError("no memory for the records")
        for array in arrays:
            at = array.address
            for i in range(cython.cast(uint32_t, len(array) // self.m.unit_bytes)):
                self.units[n] = cython.cast(U64P, at + i * self.m.unit_bytes)
                n += 1
        with cython.nogil:
            for i in range(self.units_n):
                fill_words(self.units[i] + WORKERS_MAX, self.words_n - WORKERS_MAX, i, 0)

    def __dealloc__(self):
        free(self.units)
        free(self.blocks)
        free(self.counts)

    def stop_all(self):
        """Let every worker and disturber come to its end."""
        a32_store_rel(cython.address(self.stop), 1)

    def worker(self, seed):
        """Work on units until `stop_all`.

        Returns
        -------
        tuple of int
            Accesses, wrong contents (none, it is to be hoped), and patterns replaced.
        """
        r: Result
        me: int32_t = a32_fetch_add(cython.address(self.workers_n), 1)
        s: uint64_t = seed + 1
        if me >= WORKERS_MAX:
            raise ValueError("no more than 64 workers")
        memset(cython.address(r), 0, cython.sizeof(Result))
        with cython.nogil:
            self.work(me, s * MIX, cython.address(r))
        return r.done, r.bad, r.rewritten

    def disturber(self, seed):
        """Evict, prefetch, pin, make and free arrays until `stop_all`; results as of a worker."""
        r: Result
        x: uint64_t = seed + 1
        x *= MIX
        memset(cython.address(r), 0, cython.sizeof(Result))
        with cython.nogil:
            while not a32_load_acq(cython.address(self.stop)):
                x ^= x << 13
                x ^= x >> 7
                x ^= x << 17
                self.disturb_one(x, cython.address(r))
                r.done += 1
        return r.done, r.bad, r.rewritten

    def work(self, me, seed, r):
        x: uint64_t = seed
        unit: uint32_t
        near: uint32_t = 0
        i: uint32_t
        counts: U64P = self.counts + cython.cast(uint64_t, me) * self.units_n
        while not a32_load_acq(cython.address(self.stop)):
            x ^= x << 13
            x ^= x >> 7
            x ^= x << 17
            # Runs, so that readahead has work, and jumps.
            unit = cython.cast(uint32_t, x >> 33) % self.units_n
            for i in range(1 if x & 16 else 40):
                if unit == self.units_n:
                    break
                near = cython.cast(uint32_t, (x >> i) & 15)
                if near < 7:
                    r.bad += self.units[unit][me] != counts[unit]
                    counts[unit] += 1
                    self.units[unit][me] = counts[unit]
                elif near < 10:
                    r.bad += self.units[unit][me] != counts[unit]
                else:
                    self.pattern(unit, near < 13, r)
                r.done += 1
                unit += 1

    def wrong_words(self, unit):
        """With the unit's lock, or alone."""
        good: uint64_t[8192]
        i: uint32_t
        bad: uint64_t = 0
        n: uint32_t = self.words_n - WORKERS_MAX
        fill_words(good, n, unit, self.blocks[unit].version)
        for i in range(n):
            bad += self.units[unit][WORKERS_MAX + i] != good[i]
        return bad

    def pattern(self, unit, change, r):
        b: BlockP = self.blocks + unit
        if not a32_cas(cython.address(b.lock), 0, 1):
            return
        r.bad += self.wrong_words(unit) != 0
        if change:
            b.version += 1
            fill_words(self.units[unit] + WORKERS_MAX, self.words_n - WORKERS_MAX, unit, b.version)
            r.rewritten += 1
        a32_store_rel(cython.address(b.lock), 0)

    def disturb_one(self, x, r):
        w: WorkContextP
        first: uint64_t
        what: uint32_t = cython.cast(uint32_t, x >> 8) % 8
        n: uint64_t = cython.cast(uint64_t, x >> 20) % RANGE_UNITS + 1
        if (x >> 12) % 16 == 0:  # whether copies are kept changes all the time
            keep_vote(self.m, VOTES if x >> 63 else -VOTES)
        if what == 6:
            self.disturb_pin(x, r)
            return
        if what == 7:
            self.disturb_array(x, r)
            return
        first = cython.cast(uint64_t, x >> 33) % (self.units_n - RANGE_UNITS)
        first = (cython.cast(uint64_t, self.units[first]) - cython.cast(uint64_t, self.m.base)) >> (
            self.m.unit_shift
        )
        w = context_get(self.m.z)
        if w == cython.NULL:
            return
        if what < 3:
            take_out(self.m, first, n, w)
        else:
            bring_in(self.m, first, n, x >> 40 & 3, w)
        context_put(self.m.z, w)

    def disturb_pin(self, x, r):
        """What is pinned stays, and stays writable, whatever the others do."""
        n: uint32_t = cython.cast(uint32_t, x >> 20) % PIN_UNITS + 1
        at: uint32_t = cython.cast(uint32_t, x >> 33) % (self.units_n - PIN_UNITS)
        first: uint64_t = cython.cast(uint64_t, self.units[at]) - cython.cast(uint64_t, self.m.base)
        first >>= self.m.unit_shift
        i: uint32_t
        turn: uint32_t
        if region_pin(self.m, first, n) != FAULT_OK:
            r.bad += 1
            return
        for turn in range(20):
            for i in range(n):
                r.bad += a64_load_acq(cython.address(self.m.words[first + i])) & (
                    STATE_MASK | PROTECTED
                ) != RESIDENT
                self.pattern(at + i, turn == 10, r)
        region_unpin(self.m, first, n)

    def disturb_array(self, x, r):
        """A new array is zeros, keeps what is written, and can go at any time."""
        n: uint64_t = cython.cast(uint64_t, x >> 20) % ARRAY_UNITS + 1
        words: uint64_t = n * self.words_n
        i: uint64_t
        u: uint32_t
        p: U64P = cython.cast(U64P, manager_alloc(self.m, self.promise, n << self.m.unit_shift))
        if p == cython.NULL:
            return
        for i in range(0, words, 64):
            r.bad += p[i] != 0
        for u in range(cython.cast(uint32_t, n)):
            fill_words(p + u * self.words_n, self.words_n, u, cython.cast(uint32_t, x))
        for i in range(0, words, 509):
            p[i] = x + i
        for i in range(0, words, 509):
            r.bad += p[i] != x + i
        region_free(self.m, p)

    def wrong(self):
        """After the workers: how many units do not hold what they must."""
        unit: uint32_t
        i: uint32_t
        bad: uint64_t = 0
        one: cython.bint
        with cython.nogil:
            for unit in range(self.units_n):
                one = self.wrong_words(unit) != 0
                for i in range(WORKERS_MAX):
                    if self.units[unit][i] != self.counts[
                        cython.cast(uint64_t, i) * self.units_n + unit
                    ]:
                        one = True
                bad += one
        return bad
