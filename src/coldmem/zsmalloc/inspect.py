"""Snapshots of a C pool as the records of stats.py.

Locks: each class lock in turn, for a few loads. Figures of one class belong together; sums over
classes are of slightly different moments while other threads work.
"""

import cython
from cython.cimports.coldmem.linux.atomic import a64_load_rlx
from cython.cimports.coldmem.linux.lock import (
    LockCounts,
    MutexP,
    mutex_counts,
    mutex_lock,
    mutex_unlock,
    rw_counts,
)
from cython.cimports.coldmem.zsmalloc.arena import Zspage
from cython.cimports.coldmem.zsmalloc.compact import class_can_compact
from cython.cimports.coldmem.zsmalloc.core import (
    GROUPS,
    MAX_CLASSES,
    Handle,
    Magazine,
    SizeClass,
    SizeClassP,
    class_lock,
)
from cython.cimports.coldmem.zsmalloc.magazine import magazines_held
from cython.cimports.libc.stdint import uint32_t, uint64_t
from cython.cimports.libc.string import memset

from coldmem.zsmalloc.stats import ClassStats, LockStats, PoolStats


def class_stats(p):
    rows = []
    c: uint32_t
    k: SizeClassP
    l: MutexP
    copy: SizeClass
    held: uint64_t
    for c in range(p.slots):
        if p.class_of[c] != c:
            continue
        k = cython.address(p.classes[c])
        l = class_lock(p, k)
        with cython.nogil:
            held = magazines_held(p, k)
            mutex_lock(l)
            copy = k[0]
            mutex_unlock(l)
        rows.append(ClassStats(
            index=copy.index,
            size=copy.size,
            zspages_by_group=tuple([copy.count[g] for g in range(1, GROUPS)]),
            obj_allocated=copy.zspages * copy.objs,
            obj_used=copy.objects - min(held, copy.objects),
            obj_cached=held,
            pages_used=copy.zspages * copy.units,
            pages_per_zspage=copy.units,
            freeable=class_can_compact(cython.address(copy)),
        ))
    return rows


def pool_stats(p):
    rows = class_stats(p)
    moved: uint64_t = 0
    zspages: uint64_t = 0
    c: uint32_t
    l: MutexP
    metadata: uint64_t
    resident: uint64_t
    released: uint64_t
    calls: uint64_t
    units: uint64_t[16]
    for c in range(p.slots):
        if p.class_of[c] == c:
            l = class_lock(p, cython.address(p.classes[c]))
            with cython.nogil:
                mutex_lock(l)
                moved += p.classes[c].moved
                zspages += p.classes[c].zspages
                mutex_unlock(l)
    with cython.nogil:
        mutex_lock(cython.address(p.arena.lock))
        resident = p.arena.dirty_bytes
        released = p.arena.released_bytes
        calls = p.arena.release_calls
        for c in range(p.arena.node_count):
            units[c] = p.arena.nodes[c].units
        metadata = (p.handles_next * cython.sizeof(Handle)
                    + p.arena.zspages_end * cython.sizeof(Zspage)
                    + MAX_CLASSES * cython.sizeof(SizeClass)
                    + p.cpus * MAX_CLASSES * cython.sizeof(Magazine))
        mutex_unlock(cython.address(p.arena.lock))
    return PoolStats(
        used_bytes=a64_load_rlx(cython.address(p.arena.budget.used_bytes)),
        limit_bytes=a64_load_rlx(cython.address(p.arena.budget.limit_bytes)),
        peak_bytes=a64_load_rlx(cython.address(p.arena.budget.peak_bytes)),
        objects=sum(row.obj_used for row in rows),
        objects_cached=sum(row.obj_cached for row in rows),
        zspages=zspages,
        resident_free_bytes=resident,
        released_bytes=released,
        release_calls=calls,
        metadata_bytes=metadata,
        pages_compacted=a64_load_rlx(cython.address(p.units_compacted)),
        objects_moved=moved,
        node_units=tuple([units[c] for c in range(p.arena.node_count)]),
        units_migrated=a64_load_rlx(cython.address(p.units_migrated)),
        objects_migrated=a64_load_rlx(cython.address(p.objects_migrated)),
    )


def lock_stats(p):
    kinds = {}
    counts: LockCounts
    c: uint32_t
    memset(cython.address(counts), 0, cython.sizeof(LockCounts))
    with cython.nogil:
        mutex_counts(cython.address(p.lock), cython.address(counts))
    kinds["pool"] = LockStats(counts.acquisitions, counts.contended, counts.wait_ns)
    memset(cython.address(counts), 0, cython.sizeof(LockCounts))
    with cython.nogil:
        for c in range(p.slots):
            if p.class_of[c] == c:
                mutex_counts(cython.address(p.classes[c].lock), cython.address(counts))
    kinds["class"] = LockStats(counts.acquisitions, counts.contended, counts.wait_ns)
    memset(cython.address(counts), 0, cython.sizeof(LockCounts))
    with cython.nogil:
        rw_counts(cython.address(p.migrate), cython.address(counts))
    kinds["migrate"] = LockStats(counts.acquisitions, counts.contended, counts.wait_ns)
    memset(cython.address(counts), 0, cython.sizeof(LockCounts))
    with cython.nogil:
        mutex_counts(cython.address(p.arena.lock), cython.address(counts))
    kinds["arena"] = LockStats(counts.acquisitions, counts.contended, counts.wait_ns)
    return kinds
