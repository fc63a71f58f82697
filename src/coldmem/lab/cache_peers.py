"""What ``bench cache`` compares: caches behind one small interface, each used as its users would.

Owns: what a peer opens in the folder that it was given, until `close`. Guarantees: `get` returns what
`set` was given, equal and of the same type, or None. Assumes that one peer is open in a process.
Locks: each peer's own; `Packed`, which is a mapping and a compressor glued together, takes one lock
around the mapping and compresses outside it, with a compressor for each thread.
"""

from __future__ import annotations

import pickle
import threading
from collections.abc import Callable, MutableMapping
from dataclasses import dataclass
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Protocol

from coldmem.errors import UsageError
from coldmem.lab.cache_corpora import NUMPY
from coldmem.linux.usage import anonymous_bytes, other_process_bytes

NO_LIMIT_BYTES = 1 << 34
LMDB_MAP_BYTES = 1 << 30
COLDMEM, COLDMEM_LRU = "coldmem", "coldmem-lru"
DICT, DICT_ZSTD, CACHETOOLS = "dict", "dict-zstd", "cachetools"
CACHETOOLS_LZ4, CACHETOOLS_ZSTD = "cachetools-lz4", "cachetools-zstd"
ZICT, DISKCACHE, LMDB, REDIS = "zict", "diskcache", "lmdb", "redis"
ZSTD_LEVEL = 3

Value = Any


class Peer(Protocol):
    """A cache at work."""

    def get(self, key: str) -> Value | None:
        """The value of `key`; None: it is not there."""

    def set(self, key: str, value: Value) -> None:
        """Store `value`."""

    def used_bytes(self) -> int:
        """By its own account, whatever that counts; comparable with its limit."""

    def entries(self) -> int:
        """How many there are."""

    def full(self) -> bool:
        """Whether it has begun to evict."""

    def close(self) -> None:
        """Give everything back."""


@dataclass(frozen=True, slots=True)
class Opening:
    """What a peer is opened with.

    Attributes
    ----------
    value_kind : str
        One of `cache_corpora.VALUE_KINDS`.
    limit_bytes : int
        By the peer's own account; 0: none.
    folder : Path
        For its files.
    socket : str
        Of the Redis server.
    pid : int
        The process of that server; 0: there is none.
    lru : bool
        The best way to evict that the peer has, also where it is not the default.
    """

    value_kind: str
    limit_bytes: int = 0
    folder: Path = Path()
    socket: str = ""
    pid: int = 0
    lru: bool = False

    @property
    def limit(self) -> int:
        return self.limit_bytes or NO_LIMIT_BYTES

    def held_bytes(self) -> int:
        """What is held by the kernel's account: anonymous memory of this process and the server's, and
        the blocks of the files in the folder (on a tmpfs they are RAM).
        """
        server = other_process_bytes(self.pid, "RssAnon") if self.pid else 0
        return anonymous_bytes() + server + _file_bytes(self.folder)


def _file_bytes(folder: Path) -> int:
    total = 0
    for path in folder.rglob("*"):
        try:
            total += path.stat().st_blocks * 512
        except OSError:
            continue  # it has been removed since
    return total


def _same(value: Value) -> Value:
    return value


def _dumps(value: Value) -> bytes:
    return pickle.dumps(value, 5)


def _forms(value_kind: str) -> tuple[Callable[[Value], bytes], Callable[[bytes], Value]]:
    """For what stores bytes only."""
    return (_dumps, pickle.loads) if value_kind == NUMPY else (_same, _same)


def _size(value: Value) -> int:
    return len(value) if isinstance(value, bytes) else int(value.nbytes)


class _Plain:
    """A dict: no limit, nothing compressed, every value as it is."""

    def __init__(self, how: Opening) -> None:
        self._values: dict[str, Value] = {}
        self.get = self._values.get
        self.set = self._values.__setitem__

    def used_bytes(self) -> int:
        return sum(map(_size, self._values.values()))

    def entries(self) -> int:
        return len(self._values)

    def full(self) -> bool:
        return False

    def close(self) -> None:
        self._values.clear()


class _Packed:
    """A mapping of compressed values, with a lock where the mapping needs one."""

    def __init__(
        self, how: Opening, values: MutableMapping[str, bytes],
        codec: Callable[[], tuple[Callable[[bytes], bytes], Callable[[bytes], bytes]]],
    ) -> None:
        self._values = values
        self._dumps, self._loads = _forms(how.value_kind)
        self._lock = threading.Lock()
        self._codec = codec
        self._local = threading.local()

    def _mine(self) -> tuple[Callable[[bytes], bytes], Callable[[bytes], bytes]]:
        try:
            found: tuple[Callable[[bytes], bytes], Callable[[bytes], bytes]] = self._local.codec
        except AttributeError:
            found = self._local.codec = self._codec()
        return found

    def get(self, key: str) -> Value | None:
        with self._lock:
            data = self._values.get(key)
        return None if data is None else self._loads(self._mine()[1](data))

    def set(self, key: str, value: Value) -> None:
        data = self._mine()[0](self._dumps(value))
        with self._lock:
            self._values[key] = data

    def used_bytes(self) -> int:
        return int(getattr(self._values, "currsize", 0)) or sum(map(len, self._values.values()))

    def entries(self) -> int:
        return len(self._values)

    def full(self) -> bool:
        return False  # a fill ends at the kernel's account

    def close(self) -> None:
        self._values.clear()


def _zstd() -> tuple[Callable[[bytes], bytes], Callable[[bytes], bytes]]:
    zstandard = import_module("zstandard")
    compress = zstandard.ZstdCompressor(level=ZSTD_LEVEL).compress
    # A copy, since what it returns was made for the worst case and keeps a hole behind it.
    return lambda data: bytes(memoryview(compress(data))), zstandard.ZstdDecompressor().decompress


def _lz4() -> tuple[Callable[[bytes], bytes], Callable[[bytes], bytes]]:
    block = import_module("lz4.block")
    return block.compress, block.decompress


def _lru(how: Opening, getsizeof: Callable[[Value], int]) -> MutableMapping[str, Any]:
    made: MutableMapping[str, Any] = import_module("cachetools").LRUCache(how.limit, getsizeof)
    return made


def _cachetools(how: Opening) -> Peer:
    unpacked = Opening("bytes")  # values as they are, whatever they are
    return _Packed(unpacked, _lru(how, _size), lambda: (_same, _same))


class _Zict:
    """`zict.Buffer`: a dict whose least recently used values go to files; where there is a limit they
    go nowhere instead, since files are no memory: then it is `zict.LRU`.
    """

    def __init__(self, how: Opening) -> None:
        zict = import_module("zict")
        dumps, loads = _forms(how.value_kind)
        self._evicted = False
        weight = lambda key, value: _size(value)  # noqa: E731
        if how.limit_bytes:
            self._fast = self._values = zict.LRU(how.limit, {}, on_evict=[self._gone], weight=weight)
        else:
            slow = zict.Func(dumps, loads, zict.File(str(how.folder)))
            self._values = zict.Buffer({}, slow, how.limit, weight=weight)
            self._fast = self._values.fast
        self.set = self._values.__setitem__

    def _gone(self, key: str, value: Value) -> None:
        self._evicted = True

    def get(self, key: str) -> Value | None:
        try:
            return self._values[key]  # `get` of a Mapping would do this in more steps
        except KeyError:
            return None

    def used_bytes(self) -> int:
        return int(self._fast.total_weight)

    def entries(self) -> int:
        return len(self._values)

    def full(self) -> bool:
        return self._evicted

    def close(self) -> None:
        self._values.close()


class _Diskcache:
    """`diskcache.Cache` with its defaults but for the size; which entries it culls is of the Opening."""

    def __init__(self, how: Opening) -> None:
        policy = "least-recently-used" if how.lru else "least-recently-stored"
        self._cache = import_module("diskcache").Cache(
            str(how.folder), size_limit=how.limit, eviction_policy=policy)
        self.get = self._cache.get
        self.set = self._cache.set
        self._limit = how.limit

    def used_bytes(self) -> int:
        return int(self._cache.volume())

    def entries(self) -> int:
        return len(self._cache)

    def full(self) -> bool:
        return self.used_bytes() >= self._limit

    def close(self) -> None:
        self._cache.close()


class _Lmdb:
    """One transaction an operation; nothing waits for a disk."""

    def __init__(self, how: Opening) -> None:
        lmdb = import_module("lmdb")
        size = how.limit_bytes or LMDB_MAP_BYTES
        self._env = lmdb.open(str(how.folder), map_size=size, sync=False, metasync=False)
        self._begin = self._env.begin
        self._dumps, self._loads = _forms(how.value_kind)

    def get(self, key: str) -> Value | None:
        with self._begin() as transaction:
            data = transaction.get(key.encode())
        return None if data is None else self._loads(data)

    def set(self, key: str, value: Value) -> None:
        with self._begin(write=True) as transaction:
            transaction.put(key.encode(), self._dumps(value))

    def used_bytes(self) -> int:
        info, stat = self._env.info(), self._env.stat()
        return int((info["last_pgno"] + 1) * stat["psize"])

    def entries(self) -> int:
        return int(self._env.stat()["entries"])

    def full(self) -> bool:
        return False

    def close(self) -> None:
        self._env.close()


class _Redis:
    """A client of the server that the benchmark has started."""

    def __init__(self, how: Opening) -> None:
        self._client = import_module("redis").Redis(unix_socket_path=how.socket)
        self._dumps, self._loads = _forms(how.value_kind)

    def get(self, key: str) -> Value | None:
        data = self._client.get(key)
        return None if data is None else self._loads(data)

    def set(self, key: str, value: Value) -> None:
        self._client.set(key, self._dumps(value))

    def used_bytes(self) -> int:
        return int(self._client.info("memory")["used_memory"])

    def entries(self) -> int:
        return int(self._client.dbsize())

    def full(self) -> bool:
        return int(self._client.info("stats")["evicted_keys"]) > 0

    def close(self) -> None:
        self._client.flushall()
        self._client.close()


class _Coldmem:
    """`coldmem.Cache`, everything in RAM."""

    def __init__(self, how: Opening, policy: str) -> None:
        self._cache = import_module("coldmem").Cache(how.limit_bytes or 1 << 30, policy=policy)
        self.get = self._cache.get
        self.set = self._cache.__setitem__

    def used_bytes(self) -> int:
        return int(self._cache.stats()["memory_used_bytes"])

    def entries(self) -> int:
        return len(self._cache)

    def full(self) -> bool:
        return int(self._cache.stats()["evictions"]) > 0

    def close(self) -> None:
        self._cache.close()


@dataclass(frozen=True, slots=True)
class Kind:
    """A peer that can take part.

    Attributes
    ----------
    name : str
    about : str
        For the table of the documentation.
    make : callable
        Opens one.
    needs : tuple of str
        Modules, other than coldmem's own.
    evicts : bool
        It can be given a limit, and then takes out what is not used.
    own_limit : bool
        Its limit is meant to be of all it takes: a fill ends there. Others end at the kernel's account.
    speed : bool
        It takes part in gets and sets by default.
    """

    name: str
    about: str
    make: Callable[[Opening], Peer]
    needs: tuple[str, ...] = ()
    evicts: bool = True
    own_limit: bool = False
    speed: bool = True


PEERS = {
    kind.name: kind
    for kind in (
        Kind(COLDMEM, "coldmem.Cache", lambda how: _Coldmem(how, "s3fifo"), own_limit=True),
        Kind(COLDMEM_LRU, "coldmem.Cache, policy lru", lambda how: _Coldmem(how, "lru"),
             own_limit=True, speed=False),
        Kind(DICT, "a dict, no limit", _Plain, evicts=False),
        Kind(DICT_ZSTD, "a dict of values compressed one by one with zstd 3",
             lambda how: _Packed(how, {}, _zstd), ("zstandard",), evicts=False, speed=False),
        Kind(CACHETOOLS, "cachetools.LRUCache and a lock", _cachetools, ("cachetools",), speed=False),
        Kind(CACHETOOLS_LZ4, "cachetools.LRUCache, a lock, lz4.block",
             lambda how: _Packed(how, _lru(how, len), _lz4), ("cachetools", "lz4.block")),
        Kind(CACHETOOLS_ZSTD, "cachetools.LRUCache, a lock, zstandard at level 3",
             lambda how: _Packed(how, _lru(how, len), _zstd), ("cachetools", "zstandard"), speed=False),
        Kind(ZICT, "zict.Buffer of a dict and files; with a limit zict.LRU", _Zict, ("zict",)),
        Kind(DISKCACHE, "diskcache.Cache", _Diskcache, ("diskcache",)),
        Kind(LMDB, "lmdb, a transaction an operation, no sync", _Lmdb, ("lmdb",), evicts=False),
        Kind(REDIS, "redis-server on a Unix socket, redis-py", _Redis, ("redis",), own_limit=True),
    )
}
PIP_NAMES = {"lz4.block": "lz4"}


def missing(name: str) -> str:
    """Which packages keep the peer `name` from running; empty: none."""
    lacking = [m for m in PEERS[name].needs if find_spec(m.partition(".")[0]) is None]
    if name in (COLDMEM, COLDMEM_LRU) and find_spec("coldmem.cache") is None:
        return "this coldmem has no Cache"
    if not lacking:
        return ""
    listed = " and ".join(PIP_NAMES.get(m, m) for m in lacking)
    return f"{listed} not installed: pip install 'coldmem[peers]'"


def open_peer(name: str, how: Opening) -> Peer:
    """The peer `name`, empty and ready."""
    if name not in PEERS:
        raise UsageError(f"no peer is called {name!r}; there are {', '.join(PEERS)}")
    return PEERS[name].make(how)
