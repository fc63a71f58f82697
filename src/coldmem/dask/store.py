"""`Store`: the ``data=`` of a Dask worker, whose older values are compressed in RAM and then on disk.

Owns: a `Tiers` with the values, a `Mover` with threads and cache.
Guarantees: a mapping as Dask needs it, and its `ManualEvictProto`. Nothing is compressed or written in
    the thread that calls, which is the worker's event loop; reading a value that was compressed is done
    there, without the GIL. No value is lost because it cannot be serialized or there is no room: it
    stays raw.
Assumes: values are not changed in place.
Locks: that of `Tiers`.
"""

from __future__ import annotations

import logging
import os
import time
import weakref
from collections.abc import Iterable, Iterator, MutableMapping, Sized
from functools import partial
from pathlib import Path
from typing import Any

from dask.typing import Key
from distributed.metrics import context_meter
from distributed.sizeof import safe_sizeof
from distributed.spill import SpilledSize
from distributed.worker import Worker

from coldmem.dask.ahead import Attached, attach
from coldmem.dask.budget import UNLIMITED, Budget
from coldmem.dask.mover import CacheLike, Mover
from coldmem.dask.pieces import Items
from coldmem.dask.tiers import NOTHING, Entry, Tiers
from coldmem.errors import ClosedError, UsageError

logger = logging.getLogger("coldmem.dask")

# Who puts or reads a value while the threads are behind waits so long at most.
_HOLD_S = 3.0
_LOOK_AGAIN_S = 0.05  # meanwhile, at the process
# `evict` refuses when this part of the target is on its way already: Dask asks again in 0.1 s.
_IN_FLIGHT_PART = 4
_IN_FLIGHT_BYTES_MIN = 16 << 20
_DISK_STEP_BYTES = 32 << 20
_CACHE_BYTES_MIN = 1 << 20  # of memory, as `Cache` demands


class Store(MutableMapping[Key, Any]):
    """A data store for `distributed.Worker`, which compresses before it writes to disk.

    Parameters
    ----------
    worker_local_directory : str, optional
        Where the disk tier lies; Dask passes it. Without it there is none.
    memory_limit : int, float or str or None
        The worker's, as ``--memory-limit`` takes it. "worker" (the default): that of the worker which
        has this store, and "auto" if none has it. None or 0: no limit; then nothing moves by itself.
    threads : int, optional
        Threads that compress, write and read ahead. Default: half the worker's threads, 1 to 4.
    codec : str
        As for `coldmem.Cache`.

    Raises
    ------
    UsageError
        `threads` is not positive.
    """

    def __init__(
        self, worker_local_directory: str | os.PathLike[str] | None = None, *,
        memory_limit: int | float | str | None = "worker", threads: int | None = None,
        codec: str = "auto",
    ) -> None:
        if threads is not None and threads < 1:
            raise UsageError(f"threads={threads}: at least one thread must do the work")
        self._directory = None if worker_local_directory is None else Path(worker_local_directory)
        self._memory_limit = memory_limit
        self._threads = threads
        self._codec = codec
        self._tiers = Tiers()
        self._mover: Mover | None = None
        self._attached: Attached | None = None
        self._former: MutableMapping[Key, Any] | None = None

    # -- the mapping -----------------------------------------------------------------------------------
    def __setitem__(self, key: Key, value: Any) -> None:
        tiers = self._tiers
        if tiers.budget is None:
            self._begin()
        if tiers.closed:
            raise ClosedError("the store is closed: its worker has ended")
        if self._former is not None and key in self._former:
            del self._former[key]
        known = None if self._attached is None else self._attached.size_of(key)
        tiers.put(key, value, safe_sizeof(value) if known is None else known)
        self._moving.sweep()
        self._hold()

    def _hold(self) -> None:
        """Let the threads catch up, as SpillBuffer's own writing would take its time here."""
        tiers, mover = self._tiers, self._moving
        mover.look_at_process()
        if not tiers.full_locked():
            return
        began_s = time.perf_counter()
        with tiers.lock:
            tiers.lock.notify()
            while tiers.full_locked() and tiers.can_move_locked() and (
                    time.monotonic() >= tiers.no_room_until_s) and (
                    time.perf_counter() - began_s < _HOLD_S):
                tiers.lock.wait(_LOOK_AGAIN_S)
                mover.look_at_process()
        waited_s = time.perf_counter() - began_s
        mover.count(("store-wait", "seconds", waited_s), ("store-wait", "count", 1))

    def __getitem__(self, key: Key) -> Any:
        if self._former is not None and key in self._former:
            self._adopt(key)
        while True:
            entry, value = self._tiers.look(key)
            if value is not NOTHING:
                self._moving.count(
                    ("memory-read", "count", 1), ("memory-read", "bytes", entry.size_bytes))
                context_meter.digest_metric("memory-read", 1, "count")
                context_meter.digest_metric("memory-read", entry.size_bytes, "bytes")
                return value
            items = self._items(key, entry)
            if items is not None:
                return items
            if not self._tiers.begin_read(entry):
                continue
            try:
                with context_meter.meter("decompress"):
                    value = self._moving.read(entry)
                if value is not NOTHING:
                    value = self._tiers.restore(entry, value)
            finally:
                self._tiers.end_read(entry)
            if value is not NOTHING:
                self._hold()
                return value
            # Its copy went while we were about to read it: it is raw again, or there is no such key now.

    def _items(self, key: Key, entry: Entry) -> Items | None:
        """For a task that takes one item of a dict: it reads that, and in its own thread."""
        attached, copy = self._attached, entry.copy  # without the lock: the copy may go meanwhile
        wanted = (attached is not None and copy is not None and copy.names is not None
                  and attached.wants_item(key))
        return self._moving.items(entry) if wanted else None

    def __delitem__(self, key: Key) -> None:
        if self._former is not None and key in self._former:
            del self._former[key]
            return
        self._tiers.drop(key)
        self._moving.sweep()

    def __contains__(self, key: object) -> bool:
        return key in self._tiers.entries or (self._former is not None and key in self._former)

    def __len__(self) -> int:
        return len(self._tiers.entries) + (0 if self._former is None else len(self._former))

    def __iter__(self) -> Iterator[Key]:
        """Keys as they are now; the store may change meanwhile."""
        return iter([*self._tiers.entries, *(() if self._former is None else self._former)])

    def pop(self, key: Key, *default: Any) -> Any:
        """Remove `key` and give its value, or `default`; nothing else moves."""
        if key not in self and default:
            return default[0]
        if self._former is not None and key in self._former:
            self._adopt(key)
        while True:
            entry, value = self._tiers.peek(key)
            if value is NOTHING:
                value = self._moving.read(entry)
            if value is not NOTHING:
                self._tiers.drop(key)
                self._moving.sweep()
                return value

    def clear(self) -> None:
        """Remove all values; none is read."""
        for key in self:
            del self[key]

    # -- ManualEvictProto, and what the dashboard asks -------------------------------------------------
    @property
    def fast(self) -> Sized | bool:
        """What `evict` can work on: keys of values in RAM, or True if only compressed ones are left."""
        tiers = self._tiers
        with tiers.lock:
            if tiers.raw or tiers.moving_bytes or tiers.stuck:
                return [key for key, e in tiers.entries.items() if e.value is not NOTHING]
            return tiers.compressed_entries > 0 and self._has_disk()

    def evict(self) -> int:
        """Move the oldest value out of raw memory; its size in bytes, at once.

        A thread does the work, so the memory is free a little later; until then the value can be read.
        Returns -1 if nothing can move, if there was no room a moment ago, or if a quarter of the target
        is on its way already: Dask, which calls this in a loop until the process has shrunk, then stops
        and comes back after its monitor interval. Never raises.
        """
        try:
            return self._evict()
        except Exception:
            logger.exception("evict failed; the value stays in memory")
            return -1

    def _evict(self) -> int:
        tiers = self._tiers
        if tiers.budget is None:
            self._begin()
        budget = tiers.budget
        if budget is None or tiers.closed:
            return -1
        with tiers.lock:
            target = 0 if budget.target_bytes == UNLIMITED else budget.target_bytes
            in_flight_max = max(_IN_FLIGHT_BYTES_MIN, target // _IN_FLIGHT_PART)
            if time.monotonic() < tiers.no_room_until_s or tiers.moving_bytes >= in_flight_max:
                return -1
            if (size := tiers.demote_locked()) >= 0:
                return size
            busy = tiers.moving_bytes or tiers.disk_wanted_bytes
            if busy or not tiers.compressed_entries or not self._has_disk():
                return -1
            tiers.disk_wanted_bytes = min(tiers.compressed_bytes, _DISK_STEP_BYTES)
            tiers.lock.notify()
            return tiers.disk_wanted_bytes

    def _has_disk(self) -> bool:
        budget = self._tiers.budget
        return self._directory is not None and budget is not None and budget.disk_bytes_max != 0

    @property
    def slow(self) -> Sized:
        """As many things as there are values on disk and nowhere else."""
        with self._tiers.lock:
            cold = len(self._tiers.entries) - len(self._tiers.raw) - len(self._tiers.stuck)
        return range(min(max(cold, 0), int(self.stats().get("disk_entries", 0))))

    @property
    def spilled_total(self) -> SpilledSize:
        """What the dashboard takes off managed memory, and bytes on disk.

        The first is the size of all values that are not raw, less what their compressed copies take in
        RAM: so that Dask's "managed" is what the store holds in RAM. The second is what lies on disk.
        """
        stats = self.stats()
        with self._tiers.lock:
            saved = self._tiers.cold_bytes - int(stats.get("memory_used_bytes", 0))
        return SpilledSize(max(0, saved), int(stats.get("disk_used_bytes", 0)))

    @property
    def cumulative_metrics(self) -> dict[tuple[str, str], float]:
        """(activity, unit) -> total since the worker began; Dask exports it as ``spill_*``."""
        stats = self.stats()
        with self._tiers.lock:
            found = dict(self._moving.metrics)
        for name, unit, key in (
            ("disk-write", "bytes", "written_bytes"), ("disk-write", "count", "writebacks"),
            ("disk-read", "bytes", "read_bytes"), ("disk-read", "count", "disk_reads"),
        ):
            if stats.get(key):
                found[name, unit] = float(stats[key])
        return found

    def stats(self) -> dict[str, int | float]:
        """The figures of `coldmem.Cache.stats`, and of the store: ``raw_bytes``, ``moving_bytes``,
        ``cold_bytes`` (sizes of what is compressed, before), ``target_bytes``, and ``target_now_bytes``,
        which the rest of the process leaves of it."""
        cache = self._mover.cache if self._mover is not None else None
        found: dict[str, int | float] = {}
        if cache is not None and not self._tiers.closed:
            found.update(cache.stats())
        tiers = self._tiers
        with tiers.lock:
            found.update(raw_bytes=tiers.raw_bytes, moving_bytes=tiers.moving_bytes,
                         cold_bytes=tiers.cold_bytes,
                         target_bytes=0 if tiers.whole is None else tiers.whole.target_bytes,
                         target_now_bytes=0 if tiers.budget is None else tiers.budget.target_bytes)
        return found

    def prefetch(self, keys: Iterable[Key], item: bool = False) -> None:
        """A task will want `keys` soon: the threads read those that are compressed, the others stay.

        With `item`, it wants one item, which it reads itself if they are apart.
        """
        tiers = self._tiers
        with tiers.lock:
            for key in keys:
                entry = tiers.entries.get(key)
                if entry is None:
                    continue
                if entry.value is NOTHING:
                    if item and entry.copy is not None and entry.copy.names is not None:
                        continue
                    tiers.wanted.append(entry)
                    tiers.lock.notify()
                else:
                    tiers.look(key)

    # -- begin and end ---------------------------------------------------------------------------------
    @property
    def _moving(self) -> Mover:
        if self._mover is None:
            self._begin()
        assert self._mover is not None
        return self._mover

    def _begin(self) -> None:
        """Find out how much memory there is, at the first use: Dask does not pass it."""
        worker = next((w for w in list(Worker._instances) if _data_of(w) is self), None)
        limit = self._memory_limit
        nthreads = None if worker is None else worker.state.nthreads
        if limit == "worker":
            limit = "auto" if worker is None else worker.memory_manager.memory_limit
        budget = Budget.from_config(limit, nthreads)
        count = self._threads or max(1, min(4, (nthreads or 2) // 2))
        tiers, directory, codec = self._tiers, self._directory, self._codec
        with tiers.lock:
            if self._mover is None:
                self._mover = Mover(
                    tiers, lambda: make_cache(budget, directory, codec), count,
                    None if worker is None else partial(_process_bytes, weakref.ref(worker)),
                    directory is not None and budget.disk_bytes_max != 0)
                tiers.allow(budget)
                # The threads know nothing of the store; when it is collected, or Python ends, they end.
                weakref.finalize(self, self._mover.close)
        self._mover.start()
        if worker is not None:
            self._attached = attach(worker, self)

    def take_over(self, former: MutableMapping[Key, Any]) -> None:
        """Answer for the keys of `former` too. They move when they are asked for, or by `adopt_some`.

        `former` must not be used by anybody else from then on.
        """
        self._former = former
        self._begin()

    def adopt_some(self, seconds: float) -> bool:
        """Move values from the former store for `seconds`; False if there are none left."""
        end_s = time.monotonic() + seconds
        while self._former is not None:
            for key in self._former:
                self._adopt(key)
                break
            else:
                self._former = None
                break
            if time.monotonic() > end_s:
                return True
        return False

    def _adopt(self, key: Key) -> None:
        assert self._former is not None
        value = self._former[key]
        self[key] = value  # deletes it there

    def close(self) -> None:
        """End the threads and drop all values. It can be done twice."""
        with self._tiers.lock:
            self._tiers.closed = True
        if self._mover is not None:
            self._mover.close()
        with self._tiers.lock:
            entries = list(self._tiers.entries)
            for key in entries:
                self._tiers.drop(key)
            self._tiers.wanted.clear()
            self._tiers.queue.clear()
        self._former = None

    def check_valid(self) -> None:
        """Raise `coldmem.CorruptPoolError` if the bookkeeping contradicts itself."""
        self._tiers.check_valid()


def _data_of(worker: Worker) -> object:
    manager = getattr(worker, "memory_manager", None)  # a worker that is being made has none yet
    return getattr(manager, "data", None)


def _process_bytes(worker: weakref.ref[Worker]) -> int:
    """Memory of the process as Dask's own monitor sees it; 0 when the worker is gone."""
    found = worker()
    return 0 if found is None else found.monitor.get_process_memory()


def _same(data: Any) -> Any:
    return data


def make_cache(budget: Budget, directory: Path | None, codec: str) -> CacheLike:
    """The cache for what leaves raw memory: it refuses what it has no room for, and evicts nothing."""
    from coldmem.cache.cache import Cache

    disk: int | None = None
    if directory is not None and budget.disk_bytes_max != 0:
        directory.mkdir(parents=True, exist_ok=True)
        disk = budget.disk_bytes_max
        if disk is None:
            room = os.statvfs(directory)
            disk = room.f_frsize * room.f_blocks
    memory = max(budget.compressed_bytes_max(0.0), _CACHE_BYTES_MIN)
    if memory == UNLIMITED:
        # Only `evict` moves values then; the whole limit is a bound that is never met.
        memory = budget.limit_bytes or os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    made: CacheLike = Cache(
        memory, disk_max=disk, directory=directory if disk else None, codec=codec,
        serializer=(_same, _same), policy="lru", lossless=True,
    )
    return made
