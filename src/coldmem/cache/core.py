"""`Core`: a cache's keys, and how a value is read.

Owns: the C side (state.pxd, where the lock order stands), the pool, the codecs, and the side table of
keys that are not str, bytes or int.
Guarantees: a value is found whole or not at all. The GIL is released while more than 8 KiB are
decompressed; for less, letting it go and taking it again costs more than the work.
Locks: shard locks (see state.pxd); the GIL for the side table.
"""

import cython
from cython.cimports.coldmem.cache.account import charge, uncharge
from cython.cimports.coldmem.cache.body import (
    body_decode,
    body_free,
    entry_stored,
)
from cython.cimports.coldmem.cache.context import chunk_decompress, context_get, context_put
from cython.cimports.coldmem.cache.hot import hot_put
from cython.cimports.coldmem.cache.keys import KEY_OTHER, key_number, key_of
from cython.cimports.coldmem.cache.queues import queue_drop, queue_hit
from cython.cimports.coldmem.cache.room import now_tick, shard_of
from cython.cimports.coldmem.cache.space import value_room
from cython.cimports.coldmem.cache.state import (
    E_LARGE,
    E_SMALL,
    EV_EXPIRED,
    U8CP,
    BodyP,
    CacheP,
    ContextP,
    EntryP,
    Key,
    ShardP,
    entry_at,
)
from cython.cimports.coldmem.cache.table import (
    entry_forget,
    table_find,
)
from cython.cimports.coldmem.linux.atomic import (
    a32_store_rlx,
    a64_load_rlx,
)
from cython.cimports.coldmem.linux.lock import mutex_lock, mutex_unlock
from cython.cimports.coldmem.zsmalloc.core import (
    zs_read_begin,
    zs_read_end,
)
from cython.cimports.cpython.bytearray import PyByteArray_AS_STRING, PyByteArray_FromStringAndSize
from cython.cimports.cpython.bytes import (
    PyBytes_AS_STRING,
    PyBytes_FromStringAndSize,
)
from cython.cimports.libc.stdint import int32_t, uint8_t, uint32_t, uint64_t
from cython.cimports.libc.string import memcpy

from coldmem.errors import (
    ClosedError,
    CorruptDataError,
)

GIL_BYTES = cython.declare(uint32_t, 8192)  # up to here the GIL is kept
OTHER_BYTES = cython.declare(uint64_t, 300)  # two dicts' entries, a number, and about a key
HOT_PERIOD = cython.declare(uint64_t, 3)  # a fourth of the hits that could become hot copies do
DAMAGED = "a value in memory does not decompress: delete the key, and set it anew"
MISSING = object()
_INT64 = range(-(1 << 63), 1 << 63)


@cython.final
@cython.freelist(16)
@cython.cclass
class Other:
    """See core.pxd."""

    def __hash__(self):
        return self.hash

    def __eq__(self, other):
        they: Other = other
        return self.hash == they.hash and (self.key is they.key or self.key == they.key)


@cython.no_gc_clear
@cython.cclass
class Core:
    """See `coldmem.Cache`."""

    # -- keys --------------------------------------------------------------------------------------
    def _key(self, key, k, create):
        """Fill k; what must live as long as k does, None when a key of the side table is not known.

        With `create` such a key gets its number, which stays until `_release`.
        """
        if self.closed:
            raise ClosedError("this cache is closed")
        if key_of(key, k):
            return key
        other: Other = Other.__new__(Other)
        other.hash = hash(key)  # raises the TypeError that a reader expects
        other.key = key
        plain = _plain(key)
        if plain is not None and key_of(plain, k):
            return plain
        number = self.others.get(other)
        if number is None:
            if not create:
                return None
            number = self._number_of(other)
        if create:
            self.held[number] = self.held.get(number, 0) + 1
        key_number(k, KEY_OTHER, number)
        return number

    def _number_of(self, other):
        a32_store_rlx(cython.address(self.c.want_events), 1)  # its number goes when its entry goes
        number = self.next_other
        self.next_other += 1
        known = self.others.setdefault(other, number)  # its equal may have come while it was compared
        if known == number:
            self.others_by_number[number] = other
            charge(self.c, OTHER_BYTES, True)
        return known

    def _release(self, number):
        """What `_key` was to create a number for is stored, or was not. None: it has no number."""
        if number is None:
            return
        calls = self.held.get(number, 1) - 1
        if calls:
            self.held[number] = calls
        else:
            self.held.pop(number, None)
            self._forget_other(number)

    def _forget_other(self, number):
        """Give up a number, unless it has an entry or is about to. From here on nobody else's code runs:
        what is seen stays so."""
        k: Key
        s: ShardP
        there: cython.bint
        other = self.others_by_number.get(number)
        if other is None or number in self.held:
            return 0
        key_number(cython.address(k), KEY_OTHER, number)
        s = shard_of(self.c, k.hash)
        mutex_lock(cython.address(s.lock))
        there = table_find(self.c, s, cython.address(k)) != 0
        mutex_unlock(cython.address(s.lock))
        if not there:
            del self.others_by_number[number]
            del self.others[other]
            uncharge(self.c, OTHER_BYTES)
        return 0

    def _open(self):
        if self.closed:
            raise ClosedError("this cache is closed")
        return 0

    # -- reading -----------------------------------------------------------------------------------
    def __getitem__(self, key):
        k: Key
        value = MISSING
        keep = self._key(key, cython.address(k), False)
        if keep is not None:
            value = self._read(key, cython.address(k), True, False)
        else:
            self._missed()
        if value is MISSING:
            raise KeyError(key)
        if self.chooser is not None:
            self.chooser.hit(key)
        return value

    def get(self, key, default=None):
        """The value of `key`, or `default`."""
        k: Key
        value = MISSING
        keep = self._key(key, cython.address(k), False)
        if keep is not None:
            value = self._read(key, cython.address(k), True, False)
        else:
            self._missed()
        if value is MISSING:
            return default
        if self.chooser is not None:
            self.chooser.hit(key)
        return value

    def peek(self, key, default=None):
        """The value of `key`, or `default`. It is no use of the value: nothing is counted, no order
        changes, and what lies on disk stays there.
        """
        k: Key
        value = MISSING
        keep = self._key(key, cython.address(k), False)
        if keep is not None:
            value = self._read(key, cython.address(k), False, True)
        return default if value is MISSING else value

    def _missed(self):
        s: ShardP = self.c.shards
        mutex_lock(cython.address(s.lock))
        s.misses += 1
        mutex_unlock(cython.address(s.lock))

    def __contains__(self, key):
        k: Key
        s: ShardP
        i: uint32_t
        found: cython.bint = False
        e: EntryP
        keep = self._key(key, cython.address(k), False)
        if keep is None:
            return False
        s = shard_of(self.c, k.hash)
        mutex_lock(cython.address(s.lock))
        i = table_find(self.c, s, cython.address(k))
        if i:
            e = entry_at(s, i)
            found = e.expires == 0 or e.expires > now_tick(self.c)
        mutex_unlock(cython.address(s.lock))
        return found

    def __len__(self):
        self._open()
        return a64_load_rlx(cython.address(self.c.entries))

    def _read(self, key, k, count, stay):
        c: CacheP = self.c
        s: ShardP = shard_of(c, k.hash)
        i: uint32_t
        e: EntryP
        segment: uint32_t
        offset: uint32_t
        nbytes: uint32_t
        first: cython.bint = count
        while True:
            mutex_lock(cython.address(s.lock))
            i = table_find(c, s, k)
            if i:
                e = entry_at(s, i)
                if e.expires and e.expires <= now_tick(c):
                    queue_drop(c, s, i)
                    s.expirations += 1
                    entry_forget(c, s, i, EV_EXPIRED)
                    i = 0
            if i == 0:
                s.misses += first
                mutex_unlock(cython.address(s.lock))
                if a64_load_rlx(cython.address(c.events_bytes)):
                    self._drain()
                return MISSING
            if first:
                s.hits += 1
                queue_hit(c, s, i)
            if e.state == E_SMALL:
                return self._small(s, i, count)
            if e.state == E_LARGE:
                return self._large(s, i, count)
            s.hits_disk += first
            first = False  # once, also if the disk sends us round again
            segment = e.segment
            offset = e.offset
            nbytes = e.disk_bytes
            mutex_unlock(cython.address(s.lock))  # no tuple before: see spill.py
            value = self._from_disk(key, (segment, offset, nbytes), stay)
            if value is not MISSING:
                return value

    def _small(self, s, i, count):
        """The value of a small entry. Takes over the shard's lock."""
        c: CacheP = self.c
        e: EntryP = entry_at(s, i)
        kind: uint8_t = e.kind
        n: uint32_t = e.length
        codec: uint8_t = e.codec
        body: uint64_t = e.body
        stored: uint32_t
        token: uint64_t
        error: int32_t
        w: ContextP
        p: U8CP
        out: UCharP
        bad: cython.int = 0
        try:
            if kind == 0:
                data = PyBytes_FromStringAndSize(cython.NULL, n)
                out = cython.cast(UCharP, PyBytes_AS_STRING(data))
            else:
                data = PyByteArray_FromStringAndSize(cython.NULL, n)
                out = cython.cast(UCharP, PyByteArray_AS_STRING(data))
        except BaseException:
            mutex_unlock(cython.address(s.lock))
            raise
        if e.hot:
            memcpy(out, s.hot[e.hot - 1].data, n)
            if count:
                s.hot[e.hot - 1].used = 1
                s.hits_hot += 1
            mutex_unlock(cython.address(s.lock))
            return data if kind == 0 else self._finish(kind, data)
        w = context_get(c)
        if w == cython.NULL:
            mutex_unlock(cython.address(s.lock))
            raise MemoryError("no memory to decompress a value")
        stored = cython.cast(uint32_t, entry_stored(c, e))
        p = zs_read_begin(c.pool, body, cython.address(token), cython.address(error)) + e.key_bytes
        s.ticks += count
        if n <= GIL_BYTES:
            bad = chunk_decompress(c, w, p, stored, codec, out, n)
            zs_read_end(c.pool, body, token)
            if count and e.use > 1 and s.ticks & HOT_PERIOD == 0 and bad == 0:
                hot_put(c, s, i, out, n)
            mutex_unlock(cython.address(s.lock))
        else:
            memcpy(w.gather, p, stored)
            zs_read_end(c.pool, body, token)
            mutex_unlock(cython.address(s.lock))
            with cython.nogil:
                bad = chunk_decompress(c, w, w.gather, stored, codec, out, n)
                if bad == 0 and count:
                    mutex_lock(cython.address(s.lock))
                    e = entry_at(s, i)
                    if e.state == E_SMALL and e.body == body and e.hot == 0 and e.use > 1:
                        hot_put(c, s, i, out, n)
                    mutex_unlock(cython.address(s.lock))
        context_put(c, w)
        if bad:
            raise CorruptDataError(DAMAGED)
        return data if kind == 0 else self._finish(kind, data)

    def _large(self, s, i, count):
        """The value of an entry in pieces. Takes over the shard's lock."""
        c: CacheP = self.c
        e: EntryP = entry_at(s, i)
        kind: uint8_t = e.kind
        codec: uint8_t = e.codec
        b: BodyP = cython.cast(BodyP, e.body)
        w: ContextP
        out: cython.pointer(uint8_t) = cython.NULL
        bad: cython.int = 1  # until it is decompressed
        if e.hot:
            return self._small(s, i, count)
        b.pins += 1
        w = context_get(c)  # under the lock: see Engine._retire_codec
        mutex_unlock(cython.address(s.lock))
        try:
            if w == cython.NULL:
                raise MemoryError("no memory to decompress a value")
            try:
                data = value_room(kind, b.length, cython.address(out))
                with cython.nogil:
                    bad = body_decode(c, w, b, codec, out)
            finally:
                context_put(c, w)
        finally:
            mutex_lock(cython.address(s.lock))
            b.pins -= 1
            e = entry_at(s, i)
            if b.dead:
                if b.pins == 0:
                    body_free(c, b)
            elif (count and e.body == cython.cast(uint64_t, b) and e.hot == 0 and e.use > 1
                  and bad == 0):
                s.ticks += 1
                if b.length < c.hot_max:
                    hot_put(c, s, i, out, cython.cast(uint32_t, b.length))
            mutex_unlock(cython.address(s.lock))
        if bad:
            raise CorruptDataError(DAMAGED)
        return data if kind == 0 else self._finish(kind, data)

    def _finish(self, kind, data):
        return self._load_value(kind, data)


def _plain(key):
    """The str, bytes or int that `key` equals, if it is another type; None: there is none."""
    if isinstance(key, str):
        plain = str.__str__(key) if type(key) is not str else None
    elif isinstance(key, (bytes, memoryview)):
        plain = bytes(key) if type(key) is not bytes else None
    else:
        try:
            plain = int(key)
        except Exception:  # of complex numbers, say; they may equal the number that is their hash
            plain = hash(key)
            if plain == -2 and bool(key == -1):
                plain = -1
        if type(key) is int or plain not in _INT64:
            return None
    try:
        return plain if plain is not None and hash(plain) == hash(key) and bool(plain == key) else None
    except Exception:
        return None  # an odd __eq__: the key is itself
