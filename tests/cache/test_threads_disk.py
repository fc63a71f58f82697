"""Threads, and what goes to disk at once: whole values beside those that are set, evicted, read in
place, flushed, removed, too large for memory."""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Hashable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from cache_data import make_cache
from cache_threads import THREADS, Versions, crew, sizes, value_of, version_of

from coldmem import Cache, MemoryLimitError

DISKS = ["disk", "persistent", "lossless"]


def mixed(number: int) -> Hashable:
    """Of every kind: what the engine has itself, and what it has a number for."""
    return (number, str(number), ("key", number))[number % 3]


def any_size(key: int, version: int, pick: random.Random) -> bytes:
    return value_of(key, version, pick.choice([sizes(pick), 200_000]))


def too_large(key: int, version: int, pick: random.Random) -> bytes:
    """For a cache of a MiB that does not compress, two times of three."""
    return value_of(key, version, pick.choice([3000, 600_000, 700_000]))


def straight(cache: Cache, key: Hashable, value: Any) -> None:
    cache.set_on_disk(key, value)


def either(cache: Cache, key: Hashable, value: Any) -> None:
    """At once, or as others are set; what replaces what changes all the time."""
    if len(value) % 2:
        cache.set_on_disk(key, value)
    else:
        cache[key] = value


def odd_and_even(key: int, version: int, pick: random.Random) -> bytes:
    return value_of(key, version, pick.choice(
        [0, 1, 300, 301, 3000, 5001, 20_000, 70_001, 70_000, 200_001]))


def shuffle(cache: Cache, flush: bool) -> Callable[[], None]:
    """What goes on beside: values leave, are counted, walked through, made durable."""
    turn = iter(range(1 << 60))

    def step() -> None:
        cache.evict(200_000)
        cache.stats()
        if flush and next(turn) % 4 == 0:
            cache.flush()
        list(cache)
        time.sleep(0.002)

    return step


@pytest.mark.tsan
@pytest.mark.parametrize("kind", DISKS)
def test_values_set_on_disk_beside_all_else(kind: str, tmp_path: Path, stress_seconds: float) -> None:
    """The last value that was stored is there, whichever way it came, and none is read after a newer."""
    versions = Versions(mixed)
    with make_cache(kind, tmp_path, "4MiB") as cache:
        crew([versions.writer(cache, 1, odd_and_even, store=either),
              versions.writer(cache, 2, odd_and_even, store=either),
              versions.writer(cache, 3, any_size, store=straight),
              versions.reader(cache, 4), versions.reader(cache, 5, peek=True),
              shuffle(cache, kind == "persistent")], stress_seconds / 2)
        versions.check(cache, lossy=False)
    if kind == "persistent":
        with make_cache(kind, tmp_path, "4MiB") as cache:
            versions.check(cache, lossy=False)


@pytest.mark.tsan
@pytest.mark.parametrize("kind", DISKS)
def test_peeks_while_values_leave(kind: str, tmp_path: Path, stress_seconds: float) -> None:
    """A peek finds a value wherever it is just then, and few keys are read by many at once."""
    versions = Versions(mixed)
    with make_cache(kind, tmp_path, "4MiB") as cache:
        def leave() -> None:
            cache.evict("4MiB")

        crew([versions.writer(cache, 1, any_size, 6), versions.writer(cache, 2, any_size, 6),
              *[versions.reader(cache, n, 6, peek=True) for n in range(3)],
              versions.reader(cache, 3, 6), leave], stress_seconds / 2)
        versions.check(cache, lossy=False)


@pytest.mark.tsan
@pytest.mark.parametrize("kind", DISKS)
def test_values_too_large_for_memory(kind: str, tmp_path: Path, stress_seconds: float) -> None:
    """They replace small ones and are replaced by them, and are popped by one."""
    versions = Versions(mixed)
    with make_cache(kind, tmp_path, "1MiB", codec="raw") as cache:
        crew([versions.writer(cache, 1, too_large, 8), versions.writer(cache, 2, too_large, 8),
              versions.writer(cache, 3, too_large, 8, straight),
              versions.reader(cache, 4, 8), versions.reader(cache, 5, 8, peek=True),
              shuffle(cache, kind == "persistent")], stress_seconds / 2)
        # Two of them at once fill the memory on their way, and drive others out.
        lossy = kind != "lossless" and cache.stats()["evictions"] > 0
        versions.check(cache, lossy)
        assert cache.stats()["disk_reads"] > 0
    if kind == "persistent":
        with make_cache(kind, tmp_path, "1MiB", codec="raw") as cache:
            versions.check(cache, lossy)


@pytest.mark.tsan
@pytest.mark.parametrize("path", [False, True], ids=["spill", "persistent"])
def test_one_winner_of_what_is_too_large(path: bool, tmp_path: Path,
                                         run_threads: Callable[..., Any]) -> None:
    """In a lossless cache: in another, the winner's may be evicted before the next looks."""
    folder = {"path": tmp_path / "kept"} if path else {"directory": tmp_path}
    with Cache("1MiB", **folder, codec="raw", lossless=True) as cache:
        def take(key: Hashable, value: bytes) -> bytes:
            while True:
                try:
                    found: bytes = cache.setdefault(key, value)
                    return found
                except MemoryLimitError:  # the others' fill the memory on their way
                    time.sleep(random.random() * 0.01)

        for number in range(9):
            key = mixed(number)
            values = [value_of(number, n, 600_000) for n in range(THREADS)]
            taken = run_threads(*[partial(take, key, value) for value in values])
            (found,) = set(taken)
            assert cache[key] == found
            popped = run_threads(*[lambda key=key: cache.pop(key, None)] * THREADS)
            assert [value for value in popped if value is not None] == [found]
            assert key not in cache
        cache.check_valid()
        assert len(cache) == 0


@pytest.mark.tsan
def test_a_small_disk_takes_what_it_can(tmp_path: Path, stress_seconds: float) -> None:
    """Values that go to disk at once drive others out there; what is there is whole."""
    versions = Versions(mixed)
    with make_cache("disk", tmp_path, "2MiB", disk_max="4MiB", codec="raw") as cache:
        def walk() -> None:
            for number in range(20):
                value = cache.peek(mixed(number))
                assert value is None or version_of(value, number)

        crew([versions.writer(cache, 1, any_size, store=either),
              versions.writer(cache, 2, any_size, store=straight),
              versions.reader(cache, 3), walk, shuffle(cache, False)], stress_seconds / 2)
        versions.check(cache, lossy=True)
