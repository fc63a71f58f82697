"""Working memory of many threads may not stay with a small cache: it would refuse every later value."""

from __future__ import annotations

import threading
import zlib
from collections.abc import Callable
from contextlib import suppress

import pytest

from coldmem import Cache, MemoryLimitError


class Meeting:
    """A codec that lets nobody go on until all threads are compressing, each with working memory."""

    name = "meeting"

    def __init__(self, threads: int) -> None:
        self.barrier = threading.Barrier(threads)
        self.over = False

    def compress(self, data: memoryview) -> bytes:
        if not self.over:
            self.barrier.wait(60)
            self.over = True
        return zlib.compress(data, 1)

    def decompress(self, data: memoryview, size: int) -> bytes:
        return zlib.decompress(data)


@pytest.mark.tsan
@pytest.mark.parametrize("memory, threads", [("1MiB", 16), ("2MiB", 32)])
def test_a_small_cache_takes_values_after_many_threads(
        memory: str, threads: int, run_threads: Callable[..., object]) -> None:
    codec = Meeting(threads)

    def work(seed: int) -> None:
        for step in range(30):
            with suppress(MemoryLimitError):  # while all of them hold working memory
                cache[seed, step % 9] = bytes([seed]) * 20_000
            cache.get((seed, 0))

    with Cache(memory, codec=codec) as cache:
        run_threads(*[lambda seed=seed: work(seed) for seed in range(threads)])
        assert codec.over
        for n in range(20):
            cache[n] = b"%d" % n * 1000
        numbers = cache.stats()
        assert numbers["memory_used_bytes"] <= numbers["memory_max_bytes"]
        cache.check_valid()
