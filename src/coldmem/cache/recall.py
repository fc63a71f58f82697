"""`Recall`: how values come back from the disk tier, and entries from an earlier cache.

Guarantees: a value that comes back is there twice for a moment, never nowhere. What is found at a place
is taken only while the entry still lies at that place.
Locks: as core.py; one shard lock at a time.
"""

import cython
from cython.cimports.coldmem.cache.account import charge, uncharge
from cython.cimports.coldmem.cache.body import (
    body_append,
    body_finish,
    body_free,
    body_make,
    disk_key_new,
    entry_empty,
    entry_length,
    place_drop,
)
from cython.cimports.coldmem.cache.context import chunk_decompress, context_get, context_put
from cython.cimports.coldmem.cache.keys import key_from
from cython.cimports.coldmem.cache.put import Put, entry_fill
from cython.cimports.coldmem.cache.queues import (
    queue_drop,
    queue_push,
)
from cython.cimports.coldmem.cache.room import (
    shard_of,
    ticks_of,
)
from cython.cimports.coldmem.cache.space import value_room
from cython.cimports.coldmem.cache.state import (
    CHUNK_BYTES,
    CODEC_RAW,
    E_DISK,
    E_LARGE,
    E_SMALL,
    EV_PLACE,
    F_ON_DISK,
    F_PLACE,
    F_TABLE,
    Q_DISK,
    Q_MAIN,
    U8CP,
    U8P,
    BodyP,
    CacheP,
    ContextP,
    Entry,
    EntryP,
    Key,
    ShardP,
    entry_at,
)
from cython.cimports.coldmem.cache.table import (
    table_find,
)
from cython.cimports.coldmem.linux.atomic import a64_fetch_add_rlx
from cython.cimports.coldmem.linux.lock import mutex_lock, mutex_unlock
from cython.cimports.coldmem.zsmalloc.core import (
    zs_free,
    zs_malloc,
    zs_write,
)
from cython.cimports.cpython.bytes import PyBytes_AS_STRING
from cython.cimports.libc.stdint import uint32_t, uint64_t
from cython.cimports.libc.string import memcpy, memset

from coldmem.errors import CorruptDataError

PIECES_BYTES = cython.declare(uint64_t, 65536)
RAW = cython.declare(uint32_t, 0x80000000)
HANDLE_BYTES = cython.declare(uint64_t, 16)


class Recall(Spill):
    """See `coldmem.Cache`."""

    # -- from disk ---------------------------------------------------------------------------------
    def _decode(self, payload, kind: cython.int, codec: cython.uint, table: cython.bint, length):
        """The value of a payload that was read from disk, before `_load_value`."""
        c: CacheP = self.c
        n: uint64_t = length
        src: cython.const[cython.uchar][::1] = payload
        at: uint64_t = 0
        done: uint64_t = 0
        k: uint64_t
        chunks: uint64_t = 0
        size: uint32_t
        take: uint32_t
        bad: cython.int = 0
        p: U8CP = cython.cast(U8CP, cython.address(src[0])) if src.shape[0] else cython.NULL
        out: U8P
        w: ContextP
        if table:
            chunks = max((n + CHUNK_BYTES - 1) // CHUNK_BYTES, 1)
            at = 4 * chunks
        if at > cython.cast(uint64_t, src.shape[0]):
            raise CorruptDataError("a record on disk is shorter than its value")
        data = value_room(kind, n, cython.address(out))
        w = context_get(c)
        if w == cython.NULL:
            raise MemoryError("no memory to decompress a value")
        with cython.nogil:
            if not table:
                bad = n > CHUNK_BYTES or chunk_decompress(
                    c, w, p, cython.cast(uint32_t, src.shape[0]), codec, out,
                    cython.cast(uint32_t, n)) != 0
            for k in range(chunks):
                memcpy(cython.address(size), p + 4 * k, 4)
                take = cython.cast(uint32_t, min(n - done, CHUNK_BYTES))
                if at + (size & ~RAW) > cython.cast(uint64_t, src.shape[0]) or chunk_decompress(
                        c, w, p + at, size & ~RAW, CODEC_RAW if size & RAW else codec, out + done,
                        take) != 0:
                    bad = 1
                    break
                at += size & ~RAW
                done += take
        context_put(c, w)
        if bad:
            raise CorruptDataError("a record on disk does not decompress")
        return data

    def _back_to_ram(self, key: bytes, payload, place, keep_place: cython.bint):
        """Bring the payload of an entry that lies at `place` back to RAM, if it still does."""
        k: Key
        put: Put
        c: CacheP = self.c
        s: ShardP
        i: uint32_t
        e: EntryP
        src: cython.const[cython.uchar][::1] = payload
        segment: uint32_t
        offset: uint32_t
        done: uint32_t = 0
        j: uint32_t
        b: BodyP
        h: uint64_t
        at: uint64_t
        size: uint32_t
        chunks: uint32_t
        kp: U8CP = cython.cast(U8CP, PyBytes_AS_STRING(key))
        p: U8CP
        segment, offset, _ = place
        if src.shape[0] == 0 or not key_from(kp, len(key), cython.address(k)):
            return False
        p = cython.cast(U8CP, cython.address(src[0]))
        s = shard_of(c, k.hash)
        memset(cython.address(put), 0, cython.sizeof(Put))
        # What it is does not change while its place does not, so it may be looked up twice.
        mutex_lock(cython.address(s.lock))
        i = table_find(c, s, cython.address(k))
        if i:
            e = entry_at(s, i)
        if i == 0 or e.state != E_DISK or e.segment != segment or e.offset != offset:
            mutex_unlock(cython.address(s.lock))
            return False
        put.length = entry_length(e)
        put.codec = e.codec
        put.kind = e.kind
        put.flags = e.flags
        put.expires = e.expires
        put.segment = segment
        put.offset = offset
        put.disk_bytes = e.disk_bytes
        mutex_unlock(cython.address(s.lock))
        put.state = E_LARGE if put.flags & F_TABLE else E_SMALL
        if put.state == E_SMALL:
            joined: bytes = key + bytes(payload)
            while True:
                h = zs_malloc(c.pool, cython.cast(uint32_t, len(joined)))
                if h:
                    break
                self._room(len(joined))
            zs_write(c.pool, h, cython.cast(U8CP, PyBytes_AS_STRING(joined)),
                     cython.cast(uint32_t, len(joined)))
            put.body = h
            charge(c, HANDLE_BYTES, True)
        else:
            chunks = cython.cast(uint32_t, max((put.length + CHUNK_BYTES - 1) // CHUNK_BYTES, 1))
            while True:
                b = body_make(c, kp, cython.cast(uint32_t, len(key)), put.length, chunks)
                if b != cython.NULL:
                    break
                self._room(400 * cython.cast(uint64_t, chunks) + 256)
            try:
                memcpy(b.table, p, 4 * cython.cast(uint64_t, chunks))
                at = 4 * cython.cast(uint64_t, chunks)
                for j in range(chunks):
                    size = b.table[j] & ~RAW
                    done = 0
                    while not body_append(c, b, p + at, size, cython.address(done)):
                        self._room(PIECES_BYTES)
                    at += size
                body_finish(c, b)
            except BaseException:
                body_free(c, b)
                raise
            put.body = cython.cast(uint64_t, b)
        mutex_lock(cython.address(s.lock))
        i = table_find(c, s, cython.address(k))
        if i:
            e = entry_at(s, i)
        if i == 0 or e.state != E_DISK or e.segment != segment or e.offset != offset:
            i = 0
            if put.state == E_SMALL:
                zs_free(c.pool, put.body)
                uncharge(c, HANDLE_BYTES)
            else:
                body_free(c, cython.cast(BodyP, put.body))
        else:
            queue_drop(c, s, i)
            if not keep_place:
                if put.flags & F_PLACE:
                    place_drop(c, s, e, EV_PLACE)
                put.flags = 0
            elif put.flags & F_ON_DISK:
                s.disk_bytes -= put.disk_bytes  # entry_fill counts it again
            a64_fetch_add_rlx(cython.address(c.users[put.codec]), 1)
            entry_empty(c, s, e)
            entry_fill(c, s, e, cython.address(k), cython.address(put))
            queue_push(c, s, i, Q_MAIN)
            e.use = 0
        mutex_unlock(cython.address(s.lock))
        return i != 0

    def _put_on_disk(self, key: bytes, place, kind, codec, table, length, ttl,
                     only_new: cython.bint = False):
        """An entry that lies on disk only: whether there was room for its key, and nothing to keep."""
        k: Key
        put: Put
        c: CacheP = self.c
        kp: U8CP = cython.cast(U8CP, PyBytes_AS_STRING(key))
        if not key_from(kp, len(key), cython.address(k)):
            return False
        memset(cython.address(put), 0, cython.sizeof(Put))
        put.state = E_DISK
        put.length = length
        put.kind = kind
        put.codec = codec
        put.flags = F_ON_DISK | (F_TABLE if table else 0)
        put.expires = ticks_of(c, ttl)
        put.only_new = only_new
        put.segment, put.offset, put.disk_bytes = place
        put.body = cython.cast(uint64_t, disk_key_new(c, kp, cython.cast(uint32_t, len(key))))
        if put.body == 0:
            return False
        a64_fetch_add_rlx(cython.address(c.users[put.codec]), 1)
        return self._link(cython.address(k), cython.address(put))

    def _moved(self, key: bytes, old, new):
        """The record of an entry lies elsewhere now: whether the entry was still at the old place."""
        k: Key
        s: ShardP
        i: uint32_t
        e: EntryP
        segment: uint32_t
        offset: uint32_t
        ok: cython.bint = False
        to_segment: uint32_t
        to_offset: uint32_t
        to_bytes: uint32_t
        more: uint64_t
        segment, offset, _ = old
        to_segment, to_offset, to_bytes = new
        if not key_from(cython.cast(U8CP, PyBytes_AS_STRING(key)), len(key), cython.address(k)):
            return False
        s = shard_of(self.c, k.hash)
        mutex_lock(cython.address(s.lock))
        try:
            i = table_find(self.c, s, cython.address(k))
            if i:
                e = entry_at(s, i)
                if e.flags & F_PLACE and e.segment == segment and e.offset == offset:
                    e.segment = to_segment
                    e.offset = to_offset
                    # What was appended in parts is written as one, which is shorter.
                    more = cython.cast(uint64_t, to_bytes) - e.disk_bytes
                    s.disk_bytes += more
                    if e.queue == Q_DISK:
                        s.queues[Q_DISK].bytes += more
                    e.disk_bytes = to_bytes
                    ok = True
        finally:
            mutex_unlock(cython.address(s.lock))
        return ok

    def _describe(self, key: bytes):
        """(state, kind, codec, table, length, place) of a key's bytes, or None."""
        k: Key
        s: ShardP
        i: uint32_t
        e: Entry
        if not key_from(cython.cast(U8CP, PyBytes_AS_STRING(key)), len(key), cython.address(k)):
            return None
        s = shard_of(self.c, k.hash)
        mutex_lock(cython.address(s.lock))
        i = table_find(self.c, s, cython.address(k))
        if i:
            e = entry_at(s, i)[0]
        mutex_unlock(cython.address(s.lock))
        if i == 0:
            return None
        return (e.state, e.kind, e.codec, bool(e.flags & F_TABLE), e.length,
                (e.segment, e.offset, e.disk_bytes) if e.flags & F_ON_DISK else None)
