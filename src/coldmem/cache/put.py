"""`Writer`: how a value is stored.

Guarantees: what is overwritten is there until the new value is in; after an error it still is. The GIL
is released while more than 8 KiB are compressed.
Locks: as core.py.
"""

import cython
from cython.cimports.coldmem.cache.account import charge, uncharge
from cython.cimports.coldmem.cache.body import (
    body_append,
    body_finish,
    body_free,
    body_new,
    disk_key_free,
    entry_empty,
    entry_stored,
    place_drop,
)
from cython.cimports.coldmem.cache.context import chunk_compress, context_get, context_put
from cython.cimports.coldmem.cache.keys import KEY_OTHER
from cython.cimports.coldmem.cache.queues import queue_drop, queue_new, queue_push
from cython.cimports.coldmem.cache.room import now_tick, room_make, shard_of, ticks_of
from cython.cimports.coldmem.cache.state import (
    CHUNK_BYTES,
    CODEC_RAW,
    E_DISK,
    E_LARGE,
    E_SMALL,
    EV_PLACE,
    F_OLD_PLACE,
    F_PLACE,
    KEY_ROOM,
    PIECE_BYTES,
    Q_DISK,
    Q_MAIN,
    Q_NONE,
    U8CP,
    U8P,
    Body,
    BodyP,
    CacheP,
    ContextP,
    DiskKeyP,
    EntryP,
    Key,
    ShardP,
    entry_at,
)
from cython.cimports.coldmem.cache.table import (
    table_add,
    table_find,
    table_room,
)
from cython.cimports.coldmem.linux.atomic import (
    a32_load_rlx,
    a64_fetch_add_rlx,
    a64_load_rlx,
)
from cython.cimports.coldmem.linux.lock import mutex_lock, mutex_unlock
from cython.cimports.coldmem.zsmalloc.core import (
    zs_free,
    zs_malloc,
    zs_write,
)
from cython.cimports.cpython.buffer import PyBUF_SIMPLE, PyBuffer_Release, PyObject_GetBuffer
from cython.cimports.cpython.bytes import (
    PyBytes_AS_STRING,
    PyBytes_FromStringAndSize,
    PyBytes_GET_SIZE,
)
from cython.cimports.libc.stdint import int32_t, uint8_t, uint32_t, uint64_t
from cython.cimports.libc.stdlib import calloc, free
from cython.cimports.libc.string import memcpy, memset

from coldmem.errors import CodecError, InvalidSizeError, MemoryLimitError
from coldmem.units import format_bytes

GIL_BYTES = cython.declare(uint32_t, 8192)  # up to here the GIL is kept
RAW = cython.declare(uint32_t, 0x80000000)
HANDLE_BYTES = cython.declare(uint64_t, 16)
LENGTH_MAX = cython.declare(uint64_t, 0xFFFF0000)


def source_take(src, n, gather):
    """The next n bytes: in place where they lie in one part, else gathered."""
    view: ViewP
    here: uint64_t
    done: uint32_t = 0
    p: U8CP
    while True:
        view = src.views + src.at
        here = view.len - src.offset
        if here == 0 and src.at + 1 < src.count:
            src.at += 1
            src.offset = 0
            continue
        p = cython.cast(U8CP, view.buf) + src.offset
        if done == 0 and here >= n:
            src.offset += n
            return p
        here = min(here, n - done)
        memcpy(gather + done, p, here)
        src.offset += here
        done += cython.cast(uint32_t, here)
        if done == n:
            return gather


def entry_fill(c, s, e, k, put):
    """The put's use of its codec becomes the entry's."""
    e.body = put.body
    e.state = put.state
    e.codec = put.codec
    e.kind = put.kind
    e.flags = put.flags
    e.expires = put.expires
    e.segment = put.segment
    e.offset = put.offset
    e.disk_bytes = put.disk_bytes
    e.length = cython.cast(uint32_t, put.length)
    e.key_bytes = k.n + 1 if put.state == E_SMALL else 0
    e.hot = 0
    s.original_bytes += put.length
    s.stored_bytes += entry_stored(c, e)
    if e.flags & F_PLACE:
        s.disk_bytes += e.disk_bytes


class Writer(Dropper):
    """See `coldmem.Cache`."""

    # -- writing -----------------------------------------------------------------------------------
    def _put(self, key, parts, kind: cython.int, ttl, only_new: cython.bint = False):
        """Store the bytes of `parts`, a list of buffers or one bytes object: whether that was done."""
        k: Key
        expires: uint32_t = ticks_of(self.c, ttl)
        stored: cython.bint
        total: uint64_t = 0
        keep = self._key(key, cython.address(k), True)
        try:
            stored = self._put_parts(
                cython.address(k), parts, kind, expires, only_new, cython.address(total))
        finally:
            if k.kind == KEY_OTHER:
                self._release(keep)
        if stored and self.chooser is not None:
            self.chooser.added(key, total)
        if a64_load_rlx(cython.address(self.c.events_bytes)):
            self._drain()
        return stored

    def _put_parts(self, k, parts, kind, expires, only_new, total):
        src: Source
        one: cython.Py_buffer
        n: uint32_t
        done: uint32_t = 0
        stored: cython.bint
        memset(cython.address(src), 0, cython.sizeof(Source))
        if type(parts) is bytes:
            memset(cython.address(one), 0, cython.sizeof(cython.Py_buffer))
            one.buf = PyBytes_AS_STRING(parts)
            one.len = PyBytes_GET_SIZE(parts)
            src.views = cython.address(one)
            src.count = 1
            src.total = one.len
            stored = self._store(k, cython.address(src), kind, expires, only_new)
        else:
            n = len(parts)
            src.views = cython.cast(ViewP, calloc(n + 1, cython.sizeof(cython.Py_buffer)))
            if src.views == cython.NULL:
                raise MemoryError("no memory to store a value")
            src.count = n
            try:
                for part in parts:
                    PyObject_GetBuffer(part, src.views + done, PyBUF_SIMPLE)
                    src.total += src.views[done].len
                    done += 1
                stored = self._store(k, cython.address(src), kind, expires, only_new)
            finally:
                for n in range(done):
                    PyBuffer_Release(src.views + n)
                free(src.views)
        total[0] = src.total
        return stored

    def _store(self, k, src, kind, expires, only_new):
        c: CacheP = self.c
        w: ContextP
        put: Put
        n: uint32_t = cython.cast(uint32_t, min(src.total, CHUNK_BYTES))
        number: uint32_t
        stored: int32_t
        raw: cython.bint
        hint: uint64_t
        size: uint32_t
        nbytes: uint64_t = 0
        now: uint32_t
        p: U8CP
        result: U8CP = cython.NULL
        packed = no_room = None
        if src.total > LENGTH_MAX:
            raise InvalidSizeError(
                f"a value of {src.total} bytes: a cache takes up to {LENGTH_MAX}; split it")
        memset(cython.address(put), 0, cython.sizeof(Put))
        put.length = src.total
        put.kind = kind
        put.expires = expires
        put.only_new = only_new
        number = self.small_codec if src.total <= self.small_max else self.large_codec
        # Values of one kind and about one size are taken to be alike; one of many chunks is like itself.
        hint = k.hash if src.total > 4 * CHUNK_BYTES else kind * 64 + _log2(src.total)
        w = context_get(c)
        if w == cython.NULL:
            raise MemoryError("no memory to store a value")
        try:
            p = w.gather
            if src.count and n:
                p = source_take(src, n, w.gather)
            if n <= GIL_BYTES:
                stored = chunk_compress(c, w, p, n, number, hint, cython.address(result))
            else:
                with cython.nogil:
                    stored = chunk_compress(c, w, p, n, number, hint, cython.address(result))
            if stored < 0:
                raise CodecError("the codec failed to compress a value")
            if self.sample_period and src.total <= self.small_max and n:
                self._sample(p, n, stored)
            raw = result == p
            size = k.n + 1 + stored
            if src.total <= CHUNK_BYTES and k.n < KEY_ROOM and size <= PIECE_BYTES:
                if raw:
                    memcpy(w.out, p, n)
                memcpy(w.out - k.n, k.data, k.n)
                (w.out - k.n - 1)[0] = k.kind
                put.state = E_SMALL
                put.codec = CODEC_RAW if raw else number
                while True:
                    put.body = zs_malloc(c.pool, size)
                    if put.body:
                        break
                    self._room(size)
                zs_write(c.pool, put.body, w.out - k.n - 1, size)
                charge(c, HANDLE_BYTES, True)
            else:
                try:
                    self._store_large(k, src, w, cython.address(put), number, result,
                                      cython.cast(uint32_t, stored) | (RAW if raw else 0))
                except MemoryLimitError as error:
                    if a32_load_rlx(cython.address(c.have_disk)) == 0:
                        raise
                    # Less than half may be left, too: keys take memory, and what others are storing.
                    no_room = None if put.too_large else error
                    put.codec = number
                    packed = self._packed(k, src, w, number, cython.address(nbytes))
            # Before the context is given back: without it or a user, the codec may go.
            a64_fetch_add_rlx(cython.address(c.users[put.codec]), 1)
        finally:
            context_put(c, w)
        if packed is not None:
            now = now_tick(c)
            key = bytes([k.kind]) + cython.cast(cython.p_char, k.data)[:k.n]
            try:
                return self._straight_to_disk(
                    key, memoryview(packed)[:nbytes], kind, number, src.total,
                    (max(expires, now + 1) - now) / 100.0 if expires else None, only_new)
            except MemoryLimitError:
                if no_room is None:
                    raise
                raise no_room from None  # which says what to do about both
            finally:
                a64_fetch_add_rlx(cython.address(c.users[number]), -1)
        return self._link(k, cython.address(put))

    def _packed(self, k, src, w, number, nbytes):
        """All of a value as it goes to disk: the table of its chunks, and these. How many bytes."""
        c: CacheP = self.c
        chunk: uint32_t
        n: uint32_t
        size: int32_t = 0
        word: uint32_t
        left: uint64_t = src.total
        p: U8CP
        result: U8CP = cython.NULL
        out: U8P
        chunks: uint32_t = cython.cast(uint32_t, max((left + CHUNK_BYTES - 1) // CHUNK_BYTES, 1))
        at: uint64_t = 4 * cython.cast(uint64_t, chunks)
        src.at = 0
        src.offset = 0
        # No codec makes a chunk larger. What is not written to takes no memory.
        data = PyBytes_FromStringAndSize(cython.NULL, at + left)
        out = cython.cast(U8P, PyBytes_AS_STRING(data))
        with cython.nogil:
            for chunk in range(chunks):
                n = cython.cast(uint32_t, min(left, CHUNK_BYTES))
                left -= n
                p = source_take(src, n, w.gather)
                size = chunk_compress(
                    c, w, p, n, number, k.hash + (chunk >> 4), cython.address(result))
                if size < 0:
                    break
                word = cython.cast(uint32_t, size) | (RAW if result == p else 0)
                memcpy(out + 4 * cython.cast(uint64_t, chunk), cython.address(word), 4)
                memcpy(out + at, result, size)
                at += size
        if size < 0:
            raise CodecError("the codec failed to compress a value")
        nbytes[0] = at
        return data

    def _sample(self, data, n, stored):
        self.learnt_original += n
        self.learnt_stored += stored
        self.sample_tick += 1
        if self.sample_tick >= self.sample_period:
            original = self.learnt_original
            kept = self.learnt_stored
            self.sample_tick = 0
            self.learnt_original = self.learnt_stored = 0
            self._learn(cython.cast(cython.p_char, data)[:n], original, kept)
        return 0

    def _store_large(self, k, src, w, put, number, first, stored):
        c: CacheP = self.c
        b: BodyP
        chunk: uint32_t = 0
        done: uint32_t
        n: uint32_t
        size: int32_t
        left: uint64_t = src.total
        ok: cython.bint
        p: U8CP
        chunks: uint32_t = cython.cast(uint32_t, max((left + CHUNK_BYTES - 1) // CHUNK_BYTES, 1))
        while True:
            b = body_new(c, k, left, chunks)
            if b != cython.NULL:
                break
            put.too_large = 400 * cython.cast(uint64_t, chunks) > c.memory_max // 2
            if put.too_large:
                raise self._too_large(left)
            self._room(cython.sizeof(Body) + 400 * cython.cast(uint64_t, chunks) + k.n)
        try:
            while True:
                b.table[chunk] = stored
                n = cython.cast(uint32_t, min(left, CHUNK_BYTES))
                left -= n
                done = 0
                while True:
                    with cython.nogil:
                        ok = body_append(c, b, first, stored & ~RAW, cython.address(done))
                    if ok:
                        break
                    if b.stored > c.memory_max // 2:
                        put.too_large = True
                        raise self._too_large(src.total)
                    self._room(PIECE_BYTES * 16)
                chunk += 1
                if chunk == chunks:
                    break
                n = cython.cast(uint32_t, min(left, CHUNK_BYTES))
                with cython.nogil:
                    p = source_take(src, n, w.gather)
                    size = chunk_compress(
                        c, w, p, n, number, k.hash + (chunk >> 4), cython.address(first))
                if size < 0:
                    raise CodecError("the codec failed to compress a value")
                stored = cython.cast(uint32_t, size) | (RAW if first == p else 0)
            body_finish(c, b)
        except BaseException:
            body_free(c, b)
            raise
        put.state = E_LARGE
        put.codec = number
        put.body = cython.cast(uint64_t, b)
        return 0

    def _too_large(self, length):
        return MemoryLimitError(
            f"a value of {format_bytes(length)} takes more than half of "
            f"memory_max={format_bytes(self.c.memory_max)} once compressed: raise memory_max, split it, "
            "or give the cache a disk tier (disk_max=)")

    def _link(self, k, put):
        """Put it under its key, in place of what is there."""
        c: CacheP = self.c
        s: ShardP = shard_of(c, k.hash)
        i: uint32_t
        e: EntryP
        need: uint64_t
        queue: uint8_t = Q_NONE
        use: uint8_t = 0
        fresh: cython.bint = False
        while True:
            mutex_lock(cython.address(s.lock))
            i = table_find(c, s, k)
            if i:
                e = entry_at(s, i)
                if put.only_new and (e.expires == 0 or e.expires > now_tick(c)):
                    mutex_unlock(cython.address(s.lock))
                    self._free_put(put)
                    return 0
                break
            need = table_room(c, s)
            if need == 0:
                i = table_add(c, s, k.hash)
                fresh = True
                break
            mutex_unlock(cython.address(s.lock))
            try:
                self._room(need)
            except BaseException:
                self._free_put(put)
                raise
        e = entry_at(s, i)
        if not fresh:
            queue = e.queue
            use = e.use
            queue_drop(c, s, i)
            self._replace(s, e, put)
        entry_fill(c, s, e, k, put)
        s.sets += 1
        if put.state == E_DISK:
            queue_push(c, s, i, Q_DISK)
        elif fresh:
            queue_new(c, s, i, False)
        else:
            if queue in (Q_DISK, Q_NONE):
                queue = Q_MAIN
            queue_push(c, s, i, queue)
            e.use = min(use + 1, 3)
        mutex_unlock(cython.address(s.lock))
        return 1

    def _replace(self, s, e, put):
        """Empty an entry that is to be filled by put.

        What a flush has written stays on disk until the new value is there: a crash must not find
        neither.
        """
        keep: cython.bint = (e.flags & F_PLACE != 0 and put.state != E_DISK
                             and a32_load_rlx(cython.address(self.c.keep_places)) != 0)
        if e.flags & F_PLACE and not keep:
            place_drop(self.c, s, e, EV_PLACE)
        entry_empty(self.c, s, e)
        if keep:
            put.segment = e.segment
            put.offset = e.offset
            put.disk_bytes = e.disk_bytes
            put.flags |= F_OLD_PLACE
            s.disk_bytes -= e.disk_bytes  # entry_fill counts it again
        return 0

    def _free_put(self, put):
        a64_fetch_add_rlx(cython.address(self.c.users[put.codec]), -1)
        if put.state == E_SMALL:
            zs_free(self.c.pool, put.body)
            uncharge(self.c, HANDLE_BYTES)
        elif put.state == E_DISK:
            disk_key_free(self.c, cython.cast(DiskKeyP, put.body))
        else:
            body_free(self.c, cython.cast(BodyP, put.body))
        return 0

    def _room(self, need):
        c: CacheP = self.c
        ok: cython.bint
        if a32_load_rlx(cython.address(c.have_disk)) or a32_load_rlx(cython.address(c.lossless)):
            self._make_room(need)  # the disk tier, a policy of the user's own, or an error
            return 0
        with cython.nogil:
            ok = room_make(c, need)
        if not ok:
            raise MemoryLimitError(
                f"no room for a value within memory_max={format_bytes(c.memory_max)}, even if all else "
                "is evicted: raise memory_max, or set smaller values"
            )
        return 0


@cython.cfunc
@cython.nogil
@cython.inline
@cython.exceptval(check=False)
def _log2(n: uint64_t) -> uint32_t:
    bits: uint32_t = 0
    while n > 1:
        n >>= 1
        bits += 1
    return bits


