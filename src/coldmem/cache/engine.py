"""`Engine`: a cache's engine made and closed; its codecs, walks over its keys, what has gone,
statistics.

Locks: as core.py.
"""

import cython
from cython.cimports.coldmem.cache.account import charge, uncharge, used_bytes
from cython.cimports.coldmem.cache.body import entry_key
from cython.cimports.coldmem.cache.check import cache_check
from cython.cimports.coldmem.cache.context import context_get, context_put, contexts_destroy
from cython.cimports.coldmem.cache.core import Other
from cython.cimports.coldmem.cache.hot import hot_destroy
from cython.cimports.coldmem.cache.keys import KEY_OTHER, key_object
from cython.cimports.coldmem.cache.reencode import reencode_some
from cython.cimports.coldmem.cache.room import (
    clear_shard,
    expire_some,
    now_tick,
    room_compact,
    room_make,
    shard_of,
)
from cython.cimports.coldmem.cache.state import (
    CODECS_MAX,
    E_DISK,
    E_FREE,
    E_LARGE,
    EV_DISK,
    EV_EXPIRED,
    EV_GONE,
    EV_MEMORY,
    EV_PLACE,
    EV_REMOVED,
    Q_DISK,
    U8CP,
    U64P,
    BodyP,
    CacheC,
    CacheP,
    ContextP,
    DiskKeyP,
    EntryP,
    Key,
    Shard,
    ShardP,
    entry_at,
)
from cython.cimports.coldmem.cache.table import (
    table_destroy,
    table_find,
    table_init,
)
from cython.cimports.coldmem.codecs.codec import Codec
from cython.cimports.coldmem.linux.atomic import (
    a32_store_rlx,
    a64_load_rlx,
    a64_store_rel,
    a64_store_rlx,
    now_ns,
)
from cython.cimports.coldmem.linux.lock import mutex_init, mutex_lock, mutex_unlock
from cython.cimports.coldmem.zsmalloc.core import zs_used_bytes
from cython.cimports.coldmem.zsmalloc.pool import Pool
from cython.cimports.cpython.bytes import PyBytes_AS_STRING, PyBytes_FromStringAndSize
from cython.cimports.libc.stdint import uint32_t, uint64_t
from cython.cimports.libc.stdlib import calloc, free
from cython.cimports.libc.string import memcpy

from coldmem.cache.core import MISSING
from coldmem.errors import CorruptPoolError, UsageError

POLICIES = ("s3fifo", "lru", "external")
RAW = cython.declare(uint32_t, 0x80000000)
HANDLE_BYTES = cython.declare(uint64_t, 16)
CODEC_BYTES = cython.declare(uint64_t, 131072)  # as body.py counts
BASE_BYTES = cython.declare(uint64_t, 65536)  # the engine itself
REASONS = {EV_MEMORY: "memory", EV_DISK: "disk", EV_EXPIRED: "expired"}
COUNTERS = ("hits", "hits_hot", "hits_disk", "misses", "sets", "deletes", "evictions", "expirations")


@cython.no_gc_clear
@cython.cclass
class Engine(Writer):
    """See `coldmem.Cache`."""

    def __cinit__(self, *args, **kwargs):
        self.c = cython.cast(CacheP, calloc(1, cython.sizeof(CacheC)))
        if self.c == cython.NULL:
            raise MemoryError("no memory for a cache")

    def _start(self, memory_max, policy, shards, hot_share):
        c: CacheP = self.c
        n: uint32_t = shards
        i: uint32_t
        if c.shards != cython.NULL:
            raise UsageError("a cache cannot be initialised twice")
        self.pool = Pool(limit=memory_max, name="cache")
        self.codecs = (None,) * CODECS_MAX
        self.others = {}
        self.others_by_number = {}
        self.held = {}
        self.heard = []
        self.next_other = 1
        c.pool = self.pool.c
        c.memory_max = memory_max
        c.policy = POLICIES.index(policy)
        c.birth_ns = now_ns()
        mutex_init(cython.address(c.contexts_lock), False)
        mutex_init(cython.address(c.events_lock), False)
        c.shards = cython.cast(ShardP, calloc(n, cython.sizeof(Shard)))
        if c.shards == cython.NULL:
            raise MemoryError("no memory for the shards of a cache")
        c.shards_mask = n - 1
        c.hot_max = int(memory_max * hot_share) // n
        charge(c, BASE_BYTES + n * (c.hot_max + cython.sizeof(Shard)), True)
        for i in range(n):
            mutex_init(cython.address(c.shards[i].lock), False)
            c.shards[i].share = 102
            if table_init(c, c.shards + i) != 0:
                raise MemoryError("no memory for the index of a cache")

    def __dealloc__(self):
        c: CacheP = self.c
        i: uint32_t
        s: ShardP
        if c == cython.NULL:
            return
        if c.shards != cython.NULL:
            for i in range(c.shards_mask + 1):
                s = c.shards + i
                _free_bodies(s)
                hot_destroy(s)
                table_destroy(s)
            contexts_destroy(c)
        free(c.shards)
        free(c.events)
        free(c)

    def _set_chooser(self, chooser):
        self.chooser = chooser

    def _chooser(self):
        return self.chooser

    def _codec_at(self, number):
        return self.codecs[number]

    def _open_checked(self):
        self._open()

    def _abandon(self):
        """In a forked child, where nobody releases locks that others hold: closed from now on."""
        self.closed = True

    def _set_flags(self, have_disk, lossless, keep_places, want_events):
        a32_store_rlx(cython.address(self.c.have_disk), have_disk)
        a32_store_rlx(cython.address(self.c.lossless), lossless)
        a32_store_rlx(cython.address(self.c.keep_places), keep_places)
        a32_store_rlx(cython.address(self.c.want_events), want_events)

    def _close_engine(self):
        i: uint32_t
        self.closed = True
        a32_store_rlx(cython.address(self.c.want_events), 0)
        for i in range(self.c.shards_mask + 1):
            clear_shard(self.c, self.c.shards + i, EV_REMOVED)
        self.others.clear()
        self.others_by_number.clear()
        self.held.clear()

    def _charge(self, nbytes):
        """Count bytes that belong to the cache and lie elsewhere; negative to take them back."""
        n: uint64_t
        if nbytes >= 0:
            n = nbytes
            charge(self.c, n, True)
        else:
            n = -nbytes
            uncharge(self.c, n)

    # -- codecs ------------------------------------------------------------------------------------
    def _add_codec(self, codec, number=None):
        """Make a codec known under a number, the next free one by default; None: there is no room."""
        made: Codec = codec
        n: uint32_t
        if number is None:
            number = next((i for i in range(1, CODECS_MAX) if self.codecs[i] is None), None)
            if number is None:
                return None
        n = number
        self._keep_codec(n, codec)
        a64_store_rel(cython.cast(U64P, cython.address(self.c.codecs[n])),
                      cython.cast(uint64_t, cython.address(made.c)))
        return number

    def _retire_codec(self, number):
        """Forget a codec that no entry needs: whether that could be done. New values must not get it."""
        c: CacheP = self.c
        n: uint32_t = number
        idle: uint64_t = 0
        went: cython.bint = False
        w: ContextP
        if number in (self.small_codec, self.large_codec) or self.codecs[n] is None:
            return False
        mutex_lock(cython.address(c.contexts_lock))
        w = c.contexts
        while w != cython.NULL:
            idle += 1
            w = w.next
        # A context in use may be about to need it; what needs it in an entry is counted.
        if idle == c.contexts_made and a64_load_rlx(cython.address(c.users[n])) == 0:
            w = c.contexts
            while w != cython.NULL:
                if w.made[n] != cython.NULL:
                    c.codecs[n].context_free(w.made[n])
                    w.made[n] = cython.NULL
                    uncharge(c, CODEC_BYTES)
                w = w.next
            a64_store_rel(cython.cast(U64P, cython.address(c.codecs[n])), 0)
            went = True
        mutex_unlock(cython.address(c.contexts_lock))
        if went:
            self._keep_codec(n, None)
        return went

    def _keep_codec(self, number, codec):
        # By one thread at a time: who makes the cache, then who trains.
        self.codecs = (*self.codecs[:number], codec, *self.codecs[number + 1:])

    def _reencode(self, shard, start, number):
        """A step of a pass that gives small values the codec of this number: the next start, or 0."""
        at: uint32_t = start
        n: uint32_t = shard
        to: uint32_t = number
        changed: uint64_t = 0
        w: ContextP
        self._open()
        with cython.nogil:
            w = context_get(self.c)
            if w != cython.NULL:
                at = reencode_some(self.c, self.c.shards + n, max(at, 1), to, self.small_max, w,
                                   cython.address(changed))
                context_put(self.c, w)
            else:
                at = 0
        return at

    def _codec_users(self, number):
        """Entries that need the codec of this number."""
        n: uint32_t = number
        return a64_load_rlx(cython.address(self.c.users[n]))

    # -- walks -------------------------------------------------------------------------------------
    def _shards(self):
        return self.c.shards_mask + 1

    def _scan(self, shard, start):
        """Keys of some hundred entries of a shard from `start` on: (next start or 0, keys)."""
        n: uint32_t = shard
        i: uint32_t = start
        c: CacheP = self.c
        s: ShardP = c.shards + n
        end: uint32_t
        e: EntryP
        tick: uint32_t = now_tick(c)
        keys = []
        self._open()
        i = max(i, 1)
        mutex_lock(cython.address(s.lock))
        try:
            end = min(s.end, i + 256)
            while i < end:
                e = entry_at(s, i)
                i += 1
                if e.state != E_FREE and (e.expires == 0 or e.expires > tick):
                    keys.append(entry_key(c, e))
            if i >= s.end:
                i = 0
        finally:
            mutex_unlock(cython.address(s.lock))
        return i, keys

    def _key_of_bytes(self, data: bytes):
        """The key from its bytes; MISSING: one of the side table that has gone."""
        p: U8CP = cython.cast(U8CP, PyBytes_AS_STRING(data))
        if p[0] == KEY_OTHER:
            other: Other = self.others_by_number.get(key_object(p, len(data)))
            return MISSING if other is None else other.key
        return key_object(p, len(data))

    def _bytes_of_key(self, key):
        """The bytes of a key; None: it has a number of the side table only, and none yet."""
        k: Key
        keep = self._key(key, cython.address(k), False)
        if keep is None:
            return None
        return bytes([k.kind]) + cython.cast(cython.p_char, k.data)[:k.n]

    def _hold(self, key):
        """The bytes of a key, and what `_release` is to be told when something is stored under it."""
        k: Key
        keep = self._key(key, cython.address(k), True)
        data = bytes([k.kind]) + cython.cast(cython.p_char, k.data)[:k.n]
        return data, keep if k.kind == KEY_OTHER else None

    def expire(self):
        """Drop what is past its time to live; how many entries."""
        dropped: uint64_t = 0
        i: uint32_t
        at: uint32_t
        self._open()
        for i in range(self.c.shards_mask + 1):
            at = 1
            while at:
                at = expire_some(self.c, self.c.shards + i, at, cython.address(dropped))
        self._drain()
        return dropped

    def _clear(self):
        i: uint32_t
        self._open()
        for i in range(self.c.shards_mask + 1):
            clear_shard(self.c, self.c.shards + i, EV_REMOVED)
        self._settle()

    def remaining_ttl(self, key):
        """Seconds that `key` has left, None when it does not expire. KeyError when it is not there."""
        k: Key
        s: ShardP
        i: uint32_t
        expires: uint32_t = 0
        tick: uint32_t = now_tick(self.c)
        keep = self._key(key, cython.address(k), False)
        if keep is None:
            raise KeyError(key)
        s = shard_of(self.c, k.hash)
        mutex_lock(cython.address(s.lock))
        i = table_find(self.c, s, cython.address(k))
        if i:
            expires = entry_at(s, i).expires
        mutex_unlock(cython.address(s.lock))
        if i == 0 or (expires and expires <= tick):
            raise KeyError(key)
        return (expires - tick) / 100.0 if expires else None

    def _shift_clock(self, seconds):
        """For tests: time goes on by so much."""
        a64_store_rlx(cython.address(self.c.clock_shift), self.c.clock_shift + int(seconds * 100))

    # -- events ------------------------------------------------------------------------------------
    def _drain(self):
        """Hear what has gone, and tell `on_evict`, which may do anything: no lock may be held."""
        self._settle()
        heard, self.heard = self.heard, []
        heard.reverse()
        try:
            while heard:
                key, reason = heard.pop()
                self._evicted(key, reason)
        finally:
            if heard:  # it raised: the next call tells the rest
                heard.reverse()
                self.heard[:0] = heard

    def _settle(self):
        """Hear what has gone: free places on disk, forget numbers of keys; `_drain` is to follow."""
        c: CacheP = self.c
        data: bytes
        at: cython.Py_ssize_t = 0
        n: uint32_t
        words: uint32_t[3]
        p: U8CP
        places = []
        gone = []
        if a64_load_rlx(cython.address(c.events_bytes)) == 0:
            return
        mutex_lock(cython.address(c.events_lock))
        try:
            data = PyBytes_FromStringAndSize(cython.cast(cython.p_char, c.events), c.events_bytes)
            a64_store_rlx(cython.address(c.events_bytes), 0)
        finally:
            mutex_unlock(cython.address(c.events_lock))
        p = cython.cast(U8CP, PyBytes_AS_STRING(data))
        while at < len(data):
            event = p[at]
            memcpy(cython.address(n), p + at + 1, 4)
            at += 5
            if event == EV_PLACE or event == EV_GONE:
                memcpy(words, p + at, 12)
                (gone if event == EV_GONE else places).append((words[0], words[1], words[2]))
            else:
                key = self._key_of_bytes(data[at:at + n])
                if p[at] == KEY_OTHER and key is not MISSING:
                    self._forget_other(key_object(p + at, n))
                if key is not MISSING and event in REASONS:
                    self.heard.append((key, REASONS[event]))
            at += n
        if places or gone:
            self._free_places(places, gone)

    # -- room --------------------------------------------------------------------------------------
    def _evict_from_ram(self, need):
        """Evict about `need` bytes for good: whether anything went. `_drain` is to follow."""
        n: uint64_t = need
        ok: cython.bint
        with cython.nogil:
            ok = room_make(self.c, n)
        self._settle()
        return ok

    def _compact(self):
        got: uint64_t
        with cython.nogil:
            got = room_compact(self.c)
        return got

    def _used(self):
        return used_bytes(self.c)

    # -- statistics --------------------------------------------------------------------------------
    def _engine_stats(self):
        c: CacheP = self.c
        i: uint32_t
        s: ShardP
        now: Shard
        total = dict.fromkeys(COUNTERS, 0)
        hot = original = stored = disk = on_disk = 0
        for i in range(c.shards_mask + 1):
            s = c.shards + i
            mutex_lock(cython.address(s.lock))
            now = s[0]
            mutex_unlock(cython.address(s.lock))
            row = (now.hits, now.hits_hot, now.hits_disk, now.misses, now.sets, now.deletes,
                   now.evictions, now.expirations)
            hot += now.hot_bytes
            original += now.original_bytes
            stored += now.stored_bytes
            disk += now.disk_bytes
            on_disk += now.queues[Q_DISK].count
            for name, value in zip(COUNTERS, row, strict=True):
                total[name] += value
        entries = a64_load_rlx(cython.address(c.entries))
        reserved = c.hot_max * (c.shards_mask + 1)
        return {
            "entries": entries,
            "ram_entries": entries - on_disk,
            "disk_entries": on_disk,
            "memory_used_bytes": used_bytes(c) - reserved + hot,
            "memory_max_bytes": c.memory_max,
            "pool_bytes": zs_used_bytes(c.pool),
            "metadata_bytes": a64_load_rlx(cython.address(c.meta_bytes)) - reserved,
            "hot_bytes": hot,
            "original_bytes": original,
            "stored_bytes": stored,
            "disk_live_bytes": disk,
            **total,
        }

    def check_valid(self):
        """Look whether all structures agree.

        Raises
        ------
        CorruptPoolError
            They do not, which is a bug of coldmem; the message says what is wrong.
        """
        self._open()
        wrong = cache_check(self.c)
        if wrong is not None:
            raise CorruptPoolError(f"a cache contradicts itself: {wrong}")
        self.pool.check_valid("cheap")


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def _free_bodies(s: ShardP) -> cython.void:
    """The pool goes as a whole; what was malloced does not."""
    i: uint32_t
    e: EntryP
    b: BodyP
    for i in range(1, s.end):
        e = entry_at(s, i)
        if e.state == E_DISK:
            free(cython.cast(DiskKeyP, e.body))
        elif e.state == E_LARGE:
            b = cython.cast(BodyP, e.body)
            free(b.handles)
            free(b)
