"""The recompressor: what stays cold is packed once more, smaller and slower to unpack.

It looks four times a second. Recompression pays where hardly anything is loaded at all, and else where
the room that it makes is worth more than it costs: on one side the refaults that would not have been if
all of the pool were recompressed (their distance in evictions is below the units by which RAM would
hold more), on the other the loads that had to undo the slower codec. Both are counted as they happen; a
64th of the units is recompressed whatever they say, so that there is something to count. On a uniformly
random load it stays out of the way, and so it does on scans.

Guarantees: it works only while the reclaimer and the readahead thread have nothing to do and the limit
leaves room for both forms of a unit, and at most half of the time if anything is loaded. A Memory in
which nothing happens costs two looks a second.
Locks: those of the Zswap, for a unit at a time; a working context for some units at a time.
"""

import cython
from cython.cimports.coldmem.linux.atomic import (
    a32_load_acq,
    a32_load_rlx,
    a32_store_rel,
    a64_load_rlx,
    a64_store_rlx,
    futex_wait,
    futex_wake,
    now_ns,
)
from cython.cimports.coldmem.memory.limit import footprint
from cython.cimports.coldmem.memory.state import AHEAD_AWAKE, RECLAIMER_WOKEN, MemoryP
from cython.cimports.coldmem.zswap.context import context_get, context_put
from cython.cimports.coldmem.zswap.lru import lru_at
from cython.cimports.coldmem.zswap.reclaim import reclaim_compact
from cython.cimports.coldmem.zswap.recompress import Recompressed, recompress_some
from cython.cimports.coldmem.zswap.state import CONTEXTS_MAX, GROUP_ROOT, WorkContextP
from cython.cimports.libc.stdint import uint32_t, uint64_t

LOOK_NS = cython.declare(uint64_t, 250_000_000)
IDLE_LOOK_NS = cython.declare(uint64_t, 500_000_000)
NAP_NS = cython.declare(uint64_t, 500_000)
STEP = cython.declare(uint32_t, 16)  # units between two looks at who else has work
COMPACT_EVERY = cython.declare(uint32_t, 256)
RESERVE = cython.declare(uint64_t, 1 << 19)
SCAN = cython.declare(uint32_t, 256)
CALM_PER_S = cython.declare(uint64_t, 2000)  # loads: what they cost more is a hundredth of a CPU then
# Measured on units of 4 KiB: a fault takes 8 us, and the slower codec 4.5 us more to unpack than LZ4.
FAULT_COST = cython.declare(uint64_t, 16)
UNPACK_COST = cython.declare(uint64_t, 9)
PROBE = cython.declare(uint64_t, 64)
GAIN = cython.declare(uint64_t, 4)  # recompression frees about a quarter


def _measure(m, h):
    i: uint32_t
    used: uint64_t = a64_load_rlx(cython.address(m.z.budget.used_bytes))
    h.loads = 0
    h.wanted = 0
    h.cold_loads = 0
    h.units = 0
    h.cold = 0
    for i in range(CONTEXTS_MAX):
        h.loads += a64_load_rlx(cython.address(m.places[i].counts.loads))
        h.wanted += a64_load_rlx(cython.address(m.places[i].counts.wanted))
    for i in range(m.z.shards_mask + 1):
        h.cold_loads += a64_load_rlx(cython.address(lru_at(m.z, i, GROUP_ROOT).cold_loads))
        h.units += a64_load_rlx(cython.address(lru_at(m.z, i, GROUP_ROOT).ram_units))
        h.cold += cython.cast(
            uint64_t, a32_load_rlx(cython.address(lru_at(m.z, i, GROUP_ROOT).cold_units))
        )
    if h.units and used // h.units < m.unit_bytes:
        a64_store_rlx(cython.address(m.cool_reach), used // GAIN // (m.unit_bytes - used // h.units))


def _pays(h, before, interval_ns):
    loads: uint64_t = h.loads - before.loads
    if loads * 1_000_000_000 < CALM_PER_S * interval_ns or h.cold * PROBE < h.units:
        return True
    return (h.wanted - before.wanted) * FAULT_COST * h.cold > (
        (h.cold_loads - before.cold_loads) * UNPACK_COST * h.units
    )


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def _busy(m: MemoryP) -> cython.bint:
    return (
        footprint(m) + RESERVE > m.hard_bytes
        or a32_load_rlx(cython.address(m.reclaimer)) == RECLAIMER_WOKEN
        or a32_load_rlx(cython.address(m.ahead_state)) == AHEAD_AWAKE
    )


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def _work(m: MemoryP, shard: cython.pointer(uint32_t), until_ns: uint64_t,
          calm: cython.bint) -> uint64_t:
    """Go on until then, or until every list was passed once; units recompressed."""
    w: WorkContextP
    out: Recompressed
    begin: uint64_t
    passed: uint32_t = 0
    compacted: uint32_t = 0
    out.units = 0
    out.scanned = 0
    out.freed_bytes = 0
    while now_ns() < until_ns and passed <= m.z.shards_mask:
        if a32_load_acq(cython.address(m.stop)):
            break
        if _busy(m):
            futex_wait(cython.address(m.stop), 0, NAP_NS)
            continue
        w = context_get(m.z)
        if w == cython.NULL:
            break
        begin = now_ns()
        if out.units >= compacted + COMPACT_EVERY:
            compacted = out.units
            reclaim_compact(m.z)  # or what was freed would be holes, no room
        recompress_some(m.z, shard[0], GROUP_ROOT, SCAN, STEP, w, cython.address(out))
        context_put(m.z, w)
        if out.end:
            shard[0] = (shard[0] + 1) & m.z.shards_mask
            passed += 1
        if not calm:
            futex_wait(cython.address(m.stop), 0, now_ns() - begin + 1)
    return out.units


def cool_loop(m):
    now: Heat
    before: Heat
    begin: uint64_t
    shard: uint32_t = 0
    done: uint64_t = 1
    _measure(m, cython.address(before))
    begin = now_ns()
    while not a32_load_acq(cython.address(m.stop)):
        futex_wait(cython.address(m.stop), 0, LOOK_NS if done else IDLE_LOOK_NS)
        _measure(m, cython.address(now))
        done = 0
        # What is not recompressed by now was either tried in vain or used of late.
        if now.units > now.cold + now.cold // PROBE and _pays(
            cython.address(now), cython.address(before), now_ns() - begin
        ):
            begin = now_ns()
            done = _work(m, cython.address(shard), begin + LOOK_NS, now.loads == before.loads)
        else:
            begin = now_ns()
        before = now
    a32_store_rel(cython.address(m.cool_runs), 0)
    futex_wake(cython.address(m.cool_runs), 0x7FFFFFFF)


def cool_stop(m):
    """With m.stop set."""
    while a32_load_acq(cython.address(m.cool_runs)):
        futex_wait(cython.address(m.cool_runs), 1, NAP_NS)
