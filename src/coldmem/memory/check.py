"""`check_valid` of a Memory: what must hold whenever nobody is at work on a unit.

Cheap: every word is possible, a unit has a copy in the Zswap if and only if its word says so, and
all counts are what recounting gives. Full: runs and free lists cover the range without gap or overlap,
units outside of arrays are empty, the kernel has exactly the pages that words say are there, and what
must be write-protected is; then the Zswap behind it.
Assumes: the caller is alone (all contexts), and no array is being made or freed.
"""

import cython
from cython.cimports.coldmem.linux.atomic import a64_load_acq, a64_load_rlx
from cython.cimports.coldmem.linux.lock import mutex_lock, mutex_unlock
from cython.cimports.coldmem.linux.pagemap import (
    PM_PRESENT,
    PM_PROTECTED,
    PM_SWAPPED,
    pagemap_close,
    pagemap_open,
    pagemap_read,
)
from cython.cimports.coldmem.memory.manager import Manager
from cython.cimports.coldmem.memory.state import (
    CLEAN,
    FREE,
    LOCK,
    PROTECTED,
    RESIDENT,
    SPAN_CLASSES,
    STORED,
    MemoryP,
    word_pins,
    word_state,
)
from cython.cimports.coldmem.zswap.context import contexts_resume, contexts_stop
from cython.cimports.coldmem.zswap.load import zswap_contains
from cython.cimports.libc.stdint import uint8_t, uint32_t, uint64_t
from cython.cimports.libc.stdlib import calloc, free

from coldmem.errors import ClosedError, CorruptPoolError, UsageError

PAGE_SHIFT = cython.declare(uint32_t, 12)
MAP_WORDS = cython.declare(uint32_t, 512)
text = cython.typedef(cython.pointer(cython.const[cython.char]))
u64p = cython.typedef(cython.pointer(uint64_t))


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def _wrong(out: FindingP, what: text, unit: uint64_t, word: uint64_t, got: uint64_t,
           want: uint64_t) -> cython.bint:
    out.what = what
    out.unit = unit
    out.word = word
    out.got = got
    out.want = want
    return False


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def _check_words(m: MemoryP, out: FindingP) -> cython.bint:
    """Words one by one, and against the Zswap and the counts."""
    u: uint64_t
    x: uint64_t
    i: uint32_t
    there: uint64_t = 0
    clean: uint64_t = 0
    copies: uint64_t = 0
    pins: uint64_t = 0
    stored: uint64_t = 0
    has: cython.bint
    for u in range(a64_load_rlx(cython.address(m.span.end))):
        x = a64_load_acq(cython.address(m.words[u]))
        if x & LOCK:
            return _wrong(out, b"a unit is locked although nobody works on it", u, x, 0, 0)
        if word_state(x) > STORED:
            return _wrong(out, b"a unit is in no state that there is", u, x, word_state(x), STORED)
        if x & PROTECTED and word_state(x) != RESIDENT:
            return _wrong(out, b"a unit is a candidate although it is not resident", u, x, 0, 0)
        if word_state(x) == FREE and x != FREE:
            return _wrong(out, b"a unit of no array has left-overs in its word", u, x, x, FREE)
        if word_pins(x) and word_state(x) != RESIDENT:
            return _wrong(out, b"a pinned unit is not resident", u, x, word_state(x), RESIDENT)
        has = zswap_contains(m.z, u, m.z.contexts)
        if word_state(x) == CLEAN or word_state(x) == STORED:
            copies += 1
            if not has:
                return _wrong(out, b"the copy of a unit is missing in the Zswap", u, x, 0, 1)
        elif has:
            return _wrong(out, b"a stale copy of a unit was left in the Zswap", u, x, 1, 0)
        there += word_state(x) == RESIDENT or word_state(x) == CLEAN
        clean += word_state(x) == CLEAN
        pins += word_pins(x)
    if m.hot_bytes != there << m.unit_shift:
        return _wrong(out, b"hot_bytes is wrong", 0, 0, m.hot_bytes, there << m.unit_shift)
    if m.clean_units != clean:
        return _wrong(out, b"clean_units is wrong", 0, 0, m.clean_units, clean)
    if m.pinned_units != pins:
        return _wrong(out, b"pinned_units is wrong", 0, 0, m.pinned_units, pins)
    for i in range(m.z.shards_mask + 1):
        stored += m.z.shards[i].used
    if stored != copies:
        return _wrong(out, b"the Zswap holds more than the copies of units", 0, 0, stored, copies)
    return True


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def _length(c: uint32_t) -> uint64_t:
    """Units of a run of class c: 1 to 16, then eight steps per doubling."""
    if c <= 16:
        return c
    return cython.cast(uint64_t, 9 + (c - 17) % 8) << (1 + (c - 17) // 8)


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def _check_spans(m: MemoryP, out: FindingP) -> cython.bint:
    """Free runs by their lists, then live ones by what is left."""
    end: uint64_t = m.span.end
    seen: cython.pointer(uint8_t) = cython.cast(cython.pointer(uint8_t), calloc(end + 1, 1))
    good: cython.bint
    if seen == cython.NULL:
        return _wrong(out, b"no memory to check", 0, 0, 0, 0)
    good = _free_spans(m, seen, end, out) and _live_spans(m, seen, end, out)
    free(seen)
    return good


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def _free_spans(m: MemoryP, seen: cython.pointer(uint8_t), end: uint64_t,
                out: FindingP) -> cython.bint:
    c: uint32_t
    u: uint64_t
    next_: uint64_t
    for c in range(SPAN_CLASSES):
        next_ = m.span.free[c]
        while next_:
            if next_ - 1 + _length(c) > end:
                return _wrong(out, b"a free run is not inside the range", next_ - 1, 0, c, 0)
            for u in range(next_ - 1, next_ - 1 + _length(c)):
                if seen[u]:
                    return _wrong(out, b"free runs overlap", u, m.words[u], c, 0)
                if m.words[u] != FREE:
                    return _wrong(out, b"a unit of a free run is not free", u, m.words[u], c, 0)
                seen[u] = 1
            next_ = m.spans[next_ - 1]
    return True


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def _live_spans(m: MemoryP, seen: cython.pointer(uint8_t), end: uint64_t,
                out: FindingP) -> cython.bint:
    first: uint64_t = 0
    u: uint64_t
    n: uint64_t
    c: uint32_t
    arrays: uint64_t = 0
    units: uint64_t = 0
    while first < end:
        if seen[first]:
            first += 1
            continue
        n = m.spans[first]
        c = 1
        while c < SPAN_CLASSES - 1 and _length(c) < n:
            c += 1
        if n == 0 or first + _length(c) > end:
            return _wrong(out, b"a live run is not inside the range", first, m.words[first], n, end)
        for u in range(first, first + _length(c)):
            if seen[u]:
                return _wrong(out, b"a live run overlaps a free one", u, m.words[u], first, n)
            if (word_state(m.words[u]) == FREE) != (u >= first + n):
                return _wrong(out, b"a run is not as long as it says", u, m.words[u], first, n)
        arrays += 1
        units += n
        first += _length(c)
    if m.arrays != arrays:
        return _wrong(out, b"the number of arrays is wrong", 0, 0, m.arrays, arrays)
    if m.array_bytes != units << m.unit_shift:
        return _wrong(out, b"array_bytes is wrong", 0, 0, m.array_bytes, units << m.unit_shift)
    return True


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def _check_pages(m: MemoryP, fd: cython.int, out: FindingP) -> cython.bint:
    """Words against what the kernel says. Pages that it has swapped out count as there."""
    flags: uint64_t[512]
    pages: uint64_t = m.span.end << (m.unit_shift - PAGE_SHIFT)
    page: uint64_t = 0
    n: uint64_t
    i: uint64_t
    u: uint64_t
    x: uint64_t
    there: cython.bint
    while page < pages:
        n = min(pages - page, MAP_WORDS)
        if pagemap_read(fd, m.base + (page << PAGE_SHIFT), n, flags) != 0:
            return _wrong(out, b"the kernel's page map cannot be read", page, 0, 0, 0)
        for i in range(n):
            u = (page + i) >> (m.unit_shift - PAGE_SHIFT)
            x = m.words[u]
            there = flags[i] & (PM_PRESENT | PM_SWAPPED) != 0
            if there != (word_state(x) == RESIDENT or word_state(x) == CLEAN):
                return _wrong(out, b"the kernel has a page, or has it not, against its word", u, x,
                              flags[i], 0)
            if (word_state(x) == CLEAN or x & PROTECTED) and not flags[i] & PM_PROTECTED:
                return _wrong(out, b"a unit is writable and would lose a write", u, x, flags[i], 0)
            if word_pins(x) and flags[i] & PM_PROTECTED:
                return _wrong(out, b"a pinned unit is write-protected", u, x, flags[i], 0)
        page += n
    return True


def memory_check(m, full, out):
    fd: cython.int
    out.what = cython.NULL
    if not _check_words(m, out) or not full:
        return
    mutex_lock(cython.address(m.span.lock))
    _check_spans(m, out)
    mutex_unlock(cython.address(m.span.lock))
    if out.what != cython.NULL:
        return
    fd = pagemap_open()
    if fd >= 0:  # not everywhere is /proc there
        _check_pages(m, fd, out)
        pagemap_close(fd)


def check_memory(manager, level="cheap"):
    """See `coldmem.Memory.check_valid`."""
    owner: Manager = manager
    found: Finding
    full: cython.bint = level == "full"
    m: MemoryP = owner.c
    if level not in ("cheap", "full"):
        raise UsageError(f"level {level!r}: choose 'cheap' or 'full'")
    if owner.closed:
        raise ClosedError("this Memory is closed")
    with cython.nogil:
        mutex_lock(cython.address(m.z.admin))
        contexts_stop(m.z)
        memory_check(m, full, cython.address(found))
        contexts_resume(m.z)
        mutex_unlock(cython.address(m.z.admin))
    if found.what != cython.NULL:
        raise CorruptPoolError(
            f"memory: {found.what.decode()} (unit {found.unit}, word {found.word:#x}, "
            f"{found.got:#x} against {found.want:#x})"
        )
    owner.zswap.check_valid(level)
