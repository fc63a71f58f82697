"""Payloads of records straight from the file to where they are wanted, and their checksum on the way.

Owns: nothing.
Guarantees: what is read is summed while the processor's cache holds it. The GIL is released once for
each room, however much is read. No locks.
Assumes: nobody else uses the rooms yet.
"""

import os

import cython
from cython.cimports.coldmem.cache.space import room_of
from cython.cimports.coldmem.linux.file import file_read
from cython.cimports.coldmem.zswap.checksum import sum_add, sum_begin, sum_end
from cython.cimports.cpython.bytes import PyBytes_AS_STRING
from cython.cimports.libc.stdint import int32_t, int64_t, uint8_t, uint32_t, uint64_t
from cython.cimports.libc.string import memcpy

STEP_BYTES = cython.declare(uint64_t, 512 << 10)  # half of a processor's own cache, or less


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def _next_part(p: cython.pointer(Parts)) -> cython.void:
    """Go on to the next part that has bytes; those that have none count, too."""
    while p.left == 0 and p.at < p.count:
        p.left = p.sizes[p.at]
        sum_begin(cython.address(p.now), p.left, p.sum)
        p.at += 1
        if p.left == 0:
            p.sum = sum_end(cython.address(p.now))


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def _add(p: cython.pointer(Parts), data: cython.pointer(uint8_t), n: uint64_t) -> cython.void:
    take: uint64_t
    while n and p.left:
        take = min(n, p.left)
        sum_add(cython.address(p.now), data, take)
        data += take
        n -= take
        p.left -= take
        if p.left == 0:
            p.sum = sum_end(cython.address(p.now))
            _next_part(p)


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def _fill(fd: int32_t, data: cython.p_char, offset: int64_t, out: cython.pointer(uint8_t), n: uint64_t,
          p: cython.pointer(Parts)) -> int64_t:
    """Fill out[0:n]: bytes that were there, or -errno."""
    done: uint64_t = 0
    take: uint64_t
    got: int64_t
    while done < n:
        take = min(n - done, STEP_BYTES)
        if data == cython.NULL:
            got = file_read(fd, out + done, take, offset + cython.cast(int64_t, done))
            if got < 0:
                return got
        else:
            memcpy(out + done, data + done, take)
            got = cython.cast(int64_t, take)
        _add(p, out + done, cython.cast(uint64_t, got))
        done += cython.cast(uint64_t, got)
        if cython.cast(uint64_t, got) < take:
            break
    return cython.cast(int64_t, done)


def fill(source, offset, rooms, parts, seed):
    """Fill `rooms`, one after the other, with what lies in a file.

    Parameters
    ----------
    source : int or bytes
        The file; or what was read from it at `offset`.
    offset : int
        Where it begins.
    rooms : sequence of Space, bytearray or bytes
        Just made: bytes that somebody else has seen must not change.
    parts : sequence of int
        Bytes of the parts that were summed one after the other: together, those of `rooms`.
    seed : int
        Of the checksum.

    Returns
    -------
    int or None
        The checksum; None: the file ends before, or `parts` are others.

    Raises
    ------
    OSError
        The system refused to read.
    """
    p: Parts
    i: uint32_t
    n: uint64_t
    fd: int32_t = -1
    data: cython.p_char = cython.NULL
    out: cython.pointer(uint8_t)
    at: int64_t = offset
    got: int64_t
    if len(parts) > 255 or sum(parts) != sum(map(len, rooms)):
        return None
    p.count = len(parts)
    p.at = 0
    p.left = 0
    p.sum = seed
    for i in range(p.count):
        p.sizes[i] = parts[i]
    if isinstance(source, bytes):
        if len(source) < sum(parts):
            return None
        data = PyBytes_AS_STRING(source)
    else:
        fd = source
    _next_part(cython.address(p))
    for room in rooms:
        n = len(room)
        out = room_of(room)
        with cython.nogil:
            got = _fill(fd, data, at, out, n, cython.address(p))
        if got < 0:
            raise OSError(-got, os.strerror(-got))
        if cython.cast(uint64_t, got) < n:
            return None
        at += got
        if data != cython.NULL:
            data += got
    return p.sum
