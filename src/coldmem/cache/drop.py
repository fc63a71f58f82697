"""`Dropper`: how an entry is forgotten, and only the one that was meant.

Guarantees: of several that drop one entry, one is told that it did.
Locks: as core.py.
"""

import cython
from cython.cimports.coldmem.cache.queues import queue_drop
from cython.cimports.coldmem.cache.room import now_tick, shard_of
from cython.cimports.coldmem.cache.state import (
    E_LARGE,
    EV_EXPIRED,
    EV_REMOVED,
    BodyP,
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
from cython.cimports.coldmem.linux.lock import mutex_lock, mutex_unlock
from cython.cimports.libc.stdint import uint32_t


@cython.cclass
class Dropper(Core):
    """See `coldmem.Cache`."""

    def _drop(self, key, identity=None):
        """Forget a key, if its value is still that one: whether it was there. `_drain` is to follow."""
        k: Key
        only: Identity
        found: cython.bint
        keep = self._key(key, cython.address(k), False)
        if keep is None:
            return False
        if identity is None:
            found = self._forget(cython.address(k), cython.NULL)
        else:
            only.body, only.segment, only.offset = identity
            found = self._forget(cython.address(k), cython.address(only))
        if found and self.chooser is not None:
            self.chooser.removed(key)
        return found

    def _identity(self, key):
        """What changes whenever the value of `key` does; None: there is none."""
        k: Key
        s: ShardP
        i: uint32_t
        e: EntryP
        is_: Identity
        found: cython.bint = False
        keep = self._key(key, cython.address(k), False)
        if keep is None:
            return None
        s = shard_of(self.c, k.hash)
        mutex_lock(cython.address(s.lock))
        i = table_find(self.c, s, cython.address(k))
        if i:
            e = entry_at(s, i)
            found = e.expires == 0 or e.expires > now_tick(self.c)
            is_ = _identity_of(e)
        mutex_unlock(cython.address(s.lock))  # no tuple before: see spill.py
        return (is_.body, is_.segment, is_.offset) if found else None

    def _forget(self, k, only):
        c: CacheP = self.c
        s: ShardP = shard_of(c, k.hash)
        i: uint32_t
        e: EntryP
        now: Identity
        found: cython.bint = False
        mutex_lock(cython.address(s.lock))
        i = table_find(c, s, k)
        if i and only != cython.NULL:
            now = _identity_of(entry_at(s, i))
            if now.body != only.body or now.segment != only.segment or now.offset != only.offset:
                i = 0
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


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def _identity_of(e: EntryP) -> Identity:
    out: Identity
    # Handles of the pool are never the same again; the address of what was malloced is.
    out.body = cython.cast(BodyP, e.body).serial if e.state == E_LARGE else e.body
    out.segment = e.segment
    out.offset = e.offset
    return out
