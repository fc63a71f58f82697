"""`Cache`: a mapping with a byte limit, as a Python program sees it.

Owns: the engine (its base class), the disk tier, what is learnt about small values, and loads in flight.
Guarantees: the memory that a cache counts is all that it uses: pool, index, keys, tables, scratch.
Assumes: nothing of the program; after a fork the child finds the cache closed.
Locks: those of the engine, the tier, and of a policy of one's own.
"""

from __future__ import annotations

import os
import weakref
from collections.abc import (
    Callable,
    ItemsView,
    Iterable,
    Iterator,
    Mapping,
    MutableMapping,
    ValuesView,
)
from types import TracebackType
from typing import Any, Self

from coldmem.cache.arguments import check_callable, check_flag, check_folder, check_ttl
from coldmem.cache.core import MISSING
from coldmem.cache.flight import Flight
from coldmem.cache.loading import Loading
from coldmem.cache.on_disk import OnDisk
from coldmem.cache.policy import LockedPolicy, Policy
from coldmem.cache.recall import Recall
from coldmem.cache.serialize import KIND_BYTES, Serializer, check_serializer, dump, load
from coldmem.cache.tier import Tier
from coldmem.cache.value_codecs import ValueCodecs
from coldmem.cache.views import Items, Values
from coldmem.codecs import Codec
from coldmem.codecs.registry import CodecLike
from coldmem.errors import MemoryLimitError, UsageError
from coldmem.linux.cgroup import memory_limit
from coldmem.units import format_bytes, parse_bytes

_MEMORY_LEAST = 1 << 20
_SHARD_BYTES = 16 << 20
_SHARDS_MOST = 16
_HOT_SHARE = 0.1
_DISK_DEFAULT = "64GiB"
_POLICY_CALLS = ("added", "hit", "removed", "victim")
_caches: weakref.WeakSet[Cache] = weakref.WeakSet()


class Cache(Recall, Loading, OnDisk, MutableMapping[Any, Any]):
    """A mapping whose values live compressed in memory, the coldest on disk if there is one.

    Values that are bytes come back as bytes (bytearray and memoryview, too); anything else goes through
    pickle, protocol 5, its large buffers (NumPy, Arrow, pandas) without a copy. Reading and writing are
    safe from any thread.

    Parameters
    ----------
    memory_max : int or str, default "25%"
        Most bytes of memory, all that belongs to the cache included; a percentage is of what the cgroup
        or the machine allows. At least 1 MiB.
    disk_max : int or str, optional
        Most bytes on disk, for a cache with `directory` or `path`; alone, it makes a disk tier in the
        default directory for temporary files. What does not fit is gone, least recently used first.
    directory : path, optional
        Where the disk tier lies that ends with the cache. A folder that is missing is made, if the one
        that it is to lie in is there.
    path : path, optional
        Folder of a persistent cache, made likewise: opening it again finds what was there. After a
        crash, all that was flushed is there. Only open a folder that you trust: it may hold pickles.
    ttl : float, optional
        Seconds that a value lives, unless `set` says otherwise.
    codec : str or Codec, default "auto"
        See `coldmem.codecs.get_codec`. "auto": zstd for values up to 4 KiB, with a dictionary that is
        trained on what comes in; for larger ones the filter under which LZ4 does best.
    serializer : object or pair of functions, optional
        In place of pickle: ``dumps`` and ``loads``.
    policy : {"s3fifo", "lru"} or Policy
        What leaves first.
    on_evict : callable, optional
        Hears ``(key, reason)`` of each key that the cache drops by itself: "memory", "disk", "expired"
        or "corrupt". It is called by the thread that needed the room.
    lossless : bool, default False
        Evict nothing: a `set` that finds no room raises MemoryLimitError.

    Raises
    ------
    UsageError
        An argument is wrong.
    SwapFileError
        The directory cannot be used.

    Examples
    --------
    >>> cache = Cache(memory_max="64MiB", ttl=3600)
    >>> cache["user:17"] = b'{"name": "Ada"}'
    >>> cache["user:17"]
    b'{"name": "Ada"}'
    """

    def __init__(
        self,
        memory_max: int | str = "25%",
        *,
        disk_max: int | str | None = None,
        directory: str | os.PathLike[str] | None = None,
        path: str | os.PathLike[str] | None = None,
        ttl: float | None = None,
        codec: str | Codec | CodecLike = "auto",
        serializer: Serializer | tuple[Callable[[Any], Any], Callable[[Any], Any]] | None = None,
        policy: str | Policy = "s3fifo",
        on_evict: Callable[[Any, str], None] | None = None,
        lossless: bool = False,
    ) -> None:
        memory = parse_bytes(memory_max, memory_limit().nbytes)
        if memory < _MEMORY_LEAST:
            raise UsageError(f"memory_max={format_bytes(memory)}: a cache needs "
                             f"{format_bytes(_MEMORY_LEAST)} at least")
        path, directory = check_folder("path", path), check_folder("directory", directory)
        if path is not None and directory is not None:
            raise UsageError("give path= (persistent) or directory= (it ends with the cache), not both")
        if on_evict is not None:
            check_callable("on_evict=, which gets a key and a reason,", on_evict)
        check_ttl(ttl)
        lossless = check_flag("lossless", lossless)
        own = None if isinstance(policy, str) else policy
        name = policy if isinstance(policy, str) else "external"
        if own is None and policy not in ("s3fifo", "lru"):
            raise UsageError(f"policy={policy!r}: choose 's3fifo' or 'lru', or give a Policy")
        if own is not None and not all(callable(getattr(own, name, None)) for name in _POLICY_CALLS):
            raise UsageError(f"policy={policy!r}: choose 's3fifo' or 'lru', or give an object with "
                             f"{', '.join(_POLICY_CALLS)}")
        if own is not None and (path, directory, disk_max) != (None, None, None):
            raise UsageError("a policy of your own cannot choose for the disk tier yet: use 's3fifo' or "
                             "'lru' with a disk")
        disk = None if disk_max is None else parse_bytes(disk_max)
        self.lossless = lossless
        self.memory_max = memory
        self._ttl = ttl
        self._serializer = check_serializer(serializer)
        self._on_evict = on_evict
        self._flight = Flight()
        self._tier: Tier | None = None
        self._pid = os.getpid()
        shards = 1
        if policy == "s3fifo":
            while shards < _SHARDS_MOST and shards * 2 * _SHARD_BYTES <= memory:
                shards *= 2
        self._start(memory, name, shards,
                    _HOT_SHARE if own is None else 0.0)
        if own is not None:
            self._set_chooser(LockedPolicy(own))
        try:
            self._open_tier(path, directory, disk)
            self._set_flags(self._tier is not None, lossless or own is not None, path is not None,
                            on_evict is not None or own is not None)
            self._codecs = ValueCodecs(self, self._tier, codec)
        except BaseException:
            self._shut()
            raise
        _caches.add(self)

    def _open_tier(self, path: Any, directory: Any, disk: int | None) -> None:
        if path is None and directory is None and disk is None:
            return
        if path is None and directory is None:
            from coldmem.zswap.swapdir import default_directory

            directory = default_directory()
        if disk is None and path is None:
            disk = parse_bytes(_DISK_DEFAULT)
        self._tier = Tier(self, path or directory, disk, path is not None)

    # -- the mapping ---------------------------------------------------------------------------------
    def __setitem__(self, key: Any, value: Any) -> None:
        self.set(key, value)

    def set(self, key: Any, value: Any, *, ttl: float | None = None) -> None:
        """Store `value` under `key`, in place of what is there.

        Parameters
        ----------
        key : hashable
        value : object
        ttl : float, optional
            Seconds that it lives; the default of the cache otherwise.

        Raises
        ------
        MemoryLimitError
            There is no room: the value takes more than half of `memory_max` and there is no disk for it,
            or the cache is lossless and full. What was there before is still there.
        UsageError
            The value cannot be serialized, or `ttl` is not a number of seconds.
        TypeError
            The key is not hashable.
        """
        if ttl is None:
            ttl = self._ttl
        if type(value) is bytes:
            self._put(key, value, KIND_BYTES, ttl)
        else:
            kind, parts = dump(value, self._serializer)
            self._put(key, parts, kind, ttl)

    def set_on_disk(self, key: Any, value: Any) -> None:
        """Store `value` on disk at once and as it is: for what is large and does not compress.

        It is there as after `set`, and lives as long.

        Parameters
        ----------
        key : hashable
        value : object

        Raises
        ------
        UsageError
            The cache has no disk tier, or the value cannot be serialized.
        MemoryLimitError
            There is no room on disk. What was there before is still there.
        """
        tier = self._tier
        self._check_open()
        if tier is None:
            raise UsageError("this cache has no disk: give directory=, path= or disk_max=")
        kind, parts = dump(value, self._serializer)
        raw, number = self._hold(key)
        try:
            tier.put_as_it_is(raw, parts, kind, self._ttl)
        finally:
            self._release(number)

    def __delitem__(self, key: Any) -> None:
        if not self._delete(key):
            raise KeyError(key)

    def _delete(self, key: Any, identity: tuple[int, int, int] | None = None) -> bool:
        """Drop a key, if its value is still that one: whether it was there."""
        tier = self._tier
        if tier is None or not tier.persistent:
            done = bool(self._drop(key, identity))
        else:
            done = tier.drop(key, identity)
        self._drain()
        return done

    def __iter__(self) -> Iterator[Any]:
        """Keys, in no particular order.

        Changes meanwhile do no harm: what is there all the time is seen once.
        """
        for shard in range(self._shards()):
            at = 1
            while at:
                at, rows = self._scan(shard, at)
                for row in rows:
                    key = self._key_of_bytes(row)
                    if key is not MISSING:
                        yield key

    def items(self) -> ItemsView[Any, Any]:
        """Keys and values; what goes while they are walked through is left out."""
        return Items(self)

    def values(self) -> ValuesView[Any]:
        """Values; what goes while they are walked through is left out."""
        return Values(self)

    def pop(self, key: Any, default: Any = MISSING) -> Any:
        """Remove `key`: its value, or `default`. Of several that pop a value, one gets it."""
        while (identity := self._identity(key)) is not None:
            value = self.get(key, MISSING)
            if value is not MISSING and self._delete(key, identity):
                return value
        if default is MISSING:
            raise KeyError(key)
        return default

    def popitem(self) -> tuple[Any, Any]:
        """Remove any entry: its key and value. KeyError when there is none."""
        for key in self:
            value = self.pop(key, MISSING)
            if value is not MISSING:
                return key, value
        raise KeyError("the cache is empty")

    def setdefault(self, key: Any, default: Any = None) -> Any:
        """The value of `key`, which is set to `default` if there is none."""
        while True:
            value = self.get(key, MISSING)
            if value is not MISSING:
                return value
            kind, parts = dump(default, self._serializer)
            if self._put(key, parts, kind, self._ttl, True):
                return default

    def clear(self) -> None:
        """Remove everything."""
        tier = self._tier
        if tier is None:
            self._clear()
            self._drain()
            return
        with tier.lock:  # or what goes to disk meanwhile would go with the old log
            self._clear()
            tier.clear()
            self._codecs.save()
        self._drain()

    # -- many ----------------------------------------------------------------------------------------
    def get_many(self, keys: Iterable[Any]) -> dict[Any, Any]:
        """The values of those `keys` that are there."""
        get = self.get
        return {key: value for key in keys if (value := get(key, MISSING)) is not MISSING}

    def set_many(self, pairs: Mapping[Any, Any] | Iterable[tuple[Any, Any]], *,
                 ttl: float | None = None) -> None:
        """Store many; an error leaves what came before it stored.

        Parameters
        ----------
        pairs : mapping, or iterable of pairs
            Keys and values.
        ttl : float, optional
            Seconds that they live.
        """
        rows = pairs.items() if isinstance(pairs, Mapping) else pairs
        for key, value in rows:
            self.set(key, value, ttl=ttl)

    def delete_many(self, keys: Iterable[Any]) -> int:
        """Remove those `keys` that are there: how many."""
        return sum(self._delete(key) for key in keys)

    # -- room ----------------------------------------------------------------------------------------
    def _make_room(self, need: int) -> None:
        """The engine found no room, and may not evict by itself."""
        tier = self._tier
        self._check_open()
        if tier is not None:
            tier.make_room(need)
            return
        chooser = self._chooser()
        if chooser is not None and not self.lossless:
            before = self._used()
            while before - self._used() < need:
                try:
                    key = chooser.victim()
                except LookupError:
                    break
                if self._delete(key):
                    self._evicted(key, "memory")
                else:
                    chooser.removed(key)  # it had gone by itself
            if self._used() < before or self._compact():
                return
        raise MemoryLimitError(f"{self._memory_is_full()}, and nothing may be evicted: delete entries,"
                               " raise memory_max, or give the cache a disk tier (disk_max=)")

    def _memory_is_full(self) -> str:
        used = self._engine_stats()["memory_used_bytes"]
        return (f"no room for another value: {format_bytes(used)} of"
                f" memory_max={format_bytes(self.memory_max)} are used")

    def evict(self, nbytes: int | str) -> int:
        """Move about `nbytes` of the coldest values out of memory: to disk, without one for good.

        Returns
        -------
        int
            Bytes of values that left memory, compressed; 0 when nothing could.
        """
        wanted = parse_bytes(nbytes)
        tier = self._tier
        self._check_open()
        if tier is not None:
            done = 0
            while done < wanted:
                step = tier.evict(min(wanted - done, 4 << 20))
                if not step:
                    break
                done += step
            return done
        before = self._used()
        if not self.lossless:
            self._evict_from_ram(wanted)
            self._drain()
        return max(before - self._used(), 0)

    def _load_value(self, kind: int, data: Any) -> Any:
        return load(kind, data, self._serializer)

    def _evicted(self, key: Any, reason: str) -> None:
        chooser = self._chooser()
        if chooser is not None:
            chooser.removed(key)
        if self._on_evict is not None:
            self._on_evict(key, reason)

    def _learn(self, value: bytes, original: int, stored: int) -> None:
        """The engine hears of a small value now and then."""
        self._codecs.learn(value, original, stored)

    # -- the rest ------------------------------------------------------------------------------------
    def stats(self) -> dict[str, int]:
        """Counters and sizes: a dict of plain numbers.

        Returns
        -------
        dict
            ``entries``, ``ram_entries``, ``disk_entries``; ``memory_used_bytes`` of
            ``memory_max_bytes``, of which ``pool_bytes``, ``metadata_bytes``, ``hot_bytes``;
            ``original_bytes`` of all values, ``stored_bytes`` of those in memory, compressed;
            ``disk_used_bytes`` of ``disk_max_bytes`` (0: no limit); ``hits`` (``hits_hot``,
            ``hits_disk``), ``misses``, ``sets``, ``deletes``, ``evictions``, ``expirations``;
            ``writebacks``, ``written_bytes``, ``disk_reads``, ``read_bytes``, ``refused``, ``corrupt``;
            ``dictionaries`` in use.
        """
        tier = self._tier
        self._check_open()
        numbers = dict(self._engine_stats())
        if tier is not None:
            numbers |= tier.stats()
        else:
            numbers |= dict.fromkeys(("disk_used_bytes", "disk_max_bytes", "writebacks", "written_bytes",
                                      "disk_reads", "read_bytes", "refused", "corrupt"), 0)
        numbers["dictionaries"] = self._codecs.dictionaries
        return numbers

    def flush(self) -> None:
        """Write to disk what a persistent cache has in memory only; when it returns, all is durable.

        Raises
        ------
        SwapFileError, MemoryLimitError
            The disk fails or is full. What was flushed before is still there.
        """
        tier = self._tier
        self._check_open()
        if tier is not None and tier.persistent:
            tier.flush()

    def close(self) -> None:
        """Flush a persistent cache, and give back memory and disk. A second call does nothing."""
        if self.closed:
            return
        try:
            self.flush()
        finally:
            self._shut()

    def _shut(self) -> None:
        codecs = getattr(self, "_codecs", None)
        if codecs is not None:
            codecs.stop()
        self._close_engine()  # before the tier goes: whoever misses it finds the cache closed
        self._set_flags(False, False, False, False)
        tier, self._tier = self._tier, None
        if tier is not None:
            tier.close()

    def _check_open(self) -> None:
        self._open_checked()

    def __enter__(self) -> Self:
        self._check_open()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None,
                 traceback: TracebackType | None) -> None:
        self.close()

    def __del__(self) -> None:
        if getattr(self, "_pid", None) == os.getpid() and not self.closed:
            self.close()

    def __repr__(self) -> str:
        if self.closed:
            return "<Cache, closed>"
        numbers = self._engine_stats()
        used = format_bytes(numbers["memory_used_bytes"])
        return f"<Cache of {numbers['entries']} entries, {used} of {format_bytes(self.memory_max)}>"

    __hash__ = object.__hash__
    __eq__ = object.__eq__


def _after_fork_in_child() -> None:
    for cache in list(_caches):
        cache._abandon()  # locks may be held by threads that do not exist here


os.register_at_fork(after_in_child=_after_fork_in_child)
