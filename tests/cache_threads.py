"""What thread tests of the cache share: values that say whose and which they are, and crews."""

from __future__ import annotations

import itertools
import random
import struct
import threading
from collections.abc import Callable, Hashable
from contextlib import suppress
from typing import Any

from cache_data import noise

from coldmem import Cache, MemoryLimitError

HEAD = struct.Struct("<QQI")
THREADS = 6
KEYS = 60


def value_of(key, version, nbytes):
    """A value that tells its key and version in its first bytes, and again in all that follow."""
    head = HEAD.pack(key, version, nbytes)
    body = noise(200, version) if version % 3 else b"%d," % version * 20
    return head + (body * (nbytes // len(body) + 1))[:nbytes]


def version_of(value, key):
    """The version of a value that is whole and belongs to `key`."""
    found, version, nbytes = HEAD.unpack_from(value)
    assert found == key
    assert value == value_of(key, version, nbytes)
    return version


def sizes(pick):
    return pick.choice([0, 50, 300, 2000, 3000, 5000, 20_000, 70_000])


def crew(jobs, seconds):
    """Each job over and over, in a thread of its own; the first error is raised here."""
    stop, errors = threading.Event(), []

    def body(job):
        try:
            while not stop.is_set():
                job()
        except BaseException as error:
            errors.append(error)
            stop.set()

    threads = [threading.Thread(target=body, args=(job,)) for job in jobs]
    for thread in threads:
        thread.start()
    stop.wait(seconds)
    stop.set()
    for thread in threads:
        thread.join()
    if errors:
        raise errors[0]


def put(cache: Cache, key: Hashable, value: Any) -> None:
    """How `Versions` stores a value, if it is not told another way."""
    cache[key] = value


class Versions:
    """What was written last under each key: one writer a key at a time. Nobody reads what was before.

    `keys` are the keys as the cache has them; what is said of them here goes by their numbers.
    """

    def __init__(self, keys: Callable[[int], Hashable] = int) -> None:
        self.key = keys
        self.counters = [itertools.count(1) for _ in range(KEYS)]
        self.locks = [threading.Lock() for _ in range(KEYS)]
        self.last = [0] * KEYS

    def writer(self, cache: Cache, seed: int, make: Callable[[int, int, random.Random], bytes],
               keys: int = KEYS, store: Callable[[Cache, Hashable, Any], None] = put,
               ) -> Callable[[], None]:
        pick = random.Random(seed)

        def step() -> None:
            key = pick.randrange(keys)
            with self.locks[key]:
                version = next(self.counters[key])
                if pick.random() < 0.1:
                    gone = cache.pop(self.key(key), None)
                    assert gone is None or version_of(gone, key) == self.last[key]
                    self.last[key] = 0
                    return
                with suppress(MemoryLimitError):  # then the one before is there still
                    store(cache, self.key(key), make(key, version, pick))
                    self.last[key] = version

        return step

    def reader(self, cache: Cache, seed: int, keys: int = KEYS, peek: bool = False,
               ) -> Callable[[], None]:
        pick = random.Random(seed)
        get = cache.peek if peek else cache.get

        def step() -> None:
            key = pick.randrange(keys)
            least = self.last[key]
            value = get(self.key(key))
            if value is not None:
                assert version_of(value, key) >= least

        return step

    def check(self, cache: Cache, lossy: bool) -> None:
        cache.check_valid()
        for key, version in enumerate(self.last):
            value = cache.get(self.key(key))
            if value is None:
                assert lossy or version == 0, (key, version, cache.stats())
            else:
                assert version_of(value, key) == version
        cache.check_valid()
        numbers = cache.stats()
        assert numbers["memory_used_bytes"] <= numbers["memory_max_bytes"]
