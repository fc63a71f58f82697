"""Page migration: the objects of a zspage move to a fresh run of memory on another node.

The kernel migrates page by page, to another NUMA node or out of the way of a large allocation, and
keeps each object's place in its zspage. Here a zspage moves as a whole, object by object.

Owns: nothing; works on the classes of a pool. One thread at a time compacts or migrates a pool.
Guarantees: the three steps of the kernel (isolate, move, put back) are one hold of the locks, of at
most `compact_batch` objects. Between two of them the rest is on the list of the source and what has
moved on that of the target, two valid zspages, so any other thread may come in between: free from
either, allocate in either, end either. A trip that finds objects in use ends like that and loses
nothing. The limit of the pool counts the target as long as the source is still there, so it is never
exceeded; without room for it nothing moves.
Locks: see core.py. Zspages are found by their number in the arena, without a lock; the one lookup
that decides, whether the class still owns the zspage, is under the lock of that class.
"""

import cython
from cython.cimports.coldmem.linux.atomic import (
    a32_cas,
    a32_load_acq,
    a32_load_rlx,
    a32_store_rel,
    a64_fetch_add_rlx,
    sched_yield,
)
from cython.cimports.coldmem.linux.lock import mutex_lock, mutex_unlock
from cython.cimports.coldmem.zsmalloc.arena import ZspageP, arena_get, arena_put
from cython.cimports.coldmem.zsmalloc.core import PoolP, SizeClassP
from cython.cimports.coldmem.zsmalloc.move import (
    move_lock,
    move_object,
    move_unlock,
    zspage_end_write,
    zspage_try_write,
)
from cython.cimports.coldmem.zsmalloc.zspage import (
    format_zspage,
    fullness,
    list_add,
    list_del,
    object_header,
    zspage_enter,
    zspage_leave,
)
from cython.cimports.libc.stdint import int32_t, uint32_t, uint64_t

TripP = cython.typedef(cython.pointer(Trip))
# How often a trip comes back for objects that were in use or came in meanwhile.
ROUNDS = cython.declare(uint32_t, 4)


@cython.cfunc
@cython.nogil
@cython.inline
@cython.exceptval(check=False)
def _owned(k: SizeClassP, z: ZspageP) -> cython.bint:
    return a32_load_rlx(cython.address(z.owner)) == cython.cast(int32_t, k.index) + 1


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def _step(p: PoolP, k: SizeClassP, t: TripP, moved: cython.pointer(uint32_t)) -> Way:
    """Under the locks: isolate, move up to `compact_batch` objects, put back."""
    sp: ZspageP = cython.address(p.arena.zspages[t.source])
    tp: ZspageP = cython.address(p.arena.zspages[t.target])
    moved[0] = 0
    # Freed since the last look? If the same class has taken it again, it will do as well.
    if not _owned(k, sp):
        return GONE
    if t.listed and (not _owned(k, tp) or tp.inuse == k.objs):
        t.target = 0  # others have freed it, or filled it
        t.listed = False
        return GOING
    if not zspage_try_write(p, sp):
        return BUSY
    list_del(p, k, t.source)
    if t.listed:
        list_del(p, k, t.target)
    while t.start < k.objs and moved[0] < p.compact_batch and sp.inuse and tp.inuse < k.objs:
        if object_header(k, sp, t.start)[0] & 1 and move_object(p, k, t.source, t.start, t.target):
            moved[0] += 1
        t.start += 1
    zspage_end_write(p, sp)
    if tp.inuse:
        if not t.listed:
            zspage_enter(k, tp)
            t.listed = True
        list_add(p, k, t.target, fullness(k, tp.inuse))
    if sp.inuse == 0:
        zspage_leave(k, sp)
        return ARRIVED
    list_add(p, k, t.source, fullness(k, sp.inuse))
    return GOING


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def _migrate_zspage(p: PoolP, k: SizeClassP, z: uint32_t, node: uint32_t) -> Way:
    t: Trip
    way: Way = GOING
    moved: uint32_t = 0
    contended: cython.bint
    total: uint64_t = 0
    this_round: uint64_t = 0
    rounds: uint32_t = 0
    t.source = z
    t.target = 0
    t.start = 0
    t.listed = False
    while way == GOING:
        if t.target == 0:
            t.target = arena_get(cython.address(p.arena), k.units, node, False)
            if t.target == 0:
                way = REFUSED
                break
            format_zspage(k, cython.address(p.arena.zspages[t.target]))
        move_lock(p, k)
        way = _step(p, k, cython.address(t), cython.address(moved))
        contended = move_unlock(p, k)
        total += moved
        this_round += moved
        if way == BUSY and total and rounds < ROUNDS:
            # The first part has moved already: wait a little rather than leave two halves.
            rounds += 1
            way = GOING
            contended = True
        elif way == GOING and t.start >= k.objs:
            if this_round == 0 or rounds == ROUNDS:
                break  # all that is left is being read, or comes in as fast as we move it
            rounds += 1
            this_round = 0
            t.start = 0
        if contended:
            sched_yield()
    if t.target and not t.listed:
        arena_put(cython.address(p.arena), t.target)
    if way == ARRIVED:
        arena_put(cython.address(p.arena), z)
        a64_fetch_add_rlx(cython.address(p.units_migrated), k.units)
    a64_fetch_add_rlx(cython.address(p.objects_migrated), total)
    return way


def zs_migrate(p, node, origin):
    migrated: uint64_t = 0
    refused: uint32_t = 0  # lengths of which there was no run: bit n for n units
    owner: int32_t
    z: uint32_t
    end: uint32_t
    zp: ZspageP
    k: SizeClassP
    way: Way
    if not a32_cas(cython.address(p.compacting), 0, 1):
        return 0
    mutex_lock(cython.address(p.arena.lock))
    end = p.arena.zspages_end
    mutex_unlock(cython.address(p.arena.lock))
    for z in range(1, end):
        zp = cython.address(p.arena.zspages[z])
        if zp.node == node or (origin >= 0 and zp.node != cython.cast(uint32_t, origin)):
            continue
        owner = a32_load_acq(cython.address(zp.owner))
        if owner == 0 or refused >> zp.units & 1:
            continue
        k = cython.address(p.classes[owner - 1])
        way = _migrate_zspage(p, k, z, node)
        if way == ARRIVED:
            migrated += k.units
        elif way == REFUSED:
            refused |= cython.cast(uint32_t, 1) << zp.units
    a32_store_rel(cython.address(p.compacting), 0)
    return migrated
