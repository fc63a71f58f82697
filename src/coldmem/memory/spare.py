"""Runs that are kept with their pages when NumPy gives them back: what malloc does with its free lists.

Without this an array that is made and dropped all the time has every page of it taken away and faulted
in again. For whole programs only (`coldmem run`): there every temporary comes by, and nobody closes the
Memory or looks at its account while arrays go.

Owns: up to 16 runs, no more than a sixteenth of the limit and 64 MiB. They count as arrays until they
are dropped.
Guarantees: as soon as the Memory takes units out, nothing is kept and what was kept is given back at
the next array that comes or goes: no room is taken from who needs it, and what nobody needs is not
compressed for long. Never for memory that must read as zeros.
Locks: `busy`, which is only tried and is a leaf: who finds it taken does without. A fork alone waits for
it, and holds it for as long as it takes.
"""

import cython
from cython.cimports.coldmem.linux.atomic import (
    a32_cas,
    a32_store_rel,
    a64_load_acq,
    a64_load_rlx,
    a64_store_rel,
    a64_store_rlx,
    sched_yield,
)
from cython.cimports.coldmem.memory.region import region_free, region_size
from cython.cimports.coldmem.memory.state import MemoryP
from cython.cimports.libc.stdint import uint32_t, uint64_t

MOST_BYTES = cython.declare(uint64_t, 64 << 20)
_all = cython.declare(uint64_t, 0)  # SparesP; atomic
_stopped = cython.declare(SparesP, cython.NULL)  # by the thread that forks


def spare_begin(s):
    s.next = cython.cast(SparesP, _all)
    s.on = 1
    a64_store_rel(cython.address(_all), cython.cast(uint64_t, s))


def spares_stop():
    global _stopped
    s: SparesP = cython.cast(SparesP, a64_load_acq(cython.address(_all)))
    _stopped = s
    while s != cython.NULL:
        while not a32_cas(cython.address(s.busy), 0, 1):
            sched_yield()
        s = s.next


def spares_resume():
    s: SparesP = _stopped  # not what has come meanwhile
    while s != cython.NULL:
        a32_store_rel(cython.address(s.busy), 0)
        s = s.next


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def _lift(s: SparesP, i: uint32_t) -> cython.p_void:
    """Take one out; with `busy`."""
    start: cython.p_void = s.start[i] if s.size[i] else cython.NULL
    a64_store_rlx(cython.address(s.bytes), s.bytes - s.size[i])
    s.size[i] = 0
    return start


def spare_drop(m, s):
    lifted: cython.p_void[16]
    i: uint32_t
    if a64_load_rlx(cython.address(s.bytes)) == 0 or not a32_cas(cython.address(s.busy), 0, 1):
        return
    for i in range(SPARES):
        lifted[i] = _lift(s, i)
    a32_store_rel(cython.address(s.busy), 0)
    for i in range(SPARES):
        if lifted[i] != cython.NULL:
            region_free(m, lifted[i])


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def _is_calm(m: MemoryP, s: SparesP) -> cython.bint:
    """Nothing was taken out since the first of them was put here."""
    return a64_load_rlx(cython.address(s.evicted)) == a64_load_rlx(cython.address(m.evicted))


def spare_take(m, s, size):
    i: uint32_t
    best: uint32_t = SPARES
    start: cython.p_void = cython.NULL
    if a64_load_rlx(cython.address(s.bytes)) == 0:
        return cython.NULL
    if not _is_calm(m, s):
        spare_drop(m, s)
        return cython.NULL
    if a64_load_rlx(cython.address(s.bytes)) < size or not a32_cas(cython.address(s.busy), 0, 1):
        return cython.NULL
    for i in range(SPARES):
        if size <= s.size[i] <= size + size // 4 + m.unit_bytes and (
            best == SPARES or s.size[i] < s.size[best]
        ):
            best = i
    if best < SPARES:
        start = _lift(s, best)
    a32_store_rel(cython.address(s.busy), 0)
    return start


def spare_put(m, s, start):
    size: uint64_t
    i: uint32_t
    old: cython.p_void
    if not s.on:
        return False
    size = region_size(m, start)
    if a64_load_rlx(cython.address(s.bytes)) + size > min(m.limit_bytes // 16, MOST_BYTES):
        # Too much for all of them to stay; and if it is too large itself, the others are no use to it.
        if size <= min(m.limit_bytes // 16, MOST_BYTES):
            spare_drop(m, s)
        else:
            return False
    if a64_load_rlx(cython.address(s.bytes)) and not _is_calm(m, s):
        spare_drop(m, s)
        return False
    if not a32_cas(cython.address(s.busy), 0, 1):
        return False
    if s.bytes == 0:
        a64_store_rlx(cython.address(s.evicted), a64_load_rlx(cython.address(m.evicted)))
    i = s.turn % SPARES
    s.turn += 1
    old = _lift(s, i)
    s.start[i] = start
    s.size[i] = size
    a64_store_rlx(cython.address(s.bytes), s.bytes + size)
    a32_store_rel(cython.address(s.busy), 0)
    if old != cython.NULL:
        region_free(m, old)
    return True
