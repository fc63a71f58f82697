"""`Spill`: how values leave for the disk tier: victims out, places in.

The way to disk, as the kernel's writeback does it: the victim leaves its queue, its bytes are copied,
the lock is dropped, the log writes, the lock is taken, and only if the entry still holds the same
value is its memory given up. It can be found and read all the time.

Guarantees: a value is in at least one place at every moment until it is evicted. The place of an entry
that has one is that of the newest record of its key.
Assumes: between `_victims` or `_dirty` and `_commit` or `_abort` no other such pair, and no deletion.
Locks: as core.py; one shard lock at a time. While a shard lock is held, nothing is made that Python's
garbage collector tracks: a collection may run any code, give the GIL to a thread that waits for the
lock, and never get it back. Bytes, numbers and a longer list are safe.
"""

import cython
from cython.cimports.coldmem.cache.body import (
    body_free,
    body_gather,
    disk_key_new,
    entry_empty,
    entry_key,
    entry_length,
    entry_stored,
    entry_weight,
    place_drop,
)
from cython.cimports.coldmem.cache.keys import key_from
from cython.cimports.coldmem.cache.queues import (
    queue_drop,
    queue_push,
    queue_push_oldest,
    queue_victim,
)
from cython.cimports.coldmem.cache.room import (
    now_tick,
)
from cython.cimports.coldmem.cache.state import (
    E_DISK,
    E_FREE,
    E_LARGE,
    E_SMALL,
    EV_DISK,
    EV_PLACE,
    F_OLD_PLACE,
    F_ON_DISK,
    F_PLACE,
    F_TABLE,
    Q_DISK,
    Q_MAIN,
    Q_NONE,
    U8CP,
    U8P,
    BodyP,
    CacheP,
    DiskKeyP,
    EntryP,
    Key,
    ShardP,
    entry_at,
)
from cython.cimports.coldmem.cache.table import entry_forget, table_find
from cython.cimports.coldmem.linux.atomic import a32_load_rlx, a64_fetch_add_rlx
from cython.cimports.coldmem.linux.lock import mutex_lock, mutex_unlock
from cython.cimports.coldmem.zsmalloc.core import (
    zs_read_begin,
    zs_read_end,
)
from cython.cimports.cpython.bytes import PyBytes_AS_STRING, PyBytes_FromStringAndSize
from cython.cimports.libc.stdint import int32_t, uint32_t, uint64_t
from cython.cimports.libc.string import memcpy

PIECES_BYTES = cython.declare(uint64_t, 65536)
RAW = cython.declare(uint32_t, 0x80000000)
HANDLE_BYTES = cython.declare(uint64_t, 16)


class Spill(Engine):
    """See `coldmem.Cache`."""

    # -- to disk -----------------------------------------------------------------------------------
    def _victims(self, nbytes):
        """Take what should leave RAM next, about nbytes: a list for `_commit`, bytes. Not queued now.

        Each is (shard, entry, body, key, (kind, codec, table, length, seconds left), parts of payload).
        """
        c: CacheP = self.c
        n: uint32_t
        i: uint32_t
        tries: uint32_t = 0
        s: ShardP
        got: uint64_t = 0
        want: uint64_t = nbytes
        picked: Picked
        out = []
        while got < want and tries <= c.shards_mask:
            n = self._next_shard()
            s = c.shards + n
            tries += 1
            picked.count = 0
            try:
                keys: list = []
                payloads: list = []
                mutex_lock(cython.address(s.lock))
                try:
                    while got < want and picked.count < PICKED_MAX:
                        i = queue_victim(c, s)
                        if i == 0:
                            break
                        tries = 0
                        got += entry_weight(c, entry_at(s, i))
                        if entry_at(s, i).flags & F_ON_DISK:
                            to_disk(c, s, i)  # a copy is there already
                            continue
                        try:
                            self._pick(s, i, cython.address(picked), keys, payloads)
                        except BaseException:
                            queue_push_oldest(c, s, i, Q_MAIN)
                            raise
                finally:
                    mutex_unlock(cython.address(s.lock))
                self._rows(n, cython.address(picked), keys, payloads, out)
            except BaseException:
                self._unpick(s, cython.address(picked))
                self._abort(out, False)  # those of other shards
                raise
        return out, got

    def _next_shard(self):
        return a64_fetch_add_rlx(cython.address(self.c.cursor), 1) & self.c.shards_mask

    def _pick(self, s, i, picked, keys, payloads):
        """Note an entry and copy what may change, with the lock held: see the module on that."""
        c: CacheP = self.c
        e: EntryP = entry_at(s, i)
        token: uint64_t
        error: int32_t
        p: U8CP
        n: uint64_t = entry_stored(c, e)
        keys.append(entry_key(c, e))
        if e.state == E_SMALL:
            data = PyBytes_FromStringAndSize(cython.NULL, n)
            p = zs_read_begin(c.pool, e.body, cython.address(token), cython.address(error))
            memcpy(PyBytes_AS_STRING(data), p + e.key_bytes, n)
            zs_read_end(c.pool, e.body, token)
            payloads.append(data)
        else:
            payloads.append(None)
            # Held until `_commit`: it can be read without the lock, and no other gets its address.
            cython.cast(BodyP, e.body).pins += 1
        picked.entries[picked.count] = e[0]
        picked.numbers[picked.count] = i
        picked.count += 1
        return 0

    def _rows(self, number, picked, keys, payloads, out):
        """Append what was picked to `out`, as `_victims` says. Without the lock."""
        k: uint32_t
        e: EntryP
        tick: uint32_t = now_tick(self.c)
        rows = []
        for k in range(picked.count):
            e = cython.address(picked.entries[k])
            left = (max(e.expires, tick) - tick) / 100.0 if e.expires else None
            rows.append((number, picked.numbers[k], e.body, keys[k],
                         (e.kind, e.codec, e.state == E_LARGE, e.length, left), [payloads[k]]))
        for k in range(picked.count):
            if picked.entries[k].state == E_LARGE:
                rows[k][5][0] = self._payload(cython.cast(BodyP, picked.entries[k].body))
        out.extend(rows)
        return 0

    def _unpick(self, s, picked):
        """There was no memory for the rows: as `_abort`."""
        k: uint32_t
        mutex_lock(cython.address(s.lock))
        for k in range(picked.count):
            self._give_back(s, picked.numbers[k], picked.entries[k].body, False)
            if picked.entries[k].state == E_LARGE:
                self._unpin(s, picked.entries[k].body)
        mutex_unlock(cython.address(s.lock))
        return 0

    def _give_back(self, s, i, body, newest):
        """What has left its queue goes back to one end of it, if it is still there."""
        e: EntryP = entry_at(s, i)
        if e.state != E_FREE and e.body == body and e.queue == Q_NONE:
            if newest:
                queue_push(self.c, s, i, Q_MAIN)
            else:
                queue_push_oldest(self.c, s, i, Q_MAIN)
        return 0

    def _payload(self, b):
        """Bytes of a value in pieces as they go to disk: the table, then the chunks."""
        c: CacheP = self.c
        at: uint64_t = 4 * cython.cast(uint64_t, b.chunks)
        k: uint32_t
        piece: uint32_t = 0
        out: U8P
        data = PyBytes_FromStringAndSize(cython.NULL, at + b.stored)
        out = cython.cast(U8P, PyBytes_AS_STRING(data))
        with cython.nogil:
            memcpy(out, b.table, at)
            for k in range(b.chunks):
                body_gather(c, b, k, cython.address(piece), out + at)
                at += b.table[k] & ~RAW
        return data

    def _commit(self, rows, places, leave: cython.bint):
        """The values of `rows` lie at these places now, (segment, offset, nbytes); with `leave`, only
        there. The places that nobody needs.

        What was set meanwhile keeps the place, as that of an older value: it is the newest record of
        its key, so another that lay on disk before would not count after a crash.
        """
        c: CacheP = self.c
        k: Key
        s: ShardP
        n: uint32_t
        i: uint32_t
        e: EntryP
        body: uint64_t
        key: bytes
        segment: uint32_t
        offset: uint32_t
        size: uint32_t
        large: cython.bint
        lost = []
        for (number, entry, what, name, meta, _), place in zip(rows, places, strict=True):
            n = number
            i = entry
            body = what
            key = name
            segment, offset, size = place
            large = meta[2]
            s = c.shards + n
            key_from(cython.cast(U8CP, PyBytes_AS_STRING(key)), len(key), cython.address(k))
            mutex_lock(cython.address(s.lock))
            try:
                e = entry_at(s, i)
                if (e.state == E_SMALL or e.state == E_LARGE) and e.body == body:
                    self._place(s, e, segment, offset, size,
                                F_ON_DISK | (F_TABLE if e.state == E_LARGE else 0))
                    if leave and not to_disk(c, s, i):
                        queue_push_oldest(c, s, i, Q_MAIN)
                else:
                    i = table_find(c, s, cython.address(k))
                    if i:
                        e = entry_at(s, i)
                    if (i == 0 or e.state == E_DISK or e.flags & F_ON_DISK
                            or a32_load_rlx(cython.address(c.keep_places)) == 0):
                        lost.append(place)
                    else:
                        self._place(s, e, segment, offset, size, F_OLD_PLACE)
                if large:
                    self._unpin(s, body)
            finally:
                mutex_unlock(cython.address(s.lock))
        return lost

    def _place(self, s, e, segment, offset, size, flags):
        """A newer record of e than what is on disk lies here: that is not needed any more."""
        if e.flags & F_PLACE:
            place_drop(self.c, s, e, EV_PLACE)
        e.segment = segment
        e.offset = offset
        e.disk_bytes = size
        e.flags |= flags
        s.disk_bytes += size
        return 0

    def _unpin(self, s, body):
        b: BodyP = cython.cast(BodyP, body)
        b.pins -= 1
        if b.dead and b.pins == 0:
            body_free(self.c, b)
        return 0

    def _abort(self, rows, newest: cython.bint):
        """They could not be written."""
        c: CacheP = self.c
        s: ShardP
        n: uint32_t
        i: uint32_t
        body: uint64_t
        for number, entry, what, _, meta, _ in rows:
            n = number
            i = entry
            body = what
            s = c.shards + n
            mutex_lock(cython.address(s.lock))
            self._give_back(s, i, body, newest)
            if meta[2]:
                self._unpin(s, body)
            mutex_unlock(cython.address(s.lock))

    def _dirty(self, shard, start):
        """Copies of what is not on disk yet, of entries start.. of a shard: (next start or 0, list)."""
        n: uint32_t = shard
        i: uint32_t = max(start, 1)
        c: CacheP = self.c
        s: ShardP = c.shards + n
        end: uint32_t
        e: EntryP
        got: uint64_t = 0
        picked: Picked
        out = []
        keys: list = []
        payloads: list = []
        picked.count = 0
        try:
            mutex_lock(cython.address(s.lock))
            try:
                end = min(s.end, i + 256)
                while i < end and got < 1 << 20 and picked.count < PICKED_MAX:
                    e = entry_at(s, i)
                    if (e.state == E_SMALL or e.state == E_LARGE) and not e.flags & F_ON_DISK:
                        self._pick(s, i, cython.address(picked), keys, payloads)
                        got += entry_weight(c, e)
                    i += 1
                if i >= s.end:
                    i = 0
            finally:
                mutex_unlock(cython.address(s.lock))
            self._rows(n, cython.address(picked), keys, payloads, out)
        except BaseException:
            self._unpick(s, cython.address(picked))
            raise
        return i, out

    def _drop_oldest_on_disk(self, nbytes):
        """Evict what lies on disk and was used longest ago: bytes on disk."""
        c: CacheP = self.c
        n: uint32_t
        i: uint32_t
        tries: uint32_t = 0
        s: ShardP
        got: uint64_t = 0
        want: uint64_t = nbytes
        while got < want and tries <= c.shards_mask:
            n = self._next_shard()
            s = c.shards + n
            tries += 1
            mutex_lock(cython.address(s.lock))
            i = s.queues[Q_DISK].oldest
            if i:
                tries = 0
                got += entry_at(s, i).disk_bytes
                queue_drop(c, s, i)
                s.evictions += 1
                entry_forget(c, s, i, EV_DISK)
            mutex_unlock(cython.address(s.lock))
        return got


def to_disk(c, s, i):
    e: EntryP = entry_at(s, i)
    token: uint64_t
    error: int32_t
    p: U8CP
    old: BodyP
    d: DiskKeyP
    length: uint64_t = entry_length(e)
    if e.state == E_SMALL:
        p = zs_read_begin(c.pool, e.body, cython.address(token), cython.address(error))
        d = disk_key_new(c, p, e.key_bytes)
        zs_read_end(c.pool, e.body, token)
    else:
        old = cython.cast(BodyP, e.body)
        d = disk_key_new(c, old.key, old.key_bytes)
    if d == cython.NULL:
        return False
    entry_empty(c, s, e)
    # The entry lives on: what entry_empty took away of these.
    s.original_bytes += length
    a64_fetch_add_rlx(cython.address(c.users[e.codec]), 1)
    e.state = E_DISK
    e.body = cython.cast(uint64_t, d)
    e.use = 0
    queue_push(c, s, i, Q_DISK)
    return True
