"""Whole transfers at an offset of a file, and the seam through which tests make them fail.

Owns: a `Faults` object owns its table. Guarantees: `io_write` and `io_read` move all bytes or say
why not; short transfers and EINTR are continued. Safe from any thread, without locks: a table does
not change after it is made, but for its counters, which are atomic.

A fault is a row of a table (`FaultC`). The table is looked at only while one is installed; its rows
come from `coldmem.testing.faults`, which documents them. Whether a row strikes transfer number i
depends on the seed, the row and i alone, so a run can be repeated.
"""

from collections.abc import Sequence

import cython
from cython.cimports.coldmem.linux.atomic import a64_fetch_add, a64_fetch_add_rlx, a64_load_rlx
from cython.cimports.coldmem.linux.file import file_punch
from cython.cimports.libc.errno import EINTR, EIO, errno
from cython.cimports.libc.stdint import int32_t, int64_t, uint8_t, uint32_t, uint64_t
from cython.cimports.libc.stdlib import calloc, free
from cython.cimports.libc.string import memset
from cython.cimports.posix.unistd import pread, pwrite, usleep

SECTOR = cython.declare(uint64_t, 512)
LOW_HALF = cython.declare(uint64_t, 0xFFFFFFFF)
MIX1 = cython.declare(uint64_t, 0x9E3779B97F4A7C15)
MIX2 = cython.declare(uint64_t, 0xBF58476D1CE4E5B9)
MIX3 = cython.declare(uint64_t, 0x94D049BB133111EB)


# -- transfers -------------------------------------------------------------------------------------
@cython.cfunc
@cython.inline
@cython.nogil
@cython.exceptval(check=False)
def _next_chunk(strike: StrikeP, left: uint64_t) -> uint64_t:
    """Bytes to ask the system for; 0: pretend that a signal came first."""
    chunk: uint64_t = left
    if strike == cython.NULL:
        return left
    if strike.interrupts:
        strike.interrupts -= 1
        return 0
    if strike.first_bytes:
        if strike.first_bytes < left:
            chunk = strike.first_bytes
        strike.first_bytes = 0
    return chunk


def io_write(fd, src, n, offset, strike):
    done: uint64_t = 0
    chunk: uint64_t
    moved: int64_t
    error: int32_t
    while done < n:
        chunk = _next_chunk(strike, n - done)
        if chunk == 0:
            moved = -1
            error = EINTR
        else:
            moved = pwrite(fd, src + done, chunk, offset + cython.cast(int64_t, done))
            error = errno
        if moved > 0:
            done += moved
        elif moved == 0:
            return -EIO  # no progress and no reason: never loop on it
        elif error != EINTR:
            return -error
    return 0


def io_read(fd, dst, n, offset, strike):
    done: uint64_t = 0
    chunk: uint64_t
    moved: int64_t
    error: int32_t
    while done < n:
        chunk = _next_chunk(strike, n - done)
        if chunk == 0:
            moved = -1
            error = EINTR
        else:
            moved = pread(fd, dst + done, chunk, offset + cython.cast(int64_t, done))
            error = errno
        if moved > 0:
            done += moved
        elif moved == 0:
            return -EIO  # the end of the file: what was to be here was never written
        elif error != EINTR:
            return -error
    return 0


# -- faults ----------------------------------------------------------------------------------------
@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def _dice(seed: uint64_t, row: uint64_t, number: uint64_t) -> uint64_t:
    """64 random bits that depend on nothing else (SplitMix64's mixing step, twice)."""
    x: uint64_t = seed + (row + 1) * MIX1
    x = (x ^ (x >> 30)) * MIX2
    x = (x ^ (x >> 27)) * MIX3
    x = (x ^ (x >> 31)) + number * MIX1
    x = (x ^ (x >> 30)) * MIX2
    x = (x ^ (x >> 27)) * MIX3
    return x ^ (x >> 31)


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def _strike(t: FaultTableP, operation: uint32_t, n: uint64_t, out: StrikeP) -> cython.void:
    """Count the transfer (n > 0 bytes), add up the rows that strike it, sleep if they say so."""
    number: uint64_t = a64_fetch_add(cython.address(t.numbers[operation]), 1) + 1
    row: uint64_t
    dice: uint64_t
    choice: uint64_t
    f: FaultP
    delay: int64_t
    memset(out, 0, cython.sizeof(Strike))
    for row in range(t.count):
        f = cython.address(t.faults[row])
        if f.operation != operation or number < f.first or number > f.last:
            continue
        dice = _dice(t.seed, row, number)
        if dice >> 32 >= f.chance:
            continue
        a64_fetch_add_rlx(cython.address(f.hits), 1)
        # The low half chooses, the high half decided: independent of each other.
        choice = cython.cast(uint64_t, f.argument) if f.argument >= 0 else dice & LOW_HALF
        if f.kind == FAULT_ERROR:
            out.error = f.argument
        elif f.kind == FAULT_SHORT:
            out.first_bytes = choice % n if choice % n else 1
        elif f.kind == FAULT_INTERRUPT:
            out.interrupts = f.argument
        elif f.kind == FAULT_LOST:
            out.lost = True
        elif f.kind == FAULT_TORN:
            out.torn = True
            out.torn_at = choice % n
        elif f.kind == FAULT_FLIP:
            out.flip = True
            out.flip_bit = choice % (8 * n)
        elif f.kind == FAULT_ELSEWHERE:
            out.elsewhere = True
            out.distance = f.argument
        elif f.kind == FAULT_DELAY:
            delay = f.argument
            while delay > 0:  # usleep takes less than a second
                usleep(cython.cast(uint32_t, 1000 * (delay if delay < 500 else 500)))
                delay -= 500


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def _spoil(dst: cython.pointer(uint8_t), start: uint64_t, end: uint64_t) -> cython.void:
    # Inverted, not zeroed: the data may have zeros there already, and a fault must be a fault.
    i: uint64_t
    for i in range(start, end):
        dst[i] = ~dst[i]


def faulty_write(t, fd, src, n, offset):
    strike = cython.declare(Strike)
    _strike(t, ON_WRITE, n, cython.address(strike))
    if strike.error:
        return -strike.error
    if strike.lost:
        return 0
    if strike.torn:
        n = strike.torn_at
    return io_write(fd, src, n, offset, cython.address(strike))


def faulty_read(t, fd, dst, n, offset):
    strike = cython.declare(Strike)
    error: int32_t
    end: uint64_t
    _strike(t, ON_READ, n, cython.address(strike))
    if strike.error:
        return -strike.error
    if strike.elsewhere:
        error = io_read(fd, dst, n, offset + strike.distance, cython.address(strike))
        if error:  # the file has nothing there: any wrong data will do
            error = io_read(fd, dst, n, offset, cython.address(strike))
            _spoil(dst, 0, n)
    else:
        error = io_read(fd, dst, n, offset, cython.address(strike))
    if error:
        return error
    if strike.torn:
        end = strike.torn_at + SECTOR - (cython.cast(uint64_t, offset) + strike.torn_at) % SECTOR
        _spoil(dst, strike.torn_at, end if end < n else n)
    if strike.flip:
        dst[strike.flip_bit >> 3] ^= cython.cast(uint8_t, 1 << (strike.flip_bit & 7))
    return 0


def faulty_punch(t, fd, offset, nbytes):
    strike = cython.declare(Strike)
    _strike(t, ON_PUNCH, nbytes, cython.address(strike))
    return -strike.error if strike.error else file_punch(fd, offset, nbytes)


class Faults:
    """A table of faults. Made by `SwapFile.install_faults`; see `coldmem.testing.faults`.

    Parameters
    ----------
    rows : sequence of tuple
        (operation, kind, first, last, chance of 2**32, argument) each.
    seed : int
        Of the chances and choices.
    """

    def __cinit__(self, rows: Sequence[tuple[int, int, int, int, int, int]], seed: int) -> None:
        i: uint64_t
        rows = list(rows)
        self.c.seed = seed & 0xFFFFFFFFFFFFFFFF
        self.c.faults = cython.cast(FaultP, calloc(max(len(rows), 1), cython.sizeof(FaultC)))
        if self.c.faults == cython.NULL:
            raise MemoryError
        for i, (operation, kind, first, last, chance, argument) in enumerate(rows):
            self.c.faults[i].operation = operation
            self.c.faults[i].kind = kind
            self.c.faults[i].first = first
            self.c.faults[i].last = last
            self.c.faults[i].chance = chance
            self.c.faults[i].argument = argument
        self.c.count = len(rows)

    def __dealloc__(self) -> None:
        free(self.c.faults)

    def hits(self) -> list[int]:
        """How often each row has struck."""
        i: uint64_t
        out = []
        for i in range(self.c.count):
            out.append(a64_load_rlx(cython.address(self.c.faults[i].hits)))
        return out
