"""Answers: the headers and chunks of a reply, as parts that are sent in one call.

Owns nothing: parts and headers are those of the session. Guarantees: an answer that is prepared is
whole; a read's data is sent from where it was read to. Takes no locks.
"""

import cython
from cython.cimports.coldmem.linux.atomic import a64_fetch_add_rlx
from cython.cimports.coldmem.nbd.block import N_EIO, N_ENOSPC, N_ERRORS
from cython.cimports.libc.stdint import int32_t, uint16_t, uint32_t
from cython.cimports.libc.string import memcpy, strlen

from coldmem.nbd import protocol

SIMPLE_MAGIC = cython.declare(uint32_t, protocol.SIMPLE_REPLY_MAGIC)
STRUCTURED_MAGIC = cython.declare(uint32_t, protocol.STRUCTURED_REPLY_MAGIC)

DONE = cython.declare(uint16_t, protocol.REPLY_FLAG_DONE)
NONE = cython.declare(uint16_t, protocol.REPLY_NONE)
OFFSET_DATA = cython.declare(uint16_t, protocol.REPLY_OFFSET_DATA)
OFFSET_HOLE = cython.declare(uint16_t, protocol.REPLY_OFFSET_HOLE)
STATUS = cython.declare(uint16_t, protocol.REPLY_BLOCK_STATUS)
ERROR = cython.declare(uint16_t, protocol.REPLY_ERROR)
ERROR_OFFSET = cython.declare(uint16_t, protocol.REPLY_ERROR_OFFSET)
ALLOCATION_ID = cython.declare(uint32_t, protocol.CONTEXT_ALLOCATION_ID)

EPERM = cython.declare(int32_t, protocol.EPERM)
EIO = cython.declare(int32_t, protocol.EIO)
EINVAL = cython.declare(int32_t, protocol.EINVAL)
ENOSPC = cython.declare(int32_t, protocol.ENOSPC)

def part_add(s, start, nbytes):
    s.parts[s.segments].iov_base = start
    s.parts[s.segments].iov_len = nbytes
    s.segments += 1


def head_structured(s, number, flags, kind, nbytes):
    """The header of a chunk of `nbytes`, as part `number` of the heads; where its fields go on."""
    at: uint32_t = number * CHUNK_BYTES
    p: U8P = s.heads + at
    put32(p, STRUCTURED_MAGIC)
    put16(p + 4, flags)
    put16(p + 6, kind)
    memcpy(p + 8, cython.address(s.request.cookie), 8)
    put32(p + 16, nbytes)
    return at + 20


def count_error(d, error):
    which: uint32_t = N_ERRORS
    if error == ENOSPC:
        which = N_ENOSPC
    elif error == EIO:
        which = N_EIO
    a64_fetch_add_rlx(cython.address(d.counts[which]), 1)


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def _words(error: int32_t) -> cython.p_const_char:
    if error == EPERM:
        return b"this export is read-only"
    if error == EIO:
        return b"the swap file or the codec failed"
    if error == EINVAL:
        return b"a command, flag, offset or length that this export does not take"
    if error == ENOSPC:
        return b"no room: beyond the end, or the pool and the swap file are full"
    return b"out of memory, or shutting down"


def reply_error(s, error, at, offset):
    n: uint32_t
    p: U8P
    text: cython.p_const_char = _words(error)
    length: uint16_t = cython.cast(uint16_t, strlen(text))
    count_error(s.worker.device, error)
    s.segments = 0
    if not s.structured:
        put32(s.heads, SIMPLE_MAGIC)
        put32(s.heads + 4, error)
        memcpy(s.heads + 8, cython.address(s.request.cookie), 8)
        part_add(s, s.heads, 16)
        return
    n = head_structured(s, 0, DONE, ERROR_OFFSET if at else ERROR, 6 + length + (8 if at else 0))
    p = s.heads + n
    put32(p, error)
    put16(p + 4, length)
    memcpy(p + 6, text, length)
    n += 6 + length
    if at:
        put64(s.heads + n, offset)
        n += 8
    part_add(s, s.heads, n)


def reply_done(s):
    s.segments = 0
    if s.structured:
        part_add(s, s.heads, head_structured(s, 0, DONE, NONE, 0))
        return
    put32(s.heads, SIMPLE_MAGIC)
    put32(s.heads + 4, 0)
    memcpy(s.heads + 8, cython.address(s.request.cookie), 8)
    part_add(s, s.heads, 16)


def reply_data(s, spans):
    i: uint32_t
    n: uint32_t
    head: uint32_t
    last: uint16_t
    s.segments = 0
    if not s.structured:
        reply_done(s)
        part_add(s, s.buffer, s.request.length)
        return
    for i in range(spans.count):
        last = DONE if i + 1 == spans.count else 0
        head = i * CHUNK_BYTES
        if spans.items[i].state != 0:
            n = head_structured(s, i, last, OFFSET_HOLE, 12)
            put32(s.heads + n + 8, spans.items[i].length)
            part_add(s, s.heads + head, CHUNK_BYTES)
        else:
            n = head_structured(s, i, last, OFFSET_DATA, 8 + spans.items[i].length)
            part_add(s, s.heads + head, CHUNK_BYTES - 4)
            part_add(s, s.buffer + spans.items[i].start, spans.items[i].length)
        put64(s.heads + n, s.request.offset + spans.items[i].start)


def reply_status(s, spans):
    i: uint32_t
    n: uint32_t
    for i in range(spans.count):
        put32(s.extents + 8 * i, spans.items[i].length)
        put32(s.extents + 8 * i + 4, spans.items[i].state)
    n = head_structured(s, 0, DONE, STATUS, 4 + 8 * spans.count)
    put32(s.heads + n, ALLOCATION_ID)
    s.segments = 0
    part_add(s, s.heads, n + 4)
    part_add(s, s.extents, 8 * spans.count)
