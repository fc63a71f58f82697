"""The space map of the swap file: which granules are in use, and where a run of them is free.

Owns: one reserved mapping with all arrays. Pages of it become resident as the file grows, so the
map of a file of 1 TiB (512 MiB of bits, 130 MiB of trees) costs nothing at the start.
Guarantees: a run never crosses a word of 64 granules; `used` is exact; a free run that exists is
found, in time that grows with log64 of the file's size and not with how full it is.
Assumes: its owner's lock is held around every call (swapfile.py). No locks, no I/O here.

Words. A *granule* is a sixteenth of a unit. A *word* is 64 granules. A *region* is 1 MiB.

Run trees. For each k from 1 to 16 there is a tree of bits: bit w of its lowest level says that word
w has a free run of at least k granules; bit i of a higher level says that group i (64 bits) of the
level below is not zero. The sixteen trees are interleaved, group by group, so that what changes
together is in two cache lines. A change to a word touches only the trees between its old longest
run and its new one: none at all in most cases.

Placement. Next fit: the search begins where the last run ended, so that what is allocated in a row
lies in a row, and one pwrite can serve a batch. When the sweep reaches the end of the file, the
file grows by a region if three quarters of it are in use; else the sweep begins anew. So the file
stays below 4/3 of what is in use (while freed space is found in long runs), and when it may not
grow any more, every hole is used before -ENOSPC.

Regions. Each has a count of granules in use and two flags. TOUCHED: it may have disk space. BUSY:
its disk space is being given back, so its bits are out of the run trees and nothing finds it.
"""

import cython
from cython.cimports.coldmem.linux.atomic import ctz64, popcount64
from cython.cimports.coldmem.linux.memory import memory_release, memory_reserve
from cython.cimports.libc.errno import EINVAL, ENOMEM, ENOSPC
from cython.cimports.libc.stdint import int32_t, uint32_t, uint64_t
from cython.cimports.libc.string import memset

ALL = cython.declare(uint64_t, 0xFFFFFFFFFFFFFFFF)
ONE = cython.declare(uint64_t, 1)
NONE = cython.declare(uint64_t, 0xFFFFFFFFFFFFFFFF)
REGION_COUNT = cython.declare(uint32_t, 0x0FFFFFFF)
REGION_TOUCHED = cython.declare(uint32_t, 0x40000000)
REGION_BUSY = cython.declare(uint32_t, 0x80000000)


# -- one word --------------------------------------------------------------------------------------
@cython.cfunc
@cython.inline
@cython.nogil
@cython.exceptval(check=False)
def _run_starts(free: uint64_t, k: uint32_t) -> uint64_t:
    """Bits at which k free granules begin. Shifts bring in zeros, so no run leaves the word."""
    x2: uint64_t = free & (free >> 1)
    x4: uint64_t = x2 & (x2 >> 2)
    x8: uint64_t = x4 & (x4 >> 4)
    starts: uint64_t = ALL
    have: uint32_t = 0
    if k == RUN_MAX:
        return x8 & (x8 >> 8)
    if k & 8:
        starts = x8
        have = 8
    if k & 4:
        starts &= x4 >> have
        have += 4
    if k & 2:
        starts &= x2 >> have
        have += 2
    if k & 1:
        starts &= free >> have
    return starts


@cython.cfunc
@cython.inline
@cython.nogil
@cython.exceptval(check=False)
def _longest_run(free: uint64_t) -> uint32_t:
    """Length of the longest free run, at most RUN_MAX."""
    x2: uint64_t = free & (free >> 1)
    x4: uint64_t = x2 & (x2 >> 2)
    x8: uint64_t = x4 & (x4 >> 4)
    starts: uint64_t = ALL
    more: uint64_t
    have: uint32_t = 0
    if x8 & (x8 >> 8):
        return RUN_MAX
    if x8:
        starts = x8
        have = 8
    more = starts & (x4 >> have)
    if more:
        starts = more
        have += 4
    more = starts & (x2 >> have)
    if more:
        starts = more
        have += 2
    if starts & (free >> have):
        have += 1
    return have


# -- the run trees ---------------------------------------------------------------------------------
@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def _runs_change(m: SwapMapP, w: uint64_t, old: uint32_t, new: uint32_t) -> cython.void:
    """The longest run of word w was `old` and is `new`."""
    k: uint32_t
    level: uint32_t
    i: uint64_t
    before: uint64_t
    group: cython.pointer(uint64_t)
    for k in range(new, old):  # tree k + 1 loses the word
        i = w
        for level in range(m.levels):
            group = m.level[level] + (i >> 6) * RUN_MAX + k
            group[0] &= ~(ONE << (i & 63))
            if group[0]:
                break
            i >>= 6
    for k in range(old, new):  # tree k + 1 gains the word
        i = w
        for level in range(m.levels):
            group = m.level[level] + (i >> 6) * RUN_MAX + k
            before = group[0]
            group[0] = before | (ONE << (i & 63))
            if before:
                break
            i >>= 6


@cython.cfunc
@cython.inline
@cython.nogil
@cython.exceptval(check=False)
def _set_word(m: SwapMapP, w: uint64_t, value: uint64_t) -> cython.void:
    old: uint32_t = _longest_run(~m.words[w])
    new: uint32_t = _longest_run(~value)
    m.words[w] = value
    if old != new:
        _runs_change(m, w, old, new)


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def _find(m: SwapMapP, w: uint64_t, k: uint32_t) -> uint64_t:
    """The first word from w on with a free run of k, or NONE."""
    i: uint64_t = w
    bits: uint64_t
    level: uint32_t = 0
    while True:
        if i >> 6 >= m.groups[level]:
            return NONE
        bits = m.level[level][(i >> 6) * RUN_MAX + k - 1] & (ALL << (i & 63))
        if bits:
            break
        i = (i >> 6) + 1
        level += 1
        if level == m.levels:
            return NONE
    i = (i & ~cython.cast(uint64_t, 63)) + ctz64(bits)
    while level:
        level -= 1
        i = (i << 6) + ctz64(m.level[level][i * RUN_MAX + k - 1])
    return i


# -- life ------------------------------------------------------------------------------------------
@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def _pages(nbytes: uint64_t) -> uint64_t:
    return (nbytes + 4095) & ~cython.cast(uint64_t, 4095)


def map_init(m, unit_bytes, bytes_max):
    """0 or -ENOMEM. `unit_bytes` is a power of two from 1 KiB to 256 KiB."""
    n: uint64_t
    regions: uint64_t
    at: cython.p_char
    level: uint32_t
    memset(m, 0, cython.sizeof(SwapMap))
    m.granule_shift = ctz64(unit_bytes) - 4
    m.region_shift = REGION_SHIFT - 6 - m.granule_shift
    m.granules_max = bytes_max >> m.granule_shift
    m.words_max = (m.granules_max + 63) >> 6
    regions = (m.words_max + (ONE << m.region_shift) - 1) >> m.region_shift
    m.pending_words = (regions + 63) >> 6
    n = m.words_max
    while True:
        n = (n + 63) >> 6
        m.groups[m.levels] = n
        m.levels += 1
        if n <= 1:
            break
    m.base_bytes = 4096 + _pages(m.words_max * 8) + _pages(regions * 4)
    m.base_bytes += _pages(m.pending_words * 8)
    for level in range(m.levels):
        m.base_bytes += _pages(m.groups[level] * RUN_MAX * 8)
    m.base = memory_reserve(m.base_bytes)
    if m.base == cython.NULL:
        return -ENOMEM
    at = cython.cast(cython.p_char, m.base)
    m.words = cython.cast(cython.pointer(uint64_t), at)
    at += _pages(m.words_max * 8)
    for level in range(m.levels):
        m.level[level] = cython.cast(cython.pointer(uint64_t), at)
        at += _pages(m.groups[level] * RUN_MAX * 8)
    m.regions = cython.cast(cython.pointer(uint32_t), at)
    at += _pages(regions * 4)
    m.pending = cython.cast(cython.pointer(uint64_t), at)
    return 0


def map_destroy(m):
    memory_release(m.base, m.base_bytes)
    m.base = cython.NULL


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def _grow(m: SwapMapP) -> cython.bint:
    """One more region; False at the limit."""
    w: uint64_t = m.words_n
    end: uint64_t = w + (ONE << m.region_shift)
    if w >= m.words_max:
        return False
    if end > m.words_max:
        end = m.words_max
    while w < end:
        m.words[w] = 0
        if w == m.words_max - 1 and m.granules_max & 63:
            # Granules past the limit look used for ever; `used` does not count them.
            m.words[w] = ALL << (m.granules_max & 63)
        _runs_change(m, w, 0, _longest_run(~m.words[w]))
        w += 1
    m.words_n = end
    return True


# -- allocate and free -----------------------------------------------------------------------------
@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def _search(m: SwapMapP, k: uint32_t) -> uint64_t:
    """A word with a free run of k that is not behind the cursor in the cursor's word; or NONE."""
    w: uint64_t = (m.cursor >> 6) + (1 if m.cursor & 63 else 0)
    end: uint64_t = m.words_n
    found: uint64_t = _find(m, w, k)
    if found == NONE and m.used * 4 >= end * 192 and _grow(m):
        found = _find(m, end, k)
    if found == NONE:
        found = _find(m, 0, k)
    if found == NONE:
        end = m.words_n
        if _grow(m):
            found = _find(m, end, k)
    return found


def map_alloc(m, k):
    w: uint64_t = m.cursor >> 6
    bit: uint32_t = m.cursor & 63
    region: uint64_t
    starts: uint64_t = 0
    # The rest of the cursor's word first. The tree is asked before the word: a busy region says no.
    if bit and m.level[0][(w >> 6) * RUN_MAX + k - 1] >> (w & 63) & 1:
        starts = _run_starts(~m.words[w], k) & (ALL << bit)
    if starts == 0:
        w = _search(m, k)
        if w == NONE:
            return -ENOSPC
        starts = _run_starts(~m.words[w], k)
    bit = ctz64(starts)
    _set_word(m, w, m.words[w] | (((ONE << k) - 1) << bit))
    region = w >> m.region_shift
    if m.regions[region] == REGION_TOUCHED:
        m.pending[region >> 6] &= ~(ONE << (region & 63))
        m.pending_n -= 1
    m.regions[region] = (m.regions[region] | REGION_TOUCHED) + k
    m.used += k
    m.cursor = (w << 6) + bit + k
    return (w << 6) + bit


def map_free(m, first, k):
    w: uint64_t = first >> 6
    bit: uint32_t = first & 63
    region: uint64_t = w >> m.region_shift
    mask: uint64_t
    if k == 0 or k > RUN_MAX or bit + k > 64 or w >= m.words_n or first + k > m.granules_max:
        return -EINVAL
    mask = ((ONE << k) - 1) << bit
    if m.words[w] & mask != mask:
        return -EINVAL
    _set_word(m, w, m.words[w] & ~mask)
    m.used -= k
    m.regions[region] -= k
    if m.regions[region] == REGION_TOUCHED:
        m.pending[region >> 6] |= ONE << (region & 63)
        m.pending_n += 1
    return 0


def map_in_use(m, first, count):
    """Whether all `count` granules from `first` on are in use."""
    g: uint64_t
    if first > m.granules_max or count > m.granules_max - first or first + count > m.words_n * 64:
        return False
    end: uint64_t = first + count
    g = first
    while g < end and m.words[g >> 6] >> (g & 63) & 1:
        g += 1
    return g == end


# -- regions whose disk space goes back ------------------------------------------------------------
@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def _region_end(m: SwapMapP, region: uint64_t) -> uint64_t:
    end: uint64_t = (region + 1) << m.region_shift
    return end if end < m.words_n else m.words_n


def map_take_pending(m, regions, room):
    count: uint32_t = 0
    _step: uint64_t
    i: uint64_t
    w: uint64_t
    region: uint64_t
    for _step in range(m.pending_words):
        i = m.pending_cursor
        while m.pending[i] and count < room:
            region = (i << 6) + ctz64(m.pending[i])
            m.pending[i] &= m.pending[i] - 1
            m.pending_n -= 1
            m.regions[region] |= REGION_BUSY
            for w in range(region << m.region_shift, _region_end(m, region)):
                _runs_change(m, w, _longest_run(~m.words[w]), 0)
            regions[count] = region
            count += 1
        if count == room or m.pending_n == 0:
            break
        # Stop at the end rather than go round: the caller joins neighbours, so keep the order.
        m.pending_cursor = i + 1 if i + 1 < m.pending_words else 0
        if m.pending_cursor == 0 and count:
            break
    return count


def map_give_back(m, region, punched):
    w: uint64_t
    for w in range(region << m.region_shift, _region_end(m, region)):
        _runs_change(m, w, 0, _longest_run(~m.words[w]))
    m.regions[region] &= ~REGION_BUSY
    if punched:
        m.regions[region] = 0
    else:
        m.pending[region >> 6] |= ONE << (region & 63)
        m.pending_n += 1


# -- invariants ------------------------------------------------------------------------------------
@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def _check_word(m: SwapMapP, w: uint64_t, runs: uint32_t) -> cython.bint:
    """Whether the lowest level says `runs` of word w."""
    k: uint32_t
    for k in range(RUN_MAX):
        if (m.level[0][(w >> 6) * RUN_MAX + k] >> (w & 63) & 1) != (k < runs):
            return False
    return True


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def _check_region(m: SwapMapP, region: uint64_t, used: cython.pointer(uint64_t)) -> int32_t:
    w: uint64_t
    count: uint32_t = 0
    value: uint64_t
    state: uint32_t = m.regions[region]
    busy: cython.bint = state & REGION_BUSY != 0
    for w in range(region << m.region_shift, _region_end(m, region)):
        value = m.words[w]
        if not _check_word(m, w, 0 if busy else _longest_run(~value)):
            return MAP_RUNS
        if w == m.words_max - 1 and m.granules_max & 63:
            if value >> (m.granules_max & 63) != ALL >> (m.granules_max & 63):
                return MAP_BEYOND
            value &= ~(ALL << (m.granules_max & 63))
        count += popcount64(value)
    if (state & REGION_COUNT) != count or (count and not state & REGION_TOUCHED):
        return MAP_REGION
    if busy and count:
        return MAP_REGION
    if (m.pending[region >> 6] >> (region & 63) & 1) != (state == REGION_TOUCHED):
        return MAP_PENDING
    used[0] += count
    return 0


def map_check(m, where):
    """MAP_OK, or what is wrong, with the region, word or group concerned in `where`."""
    i: uint64_t
    k: uint32_t
    level: uint32_t
    used: uint64_t = 0
    pending: uint64_t = 0
    error: int32_t
    below: uint64_t
    where[0] = 0
    if m.words_n > m.words_max or m.cursor > m.words_n << 6:
        return MAP_BEYOND
    for i in range((m.words_n + (ONE << m.region_shift) - 1) >> m.region_shift):
        error = _check_region(m, i, cython.address(used))
        if error:
            where[0] = i
            return error
        pending += m.pending[i >> 6] >> (i & 63) & 1
    if used != m.used:
        return MAP_USED
    if pending != m.pending_n:
        return MAP_PENDING
    for i in range(m.words_n, ((m.words_n + 63) >> 6) << 6):
        if not _check_word(m, i, 0):
            where[0] = i
            return MAP_BEYOND
    for level in range(1, m.levels):
        for i in range((m.words_n + (ONE << (6 * level)) - 1) >> (6 * level)):
            for k in range(RUN_MAX):
                below = m.level[level - 1][i * RUN_MAX + k]
                if (m.level[level][(i >> 6) * RUN_MAX + k] >> (i & 63) & 1) != (below != 0):
                    where[0] = i
                    return MAP_TREE
    return MAP_OK
