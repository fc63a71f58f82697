"""`Dropper`: how an entry is forgotten, and only the one that was meant.

Guarantees: of several that drop one entry, one is told that it did.
Locks: as core.py.
"""

import cython
from cython.cimports.coldmem.cache.queues import queue_drop
from cython.cimports.coldmem.cache.room import now_tick, shard_of
from cython.cimports.coldmem.cache.state import (
    EV_EXPIRED,
    EV_REMOVED,
    CacheP,
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
    a64_load_rlx,
)
from cython.cimports.coldmem.linux.lock import mutex_lock, mutex_unlock
from cython.cimports.libc.stdint import uint32_t, uint64_t


@cython.cclass
class Dropper(Core):
    """See `coldmem.Cache`."""

    def _drop(self, key):
        """Forget a key: whether it was there."""
        k: Key
        found: cython.bint
        keep = self._key(key, cython.address(k), False)
        if keep is None:
            return False
        found = self._forget(cython.address(k))
        if found and self.chooser is not None:
            self.chooser.removed(key)
        if a64_load_rlx(cython.address(self.c.events_bytes)):
            self._drain()
        return found

    def _identity(self, key):
        """What changes whenever the value of `key` does; None: there is none."""
        k: Key
        s: ShardP
        i: uint32_t
        e: EntryP
        body: uint64_t = 0
        segment: uint32_t = 0
        offset: uint32_t = 0
        found: cython.bint = False
        keep = self._key(key, cython.address(k), False)
        if keep is None:
            return None
        s = shard_of(self.c, k.hash)
        mutex_lock(cython.address(s.lock))
        i = table_find(self.c, s, cython.address(k))
        if i:
            e = entry_at(s, i)
            if e.expires == 0 or e.expires > now_tick(self.c):
                found = True
                body = e.body
                segment = e.segment
                offset = e.offset
        mutex_unlock(cython.address(s.lock))  # no tuple before: see spill.py
        return (body, segment, offset) if found else None

    def _drop_if(self, key, identity):
        """Forget a key if its value is still that one: whether it was."""
        k: Key
        s: ShardP
        i: uint32_t
        body: uint64_t
        segment: uint32_t
        offset: uint32_t
        e: EntryP
        found: cython.bint = False
        body, segment, offset = identity
        keep = self._key(key, cython.address(k), False)
        if keep is None:
            return False
        s = shard_of(self.c, k.hash)
        mutex_lock(cython.address(s.lock))
        i = table_find(self.c, s, cython.address(k))
        if i:
            e = entry_at(s, i)
            if e.body == body and e.segment == segment and e.offset == offset:
                queue_drop(self.c, s, i)
                s.deletes += 1
                entry_forget(self.c, s, i, EV_REMOVED)
                found = True
        mutex_unlock(cython.address(s.lock))
        if found and self.chooser is not None:
            self.chooser.removed(key)
        if a64_load_rlx(cython.address(self.c.events_bytes)):
            self._drain()
        return found

    def _forget(self, k):
        c: CacheP = self.c
        s: ShardP = shard_of(c, k.hash)
        i: uint32_t
        e: EntryP
        found: cython.bint = False
        mutex_lock(cython.address(s.lock))
        i = table_find(c, s, k)
        if i:
            e = entry_at(s, i)
            found = e.expires == 0 or e.expires > now_tick(c)
            queue_drop(c, s, i)
            if found:
                s.deletes += 1
                entry_forget(c, s, i, EV_REMOVED)
            else:
                s.expirations += 1
                entry_forget(c, s, i, EV_EXPIRED)
        mutex_unlock(cython.address(s.lock))
        return found
