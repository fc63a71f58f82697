"""Compaction: move objects from the emptiest zspages to the fullest, and free what becomes empty.

Owns: nothing; works on the classes of a pool. One thread at a time compacts a pool.
Guarantees: lists are whole whenever a lock is dropped (both zspages are back on them), so any other
thread may come in between. A class that has nothing to gain is passed over without a lock.
Locks: see core.py. A hold of the locks moves at most `compact_batch` objects: with more, everybody
waits for the compactor; with a fair hand-over, the compactor waits for everybody.
"""

import cython
from cython.cimports.coldmem.linux.atomic import (
    a32_cas,
    a32_store_rel,
    a64_fetch_add_rlx,
    a64_load_rlx,
    sched_yield,
)
from cython.cimports.coldmem.zsmalloc.arena import ZspageP, arena_put
from cython.cimports.coldmem.zsmalloc.core import PoolP, SizeClassP
from cython.cimports.coldmem.zsmalloc.move import (
    move_lock,
    move_object,
    move_unlock,
    zspage_end_write,
    zspage_try_write,
)
from cython.cimports.coldmem.zsmalloc.zspage import (
    find_emptiest,
    find_fullest,
    fullness,
    list_add,
    list_del,
    object_header,
    zspage_leave,
)
from cython.cimports.libc.stdint import int32_t, uint32_t, uint64_t


def class_can_compact(k):
    """Units that compacting the class could free; read without a lock, so only nearly right."""
    allocated: uint64_t = a64_load_rlx(cython.address(k.zspages)) * k.objs
    used: uint64_t = a64_load_rlx(cython.address(k.objects))
    return (allocated - used) // k.objs * k.units if allocated > used else 0


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def _step(p: PoolP, k: SizeClassP, last: cython.pointer(uint32_t),
          start: cython.pointer(uint32_t), empty: cython.pointer(uint32_t)) -> uint32_t:
    """Under the locks: move up to `compact_batch` objects. How many were moved.

    `last` and `start` carry on in the source of the step before; `empty` gets a freed zspage.
    """
    moved: uint32_t = 0
    d: uint32_t
    s: uint32_t
    i: uint32_t
    sp: ZspageP
    dp: ZspageP
    d = find_fullest(k)
    if d == 0 or class_can_compact(k) == 0:
        return 0
    list_del(p, k, d)
    s = find_emptiest(k)
    if s == 0:
        list_add(p, k, d, fullness(k, p.arena.zspages[d].inuse))
        return 0
    list_del(p, k, s)
    sp = cython.address(p.arena.zspages[s])
    dp = cython.address(p.arena.zspages[d])
    if zspage_try_write(p, sp):
        i = start[0] if last[0] == s else 0
        while i < k.objs and moved < p.compact_batch and sp.inuse and dp.inuse < k.objs:
            if object_header(k, sp, i)[0] & 1 and move_object(p, k, s, i, d):
                moved += 1
            i += 1
        last[0] = s if i < k.objs else 0
        start[0] = i
        zspage_end_write(p, sp)
    else:
        last[0] = 0  # a reader is in this zspage
    if sp.inuse == 0:
        empty[0] = s
        last[0] = 0
        k.freed_units += k.units
        zspage_leave(k, sp)
    else:
        list_add(p, k, s, fullness(k, sp.inuse))
    # Last, so that it comes first in its list: were both in one group, and the source in front, the
    # next step would move the objects back, and so on without end.
    list_add(p, k, d, fullness(k, dp.inuse))
    k.moved += moved
    return moved


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def _compact_class(p: PoolP, k: SizeClassP) -> uint64_t:
    freed: uint64_t = 0
    last: uint32_t = 0
    start: uint32_t = 0
    empty: uint32_t
    contended: cython.bint
    resumed: cython.bint
    moved: uint32_t
    while class_can_compact(k):
        empty = 0
        move_lock(p, k)
        resumed = last != 0
        moved = _step(p, k, cython.address(last), cython.address(start), cython.address(empty))
        contended = move_unlock(p, k)
        if empty:
            freed += k.units
            arena_put(cython.address(p.arena), empty)
        if moved == 0 and not resumed:
            break  # nothing could be moved: every object of the source is being read
        if contended:
            sched_yield()
    return freed


def zs_compact(p):
    freed: uint64_t = 0
    c: int32_t
    if not a32_cas(cython.address(p.compacting), 0, 1):
        return 0
    for c in range(cython.cast(int32_t, p.slots) - 1, -1, -1):
        if p.class_of[c] == c and not p.classes[c].huge:
            freed += _compact_class(p, cython.address(p.classes[c]))
    a64_fetch_add_rlx(cython.address(p.units_compacted), freed)
    a32_store_rel(cython.address(p.compacting), 0)
    return freed


def zs_can_compact(p):
    units: uint64_t = 0
    c: uint32_t
    for c in range(p.slots):
        if p.class_of[c] == c:
            units += class_can_compact(cython.address(p.classes[c]))
    return units
