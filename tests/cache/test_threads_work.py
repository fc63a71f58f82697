"""Threads, while the cache is at work of its own: it flushes, trains and re-encodes, keeps hot copies,
has a full disk, asks a policy, tells of evictions."""

from __future__ import annotations

import itertools
import random
import time
import zlib
from collections import Counter, OrderedDict
from collections.abc import Callable, Hashable
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from cache_data import noise
from cache_threads import Versions, crew, sizes, value_of

from coldmem import Cache, MemoryLimitError
from coldmem.cache import learn, value_codecs


def any_size(key: int, version: int, pick: random.Random) -> bytes:
    return value_of(key, version, pick.choice([sizes(pick), 200_000]))


def large(key: int, version: int, pick: random.Random) -> bytes:
    return value_of(key, version, pick.choice([9000, 20_000, 70_000]))


def middling(key: int, version: int, pick: random.Random) -> bytes:
    return value_of(key, version, 60_000)


@pytest.mark.tsan
def test_flushes_beside_writers(tmp_path: Path, stress_seconds: float) -> None:
    """Nothing is lost between memory, what a flush copies, and what it replaces on disk."""
    versions = Versions()
    flushes = itertools.count()
    with Cache("4MiB", path=tmp_path / "c", lossless=True) as cache:
        def flush() -> None:
            cache.flush()
            next(flushes)

        def rest() -> None:
            cache.evict(200_000)
            cache.stats()
            time.sleep(0.002)

        crew([versions.writer(cache, 1, any_size), versions.writer(cache, 2, any_size),
              versions.reader(cache, 3), versions.reader(cache, 4), flush, rest], stress_seconds / 2)
        versions.check(cache, lossy=False)
        assert next(flushes) > 2
    with Cache("4MiB", path=tmp_path / "c", lossless=True) as cache:
        versions.check(cache, lossy=False)


@pytest.mark.tsan
@pytest.mark.parametrize("codec", ["lz4", "raw"])
def test_hot_copies_are_of_the_value_that_is_there(codec: str, stress_seconds: float) -> None:
    """Few keys, read again and again, some of them replaced and removed."""
    versions = Versions()
    with Cache("8MiB", codec=codec) as cache:
        def rest() -> None:
            time.sleep(0.005)
            cache.evict(100_000)

        crew([versions.writer(cache, 1, middling, 4), *[versions.reader(cache, n, 4) for n in range(3)],
              versions.writer(cache, 2, large), rest], stress_seconds / 2)
        versions.check(cache, lossy=True)
        for _ in range(8):  # enough for one that nobody disturbs
            value = cache.setdefault(0, b"0" * 9000)
        assert cache[0] == value
        assert cache.stats()["hits_hot"] > 0


class Interrupted:
    """A codec that lets something happen in the middle of reading a value."""

    name = "interrupted"
    meanwhile: Callable[[], object] | None = None

    def compress(self, data: memoryview) -> bytes:
        return zlib.compress(data, 1)

    def decompress(self, data: memoryview, size: int) -> bytes:
        meanwhile, self.meanwhile = self.meanwhile, None
        if meanwhile is not None:
            meanwhile()
        return zlib.decompress(data)


@pytest.mark.parametrize("nbytes", [20_000, 60_000, 200_000])
@pytest.mark.parametrize("how", ["replaced", "removed", "another"])
def test_no_hot_copy_is_made_of_a_value_that_has_gone(nbytes: int, how: str) -> None:
    codec = Interrupted()
    a, b, c = (bytes([letter]) * nbytes for letter in b"abc")

    def meanwhile() -> None:
        if how != "replaced":
            del cache["k"]
        if how == "another":
            cache["other"] = c  # in the entry that is free now
        elif how == "replaced":
            cache["k"] = c

    with Cache("30MiB", codec=codec) as cache:
        cache["k"] = a
        for _ in range(8):  # what is read often, and not for the first time
            assert cache["k"] == a
        cache["k"] = b
        codec.meanwhile = meanwhile
        assert cache["k"] == b
        assert codec.meanwhile is None
        expected = {"replaced": {"k": c}, "removed": {}, "another": {"other": c}}[how]
        for _ in range(8):
            cache.check_valid()
            assert dict(cache) == expected
        assert how == "removed" or cache.stats()["hits_hot"] > 0


@pytest.mark.tsan
@pytest.mark.parametrize("memory, disk", [("1MiB", "1MiB"), ("32MiB", "4MiB")])
def test_a_full_disk(tmp_path: Path, stress_seconds: float, memory: str, disk: str) -> None:
    """What the disk refuses is evicted from memory, by several threads at once; all of it is told."""
    gone: Counter[int] = Counter()
    stored: Counter[int] = Counter()
    numbers = itertools.count()

    def hear(key: int, reason: str) -> None:
        gone[key] += 1

    with Cache(memory, directory=tmp_path, disk_max=disk, codec="raw", on_evict=hear) as cache:
        nbytes = 20_000 if memory == "1MiB" else 200_000

        def write() -> None:
            for key in itertools.islice(numbers, 10):
                with suppress(MemoryLimitError):
                    cache[key] = noise(nbytes, key)
                    stored[key] += 1

        def read() -> None:
            for key in list(cache)[:20]:
                assert cache.get(key) in (None, noise(nbytes, key))

        while not gone:
            write()
        crew([write, write, write, read], stress_seconds / 2)
        cache.check_valid()
        left = set(cache)
        assert cache.stats()["refused"] + cache.stats()["evictions"] > 0
        assert set(gone.values()) == {1}
        assert stored.keys() == gone.keys() ^ left


def record(kind: int, number: int) -> bytes:
    """Values of a kind share long strings, which those of another kind do not have."""
    shared = random.Random(f"kind{kind}")
    fields = ["".join(shared.choices("abcdefghijklmnop", k=24)) for _ in range(12)]
    return f"{kind} {number}: ".encode() + ", ".join(f"{f}: {number}" for f in fields).encode()


@pytest.mark.tsan
@pytest.mark.parametrize("where", ["ram", "disk"])
def test_dictionaries_that_change(tmp_path: Path, stress_seconds: float, where: str,
                                  monkeypatch: pytest.MonkeyPatch) -> None:
    """The kind of values changes, so dictionaries are trained, values re-encoded, dictionaries given up.

    Meanwhile the values are read, replaced, moved to disk and removed.
    """
    monkeypatch.setattr(value_codecs, "plan_for", lambda memory_max: (4096, 1, 40))
    monkeypatch.setattr(learn, "BREAK_STORES", 32)
    monkeypatch.setattr(learn, "AVERAGE_STORES", 32)
    monkeypatch.setattr(value_codecs, "_SAMPLE_SELDOM", 1)
    kind = itertools.count(1)
    now = [0]
    options: dict[str, Any] = {"directory": tmp_path, "disk_max": "64MiB"} if where == "disk" else {}
    with Cache("6MiB", **options) as cache:
        learner = cache._codecs._learner
        assert learner is not None

        def write(seed: int) -> Callable[[], None]:
            pick = random.Random(seed)

            def step() -> None:
                key = pick.randrange(1500)
                cache[key] = record(now[0], key)
                if pick.random() < 0.05:
                    cache.pop(pick.randrange(1500), None)

            return step

        def read() -> None:
            for key, value in cache.items():
                assert value == record(int(value.split(b" ")[0]), key)

        def change() -> None:
            before = learner.trainings
            now[0] = next(kind)
            end = time.monotonic() + 0.2 * stress_seconds
            while learner.trainings == before and time.monotonic() < end:
                time.sleep(0.002)
            cache.evict(50_000)

        crew([write(1), write(2), read, change], stress_seconds / 2)
        codecs = cache._codecs
        for number in range(20_000):  # however slow the machine: it does learn
            if learner.adoptions > 2:
                break
            now[0] = number // 500 + 1000
            cache[number % 1500] = record(now[0], number % 1500)
            while (thread := codecs._thread) is not None:  # else it learns of one kind in all that time
                thread.join()
        assert learner.adoptions > 2
        read()
        cache.check_valid()
        cache.clear()
        codecs._retire()  # nobody has anything in hand: all go but the one in use
        assert codecs._numbers in ([], [cache.small_codec])
        cache["k"] = record(1, 1)
        assert cache["k"] == record(1, 1)


class Recent:
    """A policy of the user's: what was set longest ago goes."""

    def __init__(self) -> None:
        self.order: OrderedDict[Hashable, int] = OrderedDict()
        self.busy = False

    def enter(self) -> None:
        assert not self.busy, "two threads in a policy at once"
        self.busy = True

    def added(self, key: Hashable, nbytes: int) -> None:
        self.enter()
        self.order.pop(key, None)
        self.order[key] = nbytes
        self.busy = False

    def hit(self, key: Hashable) -> None:
        self.enter()
        time.sleep(0)
        self.busy = False

    def removed(self, key: Hashable) -> None:
        self.enter()
        self.order.pop(key, None)
        self.busy = False

    def victim(self) -> Hashable:
        self.enter()
        try:
            return next(iter(self.order))
        except StopIteration:
            raise LookupError("it knows of none") from None
        finally:
            self.busy = False


@pytest.mark.tsan
def test_a_policy_of_ones_own(stress_seconds: float) -> None:
    """One call of it at a time, and it knows of all that is there when all is quiet."""
    versions = Versions()
    policy = Recent()
    with Cache("1MiB", policy=policy, codec="raw") as cache:
        crew([versions.writer(cache, 1, large), versions.writer(cache, 2, large),
              versions.reader(cache, 3), versions.reader(cache, 4)], stress_seconds / 2)
        versions.check(cache, lossy=True)
        assert set(cache) <= set(policy.order)
        assert cache.stats()["memory_used_bytes"] <= 1 << 20
