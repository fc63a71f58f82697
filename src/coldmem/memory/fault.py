"""Serving a fault: the thread that touched a page, or a handler on its behalf, makes it usable.

A unit that was never touched gets zeros; one that is stored is decompressed into a buffer and put in
place by one call; one that is write-protected loses its protection, and its copy in the Zswap, which
is not the same any more. Where faults follow one another, the next units come along, twice as many
each time.

Guarantees: two threads that fault on one unit do the work once; room is made before the unit is
locked, so no fault waits for room with a unit in hand. Nothing here allocates memory after a context's
first use, calls into Python, or takes a lock that a thread could hold while it touches an array.
A unit whose copy cannot be read stays as it is.
Locks: see state.pxd.
"""

import cython
from cython.cimports.coldmem.linux.atomic import (
    a32_cas,
    a32_load,
    a32_load_rlx,
    a32_store_rlx,
    a64_fetch_add_rlx,
    a64_load_acq,
    a64_load_rlx,
    a64_store_rlx,
    futex_wake,
)
from cython.cimports.coldmem.linux.userfaultfd import uffd_copy, uffd_protect, uffd_wake
from cython.cimports.coldmem.memory.keep import keep_copies, keep_refault, keep_written
from cython.cimports.coldmem.memory.limit import charge, uncharge
from cython.cimports.coldmem.memory.reclaim import make_room, place_of
from cython.cimports.coldmem.memory.state import (
    AHEAD_ASLEEP,
    AHEAD_AWAKE,
    AHEAD_BYTES,
    AHEAD_NONE,
    CLEAN,
    FAULT_CLOSED,
    FAULT_FOREIGN,
    FAULT_KERNEL,
    FAULT_LOAD,
    FAULT_OK,
    FAULT_TAKEN,
    FREE,
    HINT_RANDOM,
    HINT_SEQUENTIAL,
    LEVEL_MASK,
    LOCK,
    NONE,
    RESIDENT,
    RUN_BYTES,
    STORED,
    STREAMS,
    MemoryP,
    PlaceP,
    count,
    slot_of,
    unit_at,
    word_hint,
    word_level,
    word_seq,
    word_state,
    word_with,
    word_with_chance,
    word_with_level,
)
from cython.cimports.coldmem.memory.unit import unit_lock, unit_trylock, unit_unlock
from cython.cimports.coldmem.zswap.context import context_get, context_put
from cython.cimports.coldmem.zswap.load import zswap_invalidate, zswap_load
from cython.cimports.coldmem.zswap.state import ZW_CORRUPT, WorkContextP
from cython.cimports.libc.stdint import int32_t, uint32_t, uint64_t
from cython.cimports.libc.stdlib import malloc

HELP_UNITS = cython.declare(uint64_t, 16)  # two steps of the readahead thread at 4K
RUN_UNITS = cython.declare(uint32_t, 64)  # most of one run; words of them are on the stack
SEQ_SPAN = cython.declare(uint64_t, 0xFFFFFF)


@cython.cfunc
@cython.nogil
@cython.inline
@cython.exceptval(check=False)
def _ask_ahead(m: MemoryP, first: uint64_t) -> cython.void:
    """The readahead thread goes on from there: a store and, if it sleeps, a wake."""
    if a32_load_rlx(cython.address(m.ahead_state)) == AHEAD_NONE:
        return
    a64_store_rlx(cython.address(m.ahead), first)
    if a32_load(cython.address(m.ahead_state)) == AHEAD_ASLEEP and a32_cas(
        cython.address(m.ahead_state), AHEAD_ASLEEP, AHEAD_AWAKE
    ):
        futex_wake(cython.address(m.ahead_state), 1)


def _stream(m, unit, state, hint):
    """How many units to bring in, this one included, by what came before."""
    i: uint32_t
    next_: uint64_t
    window: uint64_t
    most: uint64_t = min(cython.cast(uint64_t, RUN_BYTES) >> m.unit_shift, RUN_UNITS)
    far: uint64_t = 2 * cython.cast(uint64_t, AHEAD_BYTES) >> m.unit_shift
    if hint == HINT_RANDOM:
        return 1
    for i in range(STREAMS):
        next_ = a64_load_rlx(cython.address(m.streams[i].next))
        window = a64_load_rlx(cython.address(m.streams[i].window))
        # While the readahead thread is at work the next fault comes wherever it was overtaken.
        if unit >= next_ and unit - next_ <= (far if window >= most else 0):
            window = a64_load_rlx(cython.address(m.streams[i].window)) * 2
            if window > most:
                window = most
            if hint == HINT_SEQUENTIAL:
                window = most
            a64_store_rlx(cython.address(m.streams[i].window), window)
            a64_store_rlx(cython.address(m.streams[i].next), unit + window)
            if window >= most and state == STORED:
                _ask_ahead(m, unit + window)
            return cython.cast(uint32_t, window)
    # A new stream takes the oldest place.
    i = cython.cast(uint32_t, a32_load_rlx(cython.address(m.stream_turn))) % STREAMS
    a32_store_rlx(cython.address(m.stream_turn), cython.cast(int32_t, (i + 1) % STREAMS))
    a64_store_rlx(cython.address(m.streams[i].next), unit + 1)
    a64_store_rlx(cython.address(m.streams[i].window), 1)
    return cython.cast(uint32_t, most) if hint == HINT_SEQUENTIAL else 1


def _gather(m, first, n, state, words):
    """Lock the units from `first` on that are in `state`; how many in a row, up to n."""
    i: uint32_t
    w: uint64_t
    for i in range(n):
        if first + i >= a64_load_rlx(cython.address(m.span.end)):
            return i
        w = a64_load_acq(cython.address(m.words[first + i]))
        if word_state(w) != state or not unit_trylock(m, first + i, w):
            return i
        words[i] = w
    return n


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def _put(m: MemoryP, p: PlaceP, first: uint64_t, n: uint32_t, words: cython.pointer(uint64_t),
         kept: cython.bint, write: cython.bint, chance: uint64_t, w: WorkContextP) -> int32_t:
    """Map n locked units whose content is in p.run, and unlock them."""
    i: uint32_t
    error: cython.int = 0
    begin: uint32_t = 0
    x: uint64_t
    if kept and write:
        # What is written at once gets no protection, and its copy goes.
        error = uffd_copy(m.fd, unit_at(m, first), p.run, m.unit_bytes, False)
        begin = 1
    if error == 0 and n > begin:
        error = uffd_copy(
            m.fd, unit_at(m, first + begin), p.run + begin * m.unit_bytes,
            cython.cast(uint64_t, n - begin) << m.unit_shift, kept,
        )
    if error:
        for i in range(n):
            unit_unlock(m, first + i, words[i])
        uncharge(m, cython.cast(uint64_t, n) << m.unit_shift)
        return FAULT_KERNEL
    if kept and n > begin:
        a64_fetch_add_rlx(cython.address(m.clean_units), n - begin)
    for i in range(n):
        x = words[i]
        if word_state(x) == STORED and (not kept or i < begin):
            zswap_invalidate(m.z, slot_of(m, first + i), w)
        unit_unlock(
            m, first + i,
            word_with_chance(
                word_with(x, CLEAN if kept and i >= begin else RESIDENT),
                chance if i == 0 or chance == 0 else 0,
            ),
        )
    return FAULT_OK


def _load(m, p, first, n, write, chance, w):
    """Serve locked and charged units [first, first + n), all NONE or all STORED."""
    i: uint32_t
    got: int32_t
    failed: int32_t
    kept: cython.bint
    cold: uint32_t = 0
    words: uint64_t[64]
    for i in range(n):
        words[i] = a64_load_rlx(cython.address(m.words[first + i])) & ~cython.cast(uint64_t, LOCK)
    if word_state(words[0]) == NONE:
        if uffd_copy(m.fd, unit_at(m, first), m.zeros,
                     cython.cast(uint64_t, n) << m.unit_shift, False) != 0:
            for i in range(n):
                unit_unlock(m, first + i, words[i])
            uncharge(m, cython.cast(uint64_t, n) << m.unit_shift)
            return FAULT_KERNEL
        for i in range(n):
            unit_unlock(
                m, first + i, word_with_chance(word_with(words[i], RESIDENT), 0 if i else chance)
            )
        count(cython.address(p.counts.fills), n)
        count(cython.address(p.counts.readahead), n - 1)
        return FAULT_OK
    for i in range(n):
        got = zswap_load(m.z, slot_of(m, first + i), p.run + (cython.cast(uint64_t, i) << m.unit_shift),
                         False, w)
        cold |= w.cold_seen
        if got != cython.cast(int32_t, m.unit_bytes):
            break
    else:
        i = n
    if i < n:  # serve what came before; the unit that failed is served, or fails, when it is asked for
        failed = got
        uncharge(m, cython.cast(uint64_t, n - i) << m.unit_shift)
        for got in range(cython.cast(int32_t, i), cython.cast(int32_t, n)):
            unit_unlock(m, first + got, words[got])
        if i == 0:
            return FAULT_TAKEN if failed == ZW_CORRUPT and m.z.swap.inherited else FAULT_LOAD
        n = i
    kept = keep_copies(m, p, cold != 0)
    count(cython.address(p.counts.loads), n)
    count(cython.address(p.counts.readahead), n - 1)
    return _put(m, p, first, n, words, kept, write, chance, w)


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def _serve_resident(m: MemoryP, p: PlaceP, unit: uint64_t, x: uint64_t, write: int32_t,
                    w: WorkContextP) -> int32_t:
    """The page is there, and `x` locked: it is protected, or somebody else has just served it."""
    if word_state(x) == CLEAN and write:
        zswap_invalidate(m.z, slot_of(m, unit), w)
        a64_fetch_add_rlx(cython.address(m.clean_units), -1)
        uffd_protect(m.fd, unit_at(m, unit), m.unit_bytes, False)
        count(cython.address(p.counts.write_faults), 1)
        keep_written(m)
        unit_unlock(m, unit, word_with(x, RESIDENT))
        return FAULT_OK
    if word_state(x) == RESIDENT and write:
        # Protected as a candidate, or because it lies between two of them.
        uffd_protect(m.fd, unit_at(m, unit), m.unit_bytes, False)
        count(cython.address(p.counts.write_faults), 1)
        unit_unlock(m, unit, word_with(x, RESIDENT))
        return FAULT_OK
    count(cython.address(p.counts.spurious), 1)
    if word_state(x) == RESIDENT:
        # Normally the page is there, and this does nothing but wake. Whoever dropped it behind our
        # back (madvise) gets what the kernel would give: zeros.
        uffd_copy(m.fd, unit_at(m, unit), m.zeros, m.unit_bytes, False)
    elif not m.sigbus:
        uffd_wake(m.fd, unit_at(m, unit), m.unit_bytes)
    unit_unlock(m, unit, x)
    return FAULT_OK


@cython.cfunc
@cython.nogil
@cython.inline
@cython.exceptval(check=False)
def _chance_back(m: MemoryP, p: PlaceP, unit: uint64_t, x: uint64_t) -> uint64_t:
    """Sweeps that a unit is spared which comes back, and is locked: 0, 3, 15, 63 by its level.

    It rises when it left so lately that RAM would hold it, had something else gone; else it falls.
    """
    distance: uint64_t = (a64_load_rlx(cython.address(m.evicted)) - word_seq(x)) & SEQ_SPAN
    level: uint64_t = word_level(x)
    keep_refault(m, p, distance)
    if distance < a64_load_rlx(cython.address(m.hot_bytes)) >> m.unit_shift:
        level += level < LEVEL_MASK
    else:
        level -= level > 0
    a64_store_rlx(cython.address(m.words[unit]), word_with_level(x, level) | LOCK)
    return (cython.cast(uint64_t, 1) << (2 * level)) - 1


def fault_unit(m, unit, write, w):
    p: PlaceP = place_of(m, w)
    x: uint64_t
    state: uint64_t
    n: uint32_t
    run: uint32_t
    chance: uint64_t
    helped: cython.bint = a32_load_rlx(cython.address(m.ahead_state)) != AHEAD_AWAKE
    words: uint64_t[64]
    if p == cython.NULL:
        return FAULT_KERNEL
    if p.run == cython.NULL:
        p.run = cython.cast(cython.p_uchar, malloc(RUN_BYTES))
        if p.run == cython.NULL:
            return FAULT_KERNEL
    count(cython.address(p.counts.faults), 1)
    while True:
        x = a64_load_acq(cython.address(m.words[unit]))
        state = word_state(x)
        if state == FREE:
            return FAULT_FOREIGN
        if x & LOCK and state == STORED and not helped:
            # Likely the readahead thread has it in hand. Take on what it would come to later.
            helped = True
            bring_in(m, unit + HELP_UNITS, HELP_UNITS, 0, w)
            continue
        if x & LOCK or state == RESIDENT or state == CLEAN:
            x = unit_lock(m, unit, cython.address(p.counts))
            if word_state(x) == RESIDENT or word_state(x) == CLEAN:
                return _serve_resident(m, p, unit, x, write, w)
            unit_unlock(m, unit, x)
            continue
        # Room first, then the lock: see above.
        if not charge(m, m.unit_bytes):
            make_room(m, m.unit_bytes, w)
        if not unit_trylock(m, unit, x):
            uncharge(m, m.unit_bytes)
            continue
        n = 1
        run = _stream(m, unit, state, word_hint(x))
        if run > 1 and charge(m, cython.cast(uint64_t, run - 1) << m.unit_shift):
            n += _gather(m, unit + 1, run - 1, state, words)
            uncharge(m, cython.cast(uint64_t, run - n) << m.unit_shift)
        chance = 0  # new, or part of a stream: it goes first
        if run == 1 and state == STORED:
            chance = _chance_back(m, p, unit, x)
        return _load(m, p, unit, n, write == 1, chance, w)


def fault_serve(m, address, write):
    unit: uint64_t = address - cython.cast(uint64_t, m.base)
    w: WorkContextP
    result: int32_t
    unit >>= m.unit_shift
    if unit >= m.units_max:
        return FAULT_FOREIGN
    w = context_get(m.z)
    if w == cython.NULL:
        return FAULT_CLOSED
    result = fault_unit(m, unit, write, w)
    if result != FAULT_OK and result != FAULT_FOREIGN:
        count(cython.address(m.places[w.index].counts.failed), 1)
    context_put(m.z, w)
    return result


def bring_in(m, first, n, chance, w):
    p: PlaceP = place_of(m, w)
    u: uint64_t = first
    end: uint64_t = first + n
    x: uint64_t
    run: uint32_t
    got: uint32_t
    total: uint64_t = 0
    last: uint64_t = a64_load_rlx(cython.address(m.span.end))
    most: uint64_t = min(cython.cast(uint64_t, RUN_BYTES) >> m.unit_shift, RUN_UNITS)
    words: uint64_t[64]
    if p == cython.NULL:
        return 0
    if p.run == cython.NULL:
        p.run = cython.cast(cython.p_uchar, malloc(RUN_BYTES))
        if p.run == cython.NULL:
            return 0
    end = min(end, last)
    while u < end:
        x = a64_load_acq(cython.address(m.words[u]))
        if word_state(x) != STORED or x & LOCK:
            u += 1
            continue
        run = cython.cast(uint32_t, min(most, end - u))
        if not charge(m, cython.cast(uint64_t, run) << m.unit_shift):
            break
        got = _gather(m, u, run, STORED, words)
        uncharge(m, cython.cast(uint64_t, run - got) << m.unit_shift)
        if got == 0:
            u += 1
            continue
        if _load(m, p, u, got, False, chance, w) != FAULT_OK:
            break
        total += got
        u += got
    return total
