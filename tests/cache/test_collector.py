"""A garbage collection may let another thread run. None may begin while a lock is held."""

from __future__ import annotations

import gc
import random
import threading
import time
from pathlib import Path

import pytest

from coldmem import Cache


def give_way(*_: object) -> None:
    """What a finalizer might do: let another thread run."""
    time.sleep(0)


@pytest.mark.parametrize("codec", ["zstd", "auto", "bitshuffle8+lz4"])
def test_a_cache_in_garbage_has_its_codecs_to_the_end(codec: str) -> None:
    """Whatever the collector takes apart first; that it does so later is for `make asan` to see."""
    gc.collect()
    gc.freeze()  # what the other tests left, so that a collection is short
    try:
        for _ in range(10):
            cache = Cache("2MiB", codec=codec)
            cache["k"] = bytes(100_000)
            assert cache["k"] == bytes(100_000)
            # The collector empties lists, and never tuples.
            lists = [one for one in gc.get_referents(cache) if type(one) is list]
            assert not any(lists)
            ring: list[object] = [cache]  # what is made later is taken apart later
            ring.append({"cache": cache, "ring": [ring]})
            del cache, ring
            gc.collect()
    finally:
        gc.unfreeze()


@pytest.mark.tsan
@pytest.mark.parametrize("path", [False, True], ids=["spill", "persistent"])
def test_collections_in_any_call_lock_nothing_up(tmp_path: Path, path: bool, sanitized: str) -> None:
    steps = 300 if sanitized else 800 if path else 1500
    folder = {"path": tmp_path / "kept"} if path else {"directory": tmp_path}
    failed: list[BaseException] = []

    def work(seed: int) -> None:
        try:
            rng = random.Random(seed)
            for step in range(steps):
                key = rng.randrange(400)
                if rng.random() < 0.5:
                    cache[key] = bytes([key % 251]) * rng.choice((100, 9000, 200_000))
                else:
                    value = cache.get(key)
                    assert value is None or value == bytes([key % 251]) * len(value)
                if step % 50 == 0:
                    cache.stats()
                    cache.evict(100_000)
                    len(list(cache))
                if step % 10 == 0:
                    cache.pop(key, None)
        except BaseException as error:
            failed.append(error)

    before = gc.get_threshold()
    with Cache("4MiB", codec="raw", disk_max="64MiB", **folder) as cache:
        gc.callbacks.append(give_way)
        gc.freeze()  # what the other tests left, so that a collection is short
        gc.set_threshold(1)
        try:
            threads = [threading.Thread(target=work, args=(seed,)) for seed in range(4)]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
        finally:
            gc.set_threshold(*before)
            gc.unfreeze()
            gc.callbacks.remove(give_way)
        assert not failed, failed
        cache.check_valid()
        assert cache.stats()["writebacks"] > 0
