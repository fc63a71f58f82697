"""The checksum of what goes to disk: 64 bits, seeded, four independent lanes.

Owns: nothing. Pure function of the bytes, their number and the seed; no state, no locks.
Guarantees:

- A change that is confined to one aligned 8-byte word is always found: any single bit, any run of
  bits inside the word. Proof: with everything else fixed, each step below maps the word, or the
  lane that it went into, to a new value one to one (adding, multiplying by an odd number, rotating
  and ``x ^ x >> n`` can all be undone), so different words end in different sums.
- Any other change (words swapped, a torn sector, another entry's data, another slot's entry)
  passes with a chance of about 2**-64. It guards against accidents, not against an attacker.

Assumes: the sum is compared on the machine that made it (words are read in the machine's order).

A lane takes every fourth word: ``lane = rotl(lane + word * P2, 31) * P1``, the round of xxHash64,
because it is the shortest known one with no cheap collisions: the multiplication *before* the
rotation spreads a bit over the word before it meets the next one. (Without it, flipping bit 32 of a
word and bit 63 of the word 32 bytes further on would go unseen.) Four lanes, since one waits five
cycles for itself and the processor can do the other three meanwhile. The lanes are then folded one
after the other, not added up as xxHash64 does, since only that keeps the proof. The length goes in
first, so that padding a short tail with zeros is unambiguous.

Constants: P1..P4 are odd (else multiplication loses bits) with about half of their bits set: the
golden ratio, and the fractions of sqrt 2, sqrt 3 and sqrt 5 in 64 bits with the last bit set. M1
and M2 and the shifts of the last step are those of MurmurHash3's 64-bit finaliser, found by search
for the best avalanche.

Own code, because no checksum has a C interface that is present on every machine: libxxhash may be
missing, zlib's crc32 and adler32 have 32 bits, and CRC instructions differ per processor.
"""

import cython
from cython.cimports.coldmem.linux.atomic import now_ns
from cython.cimports.cpython.buffer import PyBUF_SIMPLE, PyBuffer_Release, PyObject_GetBuffer
from cython.cimports.libc.stdint import uint8_t, uint32_t, uint64_t
from cython.cimports.libc.string import memcpy

P1 = cython.declare(uint64_t, 0x9E3779B97F4A7C15)
P2 = cython.declare(uint64_t, 0x6A09E667F3BCC909)
P3 = cython.declare(uint64_t, 0xBB67AE8584CAA73B)
P4 = cython.declare(uint64_t, 0x3C6EF372FE94F82B)
M1 = cython.declare(uint64_t, 0xFF51AFD7ED558CCD)
M2 = cython.declare(uint64_t, 0xC4CEB9FE1A85EC53)
AHEAD = cython.declare(uint64_t, 4096)
BLOCKS = cython.declare(uint64_t, 0xFFFFFFFFFFFFFFE0)


@cython.cfunc
@cython.inline
@cython.nogil
@cython.exceptval(check=False)
def _word(p: cython.pointer(cython.const[uint8_t])) -> uint64_t:
    # memcpy: the address need not be aligned. The compiler makes one load of it.
    word: uint64_t = 0
    memcpy(cython.address(word), p, 8)
    return word


@cython.cfunc
@cython.inline
@cython.nogil
@cython.exceptval(check=False)
def _round(lane: uint64_t, word: uint64_t, p1: uint64_t, p2: uint64_t) -> uint64_t:
    lane += word * p2
    return ((lane << 31) | (lane >> 33)) * p1


@cython.cfunc
@cython.inline
@cython.nogil
@cython.exceptval(check=False)
def _begin(lanes: cython.pointer(uint64_t), n: uint64_t, seed: uint64_t) -> cython.void:
    start: uint64_t = (seed + P3) * P1 ^ (n * P4)
    lanes[0] = start + P1
    lanes[1] = start + P2
    lanes[2] = start ^ P3
    lanes[3] = start ^ P4


@cython.cfunc
@cython.inline
@cython.nogil
@cython.exceptval(check=False)
def _blocks(lanes: cython.pointer(uint64_t), data: cython.pointer(cython.const[uint8_t]),
            n: uint64_t) -> cython.void:
    """All whole blocks of 32 bytes."""
    p1: uint64_t = P1
    p2: uint64_t = P2
    a: uint64_t = lanes[0]
    b: uint64_t = lanes[1]
    c: uint64_t = lanes[2]
    d: uint64_t = lanes[3]
    while n >= 32:
        # The processor's own looking ahead ends with the page. An address past the end does no harm.
        prefetch(data + AHEAD)
        a = _round(a, _word(data), p1, p2)
        b = _round(b, _word(data + 8), p1, p2)
        c = _round(c, _word(data + 16), p1, p2)
        d = _round(d, _word(data + 24), p1, p2)
        data += 32
        n -= 32
    lanes[0] = a
    lanes[1] = b
    lanes[2] = c
    lanes[3] = d


@cython.cfunc
@cython.inline
@cython.nogil
@cython.exceptval(check=False)
def _end(lanes: cython.pointer(uint64_t), data: cython.pointer(cython.const[uint8_t]),
         left: uint64_t) -> uint64_t:
    """The sum, with the last bytes, fewer than 32."""
    p1: uint64_t = P1
    p2: uint64_t = P2
    a: uint64_t = lanes[0]
    word: uint64_t = 0
    while left >= 8:
        a = _round(a, _word(data), p1, p2)
        data += 8
        left -= 8
    if left:
        memcpy(cython.address(word), data, left)
        a = _round(a, word, p1, p2)
    # One after the other: with the others fixed, each lane still maps one to one to the result.
    a = _round(a, lanes[1], p1, p2)
    a = _round(a, lanes[2], p1, p2)
    a = _round(a, lanes[3], p1, p2)
    a ^= a >> 33
    a *= M1
    a ^= a >> 33
    a *= M2
    a ^= a >> 33
    return a


def checksum(data, n, seed):
    lanes: uint64_t[4]
    _begin(lanes, n, seed)
    _blocks(lanes, data, n)
    return _end(lanes, data + (n & BLOCKS), n & 31)


def sum_begin(sum, n, seed):
    _begin(sum.lanes, n, seed)
    sum.resting = 0


def sum_add(sum, data, n):
    take: uint64_t
    if sum.resting:
        take = min(32 - sum.resting, n)
        memcpy(sum.rest + sum.resting, data, take)
        sum.resting += cython.cast(uint32_t, take)
        data += take
        n -= take
        if sum.resting < 32:
            return
        _blocks(sum.lanes, sum.rest, 32)
    _blocks(sum.lanes, data, n)
    sum.resting = cython.cast(uint32_t, n & 31)
    memcpy(sum.rest, data + (n & BLOCKS), sum.resting)


def sum_end(sum):
    return _end(sum.lanes, sum.rest, sum.resting)


def checksum_of(data, seed: int = 0) -> int:
    """64-bit checksum of a bytes-like object.

    Parameters
    ----------
    data : bytes-like
        Contiguous bytes.
    seed : int
        Where the data belongs (the slot); the same bytes have another sum under another seed.

    Returns
    -------
    int
        0 to 2**64 - 1.
    """
    view = cython.declare(Py_buffer)
    s: uint64_t = seed & 0xFFFFFFFFFFFFFFFF
    out: uint64_t
    PyObject_GetBuffer(data, cython.address(view), PyBUF_SIMPLE)
    with cython.nogil:
        out = checksum(cython.cast(cython.pointer(cython.const[uint8_t]), view.buf),
                       cython.cast(uint64_t, view.len), s)
    PyBuffer_Release(cython.address(view))
    return out


def checksum_time_ns(data, rounds: int) -> float:
    """Nanoseconds per checksum of `data`, over `rounds` in a row without the GIL.

    Each round's seed is the sum before it, so that the compiler cannot do the work only once.
    """
    view = cython.declare(Py_buffer)
    n: uint64_t = rounds
    _turn: uint64_t
    s: uint64_t = 0
    t: uint64_t
    PyObject_GetBuffer(data, cython.address(view), PyBUF_SIMPLE)
    with cython.nogil:
        t = now_ns()
        for _turn in range(n):
            s = checksum(cython.cast(cython.pointer(cython.const[uint8_t]), view.buf),
                         cython.cast(uint64_t, view.len), s)
        t = now_ns() - t
    PyBuffer_Release(cython.address(view))
    return t / max(rounds, 1)
