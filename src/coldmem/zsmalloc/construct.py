"""Making and destroying the C pool: reserve, lay out, and undo it all when a step fails.

Guarantees: `pool_new` gives a whole pool or raises with nothing left behind.
"""

import itertools

import cython
from cython.cimports.coldmem.linux.atomic import a64_fetch_add_rlx
from cython.cimports.coldmem.linux.lock import mutex_init, rw_destroy, rw_init
from cython.cimports.coldmem.linux.memory import memory_release, memory_reserve
from cython.cimports.coldmem.zsmalloc.arena import arena_destroy, arena_init, budget_limit
from cython.cimports.coldmem.zsmalloc.core import (
    MAX_CLASSES,
    Handle,
    HandleP,
    PoolP,
    SizeClass,
    SizeClassP,
)
from cython.cimports.libc.stdint import uint32_t, uint64_t
from cython.cimports.libc.stdlib import free
from cython.cimports.libc.string import memset
from cython.cimports.posix.stdlib import posix_memalign

from coldmem.errors import EnvironmentFailure
from coldmem.units import format_bytes

_tags = itertools.count(1)  # handles carry the tag of their pool, so a foreign one is seen


def pool_new(geometry, capacity, limit, nodes, budget, counting):
    p: PoolP
    k: SizeClassP
    memory: cython.p_void = cython.NULL
    if posix_memalign(cython.address(memory), 128, cython.sizeof(PoolC)) != 0:
        raise MemoryError("no memory for a pool")
    memset(memory, 0, cython.sizeof(PoolC))
    p = cython.cast(PoolP, memory)
    mutex_init(cython.address(p.lock), counting)
    p.unit_bytes = geometry.unit_bytes
    p.step = geometry.step
    p.slots = len(geometry)
    p.huge_class_size = max(geometry.huge_class_size, 0)
    p.tag = next(_tags) & 0x3FF
    p.handles_next = 1
    p.handles_max = min(capacity // 32 + 4096, 0xFFFFFFFF)
    memory = cython.NULL
    if (rw_init(cython.address(p.migrate), counting) != 0 or posix_memalign(
            cython.address(memory), 128, MAX_CLASSES * cython.sizeof(SizeClass)) != 0):
        pool_destroy(p)
        raise MemoryError("no memory for the size classes of a pool")
    memset(memory, 0, MAX_CLASSES * cython.sizeof(SizeClass))
    p.classes = cython.cast(SizeClassP, memory)
    for slot, index in enumerate(geometry.class_of_slot):
        p.class_of[slot] = index
    for made in geometry.classes:
        k = cython.address(p.classes[cython.cast(uint32_t, made.index)])
        mutex_init(cython.address(k.lock), counting)
        k.size = made.size
        k.objs = made.objs_per_zspage
        k.units = made.units_per_zspage
        k.huge = made.huge
        k.index = made.index
    p.handles = cython.cast(HandleP, memory_reserve(p.handles_max * cython.sizeof(Handle)))
    if p.handles == cython.NULL or arena_init(
            cython.address(p.arena), p.unit_bytes, capacity, nodes, budget, counting) != 0:
        pool_destroy(p)
        raise EnvironmentFailure(
            f"the system refuses {format_bytes(capacity)} of address space for a pool: "
            "pass a smaller capacity= (at least the limit), or raise ulimit -v"
        )
    if budget == cython.NULL:
        budget_limit(cython.address(p.arena.own_budget), limit)
    return p


def pool_destroy(p):
    k: SizeClassP
    c: uint32_t
    used: uint64_t = 0
    if p.classes != cython.NULL and p.arena.budget != cython.NULL:
        for c in range(p.slots):
            k = cython.address(p.classes[c])
            used += k.zspages * k.units * p.unit_bytes
        a64_fetch_add_rlx(cython.address(p.arena.budget.used_bytes), -used)
    arena_destroy(cython.address(p.arena))
    if p.handles != cython.NULL:
        memory_release(p.handles, p.handles_max * cython.sizeof(Handle))
    rw_destroy(cython.address(p.migrate))
    free(p.magazines)
    free(p.classes)
    free(p)
