"""Working memory of many threads may not stay with a small cache: it would refuse every later value."""

from __future__ import annotations

import threading
from contextlib import suppress

import pytest

from coldmem import Cache, MemoryLimitError


@pytest.mark.parametrize("memory, threads", [("1MiB", 16), ("2MiB", 32)])
def test_a_small_cache_takes_values_after_many_threads(memory: str, threads: int) -> None:
    def work(seed: int) -> None:
        for step in range(100):
            with suppress(MemoryLimitError):  # while all of them hold working memory
                cache[seed, step % 9] = bytes([seed]) * 20_000
            cache.get((seed, 0))

    with Cache(memory, codec="zstd") as cache:
        crew = [threading.Thread(target=work, args=(seed,)) for seed in range(threads)]
        for thread in crew:
            thread.start()
        for thread in crew:
            thread.join()
        for n in range(20):
            cache[n] = b"%d" % n * 1000
        numbers = cache.stats()
        assert numbers["memory_used_bytes"] <= numbers["memory_max_bytes"]
        cache.check_valid()
