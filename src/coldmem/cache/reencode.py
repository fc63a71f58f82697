"""Compressing small values again, once there is a better dictionary than the one they were stored with.

What came in while a dictionary was trained would stay as it is for long, and an old dictionary takes
memory while an entry needs it. So after each training one pass is made over all entries, few at a time.

Guarantees: an entry has its old value or the same one in fewer bytes, whoever looks; its place in the
queue, its hits and its time to live stay.
Locks: the shard's, for a few entries at a time.
"""

import cython
from cython.cimports.coldmem.cache.body import (
    entry_stored,
    entry_weight,
)
from cython.cimports.coldmem.cache.context import chunk_compress, chunk_decompress
from cython.cimports.coldmem.cache.state import (
    CODEC_RAW,
    E_SMALL,
    F_ON_DISK,
    Q_NONE,
    U8CP,
    EntryP,
    entry_at,
)
from cython.cimports.coldmem.linux.atomic import a64_fetch_add_rlx
from cython.cimports.coldmem.linux.lock import mutex_lock, mutex_unlock
from cython.cimports.coldmem.zsmalloc.core import (
    zs_free,
    zs_malloc,
    zs_read_begin,
    zs_read_end,
    zs_write,
)
from cython.cimports.libc.stdint import int32_t, uint32_t, uint64_t
from cython.cimports.libc.string import memcpy

WORK = cython.declare(uint32_t, 4)  # entries compressed in one hold of the lock
LOOK = cython.declare(uint32_t, 256)  # entries looked at


def reencode_some(c, s, start, number, most, w, changed):
    i: uint32_t = start
    end: uint32_t
    done: uint32_t = 0
    e: EntryP
    mutex_lock(cython.address(s.lock))
    end = min(s.end, start + LOOK)
    while i < end and done < WORK:
        e = entry_at(s, i)
        # What is being written to disk or lies there too keeps what was written.
        if (e.state == E_SMALL and e.codec != number and e.codec != CODEC_RAW and e.length <= most
                and e.queue != Q_NONE and not e.flags & F_ON_DISK):
            changed[0] += _reencode(c, s, i, number, w)
            done += 1
        i += 1
    if i >= s.end:
        i = 0
    mutex_unlock(cython.address(s.lock))
    return i


def _reencode(c, s, i, number, w):
    e: EntryP = entry_at(s, i)
    token: uint64_t
    error: int32_t
    p: U8CP = zs_read_begin(c.pool, e.body, cython.address(token), cython.address(error))
    before: uint32_t = cython.cast(uint32_t, entry_stored(c, e))
    bad: cython.bint
    size: int32_t
    h: uint64_t
    result: U8CP = cython.NULL
    weight: uint64_t = entry_weight(c, e)
    memcpy(w.out - e.key_bytes, p, e.key_bytes)
    bad = chunk_decompress(c, w, p + e.key_bytes, before, e.codec, w.gather, e.length) != 0
    zs_read_end(c.pool, e.body, token)
    if bad:
        return False
    size = chunk_compress(c, w, w.gather, e.length, number, 0, cython.address(result))
    if size <= 0 or cython.cast(uint32_t, size) >= before or result != w.out:
        return False
    h = zs_malloc(c.pool, e.key_bytes + size)
    if h == 0:
        return False
    zs_write(c.pool, h, w.out - e.key_bytes, e.key_bytes + size)
    zs_free(c.pool, e.body)
    a64_fetch_add_rlx(cython.address(c.users[e.codec]), -1)
    a64_fetch_add_rlx(cython.address(c.users[number]), 1)
    e.body = h
    e.codec = number
    s.stored_bytes -= before - size
    s.queues[e.queue].bytes -= weight - entry_weight(c, e)
    return True
