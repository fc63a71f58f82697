"""The Zswap as a whole: made and closed, its groups, its codecs, its statistics.

Owns: the C side (state.pxd, where the lock order stands), the pools, the codecs in use, the shrinker
thread, and the swap file when it made it. zswap.py adds what is done to units.
Guarantees: use after `close` raises ClosedError, in whatever order threads close and call.
Locks: `lock` (Python) for codecs and groups; calls hold a context.
"""

import os
import sys
import threading

import cython
from cython.cimports.coldmem.codecs.codec import Codec
from cython.cimports.coldmem.linux.atomic import a32_load_acq, a32_store, a64_load_rlx
from cython.cimports.coldmem.linux.lock import mutex_lock, mutex_unlock
from cython.cimports.coldmem.zsmalloc.pool import Pool
from cython.cimports.coldmem.zswap.check import Finding, zswap_check
from cython.cimports.coldmem.zswap.construct import zswap_construct
from cython.cimports.coldmem.zswap.context import (
    context_get,
    context_put,
    contexts_drop_codec,
    contexts_resume,
    contexts_stop,
)
from cython.cimports.coldmem.zswap.counters import (
    codec_units,
    group_stats,
    shard_lock_counts,
    zswap_counters,
    zswap_stats,
)
from cython.cimports.coldmem.zswap.create import zswap_close, zswap_free, zswap_new
from cython.cimports.coldmem.zswap.group import group_make, group_remove
from cython.cimports.coldmem.zswap.groups import Group
from cython.cimports.coldmem.zswap.reclaim import (
    Reclaimed,
    reclaim_compact,
    shrink_bytes,
    shrink_count,
)
from cython.cimports.coldmem.zswap.shrinker import shrinker_loop
from cython.cimports.coldmem.zswap.state import (
    CODECS_MAX,
    GROUP_ROOT,
    SHRINKER_IDLE,
    WorkContextP,
    ZswapP,
)
from cython.cimports.libc.stdint import uint32_t, uint64_t

from coldmem.codecs import get_codec
from coldmem.errors import ClosedError, CorruptPoolError, UsageError
from coldmem.units import parse_bytes
from coldmem.zsmalloc.shrinker import Shrinker
from coldmem.zsmalloc.stats import LockStats

COLD_ID = 2  # of cold_codec, among the codecs


class ZswapBase:
    """See `coldmem.zswap.Zswap`."""

    def __cinit__(self, *args, **kwargs):
        self.c = zswap_new()
        if self.c == cython.NULL:
            raise MemoryError("no memory for a Zswap")

    def __init__(self, *, unit_bytes=4096, max_pool="20%", accept_threshold=0.9, codec="lz4",
                 cold_codec=None, swap=None, swap_directory=None, on_full="writeback",
                 shrinker="referenced", shrinker_thread=True, incompressible="raw",
                 locking="handle", magazines=False, chain=8, lock_statistics=False, pools=1,
                 shards=None, entries_max=1 << 26):
        if self.codecs is not None:
            raise UsageError("a Zswap cannot be initialised twice")
        first: Codec = get_codec(codec)
        cold: Codec
        self.lock = threading.RLock()
        self.codecs = [None] * CODECS_MAX
        self.codecs[1] = first
        self.codec_asked = [None, codec] + [None] * (CODECS_MAX - 2)
        self.group_ids = {}
        self.group_parents = {}
        self.c.codecs[1] = cython.address(first.c)
        self.c.codec = 1
        if cold_codec is not None:
            cold = get_codec(cold_codec)
            self.codecs[COLD_ID] = cold
            self.codec_asked[COLD_ID] = cold_codec
            self.c.codecs[COLD_ID] = cython.address(cold.c)
            self.c.cold_codec = COLD_ID
        self.pools, self.swap, self.owns_swap = zswap_construct(self.c, {
            "unit_bytes": unit_bytes, "max_pool": max_pool, "accept_threshold": accept_threshold,
            "swap": swap, "swap_directory": swap_directory, "on_full": on_full,
            "shrinker": shrinker, "incompressible": incompressible, "locking": locking,
            "magazines": magazines, "chain": chain, "lock_statistics": lock_statistics,
            "pools": pools, "shards": shards, "entries_max": entries_max,
        })
        self.locking = locking
        if shrinker_thread:
            runner: _ShrinkerThread = _ShrinkerThread.__new__(_ShrinkerThread)
            runner.c = self.c
            self.c.shrinker = SHRINKER_IDLE
            self.c.shrinker_runs = 1
            self.thread = threading.Thread(target=runner.run, name="coldmem-shrinker", daemon=True)
            try:
                self.thread.start()
            except BaseException:
                self.c.shrinker_runs = 0
                raise
        a32_store(cython.address(self.c.closed), 0)
        contexts_resume(self.c)

    def __del__(self):
        if self.c != cython.NULL:
            self.close()

    def __dealloc__(self):
        if self.c != cython.NULL:
            zswap_free(self.c)

    # -- the door ----------------------------------------------------------------------------------
    def _enter(self):
        w: WorkContextP
        with cython.nogil:
            w = context_get(self.c)
        if w == cython.NULL:
            raise ClosedError("this Zswap is closed")
        return w

    def _admin(self):
        """Take `admin` of a Zswap that is not closed. What follows must not raise before its end."""
        with cython.nogil:
            mutex_lock(cython.address(self.c.admin))
        if a32_load_acq(cython.address(self.c.closed)):
            mutex_unlock(cython.address(self.c.admin))
            raise ClosedError("this Zswap is closed")
        return 0

    def _group(self, group):
        if group is None:
            return GROUP_ROOT
        id = self.group_id(group)
        if id is None:
            raise UsageError(f"there is no group {group!r}: make it with group(name)")
        return id

    def group_id(self, group):
        """Id of a group, for callers of the C functions; None when there is none."""
        if isinstance(group, Group):
            if group.zswap is not self:
                raise UsageError(f"group {group.name!r} belongs to another Zswap")
            id = self.group_ids.get(group.name)
            return id if id == group.id else None
        return self.group_ids.get(group)

    def close(self):
        """Forget all that is stored. Waits for calls in other threads and for the shrinker.

        Closing twice is fine; every other method then raises ClosedError.
        """
        z: ZswapP = self.c
        if self.thread is not None and self.thread.ident == threading.get_ident():
            z.shrinker_runs = 0  # collected by its own thread, before that got to work
        with cython.nogil:
            zswap_close(z)
        thread, self.thread = self.thread, None
        if z.owner_pid != os.getpid():
            thread = None  # C code has forked: the thread is the parent's
        if thread is not None and thread.ident != threading.get_ident() and not sys.is_finalizing():
            thread.join()
        if self.pools is not None:
            self.pools.close()
        if self.owns_swap and self.swap is not None:
            self.swap.close()

    @property
    def closed(self):
        """Has `close` been called?"""
        return a32_load_acq(cython.address(self.c.closed)) != 0

    def __enter__(self):
        return self

    def __exit__(self, *exc):
        self.close()

    # -- groups ------------------------------------------------------------------------------------
    def group(self, name, *, memory_max=None, zswap_max=None, swap_max=None, zswap_writeback=None,
              parent=None):
        """The group of this name; it is made if there is none.

        Parameters
        ----------
        name : str
        memory_max, zswap_max, swap_max : int, str or None
            Limits, see `Group`; "max" for none. None: as it was, or none in a new group.
        zswap_writeback : bool, optional
            May its units go to the swap file? True in a new group.
        parent : Group or str, optional
            The group above a new one.

        Returns
        -------
        Group

        Raises
        ------
        UsageError
            There is no such parent, the group has another one, or there are 1023 groups already.
        """
        id: uint32_t
        above: uint32_t
        found: Group
        if not isinstance(name, str) or not name:
            raise UsageError(f"{name!r} cannot be the name of a group: give a string")
        with self.lock:
            above = self._group(parent)
            parent_name = parent.name if isinstance(parent, Group) else parent
            if name not in self.group_ids:
                self._admin()
                with cython.nogil:
                    id = group_make(self.c, above)
                    mutex_unlock(cython.address(self.c.admin))
                if id == GROUP_ROOT:
                    raise UsageError("there are 1023 groups already: remove one")
                self.group_ids[name] = id
                self.group_parents[name] = parent_name
            elif parent is not None and self.group_parents[name] != parent_name:
                raise UsageError(
                    f"group {name!r} is below {self.group_parents[name]!r}, not {parent_name!r}"
                )
            found = Group.__new__(Group)
            found.c = self.c
            found.zswap = self
            found.name = name
            found.id = self.group_ids[name]
            up = self.group_parents[name]
            found.parent = None if up is None else self.group(up)
        for key, value in (("zswap_writeback", zswap_writeback), ("swap_max", swap_max),
                           ("zswap_max", zswap_max), ("memory_max", memory_max)):
            if value is not None:
                setattr(found, key, value)
        return found

    def _remove_group(self, group: Group):
        id: uint32_t
        with self.lock:
            id = self._group(group)
            if group.name in self.group_parents.values():
                raise UsageError(f"group {group.name!r} has groups below it: remove them first")
            self._admin()
            del self.group_ids[group.name], self.group_parents[group.name]
            with cython.nogil:
                group_remove(self.c, id)
                mutex_unlock(cython.address(self.c.admin))

    # -- the whole ---------------------------------------------------------------------------------
    def shrink(self, nbytes, gentle=False):
        """Write back up to `nbytes` (as stored) now, coldest first.

        Parameters
        ----------
        nbytes : int or str
        gentle : bool, default False
            Not more than `freeable` units of each group.

        Returns
        -------
        int
            Bytes of objects that went to the swap file; 0 without one.
        """
        return self._shrink(parse_bytes(nbytes), gentle)[0]

    def _shrink(self, nbytes, gentle):
        n: uint64_t = nbytes
        rule: cython.bint = gentle
        out: Reclaimed
        z: ZswapP = self.c
        w: WorkContextP = self._enter()
        with cython.nogil:
            shrink_bytes(z, GROUP_ROOT, n, rule, w, cython.address(out))
            context_put(z, w)
        return out.freed_bytes, out.written

    def freeable(self):
        """Units that the shrinker's rule would let go of now (the kernel's shrinker count)."""
        n: uint64_t = 0
        id: uint32_t
        z: ZswapP = self.c
        w: WorkContextP = self._enter()
        with cython.nogil:
            for id in range(z.groups_end):
                n += shrink_count(z, id, False)
            context_put(z, w)
        return n

    def shrinker(self):
        """The shrinker hook: counts with `freeable`, scans by a gentle `shrink` of all of that."""
        return Shrinker("zswap", self.freeable, lambda: self._shrink((1 << 64) - 1, True)[1])

    def compact(self):
        """Compact the pools where it frees more than 1/32 of them; bytes freed."""
        n: uint64_t
        z: ZswapP = self.c
        w: WorkContextP = self._enter()
        with cython.nogil:
            n = reclaim_compact(z)
            context_put(z, w)
        return n

    @property
    def codec(self):
        """Name of the codec for new units."""
        with self.lock:
            return self.codecs[self.c.codec].name

    def set_codec(self, codec):
        """Use another codec for units stored from now on.

        Units stored before keep theirs, and stay readable; see ``codecs`` in `stats`.

        Raises
        ------
        UnknownCodecError
            There is no codec of this name; the old one stays in use.
        UsageError
            Fifteen codecs still have units. Load and store some of them again.
        """
        made: Codec = get_codec(codec)
        id: uint32_t
        units: uint64_t
        shard: uint32_t
        z: ZswapP = self.c
        chosen: uint32_t = 0
        with self.lock:
            self._admin()
            with cython.nogil:
                contexts_stop(z)
            for id in range(1, CODECS_MAX):
                asked = self.codec_asked[id]
                if asked is codec or (isinstance(codec, str) and asked == codec):
                    chosen = id
                    break
            id = 1
            while not chosen and id < CODECS_MAX:
                units = 0
                for shard in range(z.shards_mask + 1):
                    units += z.shards[shard].codec_units[id]
                # Alone, so nothing that is under way needs a codec without units.
                if units == 0 and id != z.codec and id != z.cold_codec:
                    contexts_drop_codec(z, id)
                    self.codecs[id] = made
                    self.codec_asked[id] = codec
                    z.codecs[id] = cython.address(made.c)
                    chosen = id
                id += 1
            if chosen:
                z.codec = chosen
            contexts_resume(z)
            mutex_unlock(cython.address(z.admin))
        if not chosen:
            raise UsageError(f"{CODECS_MAX - 1} codecs still have units: store some of these again")

    def counters(self):
        """The kernel's debugfs counters, and some more, as a dict. Exact under threads."""
        w: WorkContextP = self._enter()
        try:
            return zswap_counters(self.c)
        finally:
            context_put(self.c, w)

    def stats(self):
        """What is stored where at this moment, as a dict.

        ``units`` and their kinds, ``stored_bytes`` (objects in RAM), ``disk_bytes``,
        ``pool_used_bytes``, ``metadata_bytes``, ``ratio`` (bytes that units in RAM stand for, to what
        they take with pool and metadata), ``codec``, ``codecs`` (units by codec), ``groups``
        (`Group.stats` by name; the root's under "").
        """
        with self.lock:
            names = [None if codec is None else codec.name for codec in self.codecs]
            names[0] = "none"
            w: WorkContextP = self._enter()
            try:
                stats = zswap_stats(self.c)
                stats["codec"] = names[self.c.codec]
                stats["codecs"] = codec_units(self.c, names)
                stats["groups"] = {"": group_stats(self.c, GROUP_ROOT)}
                for name, id in self.group_ids.items():
                    stats["groups"][name] = group_stats(self.c, id)
            finally:
                context_put(self.c, w)
        stats["swap_used_bytes"] = self.swap.used_bytes if self.swap is not None else 0
        return stats

    def lock_stats(self):
        """`LockStats` by kind of lock: "shard", and those of the pools. Zeros unless asked for."""
        w: WorkContextP = self._enter()
        try:
            found = {"shard": LockStats(*shard_lock_counts(self.c))}
        finally:
            context_put(self.c, w)
        for pool in self._pool_list():
            for kind, one in pool.lock_stats().items():
                before = found.get(kind, LockStats(0, 0, 0))
                found[kind] = LockStats(
                    before.acquisitions + one.acquisitions, before.contended + one.contended,
                    before.wait_ns + one.wait_ns,
                )
        return found

    def pool_stats(self):
        """`coldmem.zsmalloc.PoolStats` of each pool."""
        return [pool.stats() for pool in self._pool_list()]

    def class_stats(self):
        """`coldmem.zsmalloc.ClassStats` of each class, a list per pool."""
        return [pool.class_stats() for pool in self._pool_list()]

    def _pool_list(self):
        return [self.pools] if isinstance(self.pools, Pool) else list(self.pools)

    def check_valid(self, level="cheap"):
        """Check the invariants. Other calls wait meanwhile.

        Parameters
        ----------
        level : {"cheap", "full"}
            "cheap": counts against each other. "full": recount everything, pools included.

        Raises
        ------
        CorruptPoolError
            A structure contradicts itself.
        """
        if level not in ("cheap", "full"):
            raise UsageError(f"level {level!r}: choose 'cheap' or 'full'")
        found: Finding
        full: cython.bint = level == "full"
        z: ZswapP = self.c
        self._admin()
        with cython.nogil:
            contexts_stop(z)
            zswap_check(z, full, cython.address(found))
            contexts_resume(z)
            mutex_unlock(cython.address(z.admin))
        if found.what != cython.NULL:
            raise CorruptPoolError(
                f"zswap: {found.what.decode()} (shard {found.shard}, group {found.group}, "
                f"slot {found.slot})"
            )
        for pool in self._pool_list():
            pool.check_valid(level)

    @property
    def unit_bytes(self):
        """What one slot holds."""
        return self.c.unit_bytes

    @property
    def used_bytes(self):
        """Bytes of the pools."""
        w: WorkContextP = self._enter()
        n: uint64_t = a64_load_rlx(cython.address(self.c.budget.used_bytes))
        context_put(self.c, w)
        return n

    def __repr__(self):
        state = "closed" if self.closed else f"{len(self)} units"
        return f"<coldmem.zswap.Zswap unit={self.c.unit_bytes} locking={self.locking!r}: {state}>"


class _ShrinkerThread:
    def run(self):
        with cython.nogil:
            shrinker_loop(self.c)
