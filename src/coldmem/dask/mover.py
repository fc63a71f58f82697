"""The threads of a store: they compress what leaves RAM, send it to disk, and bring back what is wanted.

Owns: the threads and the cache, which is made when the first value leaves.
Guarantees: nothing raised in them is lost: it is logged, at most once in ten seconds of each kind, and
    the value stays raw. `close` ends them and the cache; so does the end of the process or of the store.
Assumes: the cache is thread-safe and releases the GIL while it compresses, reads and writes.
Locks: `Tiers.lock`, for bookkeeping only; one lock of its own while the cache is made.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Mapping
from typing import Any, Protocol

from distributed.utils import RateLimiterFilter

from coldmem.dask.copies import Copy
from coldmem.dask.frames import Parts, pack, pays, unpack
from coldmem.dask.pieces import Items, come_apart
from coldmem.dask.tiers import COLD, NOTHING, Entry, Tiers
from coldmem.errors import ClosedError, MemoryLimitError

logger = logging.getLogger("coldmem.dask")
for _start in ("A value cannot be", "No room for", "Compressing failed", "Moving to disk failed",
               "Reading ahead failed"):
    logger.addFilter(RateLimiterFilter(_start))

# After a copy found no room, none is tried for so long; Dask's own thresholds apply meanwhile.
_NO_ROOM_S = 1.0
_DISK_STEP_BYTES = 32 << 20
_LOOK_S = 0.01  # between two looks at the process


class CacheLike(Protocol):
    """What the threads need of `coldmem.Cache`."""

    def set(self, key: Any, value: Any, /) -> None: ...
    def set_on_disk(self, key: Any, value: Any, /) -> None: ...
    def peek(self, key: Any, default: Any = None, /) -> Any: ...
    def __delitem__(self, key: Any, /) -> None: ...
    def evict(self, nbytes: int, /) -> int: ...
    def stats(self) -> Mapping[str, int | float]: ...
    def close(self) -> None: ...


class Mover:
    """Threads that move the values of `tiers` to a cache and back. They hold no reference to the store.

    Parameters
    ----------
    tiers : Tiers
        The bookkeeping that they follow.
    make_cache : callable
        Gives the cache, when the first value moves.
    threads : int
        How many.
    process_bytes : callable, optional
        Memory of the process, as Dask looks at it.
    disk : bool
        The cache has a disk: what does not compress goes there at once.
    """

    def __init__(self, tiers: Tiers, make_cache: Callable[[], CacheLike], threads: int,
                 process_bytes: Callable[[], int] | None = None, disk: bool = False) -> None:
        self.tiers = tiers
        self.metrics: defaultdict[tuple[str, str], float] = defaultdict(float)  # guarded by tiers.lock
        self._make_cache = make_cache
        self._making = threading.Lock()
        self._cache: CacheLike | None = None
        self._count = threads
        self._process_bytes = process_bytes
        self._disk = disk
        self._looked_s = 0.0
        self._stale = False  # something was deleted since the cache was looked at
        self._no_disk_until_s = 0.0
        self._threads: list[threading.Thread] = []

    # -- begin and end -------------------------------------------------------------------------------
    def start(self) -> None:
        """Start the threads, unless they run."""
        with self.tiers.lock:
            if self._threads or self.tiers.closed:
                return
            self._threads = [
                threading.Thread(target=self._run, name=f"coldmem-dask-{n}", daemon=True)
                for n in range(self._count)
            ]
            for thread in self._threads:
                thread.start()

    def close(self) -> None:
        """End the threads, when each is through with its value, and the cache with all that is in it."""
        with self.tiers.lock:
            self.tiers.closed = True
            self.tiers.lock.notify_all()
        for thread in self._threads:
            if thread is not threading.current_thread():
                thread.join()
        with self._making:
            cache, self._cache = self._cache, None
        if cache is not None:
            cache.close()

    @property
    def cache(self) -> CacheLike | None:
        """The cache, if there is one already."""
        return self._cache

    def _ensure_cache(self) -> CacheLike:
        if (cache := self._cache) is not None:
            return cache
        with self._making:
            if self._cache is None:
                self._cache = self._make_cache()
            return self._cache

    # -- the threads -----------------------------------------------------------------------------------
    def _run(self) -> None:
        while (job := self._next_job()) is not None:
            try:
                job()
            except Exception:
                logger.exception("Compressing failed for an unexpected reason")
                time.sleep(0.1)
            del job  # it holds the value

    def _next_job(self) -> Callable[[], None] | None:
        tiers = self.tiers
        self.sweep()
        self._look_at_cache()
        self.look_at_process()
        with tiers.lock:
            while not tiers.closed:
                if (wanted := self._next_wanted_locked()) is not None:
                    return lambda: self._bring_back(wanted)
                now_s = time.monotonic()
                room = now_s >= tiers.no_room_until_s
                if room and (entry := tiers.take_locked()) is not None:
                    value = entry.value
                    return lambda: self._move(entry, value)
                disk = self._cache is not None and now_s >= self._no_disk_until_s
                if disk and (excess := tiers.compressed_excess_locked()) > 0:
                    return lambda: self._to_disk(excess)
                if not room:
                    self._return_queue_locked()
                tiers.lock.wait(None if room else _NO_ROOM_S)
                if self._stale and not tiers.closed:
                    return self._look_at_cache  # outside the lock
        return None

    def _return_queue_locked(self) -> None:
        """What waits to be moved is raw again: it cannot be moved now."""
        while self.tiers.queue:
            self.tiers.kept(self.tiers.queue.popleft(), False)

    # -- out -------------------------------------------------------------------------------------------
    def _move(self, entry: Entry, value: object) -> None:
        tiers = self.tiers
        began_s = time.perf_counter()
        try:
            items = value if come_apart(value, entry.size_bytes) else None
            pieces = [pack(value)] if items is None else [pack(item) for item in items.values()]
        except Exception:
            # Anything may come from a class of the user's. SpillBuffer keeps such a value as well.
            logger.warning(
                "A value cannot be serialized and stays as it is in memory: %r", entry.key, exc_info=True
            )
            tiers.kept(entry, True)
            return
        packed_s = time.perf_counter()
        with tiers.lock:
            copy = tiers.copies.new() if items is None else tiers.copies.new(tuple(items), type(items))
        stored = False
        try:
            self._store(copy, pieces)
            stored = True
        except (MemoryLimitError, OSError) as error:
            logger.warning("No room for what leaves memory; values stay as they are: %s", error)
            with tiers.lock:
                tiers.no_room_until_s = time.monotonic() + _NO_ROOM_S
            tiers.kept(entry, False)
        except Exception:
            logger.exception("Compressing failed; the value stays as it is in memory: %r", entry.key)
            tiers.kept(entry, True)
        if not stored:
            with tiers.lock:
                tiers.copies.give_up(copy)
            self.sweep()
            return
        done_s = time.perf_counter()
        nbytes = sum(len(part) for parts in pieces for part in parts)
        del pieces, items, value
        self.count(
            ("serialize", "seconds", packed_s - began_s), ("compress", "seconds", done_s - packed_s),
            ("compress", "bytes", nbytes), ("compress", "count", 1),
        )
        tiers.moved(entry, copy)
        self.sweep()

    def _store(self, copy: Copy, pieces: list[Parts]) -> None:
        cache = self._ensure_cache()
        compress = not self._disk or pays([part for parts in pieces for part in parts])
        store = cache.set if compress else cache.set_on_disk
        for number, parts in zip(copy.numbers, pieces, strict=True):
            try:
                store(number, parts)
            except MemoryLimitError:
                # Copies of values that are raw again are the first that can go.
                if not self.tiers.give_up_copies():
                    raise
                self.sweep()
                store(number, parts)

    def _to_disk(self, nbytes: int) -> None:
        cache = self._ensure_cache()
        began_s = time.perf_counter()
        try:
            moved = cache.evict(min(nbytes, _DISK_STEP_BYTES))
        except (MemoryLimitError, OSError) as error:
            logger.warning("Moving to disk failed; compressed values stay in memory: %s", error)
            moved = 0
        self.count(("disk-write", "seconds", time.perf_counter() - began_s))
        if moved <= 0:
            self._no_disk_until_s = time.monotonic() + _NO_ROOM_S

    def _look_at_cache(self) -> None:
        """See how full the cache is: between two jobs, so what is deleted is noticed late."""
        if (cache := self._cache) is None:
            return
        self._stale = False
        stats = cache.stats()
        with self.tiers.lock:
            self.tiers.lock.notify_all()  # a put may wait for it
            self.tiers.compressed_bytes = int(stats["memory_used_bytes"])
            self.tiers.compressed_entries = int(stats["ram_entries"])
            if stats["original_bytes"]:
                stored = stats["stored_bytes"] + stats["disk_used_bytes"]
                self.tiers.ratio = stored / stats["original_bytes"]

    def look_at_process(self) -> None:
        """See how much memory the process has beside the values, unless somebody just did."""
        now_s = time.monotonic()
        if self._process_bytes is not None and now_s - self._looked_s >= _LOOK_S:
            self._looked_s = now_s
            self.tiers.see(self._process_bytes(), now_s)

    # -- back ------------------------------------------------------------------------------------------
    def read(self, entry: Entry) -> object:
        """The value of an entry from its copy; NOTHING if the copy is not there any more."""
        if (copy := entry.copy) is None:
            return NOTHING
        if copy.names is None:
            return self._read_piece(copy.numbers[0])
        pieces = [self._read_piece(number) for number in copy.numbers]
        if any(piece is NOTHING for piece in pieces):
            return NOTHING
        return copy.kind(zip(copy.names, pieces, strict=True))

    def _read_piece(self, number: int) -> object:
        cache = self._cache
        if cache is None:
            return NOTHING
        began_s = time.perf_counter()
        # A use would bring it back to the cache's RAM: but it will be raw now, and is there once more.
        data = cache.peek(number, NOTHING)
        if data is NOTHING:
            return NOTHING
        read_s = time.perf_counter()
        value: object = unpack(data)
        self.count(
            ("decompress", "seconds", read_s - began_s), ("decompress", "bytes", len(data)),
            ("decompress", "count", 1), ("deserialize", "seconds", time.perf_counter() - read_s),
        )
        return value

    def items(self, entry: Entry) -> Items | None:
        """A cold dict whose items are read one by one; None if it has no such copy now."""
        with self.tiers.lock:
            copy = entry.copy
            if entry.state != COLD or copy is None or copy.names is None:
                return None
            made = Items(zip(copy.names, copy.numbers, strict=True), self._read_item, copy.kind)
            self.tiers.copies.lease(made, copy)
        return made

    def _read_item(self, number: int) -> object:
        value = self._read_piece(number)
        if value is NOTHING:  # the `Items` that asks holds a lease of it
            raise ClosedError("the store is closed: its worker has ended")
        with self.tiers.lock:
            self.tiers.copies.lease(value, Copy((number,)))
        return value

    def _next_wanted_locked(self) -> Entry | None:
        tiers = self.tiers
        while tiers.wanted:
            entry = tiers.wanted.popleft()
            if tiers.budget is None:
                continue
            if tiers.managed_bytes_locked() + entry.size_bytes > tiers.budget.hold_bytes:
                tiers.wanted.clear()  # they will be read when they are needed
                return None
            if entry.state == COLD and not entry.reading:
                entry.reading = True
                return entry
        return None

    def _bring_back(self, entry: Entry) -> None:
        try:
            value = self.read(entry)
            if value is not NOTHING:
                self.tiers.restore(entry, value)
                self.count(("read-ahead", "count", 1))
        except Exception:
            # Whoever needs it will meet the error where it can be reported.
            logger.warning("Reading ahead failed: %r", entry.key, exc_info=True)
        finally:
            self.tiers.end_read(entry)

    # -- small things --------------------------------------------------------------------------------
    def sweep(self) -> None:
        """Delete copies that nobody needs any more."""
        with self.tiers.lock:
            unneeded = self.tiers.copies.collect()
        cache = self._cache
        for number in unneeded:
            if cache is not None:
                try:
                    del cache[number]
                except KeyError:
                    continue
                self._stale = True

    def count(self, *figures: tuple[str, str, float]) -> None:
        """Add to `metrics`."""
        with self.tiers.lock:
            for label, unit, value in figures:
                self.metrics[label, unit] += value


