"""Executable invariants of a pool: what must hold whenever a class lock is free.

Guarantees: reads only. Holds one class lock (the pool lock in locking "pool") or the arena lock at a
time, so it can run beside any other thread; figures that span classes are compared only by callers
that know the pool to be quiet.
"""

import cython
from cython.cimports.coldmem.linux.atomic import a32_load_rlx, a64_load_rlx
from cython.cimports.coldmem.linux.lock import MutexP, mutex_lock, mutex_unlock
from cython.cimports.coldmem.zsmalloc.arena import MAX_CHAIN, ArenaP, ZspageP
from cython.cimports.coldmem.zsmalloc.core import (
    GROUPS,
    HandleP,
    PoolP,
    SizeClassP,
    class_lock,
)
from cython.cimports.coldmem.zsmalloc.handle import (
    word_class,
    word_object,
    word_zspage,
)
from cython.cimports.coldmem.zsmalloc.zspage import fullness, object_header
from cython.cimports.libc.stdint import int32_t, uint32_t, uint64_t

from coldmem.errors import CorruptPoolError, UsageError

FindingP = cython.typedef(cython.pointer(Finding))
text = cython.typedef(cython.pointer(cython.const[cython.char]))


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def _found(out: FindingP, what: text, k: SizeClassP, z: uint32_t, i: uint32_t) -> cython.void:
    if out.what == cython.NULL:
        out.what = what
        out.klass = k.index
        out.zspage = z
        out.object = i


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def _check_objects(p: PoolP, k: SizeClassP, z: uint32_t, out: FindingP) -> cython.void:
    zp: ZspageP = cython.address(p.arena.zspages[z])
    free: uint32_t = 0
    used: uint32_t = 0
    i: uint32_t = zp.freeobj
    header: uint64_t
    h: HandleP
    w: uint64_t
    while i < k.objs and free <= k.objs:
        header = object_header(k, zp, i)[0]
        if header & 1:
            _found(out, b"an allocated object is on the free list", k, z, i)
            return
        free += 1
        i = cython.cast(uint32_t, header >> 1)
    if free + zp.inuse != k.objs:
        _found(out, b"free and used objects do not add up", k, z, free)
    for i in range(k.objs):
        header = object_header(k, zp, i)[0]
        if header & 1:
            used += 1
            if (header >> 1) >= a64_load_rlx(cython.address(p.handles_next)):
                _found(out, b"an object names a handle that was never made", k, z, i)
                continue
            h = cython.address(p.handles[header >> 1])
            w = a64_load_rlx(cython.address(h.word))
            if word_zspage(w) != z or word_object(w) != i or word_class(w) != k.index:
                _found(out, b"a handle does not point back to its object", k, z, i)
    if used != zp.inuse:
        _found(out, b"inuse differs from the tagged objects", k, z, used)


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def _check_class(p: PoolP, k: SizeClassP, full: cython.bint, out: FindingP) -> uint64_t:
    g: uint32_t
    z: uint32_t
    previous: uint32_t
    zp: ZspageP
    zspages: uint64_t = 0
    objects: uint64_t = 0
    count: uint32_t
    for g in range(GROUPS):
        count = 0
        previous = 0
        z = k.head[g]
        if (z != 0) != ((k.nonempty >> g) & 1):
            _found(out, b"the map of filled lists is wrong", k, z, g)
        while z:
            zp = cython.address(p.arena.zspages[z])
            if zp.prev != previous:
                _found(out, b"a fullness list is broken", k, z, g)
                return zspages
            if zp.group != g or fullness(k, zp.inuse) != g:
                _found(out, b"a zspage is in the wrong fullness list", k, z, g)
            if zp.klass != k.index or zp.units != k.units or zp.free:
                _found(out, b"a zspage does not belong to this class", k, z, g)
            if a32_load_rlx(cython.address(zp.owner)) != cython.cast(int32_t, k.index) + 1:
                _found(out, b"a zspage has another owner than its class", k, z, g)
            if a32_load_rlx(cython.address(zp.readers)) < 0:
                _found(out, b"a zspage is write-locked while nobody moves objects", k, z, g)
            if zp.inuse == 0:
                _found(out, b"an empty zspage was kept", k, z, g)
            objects += zp.inuse
            count += 1
            if full:
                _check_objects(p, k, z, out)
            previous = z
            z = zp.next
            if count > p.arena.zspages_max:
                _found(out, b"a fullness list runs in a circle", k, z, g)
                return zspages
        if count != k.count[g]:
            _found(out, b"the length of a fullness list is wrong", k, 0, g)
        zspages += count
    if zspages != k.zspages:
        _found(out, b"the number of zspages is wrong", k, 0, 0)
    if objects != k.objects:
        _found(out, b"the number of objects is wrong", k, 0, 0)
    return zspages


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def _check_free(p: PoolP, first: uint32_t, node: uint32_t, units: uint32_t,
                out: FindingP) -> cython.void:
    """A list of free runs of one node and length."""
    k: SizeClassP = cython.address(p.classes[p.class_of[0]])
    count: uint32_t = 0
    z: uint32_t = first
    zp: ZspageP
    while z:
        zp = cython.address(p.arena.zspages[z])
        if zp.node != node or zp.units != units or not zp.free:
            _found(out, b"a free run is in the wrong list", k, z, node)
        count += 1
        if count > p.arena.zspages_end:
            _found(out, b"a list of free runs runs in a circle", k, z, node)
            return
        z = zp.next


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def _check_arena(p: PoolP, out: FindingP) -> cython.void:
    """Runs and nodes, under the arena lock."""
    a: ArenaP = cython.address(p.arena)
    k: SizeClassP = cython.address(p.classes[p.class_of[0]])  # for the message only
    units: uint64_t[16]
    i: uint32_t
    n: uint32_t
    z: uint32_t
    at: uint64_t
    zp: ZspageP
    for i in range(a.node_count):
        units[i] = 0
    for z in range(1, a.zspages_end):
        zp = cython.address(a.zspages[z])
        i = zp.node
        if i >= a.node_count:
            _found(out, b"a zspage is on a node that does not exist", k, z, i)
            continue
        at = zp.mem - a.mem
        if (at < i * a.node_bytes
                or at + cython.cast(uint64_t, zp.units) * a.unit_bytes > a.nodes[i].next_byte):
            _found(out, b"a zspage lies outside the range of its node", k, z, i)
        if zp.free == 0:
            units[i] += zp.units
        elif a32_load_rlx(cython.address(zp.owner)) != 0:
            _found(out, b"a free run still has an owner", k, z, i)
    for i in range(a.node_count):
        if units[i] != a.nodes[i].units:
            _found(out, b"the number of units of a node is wrong", k, 0, i)
        if a.nodes[i].next_byte > a.nodes[i].end_byte:
            _found(out, b"a node has grown over its end", k, 0, i)
        for n in range(1, MAX_CHAIN + 1):
            _check_free(p, a.nodes[i].dirty_free[n], i, n, out)
            _check_free(p, a.nodes[i].clean_free[n], i, n, out)


def pool_check(p, full, out, nbytes):
    c: uint32_t
    k: SizeClassP
    l: MutexP
    total: uint64_t = 0
    out.what = cython.NULL
    for c in range(p.slots):
        if p.class_of[c] != c:
            continue
        k = cython.address(p.classes[c])
        l = class_lock(p, k)
        mutex_lock(l)
        total += _check_class(p, k, full, out) * k.units * p.unit_bytes
        mutex_unlock(l)
    nbytes[0] = total
    if full:
        mutex_lock(cython.address(p.arena.lock))
        _check_arena(p, out)
        mutex_unlock(cython.address(p.arena.lock))


def check_valid(p, name, level):
    if level not in ("cheap", "full"):
        raise UsageError(f"level {level!r}: choose 'cheap' or 'full'")
    found: Finding
    nbytes: uint64_t = 0
    full: cython.bint = level == "full"
    with cython.nogil:
        pool_check(p, full, cython.address(found), cython.address(nbytes))
    if found.what != cython.NULL:
        raise CorruptPoolError(
            f"pool {name!r}: {found.what.decode()} (class {found.klass}, "
            f"zspage {found.zspage}, {found.object})"
        )
