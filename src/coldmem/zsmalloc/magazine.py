"""Magazines per CPU: malloc and free without the class lock, most of the time.

Owns: for each CPU and class an array of handles. Such an object is live for the core (it is counted
in `SizeClass.objects`, compaction may move it) and free for the owner (its generation is even).
Locks: `Magazine.lock`, only ever tried, never waited for: a thread that was preempted while it held
one makes the others go to the core. Magazine -> class lock. Per CPU, not per thread: with small data
magazines per thread cost as much memory as the 32 pools that they are to replace.
"""

import cython
from cython.cimports.coldmem.linux.atomic import (
    a32_cas,
    a32_load_rlx,
    a32_store_rel,
    a64_cas,
    a64_load_acq,
    cpu_number,
    sched_yield,
)
from cython.cimports.coldmem.zsmalloc.core import (
    MAGAZINE_MAX,
    MAX_CLASSES,
    Magazine,
    MagazineP,
    PoolP,
    SizeClassP,
    core_give,
    core_take,
)
from cython.cimports.coldmem.zsmalloc.handle import moving_bit, pin_one
from cython.cimports.libc.stdint import uint32_t, uint64_t
from cython.cimports.libc.string import memcpy, memmove, memset
from cython.cimports.posix.stdlib import posix_memalign

BYTES_MAX = cython.declare(uint32_t, 1 << 20)


def magazines_init(p, cpus, capacity):
    """0, or -1 when there is no memory. `capacity` objects a class, fewer where they are large."""
    i: uint32_t
    c: uint32_t
    held: uint32_t
    memory: cython.p_void = cython.NULL
    nbytes: uint64_t = cython.cast(uint64_t, cpus) * MAX_CLASSES * cython.sizeof(Magazine)
    if posix_memalign(cython.address(memory), 64, nbytes) != 0:
        return -1
    memset(memory, 0, nbytes)
    p.magazines = cython.cast(MagazineP, memory)
    for i in range(cpus):
        for c in range(p.slots):
            if p.class_of[c] != c:
                continue
            held = BYTES_MAX // p.classes[c].size
            if held > capacity:
                held = capacity
            if held > MAGAZINE_MAX - 1:
                held = MAGAZINE_MAX - 1
            p.magazines[i * MAX_CLASSES + c].capacity = held
    p.cpus = cpus
    return 0


@cython.cfunc
@cython.nogil
@cython.inline
@cython.exceptval(check=False)
def _try(p: PoolP, k: SizeClassP) -> MagazineP:
    """This CPU's magazine of the class, locked, or NULL."""
    m: MagazineP = cython.address(p.magazines[(cpu_number() % p.cpus) * MAX_CLASSES + k.index])
    if a32_load_rlx(cython.address(m.lock)) or not a32_cas(cython.address(m.lock), 0, 1):
        return cython.NULL
    return m


def magazine_take(p, k, node):
    m: MagazineP = _try(p, k)
    got: uint32_t[16]
    n: uint32_t
    h: uint32_t = 0
    w: uint64_t
    if m == cython.NULL:
        return 0
    if m.count:
        h = m.handle[m.count - 1]
        w = a64_load_acq(cython.address(p.handles[h].word))
        # Being moved: its bytes are being read, so it must not be written. Leave it for later.
        if w & moving_bit() or not a64_cas(cython.address(p.handles[h].word), w, w + pin_one()):
            h = 0
        else:
            m.count -= 1
    else:
        n = core_take(p, k, got, 1 + m.capacity // 2, True, node)
        if n:
            h = got[0]
            m.count = n - 1
            memcpy(m.handle, got + 1, (n - 1) * cython.sizeof(uint32_t))
    a32_store_rel(cython.address(m.lock), 0)
    return h


def magazine_give(p, k, handle):
    m: MagazineP = _try(p, k)
    old: uint32_t[16]
    n: uint32_t = 0
    if m == cython.NULL:
        return False
    if m.capacity == 0:
        a32_store_rel(cython.address(m.lock), 0)
        return False
    if m.count == m.capacity:  # the older half goes home under one class lock
        n = m.capacity - m.capacity // 2
        memcpy(old, m.handle, n * cython.sizeof(uint32_t))
        m.count -= n
        memmove(m.handle, m.handle + n, m.count * cython.sizeof(uint32_t))
    m.handle[m.count] = handle
    m.count += 1
    a32_store_rel(cython.address(m.lock), 0)
    if n:
        core_give(p, k, old, n)
    return True


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def _lock(m: MagazineP) -> cython.void:
    while not a32_cas(cython.address(m.lock), 0, 1):
        sched_yield()


def magazines_drain(p):
    """Give every object back to the core. Called under memory pressure and at the end."""
    i: uint32_t
    c: uint32_t
    n: uint32_t
    old: uint32_t[16]
    m: MagazineP
    for c in range(p.slots):
        if p.class_of[c] != c:
            continue
        for i in range(p.cpus):
            m = cython.address(p.magazines[i * MAX_CLASSES + c])
            _lock(m)
            n = m.count
            memcpy(old, m.handle, n * cython.sizeof(uint32_t))
            m.count = 0
            a32_store_rel(cython.address(m.lock), 0)
            if n:
                core_give(p, cython.address(p.classes[c]), old, n)


def magazines_held(p, k):
    i: uint32_t
    total: uint64_t = 0
    m: MagazineP
    for i in range(p.cpus):
        m = cython.address(p.magazines[i * MAX_CLASSES + k.index])
        _lock(m)
        total += m.count
        a32_store_rel(cython.address(m.lock), 0)
    return total
