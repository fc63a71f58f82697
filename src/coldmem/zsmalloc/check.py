"""Executable invariants of a pool: what must hold whenever a class lock is free.

Guarantees: reads only. Holds one class lock (the pool lock in locking "pool") at a time, so it can run
beside any other thread; figures that span classes are compared only by callers that know the pool to
be quiet.
"""

import cython
from cython.cimports.coldmem.linux.atomic import a32_load_rlx, a64_load_rlx
from cython.cimports.coldmem.linux.lock import MutexP, mutex_lock, mutex_unlock
from cython.cimports.coldmem.zsmalloc.arena import ZspageP
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
from cython.cimports.libc.stdint import uint32_t, uint64_t

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
            if a32_load_rlx(cython.address(zp.readers)) < 0:
                _found(out, b"a zspage is write-locked without a compactor", k, z, g)
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
