"""Values in memory: compressed, in one object of the pool or in pieces; and what is told when one goes.

A small value lies in one object, its key in front: what is looked up is one read. A larger one is
compressed in chunks of 64 KiB, and what comes out is cut into pieces of an OS page, each an object: no
object is larger than a page, so large and small values share one pool without classes that are nearly
empty. A `Body` names the pieces.

Guarantees: memory taken is on the account (`charge`); a Body that somebody reads is freed by the last
reader.
Locks: shard lock for entries and pins; events have a leaf lock of their own.
"""

import cython
from cython.cimports.coldmem.cache.account import charge, uncharge
from cython.cimports.coldmem.cache.context import chunk_decompress
from cython.cimports.coldmem.cache.hot import hot_drop
from cython.cimports.coldmem.cache.state import (
    CHUNK_BYTES,
    E_DISK,
    E_LARGE,
    E_SMALL,
    F_PLACE,
    PIECE_BYTES,
    U8CP,
    U8P,
    U32P,
    U64P,
    Body,
    BodyP,
    DiskKey,
    DiskKeyP,
)
from cython.cimports.coldmem.linux.atomic import (
    a32_load_rlx,
    a64_fetch_add_rlx,
    a64_store_rlx,
)
from cython.cimports.coldmem.linux.lock import mutex_lock, mutex_unlock
from cython.cimports.coldmem.zsmalloc.core import (
    zs_free,
    zs_malloc,
    zs_read_begin,
    zs_read_end,
    zs_size,
    zs_write,
)
from cython.cimports.cpython.bytes import PyBytes_FromStringAndSize
from cython.cimports.libc.stdint import int32_t, uint32_t, uint64_t
from cython.cimports.libc.stdlib import free, malloc, realloc
from cython.cimports.libc.string import memcmp, memcpy

RAW = cython.declare(uint32_t, 0x80000000)
HANDLE_BYTES = cython.declare(uint64_t, 16)  # of the pool's table, for each object
ENTRY_OVERHEAD = cython.declare(uint64_t, 88)  # entry, bucket, ghost, handle
EVENTS_MAX = cython.declare(uint64_t, 1 << 26)


# -- bodies ----------------------------------------------------------------------------------------
def body_bytes(b):
    return (cython.sizeof(Body) + 4 * cython.cast(uint64_t, b.chunks) + b.key_bytes + 16
            + (8 + HANDLE_BYTES) * cython.cast(uint64_t, b.pieces))


def body_make(c, key, key_bytes, length, chunks):
    b: BodyP
    shape: Body
    shape.chunks = chunks
    shape.key_bytes = key_bytes
    shape.pieces = chunks * (CHUNK_BYTES // PIECE_BYTES)
    if not charge(c, body_bytes(cython.address(shape)), False):
        return cython.NULL
    b = cython.cast(BodyP, malloc(cython.sizeof(Body) + 4 * cython.cast(uint64_t, chunks) + key_bytes))
    if b == cython.NULL:
        uncharge(c, body_bytes(cython.address(shape)))
        return cython.NULL
    b.pins = 0
    b.dead = 0
    b.length = length
    b.serial = a64_fetch_add_rlx(cython.address(c.bodies), 1)
    b.stored = 0
    b.pieces = shape.pieces
    b.chunks = chunks
    b.key_bytes = key_bytes
    b.filled = 0
    b.handles = cython.NULL
    b.table = cython.cast(U32P, b + 1)
    b.key = cython.cast(U8P, b.table + chunks)
    if key != cython.NULL:
        memcpy(b.key, key, key_bytes)
    if b.pieces:
        b.handles = cython.cast(U64P, malloc(8 * cython.cast(uint64_t, b.pieces)))
        if b.handles == cython.NULL:
            body_free(c, b)
            return cython.NULL
    return b


def body_new(c, key, length, chunks):
    b: BodyP = body_make(c, cython.NULL, key.n + 1, length, chunks)
    if b != cython.NULL:
        b.key[0] = key.kind
        memcpy(b.key + 1, key.data, key.n)
    return b


def disk_key_bytes(key_bytes):
    """With what malloc adds."""
    return max((cython.cast(uint64_t, key_bytes) + 4 + 8 + 15) // 16 * 16, 32)


def disk_key_new(c, key, key_bytes):
    d: DiskKeyP = cython.cast(DiskKeyP, malloc(cython.sizeof(DiskKey) + key_bytes))
    if d != cython.NULL:
        d.key_bytes = key_bytes
        memcpy(d.key, key, key_bytes)
        charge(c, disk_key_bytes(key_bytes), True)
    return d


def disk_key_free(c, d):
    uncharge(c, disk_key_bytes(d.key_bytes))
    free(d)


def body_append(c, b, data, n, done):
    take: uint32_t
    h: uint64_t
    while done[0] < n:
        take = min(n - done[0], PIECE_BYTES)
        h = zs_malloc(c.pool, take)
        if h == 0:
            return False
        zs_write(c.pool, h, data + done[0], take)
        b.handles[b.filled] = h
        b.filled += 1
        done[0] += take
    b.stored += n
    return True


def body_finish(c, b):
    """No more comes: give back what was kept for incompressible chunks."""
    handles: U64P
    before: uint64_t = body_bytes(b)
    if b.filled and b.filled < b.pieces:
        handles = cython.cast(U64P, realloc(b.handles, 8 * cython.cast(uint64_t, b.filled)))
        if handles != cython.NULL:
            b.handles = handles
    b.pieces = b.filled
    uncharge(c, before - body_bytes(b))


def body_free(c, b):
    i: uint32_t
    for i in range(b.filled):
        zs_free(c.pool, b.handles[i])
    uncharge(c, body_bytes(b))
    free(b.handles)
    free(b)


def body_gather(c, b, chunk, piece, out):
    n: uint32_t = b.table[chunk] & ~RAW
    at: uint32_t = 0
    take: uint32_t
    token: uint64_t
    error: int32_t
    p: U8CP
    while at < n:
        take = min(n - at, PIECE_BYTES)
        p = zs_read_begin(c.pool, b.handles[piece[0]], cython.address(token), cython.address(error))
        memcpy(out + at, p, take)
        zs_read_end(c.pool, b.handles[piece[0]], token)
        piece[0] += 1
        at += take


def body_decode(c, w, b, codec, out):
    k: uint32_t
    piece: uint32_t = 0
    n: uint32_t
    at: uint64_t = 0
    for k in range(b.chunks):
        n = cython.cast(uint32_t, min(b.length - at, CHUNK_BYTES))
        if b.table[k] & RAW:
            if (b.table[k] & ~RAW) != n:
                return -1
            body_gather(c, b, k, cython.address(piece), out + at)
        else:
            body_gather(c, b, k, cython.address(piece), w.gather)
            if chunk_decompress(c, w, w.gather, b.table[k], codec, out + at, n) != 0:
                return -1
        at += n
    return 0


# -- entries ---------------------------------------------------------------------------------------
def entry_key(c, e):
    token: uint64_t
    error: int32_t
    b: BodyP
    d: DiskKeyP
    p: U8CP
    if e.state == E_SMALL:
        p = zs_read_begin(c.pool, e.body, cython.address(token), cython.address(error))
        data = PyBytes_FromStringAndSize(cython.cast(cython.p_char, p), e.key_bytes)
        zs_read_end(c.pool, e.body, token)
        return data
    if e.state == E_DISK:
        d = cython.cast(DiskKeyP, e.body)
        return PyBytes_FromStringAndSize(cython.cast(cython.p_char, d.key), d.key_bytes)
    b = cython.cast(BodyP, e.body)
    return PyBytes_FromStringAndSize(cython.cast(cython.p_char, b.key), b.key_bytes)


def body_key(c, e, key):
    b: BodyP
    d: DiskKeyP
    p: U8CP
    token: uint64_t
    error: int32_t
    same: cython.bint
    if e.state == E_DISK:
        d = cython.cast(DiskKeyP, e.body)
        return (d.key_bytes == key.n + 1 and d.key[0] == key.kind
                and memcmp(cython.cast(U8P, d.key) + 1, key.data, key.n) == 0)
    if e.state == E_LARGE:
        b = cython.cast(BodyP, e.body)
        return (b.key_bytes == key.n + 1 and b.key[0] == key.kind
                and memcmp(b.key + 1, key.data, key.n) == 0)
    if e.key_bytes != key.n + 1:
        return False
    p = zs_read_begin(c.pool, e.body, cython.address(token), cython.address(error))
    same = p[0] == key.kind and memcmp(p + 1, key.data, key.n) == 0
    zs_read_end(c.pool, e.body, token)
    return same


def entry_length(e):
    return e.length


def entry_stored(c, e):
    """Payload bytes in RAM."""
    if e.state == E_SMALL:
        return zs_size(c.pool, e.body) - e.key_bytes
    return cython.cast(BodyP, e.body).stored if e.state == E_LARGE else 0


def entry_weight(c, e):
    if e.state == E_DISK:
        return e.disk_bytes
    if e.state == E_SMALL:
        return ENTRY_OVERHEAD + zs_size(c.pool, e.body)
    return ENTRY_OVERHEAD + body_bytes(cython.cast(BodyP, e.body)) + cython.cast(BodyP, e.body).stored


def entry_empty(c, s, e):
    b: BodyP
    hot_drop(c, s, e)
    s.original_bytes -= entry_length(e)
    s.stored_bytes -= entry_stored(c, e)
    if e.state == E_SMALL:
        zs_free(c.pool, e.body)
        uncharge(c, HANDLE_BYTES)
    elif e.state == E_DISK:
        disk_key_free(c, cython.cast(DiskKeyP, e.body))
    else:
        b = cython.cast(BodyP, e.body)
        if b.pins:
            b.dead = 1
        else:
            body_free(c, b)
    a64_fetch_add_rlx(cython.address(c.users[e.codec]), -1)


def place_drop(c, s, e, event):
    words: uint32_t[3]
    words[0] = e.segment
    words[1] = e.offset
    words[2] = e.disk_bytes
    _event(c, event, cython.cast(U8CP, words), 12)
    s.disk_bytes -= e.disk_bytes
    e.flags &= ~F_PLACE


# -- events ----------------------------------------------------------------------------------------
def _event(c, event, data, n):
    room: uint64_t
    new: U8P
    need: uint64_t = 5 + cython.cast(uint64_t, n)
    at: U8P
    mutex_lock(cython.address(c.events_lock))
    if c.events_bytes + need > c.events_room:
        room = max(2 * c.events_room, c.events_bytes + need, 4096)
        new = cython.NULL
        if room <= EVENTS_MAX:
            new = cython.cast(U8P, realloc(c.events, room))
        if new == cython.NULL:
            c.events_lost += 1
            mutex_unlock(cython.address(c.events_lock))
            return
        c.events = new
        c.events_room = room
    at = c.events + c.events_bytes
    at[0] = event
    memcpy(at + 1, cython.address(n), 4)
    memcpy(at + 5, data, n)
    a64_store_rlx(cython.address(c.events_bytes), c.events_bytes + need)
    mutex_unlock(cython.address(c.events_lock))


def event_put(c, event, e):
    b: BodyP
    d: DiskKeyP
    p: U8CP
    token: uint64_t
    error: int32_t
    if a32_load_rlx(cython.address(c.want_events)) == 0:
        return
    if e.state == E_SMALL:
        p = zs_read_begin(c.pool, e.body, cython.address(token), cython.address(error))
        _event(c, event, p, e.key_bytes)
        zs_read_end(c.pool, e.body, token)
    elif e.state == E_DISK:
        d = cython.cast(DiskKeyP, e.body)
        _event(c, event, d.key, d.key_bytes)
    else:
        b = cython.cast(BodyP, e.body)
        _event(c, event, b.key, b.key_bytes)

