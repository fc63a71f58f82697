"""Reclaim: which units leave RAM, and how.

A hand sweeps over the units in order of address, as a clock does. A unit has chances, which the hand
takes away one by one: 3, 15 or 63 for what came back soon after it had left, none for the rest. So
a scan goes through without driving out what is in use, and no work is done when a page is touched. Pool
and hot pages share the limit; once less than a quarter of it is hot, the coldest of the pool go to the
swap file instead of more pages into the pool.

A sweep works in batches, because what is dear is not the work on a page but the call: each makes
the processors that run other threads of ours forget their translations. Steps:

1. `_pick`: candidates of a window, each once found cold;
2. `_protect`: one call write-protects them all. Readers go on; a writer takes its unit back;
3. `_compress`: unit after unit into the Zswap, each under its lock: it is CLEAN then;
4. `_drop`: what is still clean and cold leaves, all of it by one call.

Guarantees: at every moment a unit is in at least one place. What a thread writes at any point of
this is not lost: the page is write-protected from before its copy is made until it is gone, and a
write in between finds the page still there and takes the copy back.
Assumes: no device writes to the page meanwhile, which write protection does not see: such memory
must be pinned.
Locks: the lock bit of each unit; in step 4, of all that leave, in order of address. Step 2 holds
`protecting` for reading, from looking for pinned units until they cannot be hit any more; whoever
pins takes it for writing once, after the pins are set.
"""

import cython
from cython.cimports.coldmem.linux.atomic import (
    a32_cas,
    a32_fetch_add_rel,
    a32_load_acq,
    a32_load_rlx,
    a32_store_rel,
    a32_store_rlx,
    a64_cas,
    a64_fetch_add_rlx,
    a64_load_rlx,
    a64_store_rlx,
    futex_wait,
    futex_wake,
    iovec,
    now_ns,
    ordered_by_kernel_begin,
    ordered_by_kernel_end,
)
from cython.cimports.coldmem.linux.lock import rw_read_lock, rw_read_unlock
from cython.cimports.coldmem.linux.memory import memory_dontneed
from cython.cimports.coldmem.linux.userfaultfd import uffd_protect
from cython.cimports.coldmem.memory.keep import keep_reused
from cython.cimports.coldmem.memory.limit import charge, charge_always, footprint
from cython.cimports.coldmem.memory.state import (
    BATCH_UNITS,
    CLEAN,
    LOCK,
    PROTECTED,
    RECLAIMER_IDLE,
    RECLAIMER_NONE,
    RECLAIMER_WOKEN,
    RESIDENT,
    STORED,
    WINDOW_UNITS,
    MemoryP,
    PlaceP,
    count,
    slot_of,
    unit_at,
    word_chance,
    word_pins,
    word_state,
    word_with,
    word_with_chance,
    word_with_seq,
)
from cython.cimports.coldmem.memory.unit import unit_lock, unit_trylock, unit_unlock
from cython.cimports.coldmem.zsmalloc.arena import arena_trim
from cython.cimports.coldmem.zswap.context import context_get, context_put
from cython.cimports.coldmem.zswap.load import zswap_invalidate
from cython.cimports.coldmem.zswap.reclaim import Reclaimed, reclaim_compact, shrink_bytes
from cython.cimports.coldmem.zswap.state import GROUP_ROOT, ZW_OK, WorkContextP
from cython.cimports.coldmem.zswap.store import zswap_store
from cython.cimports.libc.stdint import int32_t, int64_t, uint32_t, uint64_t
from cython.cimports.libc.stdlib import malloc

ROUNDS = cython.declare(uint64_t, 8)  # times round without success before giving up
BARREN = cython.declare(int32_t, 8)  # fruitless sweeps after which chances are halved: all is warm
WINDOW_ROUNDS = cython.declare(uint64_t, 16)
PATIENCE_NS = cython.declare(uint64_t, 100_000_000)
NAP_NS = cython.declare(cython.longlong, 50_000)
FRUITLESS = cython.declare(uint64_t, 8)
# What is charged above the limit, once nothing could be freed, before the next one tries again.
NO_ROOM_BYTES = cython.declare(uint64_t, 1 << 20)
REFUSED_MOST = cython.declare(uint64_t, 64)  # units that nothing had room for: do not try them all
DIRECT_BYTES = cython.declare(uint64_t, 1 << 18)  # beyond what is asked for, so that the next is free
BACKGROUND_BYTES = cython.declare(uint64_t, 1 << 20)
HOT_SHARE = cython.declare(uint64_t, 4)  # below one part in so many the pool goes to disk
BACK_BYTES = cython.declare(uint64_t, 1 << 18)  # of one writeback, as stored
REST_NS = cython.declare(cython.longlong, 10_000_000)
# One instruction may need several units at once, on either side of a boundary for each operand: so
# many that are not pinned are left, or a thread would drive out one unit to get the next for ever.
LEFT_UNITS = cython.declare(uint64_t, 16)
GAP_UNITS = cython.declare(uint64_t, 512)  # candidates further apart are protected by two calls


def place_of(m, w):
    p: PlaceP = m.places + w.index
    if p.units == cython.NULL:
        p.words = cython.cast(cython.pointer(uint64_t), malloc(BATCH_UNITS * 8))
        p.units = cython.cast(cython.pointer(uint32_t), malloc(BATCH_UNITS * 4))
        if p.units == cython.NULL or p.words == cython.NULL:
            return cython.NULL
    return p


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def _strip(m: MemoryP, p: PlaceP, u: uint64_t, x: uint64_t, w: WorkContextP) -> cython.void:
    """A warm unit stays, and its copy goes: where room for copies costs more than they save."""
    if not unit_trylock(m, u, x):
        return
    zswap_invalidate(m.z, slot_of(m, u), w)
    a64_fetch_add_rlx(cython.address(m.clean_units), -1)
    count(cython.address(p.counts.stripped), 1)
    # Its page stays write-protected until it is written.
    unit_unlock(m, u, word_with_chance(word_with(x, RESIDENT), word_chance(x) - 1))


def _pick(m, p, first, last, want, force, w):
    u: uint64_t
    x: uint64_t
    state: uint64_t
    n: uint32_t = 0
    exclusive: cython.bint = a32_load_rlx(cython.address(m.exclusive)) != 0
    barren: cython.bint = a32_load_rlx(cython.address(m.barren)) > BARREN
    for u in range(first, last):
        x = a64_load_rlx(cython.address(m.words[u]))
        state = word_state(x)
        if force and x & LOCK:  # asked for by name: wait for who has it in hand
            x = unit_lock(m, u, cython.address(p.counts))
            unit_unlock(m, u, x)
            state = word_state(x)
        if (state != RESIDENT and state != CLEAN) or x & LOCK or word_pins(x):
            continue
        if word_chance(x) and not force:
            if exclusive and state == CLEAN:
                _strip(m, p, u, x, w)
                continue
            # If this fails, somebody is working on the unit: it is warm.
            a64_cas(cython.address(m.words[u]), x,
                    word_with_chance(x, word_chance(x) >> 1 if barren else word_chance(x) - 1))
            continue
        p.units[n] = cython.cast(uint32_t, u)
        n += 1
        if n == want or n == BATCH_UNITS:
            break
    return n


def _protect(m, p, n):
    """Candidates that are RESIDENT get their protection, as few calls as there are gaps."""
    i: uint32_t
    begin: uint32_t = 0
    held: uint32_t = 0
    u: uint64_t
    w: uint64_t
    while begin < n:
        # One stretch: locked units in order of address, no pinned unit and no large gap between.
        held = 0
        i = begin
        while i < n:
            u = p.units[i]
            if held and u - p.units[i - 1] > GAP_UNITS:
                break
            w = a64_load_rlx(cython.address(m.words[u]))
            if (word_state(w) == RESIDENT and w & PROTECTED == 0 and word_pins(w) == 0
                    and unit_trylock(m, u, w)):
                p.words[i] = w
                held += 1
            else:
                p.words[i] = 0
            i += 1
        if held:
            _protect_stretch(m, p, begin, i)
        begin = i


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def _protect_stretch(m: MemoryP, p: PlaceP, begin: uint32_t, end: uint32_t) -> cython.void:
    """Protect from the first to the last locked one; what lies between and is pinned is spared."""
    i: uint32_t
    u: uint64_t
    first: uint64_t = 0
    last: uint64_t = 0
    some: cython.bint = False
    error: cython.int = 0
    line: int32_t = rw_read_lock(cython.address(m.protecting))
    for i in range(begin, end):
        if p.words[i] == 0:
            continue
        u = p.units[i]
        if some and _pinned_between(m, last + 1, u):
            error |= uffd_protect(m.fd, unit_at(m, first), (last + 1 - first) << m.unit_shift, True)
            some = False
        if not some:
            first = u
            some = True
        last = u
    error |= uffd_protect(m.fd, unit_at(m, first), (last + 1 - first) << m.unit_shift, True)
    rw_read_unlock(cython.address(m.protecting), line)
    for i in range(begin, end):
        if p.words[i]:
            unit_unlock(m, p.units[i], p.words[i] if error else p.words[i] | PROTECTED)


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def _pinned_between(m: MemoryP, first: uint64_t, last: uint64_t) -> cython.bint:
    u: uint64_t
    for u in range(first, last):
        if word_pins(a64_load_rlx(cython.address(m.words[u]))):
            return True
    return False


def _compress(m, p, n, w):
    i: uint32_t
    u: uint64_t
    done: cython.bint
    x: uint64_t
    for i in range(n):
        u = p.units[i]
        x = a64_load_rlx(cython.address(m.words[u]))
        if word_state(x) == CLEAN:
            count(cython.address(p.counts.reused), 1)
            keep_reused(m)
            continue
        if (word_state(x) != RESIDENT or x & PROTECTED == 0 or word_pins(x)
                or not unit_trylock(m, u, x)):
            continue
        ordered_by_kernel_begin()  # no thread can write to the unit meanwhile
        done = zswap_store(m.z, slot_of(m, u), unit_at(m, u), GROUP_ROOT, w) == ZW_OK
        ordered_by_kernel_end()
        if done:
            count(cython.address(p.counts.compressed), 1)
            a64_fetch_add_rlx(cython.address(m.clean_units), 1)
            unit_unlock(m, u, word_with(x, CLEAN))
        else:
            count(cython.address(p.counts.refused), 1)
            unit_unlock(m, u, x)  # it stays where it is; a write takes the protection away


def _drop(m, p, n, force):
    ranges: iovec[256]
    i: uint32_t
    kept: uint32_t = 0
    u: uint64_t
    x: uint64_t
    seq: uint64_t
    for i in range(n):
        u = p.units[i]
        x = a64_load_rlx(cython.address(m.words[u]))
        if (word_state(x) != CLEAN or word_pins(x) or (word_chance(x) and not force)
                or not unit_trylock(m, u, x)):
            continue
        p.units[kept] = cython.cast(uint32_t, u)
        p.words[kept] = x
        ranges[kept].iov_base = unit_at(m, u)
        ranges[kept].iov_len = m.unit_bytes
        kept += 1
    if kept == 0:
        return 0
    memory_dontneed(ranges, kept)
    seq = a64_fetch_add_rlx(cython.address(m.evicted), kept)
    for i in range(kept):
        unit_unlock(m, p.units[i], word_with_seq(word_with(p.words[i], STORED), seq))
    a64_fetch_add_rlx(cython.address(m.hot_bytes), -(cython.cast(uint64_t, kept) << m.unit_shift))
    a64_fetch_add_rlx(cython.address(m.clean_units), -cython.cast(uint64_t, kept))
    count(cython.address(p.counts.dropped), kept)
    return kept


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def _work(m: MemoryP, p: PlaceP, n: uint32_t, force: cython.bint, w: WorkContextP) -> uint32_t:
    if n == 0:
        return 0
    _protect(m, p, n)
    _compress(m, p, n, w)
    return _drop(m, p, n, force)


def sweep(m, want, w):
    p: PlaceP = place_of(m, w)
    end: uint64_t = a64_load_rlx(cython.address(m.span.end))
    hot: uint64_t = a64_load_rlx(cython.address(m.hot_bytes)) >> m.unit_shift
    window: uint64_t
    first: uint64_t
    gone: uint32_t
    if p == cython.NULL or end == 0:
        return 0
    if hot <= a64_load_rlx(cython.address(m.pinned_units)) + LEFT_UNITS:
        return 0
    # As many units as will hold `want` that are there, on average.
    window = cython.cast(uint64_t, want) * end // (hot + 1) + want
    window = min(window, WINDOW_UNITS, end)
    first = a64_fetch_add_rlx(cython.address(m.hand), window) % end
    gone = _work(m, p, _pick(m, p, first, min(first + window, end), want, False, w), False, w)
    if gone:
        if a32_load_rlx(cython.address(m.barren)):
            a32_store_rlx(cython.address(m.barren), 0)
    elif a32_load_rlx(cython.address(m.barren)) <= BARREN:
        a32_fetch_add_rel(cython.address(m.barren), 1)
    return gone


def take_out(m, first, n, w):
    p: PlaceP = place_of(m, w)
    u: uint64_t = first
    left: uint64_t = 0
    end: uint64_t = first + n
    if p == cython.NULL:
        return 0
    while u < end:
        left += _work(m, p, _pick(m, p, u, min(u + BATCH_UNITS, end), BATCH_UNITS, True, w), True, w)
        u += BATCH_UNITS
    return left


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def _write_back(m: MemoryP, nbytes: uint64_t, w: WorkContextP) -> cython.bint:
    """Where little is left for hot pages, the coldest of the pool go to disk instead of more of them."""
    out: Reclaimed
    hot: uint64_t = a64_load_rlx(cython.address(m.hot_bytes))
    # What is pinned can neither go nor serve anybody else: a quarter of the rest is for hot pages.
    pinned: uint64_t = a64_load_rlx(cython.address(m.pinned_units)) << m.unit_shift
    pinned = min(pinned, m.limit_bytes, hot)
    if m.z.swap == cython.NULL or (hot - pinned) * HOT_SHARE >= m.limit_bytes - pinned:
        return False
    shrink_bytes(m.z, GROUP_ROOT, nbytes, False, w, cython.address(out))
    # Holes are no room yet: what was written back lay among what stays.
    return reclaim_compact(m.z) > 0 or out.written > 0


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def _sweeps_most(m: MemoryP, want: uint32_t) -> uint64_t:
    """Sweeps after which the hand has been everywhere as often as a unit can have chances."""
    hot: uint64_t = a64_load_rlx(cython.address(m.hot_bytes)) >> m.unit_shift
    return (hot // want + WINDOW_ROUNDS) * ROUNDS


def make_room(m, nbytes, w):
    p: PlaceP = place_of(m, w)
    want: uint32_t = cython.cast(uint32_t, (nbytes + DIRECT_BYTES) >> m.unit_shift) + 1
    tries: uint64_t = 0
    most: uint64_t
    refused: uint64_t
    begin: uint64_t
    spare: cython.pointer(uint64_t) = cython.cast(
        cython.pointer(uint64_t), cython.address(m.no_room_bytes)
    )
    if p == cython.NULL or cython.cast(int64_t, a64_load_rlx(spare)) > 0:
        a64_fetch_add_rlx(spare, -nbytes)
        charge_always(m, nbytes)
        return
    want = min(want, BATCH_UNITS)
    most = _sweeps_most(m, want)
    refused = p.counts.refused
    begin = now_ns()
    while not charge(m, nbytes):
        count(cython.address(p.counts.direct), 1)
        if _write_back(m, BACK_BYTES, w) or sweep(m, want, w):
            continue
        tries += 1
        if tries == most // 2:
            arena_trim(cython.address(m.z.pools[0].arena))
        if p.counts.refused - refused > REFUSED_MOST or (
            tries >= most and now_ns() - begin > PATIENCE_NS
        ):
            count(cython.address(p.counts.overshoots), 1)
            a64_store_rlx(spare, NO_ROOM_BYTES)
            charge_always(m, nbytes)
            return
        if tries % FRUITLESS == 0:
            # Most likely others have the cold units in hand, and one of them is not running.
            futex_wait(cython.address(m.stop), 0, NAP_NS)


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def _reclaimer_round(m: MemoryP) -> cython.void:
    w: WorkContextP
    p: PlaceP
    gone: uint32_t
    dry: uint64_t = 0
    want: uint32_t = min(BATCH_UNITS, cython.cast(uint32_t, BACKGROUND_BYTES >> m.unit_shift))
    most: uint64_t = _sweeps_most(m, want)
    w = context_get(m.z)
    if w == cython.NULL:
        return
    reclaim_compact(m.z)  # holes between objects are room as well
    context_put(m.z, w)
    while footprint(m) > m.high_bytes and not a32_load_acq(cython.address(m.stop)):
        w = context_get(m.z)
        if w == cython.NULL:
            return
        gone = 1 if _write_back(m, BACK_BYTES, w) else sweep(m, want, w)
        p = place_of(m, w)
        if p != cython.NULL:
            count(cython.address(p.counts.background), 1)
        if gone == 0 and dry == most // 2:
            arena_trim(cython.address(m.z.pools[0].arena))
        context_put(m.z, w)
        dry = dry + 1 if gone == 0 else 0
        if dry > most:
            futex_wait(cython.address(m.stop), 0, REST_NS)
            return


def reclaimer_loop(m):
    while not a32_load_acq(cython.address(m.stop)):
        if a32_load_acq(cython.address(m.reclaimer)) == RECLAIMER_IDLE:
            futex_wait(cython.address(m.reclaimer), RECLAIMER_IDLE, -1)
        elif a32_cas(cython.address(m.reclaimer), RECLAIMER_WOKEN, RECLAIMER_IDLE):
            _reclaimer_round(m)
    a32_store_rel(cython.address(m.reclaimer_runs), 0)
    futex_wake(cython.address(m.reclaimer_runs), 0x7FFFFFFF)


def reclaimer_stop(m):
    if a32_load_acq(cython.address(m.reclaimer)) == RECLAIMER_NONE:
        return
    a32_store_rel(cython.address(m.stop), 1)
    futex_wake(cython.address(m.stop), 0x7FFFFFFF)
    a32_store_rel(cython.address(m.reclaimer), RECLAIMER_WOKEN)
    futex_wake(cython.address(m.reclaimer), 0x7FFFFFFF)
    while a32_load_acq(cython.address(m.reclaimer_runs)):
        futex_wait(cython.address(m.reclaimer_runs), 1, REST_NS)
