"""The range of addresses that arrays live in: reserved and registered once, handed out in runs.

A run's length is rounded up to one of eight steps per doubling, and a run is only ever used again for
its length: addresses are plentiful, so nothing is joined or split. What the rounding adds belongs to
no array and is never touched.

Guarantees: a run that is handed out reads as zeros. When `region_free` returns, its pages are with the
operating system, its compressed data is gone, and nobody works on it any more.
Locks: `Span.lock` for the lists; unit locks, in order of address, for what happens to the units.
"""

import cython
from cython.cimports.coldmem.linux.atomic import (
    a32_load,
    a64_fetch_add,
    a64_fetch_add_rlx,
    a64_load_acq,
    a64_store_rel,
    a64_store_rlx,
    clz64,
)
from cython.cimports.coldmem.linux.lock import (
    mutex_init,
    mutex_lock,
    mutex_unlock,
    rw_destroy,
    rw_init,
    rw_write_lock,
    rw_write_unlock,
)
from cython.cimports.coldmem.linux.memory import (
    memory_forget,
    memory_inherit,
    memory_release,
    memory_reserve,
)
from cython.cimports.coldmem.linux.userfaultfd import (
    uffd_open,
    uffd_protect,
    uffd_register,
)
from cython.cimports.coldmem.memory.fault import fault_unit
from cython.cimports.coldmem.memory.reclaim import place_of
from cython.cimports.coldmem.memory.state import (
    CLEAN,
    FAULT_CLOSED,
    FAULT_OK,
    FREE,
    HINT_MASK,
    HINT_SHIFT,
    NONE,
    PROTECTED,
    RESIDENT,
    RUN_BYTES,
    STORED,
    MemoryP,
    Place,
    PlaceP,
    slot_of,
    unit_at,
    word_pins,
    word_state,
    word_with,
)
from cython.cimports.coldmem.memory.unit import pin_one, unit_lock, unit_unlock
from cython.cimports.coldmem.zswap.context import context_get, context_put
from cython.cimports.coldmem.zswap.load import zswap_invalidate
from cython.cimports.coldmem.zswap.state import CONTEXTS_MAX, WorkContextP
from cython.cimports.libc.errno import ENOMEM
from cython.cimports.libc.stdint import int32_t, uint32_t, uint64_t
from cython.cimports.libc.stdlib import free
from cython.cimports.libc.string import memset
from cython.cimports.posix.stdlib import posix_memalign
from cython.cimports.posix.unistd import close

CHUNK = cython.declare(uint64_t, 256)


def region_open(m, capacity_bytes, sigbus):
    places: cython.p_void = cython.NULL
    error: cython.int = -ENOMEM
    m.fd = -1
    m.units_max = capacity_bytes >> m.unit_shift
    mutex_init(cython.address(m.span.lock), False)
    if rw_init(cython.address(m.protecting), False) != 0:
        return error
    if posix_memalign(cython.address(places), 128, CONTEXTS_MAX * cython.sizeof(Place)) == 0:
        memset(places, 0, CONTEXTS_MAX * cython.sizeof(Place))
        m.places = cython.cast(PlaceP, places)
    m.base = cython.cast(cython.p_uchar, memory_reserve(region_bytes(m)))
    m.words = cython.cast(cython.pointer(uint64_t), memory_reserve(m.units_max * 8))
    m.spans = cython.cast(cython.pointer(uint64_t), memory_reserve(m.units_max * 8))
    m.zeros = cython.cast(cython.p_uchar, memory_reserve(RUN_BYTES))
    if (m.places != cython.NULL and m.base != cython.NULL and m.words != cython.NULL
            and m.spans != cython.NULL and m.zeros != cython.NULL):
        m.sigbus = sigbus
        error = uffd_open(sigbus, cython.address(m.rights))
        if error >= 0:
            m.fd = error
            error = uffd_register(m.fd, m.base, region_bytes(m))
        memory_inherit(m.base, region_bytes(m), False)  # but by a fork that child.py hears of
    if error != 0:
        region_close(m)
        return error
    m.fixed_bytes = CONTEXTS_MAX * cython.sizeof(Place) + cython.sizeof(MemoryC)
    return 0


def region_close(m):
    i: uint32_t
    units: uint64_t = m.units_max
    nbytes: uint64_t = region_bytes(m)
    base: cython.p_void = m.base
    a64_store_rel(cython.address(m.units_max), 0)  # from now on nothing is ours
    a64_store_rlx(cython.cast(cython.pointer(uint64_t), cython.address(m.base)), 0)
    if m.fd >= 0:
        close(m.fd)
        m.fd = -1
    memory_release(base, nbytes)
    memory_release(m.words, units * 8)
    memory_release(m.spans, units * 8)
    memory_release(m.zeros, RUN_BYTES)
    m.words = cython.NULL
    m.spans = cython.NULL
    m.zeros = cython.NULL
    if m.places != cython.NULL:
        for i in range(CONTEXTS_MAX):
            free(m.places[i].run)
            free(m.places[i].units)
            free(m.places[i].words)
        free(m.places)
        m.places = cython.NULL
    rw_destroy(cython.address(m.protecting))


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def _class_of(n: uint64_t, rounded: cython.pointer(uint64_t)) -> uint32_t:
    """Class of a length of n units, 1 or more, and the length that the class has."""
    shift: uint32_t
    step: uint64_t
    if n <= 16:
        rounded[0] = n
        return cython.cast(uint32_t, n)
    shift = 60 - clz64(n - 1)  # leaves four bits: 8 to 15
    step = ((n - 1) >> shift) + 1  # 9 to 16
    rounded[0] = step << shift
    return cython.cast(uint32_t, 16 + (shift - 1) * 8 + (step - 8))


def region_alloc(m, nbytes):
    n: uint64_t = (nbytes + m.unit_bytes - 1) >> m.unit_shift
    length: uint64_t = 0
    first: uint64_t = 0
    u: uint64_t
    c: uint32_t = _class_of(n, cython.address(length)) if n else 0
    w: WorkContextP = context_get(m.z)  # or a check, or a fork, would see a run that is half made
    if w == cython.NULL:
        return cython.NULL
    # Counted before `closing` is looked at: whoever closes sees us, or we see that.
    a64_fetch_add(cython.address(m.arrays), 1)
    if a32_load(cython.address(m.closing)) or n == 0 or (
        not _take(m, c, n, length, cython.address(first))
    ):
        a64_fetch_add_rlx(cython.address(m.arrays), -1)
        context_put(m.z, w)
        return cython.NULL
    for u in range(first, first + n):
        a64_store_rel(cython.address(m.words[u]), NONE)
    a64_fetch_add_rlx(cython.address(m.array_bytes), n << m.unit_shift)
    context_put(m.z, w)
    return unit_at(m, first)


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def _take(m: MemoryP, c: uint32_t, n: uint64_t, length: uint64_t,
          first: cython.pointer(uint64_t)) -> cython.bint:
    """Addresses for n units: a free run of class c, or new ones. False: there are none."""
    found: cython.bint = False
    if n > m.units_max:
        return False
    mutex_lock(cython.address(m.span.lock))
    if m.span.free[c]:
        first[0] = m.span.free[c] - 1
        m.span.free[c] = m.spans[first[0]]
        found = True
    elif m.span.end + length <= m.units_max:
        first[0] = m.span.end
        a64_store_rlx(cython.address(m.span.end), first[0] + length)
        found = True
    if found:
        m.spans[first[0]] = n
    mutex_unlock(cython.address(m.span.lock))
    return found


def region_size(m, start):
    u: uint64_t = cython.cast(uint64_t, start) - cython.cast(uint64_t, m.base)
    n: uint64_t
    if u & (m.unit_bytes - 1) or u >> m.unit_shift >= m.units_max:
        return 0
    mutex_lock(cython.address(m.span.lock))
    n = m.spans[u >> m.unit_shift]
    mutex_unlock(cython.address(m.span.lock))
    return n << m.unit_shift


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def _empty(m: MemoryP, first: uint64_t, n: uint64_t, state: uint64_t, w: WorkContextP) -> cython.void:
    """Drop content and copies of units, which are in `state` after that. Chunk by chunk."""
    u: uint64_t = first
    end: uint64_t = first + n
    stop: uint64_t
    i: uint64_t
    there: uint64_t
    clean: uint64_t
    x: uint64_t
    p: PlaceP = place_of(m, w)
    words: uint64_t[256]
    while u < end:
        stop = min(u + CHUNK, end)
        there = 0
        clean = 0
        for i in range(u, stop):
            x = unit_lock(m, i, cython.address(p.counts))
            words[i - u] = x
            if word_state(x) == RESIDENT or word_state(x) == CLEAN:
                there += 1
            if word_state(x) == CLEAN:
                clean += 1
            if word_state(x) == CLEAN or word_state(x) == STORED:
                zswap_invalidate(m.z, slot_of(m, i), w)
        if there:
            memory_forget(unit_at(m, u), (stop - u) << m.unit_shift)
        for i in range(u, stop):
            x = words[i - u]
            if state == FREE:
                x = FREE
            elif word_state(x) != FREE:
                x = word_with(x, state)
            unit_unlock(m, i, x)
        a64_fetch_add_rlx(cython.address(m.hot_bytes), -(there << m.unit_shift))
        a64_fetch_add_rlx(cython.address(m.clean_units), -clean)
        u = stop


def region_zero(m, first, n, w):
    _empty(m, first, n, NONE, w)


def region_free(m, start):
    first: uint64_t = (cython.cast(uint64_t, start) - cython.cast(uint64_t, m.base)) >> m.unit_shift
    n: uint64_t
    length: uint64_t = 0
    c: uint32_t
    w: WorkContextP = context_get(m.z)
    if w == cython.NULL:
        return
    mutex_lock(cython.address(m.span.lock))
    n = m.spans[first]
    mutex_unlock(cython.address(m.span.lock))
    _empty(m, first, n, FREE, w)
    c = _class_of(n, cython.address(length))
    mutex_lock(cython.address(m.span.lock))
    m.spans[first] = m.span.free[c]
    m.span.free[c] = first + 1
    mutex_unlock(cython.address(m.span.lock))
    a64_fetch_add_rlx(cython.address(m.array_bytes), -(n << m.unit_shift))
    a64_fetch_add_rlx(cython.address(m.arrays), -1)
    context_put(m.z, w)


def region_pin(m, first, n):
    u: uint64_t
    x: uint64_t
    result: int32_t = FAULT_OK
    p: PlaceP
    w: WorkContextP = context_get(m.z)
    if w == cython.NULL:
        return FAULT_CLOSED
    p = place_of(m, w)
    for u in range(first, first + n):
        x = unit_lock(m, u, cython.address(p.counts))
        # Not a candidate any more: else a sweep could still compress it after its protection is gone.
        unit_unlock(m, u, (x & ~cython.cast(uint64_t, PROTECTED)) + pin_one())
    a64_fetch_add_rlx(cython.address(m.pinned_units), n)
    # Whoever looked for pins before they were set has finished its protecting after this.
    rw_write_lock(cython.address(m.protecting))
    rw_write_unlock(cython.address(m.protecting))
    for u in range(first, first + n):
        while result == FAULT_OK:
            x = a64_load_acq(cython.address(m.words[u]))
            if word_state(x) == RESIDENT and x & PROTECTED == 0:
                break
            result = fault_unit(m, u, 1, w)
        if result != FAULT_OK:
            break
    uffd_protect(m.fd, unit_at(m, first), n << m.unit_shift, False)
    context_put(m.z, w)
    if result != FAULT_OK:
        region_unpin(m, first, n)
    return result


def region_unpin(m, first, n):
    u: uint64_t
    x: uint64_t
    p: PlaceP
    w: WorkContextP = context_get(m.z)
    if w == cython.NULL:
        return
    p = place_of(m, w)
    for u in range(first, first + n):
        x = unit_lock(m, u, cython.address(p.counts))
        unit_unlock(m, u, x - pin_one())
    a64_fetch_add_rlx(cython.address(m.pinned_units), -n)
    context_put(m.z, w)


def region_pinned(m, first, n):
    u: uint64_t
    for u in range(first, first + n):
        if word_pins(a64_load_acq(cython.address(m.words[u]))):
            return True
    return False


def region_hint(m, first, n, hint):
    u: uint64_t
    x: uint64_t
    p: PlaceP
    w: WorkContextP = context_get(m.z)
    if w == cython.NULL:
        return
    p = place_of(m, w)
    for u in range(first, first + n):
        x = unit_lock(m, u, cython.address(p.counts))
        x &= ~(cython.cast(uint64_t, HINT_MASK) << HINT_SHIFT)
        unit_unlock(m, u, x | (cython.cast(uint64_t, hint) << HINT_SHIFT))
    context_put(m.z, w)
