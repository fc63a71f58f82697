"""A stress of the swap file that verifies contents, a measurement of its allocator, and damage.

All run without the GIL, through the same C functions that the engine uses. Owns: nothing between
calls. Call `hammer` from several threads on one file; each has entries of its own, so whatever is
wrong is the swap file's doing. No locks.
"""

import cython
from cython.cimports.coldmem.linux.atomic import now_ns
from cython.cimports.coldmem.zswap.swapfile import (
    SwapFile,
    SwapFileP,
    checksum,
    swap_alloc,
    swap_free,
    swap_read,
    swap_write,
)
from cython.cimports.coldmem.zswap.swapmap import RUN_MAX
from cython.cimports.libc.stdint import uint8_t, uint32_t, uint64_t
from cython.cimports.libc.stdlib import calloc, free
from cython.cimports.libc.string import memset

from coldmem.errors import UsageError

MULTIPLIER = cython.declare(uint64_t, 0x9E3779B97F4A7C15)
BATCH = cython.declare(cython.int, 64)


@cython.cfunc
@cython.inline
@cython.nogil
@cython.exceptval(check=False)
def _random(state: cython.pointer(uint64_t)) -> uint64_t:
    x: uint64_t = state[0]
    x ^= x << 13
    x ^= x >> 7
    x ^= x << 17
    state[0] = x
    return x * MULTIPLIER >> 16


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def _toggle(f: SwapFileP, e: SwapEntryP, data: cython.pointer(uint8_t), r: uint64_t,
            tally: SwapTallyP) -> cython.void:
    """An empty entry is filled and written; a full one is read back, verified and freed."""
    i: uint32_t
    error: cython.int
    tally.operations += 1
    if e.offset >= 0:
        memset(data, 0, e.n)
        error = swap_read(f, data, e.n, e.offset)
        if error:
            tally.failed += 1
        elif checksum(data, e.n, e.offset) != e.sum:
            tally.wrong += 1
        swap_free(f, e.offset, e.n)
        e.offset = -1
        return
    e.n = 1 + r % f.unit_bytes
    e.offset = swap_alloc(f, e.n)
    if e.offset < 0:
        tally.full += 1
        return
    for i in range(e.n):
        r = r * MULTIPLIER + 1
        data[i] = r >> 56
    e.sum = checksum(data, e.n, e.offset)
    error = swap_write(f, data, e.n, e.offset)
    if error:
        tally.failed += 1
        swap_free(f, e.offset, e.n)
        e.offset = -1


def hammer(file: SwapFile, seed: int, operations: int, entries: int) -> dict[str, int]:
    """Toggle random entries of this caller's own; at the end every one is verified and freed.

    Parameters
    ----------
    file : SwapFile
        Shared by all callers.
    seed : int
        Of what is done.
    operations : int
        How many toggles.
    entries : int
        How many entries this caller has.

    Returns
    -------
    dict
        ``operations``, ``wrong`` (data that was not what was written), ``full`` (no room),
        ``failed`` (transfers that returned an error).
    """
    f: SwapFileP = cython.address(file.c)
    tally = cython.declare(SwapTally)
    state: uint64_t = seed * 2 + 1
    n: uint64_t = entries
    _turn: uint64_t
    todo: uint64_t = operations
    i: uint64_t
    r: uint64_t
    table: SwapEntryP = cython.cast(SwapEntryP, calloc(n, cython.sizeof(SwapEntry)))
    data: cython.pointer(uint8_t) = cython.cast(cython.pointer(uint8_t), calloc(f.unit_bytes, 1))
    memset(cython.address(tally), 0, cython.sizeof(SwapTally))
    try:
        if table == cython.NULL or data == cython.NULL:
            raise MemoryError
        with cython.nogil:
            for i in range(n):
                table[i].offset = -1
            for _turn in range(todo):
                r = _random(cython.address(state))
                _toggle(f, table + r % n, data, r >> 8, cython.address(tally))
            for i in range(n):
                if table[i].offset >= 0:
                    _toggle(f, table + i, data, 0, cython.address(tally))
    finally:
        free(table)
        free(data)
    return tally


def churn(file: SwapFile, units: int, rounds: int) -> int:
    """Allocate that many whole units, free them all, over and over.

    Parameters
    ----------
    file : SwapFile
        Shared by all callers.
    units : int
        How many this caller holds at most, up to 4096.
    rounds : int
        How often.

    Returns
    -------
    int
        Allocations that found no room. Units are never fragmented, so it is 0 if the file has room
        for what all callers hold.
    """
    f: SwapFileP = cython.address(file.c)
    offsets = cython.declare(int64_t[4096])
    full: uint64_t = 0
    n: uint32_t = min(units, 4096)
    i: uint32_t
    _turn: uint64_t
    todo: uint64_t = rounds
    with cython.nogil:
        for _turn in range(todo):
            for i in range(n):
                offsets[i] = swap_alloc(f, f.unit_bytes)
                full += offsets[i] < 0
            for i in range(n):
                if offsets[i] >= 0:
                    swap_free(f, offsets[i], f.unit_bytes)
    return full


def alloc_cost_ns(file: SwapFile, share: float, batches: int, seed: int = 1) -> dict[str, float]:
    """What `swap_alloc` and `swap_free` cost when `share` of the file is in use.

    The file is filled with entries of random sizes up to that share of `swap_max`. Then, over and
    over, 64 random ones are freed and as many of the same sizes allocated, each half timed as a
    whole.

    Parameters
    ----------
    file : SwapFile
        An empty one; it is empty again afterwards.
    share : float
        0 to 1.
    batches : int
        How many times 64.
    seed : int
        Of the sizes.

    Returns
    -------
    dict
        ``alloc_ns``, ``free_ns``: means per call; ``slowest_alloc_ns``: of the slowest batch, per
        call; ``used_share``: what was in use in the end; ``failed_share``: without room.
    """
    f: SwapFileP = cython.address(file.c)
    unit: uint32_t = f.unit_bytes
    goal: uint64_t = int(share * f.bytes_max)
    room: uint64_t = f.bytes_max * 16 // unit + BATCH
    table: SwapEntryP = cython.cast(SwapEntryP, calloc(room, cython.sizeof(SwapEntry)))
    state: uint64_t = seed * 2 + 1
    n: uint64_t = 0
    i: uint64_t
    j: cython.int
    t: uint64_t
    alloc_ns: uint64_t = 0
    free_ns: uint64_t = 0
    slowest: uint64_t = 0
    failed: uint64_t = 0
    misses: uint64_t = 0
    _turn: uint64_t
    rounds: uint64_t = batches
    calls: cython.double
    used: cython.double
    entry = cython.declare(SwapEntry)
    if table == cython.NULL:
        raise MemoryError
    with cython.nogil:
        while f.used_bytes < goal and misses < 1000:
            # After 64 misses only small holes are left: fill those too.
            table[n].n = 1 + _random(cython.address(state)) % (unit if misses < 64 else unit // 16)
            table[n].offset = swap_alloc(f, table[n].n)
            if table[n].offset < 0:
                misses += 1
            else:
                n += 1
        if n < cython.cast(uint64_t, BATCH):
            rounds = 0
        for _turn in range(rounds):
            for j in range(BATCH):  # to the table's end: the timed loops should touch no cold line
                t = _random(cython.address(state)) % (n - j)
                entry = table[t]
                table[t] = table[n - 1 - j]
                table[n - 1 - j] = entry
            t = now_ns()
            for j in range(BATCH):
                swap_free(f, table[n - 1 - j].offset, table[n - 1 - j].n)
            free_ns += now_ns() - t
            n -= BATCH
            t = now_ns()
            for j in range(BATCH):
                # Not in the order in which they were freed: sizes must find other holes.
                table[n + j].offset = swap_alloc(f, table[n + j].n)
            t = now_ns() - t
            alloc_ns += t
            if t > slowest:
                slowest = t
            for j in range(BATCH):
                if table[n].offset < 0:
                    failed += 1
                    table[n] = table[n + BATCH - 1 - j]
                else:
                    n += 1
            while f.used_bytes < goal:  # untimed: hold the share, with the smallest entries
                table[n].n = 1
                table[n].offset = swap_alloc(f, 1)
                if table[n].offset < 0:
                    break
                n += 1
    used = cython.cast(cython.double, f.used_bytes) / f.bytes_max
    with cython.nogil:
        for i in range(n):
            swap_free(f, table[i].offset, table[i].n)
    free(table)
    if rounds == 0:
        raise UsageError("the file is too small, or the share too low, for a measurement")
    calls = rounds * BATCH
    return {"alloc_ns": cython.cast(cython.double, alloc_ns) / calls,
            "free_ns": cython.cast(cython.double, free_ns) / calls,
            "slowest_alloc_ns": cython.cast(cython.double, slowest) / BATCH, "used_share": used,
            "failed_share": cython.cast(cython.double, failed) / calls}


def damage(file: SwapFile, part: str) -> None:
    """Spoil one part of the map, to see that `check_valid` notices. The file is of no use then.

    Parameters
    ----------
    file : SwapFile
        With at least one entry, and one region that was used and is free again.
    part : {"word", "tree", "level", "region", "pending", "used"}
        What to spoil.
    """
    f: SwapFileP = cython.address(file.c)
    if part == "word":
        f.map.words[0] ^= 1
    elif part == "tree":
        f.map.level[0][RUN_MAX - 1] ^= 1
    elif part == "level":
        f.map.level[1][0] ^= 1
    elif part == "region":
        f.map.regions[0] += 1
    elif part == "pending":
        f.map.pending[0] = 0
    elif part == "used":
        f.map.used += 1
    else:
        raise UsageError(f"no part {part!r}")
