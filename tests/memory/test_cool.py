"""The recompressor: what stays cold becomes smaller, and nothing else changes."""

from __future__ import annotations

import os
import time
from collections.abc import Callable

import numpy as np
import pytest

from coldmem import Memory

Make = Callable[..., Memory]
MIB = 1 << 20
WORDS = np.array(
    [f"{word} {number};" for word in ("pool", "zspage", "handle", "class") for number in range(50)],
    "S12",
)

pytestmark = pytest.mark.skipif(
    len(os.sched_getaffinity(0)) < 2, reason="one CPU: there is no recompressor"
)


def text(nbytes: int, seed: int) -> np.ndarray:
    """Words in random order: LZ4 makes less of it than zstd does."""
    picked = np.random.default_rng(seed).choice(WORDS, nbytes // WORDS.itemsize + 1)
    return picked.view(np.uint8)[:nbytes]


def wait_for(condition: Callable[[], bool]) -> bool:
    for _ in range(600):
        if condition():
            return True
        time.sleep(0.05)
    return False


def recompressed(memory: Memory) -> int:
    return int(memory.zswap.stats()["codecs"].get("auto+zstd", 0))


def test_what_stays_cold_becomes_smaller(make_memory: Make) -> None:
    memory = make_memory("32M", 0, overcommit=True)
    want = text(24 * MIB, 1)
    array = memory.array(want)
    memory.evict(array)
    before = memory.stats()["compressed_bytes"]
    assert wait_for(lambda: recompressed(memory) > 5500)
    assert wait_for(lambda: memory.stats()["compressed_bytes"] < before * 9 // 10)
    assert memory.stats()["footprint_bytes"] <= memory.memory_max
    memory.check_valid("full")
    assert np.array_equal(array, want)
    array[:] = 0
    memory.check_valid("full")
    del array


def test_what_lies_on_disk_does_not_end_it(make_memory: Make) -> None:
    memory = make_memory("24M", "256M")
    first = memory.array(text(30 * MIB, 2))
    memory.evict(first)
    assert wait_for(lambda: recompressed(memory) > 4000)
    done = memory.stats()["recompressed_bytes"]
    second = memory.array(text(80 * MIB, 3))  # drives the first to disk
    memory.evict(second)
    assert memory.stats()["swap_bytes"] > 0
    assert wait_for(lambda: memory.stats()["recompressed_bytes"] > done + 4 * MIB)
    memory.check_valid("full")
    assert np.array_equal(first, text(30 * MIB, 2)) and np.array_equal(second, text(80 * MIB, 3))
    del first, second


def test_without_a_cold_codec(make_memory: Make) -> None:
    memory = make_memory("16M", 0, cold_codec=None)
    array = memory.array(text(4 * MIB, 4))
    memory.evict(array)
    assert not any(thread.name == "coldmem-recompressor" for thread in memory_threads())
    assert set(memory.zswap.stats()["codecs"]) <= {"auto", "none"}
    del array


def memory_threads() -> list[object]:
    import threading

    return [thread for thread in threading.enumerate() if thread.name.startswith("coldmem-re")]
