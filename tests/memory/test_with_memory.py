"""What ``with memory:`` covers: which allocations, which threads, nesting, the end, refusals."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from coldmem import Memory
from coldmem.errors import ClosedError, UsageError

Make = Callable[..., Memory]
MIB = 1 << 20

RNG = np.random.default_rng(11)
FLOATS = RNG.normal(size=100_000).round(3)
SQUARE = RNG.normal(size=(400, 400))


def test_loading_a_file_inside_a_block(make_memory: Make, tmp_path: Path) -> None:
    """NumPy reads straight into the new array, whose pages were never touched: never short."""
    memory = make_memory("8M", "32M")
    want = np.concatenate([FLOATS] * 4)
    np.save(tmp_path / "a.npy", want)
    want.tofile(tmp_path / "raw")
    with memory:
        loaded = np.load(tmp_path / "a.npy")
        raw = np.fromfile(tmp_path / "raw")
        assert np.array_equal(loaded, want) and np.array_equal(raw, want)
    del loaded, raw


# -- with memory: -----------------------------------------------------------------------------------
def test_results_land_there(make_memory: Make) -> None:
    memory = make_memory("8M", "96M")
    with memory as same_memory:
        assert same_memory is memory
        for big in (np.zeros(100_000), np.ones(100_000) * 2, np.arange(100_000), np.empty(100_000),
                    np.concatenate([FLOATS, FLOATS]), FLOATS + 1, FLOATS.copy(), np.sort(FLOATS),
                    SQUARE @ SQUARE, FLOATS.astype("f4"), np.fft.rfft(FLOATS)):
            assert memory.owns(big)
        small = np.ones(100)
        assert not memory.owns(small)
        assert not np.zeros(100_000).any()
        grown = np.ones(100_000)
        grown.resize(300_000, refcheck=False)
        assert memory.owns(grown) and grown.sum() == 100_000
        grown.resize(10, refcheck=False)
        assert grown.sum() == 10
    outside = np.ones(100_000)
    assert not memory.owns(outside)
    assert memory.stats()["arrays"] == 1
    del big
    assert memory.stats()["arrays"] == 0, "freed after the block"


def test_threads_inherit(make_memory: Make) -> None:
    memory = make_memory("8M", "96M")
    seen: list[bool] = []

    def body() -> None:
        seen.append(memory.owns(np.ones(100_000)))

    with memory:
        threads = [threading.Thread(target=body) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        with ThreadPoolExecutor(3) as pool:
            for part in pool.map(lambda n: np.full(100_000, n), range(6)):
                assert memory.owns(part)
        timer = threading.Timer(0, body)
        timer.start()
        timer.join()
    assert seen == [True] * 5
    after = threading.Thread(target=body)
    after.start()
    after.join()
    assert seen[-1] is False
    del part, timer, threads, thread
    assert memory.stats()["arrays"] == 0


def test_a_pool_outlives_the_block_and_the_memory(make_memory: Make) -> None:
    memory = make_memory("8M", "32M")
    with memory:
        pool = ThreadPoolExecutor(1)
        assert memory.owns(pool.submit(np.ones, 100_000).result())
    memory.close()
    assert pool.submit(np.ones, 100_000).result().sum() == 100_000
    pool.shutdown()


@pytest.mark.tsan
def test_closing_beside_threads_that_make_arrays(make_memory: Make) -> None:
    """Up to some moment they come from here, and then from NumPy's own allocator; none is refused."""
    for _ in range(3):
        memory = make_memory("8M", "32M")
        stop = threading.Event()

        def make(stop: threading.Event = stop) -> None:
            while not stop.is_set():
                assert np.ones(100_000).sum() == 100_000
                assert not np.zeros(100_000).any()
                time.sleep(0.001)

        with memory, ThreadPoolExecutor(2) as pool:
            jobs = [pool.submit(make) for _ in range(2)]
            end = time.monotonic() + 20
            while not memory.closed and time.monotonic() < end:
                try:
                    memory.close()
                except UsageError:
                    pass
            time.sleep(0.05)
            stop.set()
            for job in jobs:
                job.result()
        assert memory.closed


def test_nested_blocks_and_exceptions(make_memory: Make) -> None:
    one, two = make_memory("8M", "32M"), make_memory("8M", "32M")
    with pytest.raises(KeyError), one:
        a = np.ones(100_000)
        with pytest.raises(ZeroDivisionError), two:
            b = np.ones(100_000)
            with one:
                c = np.ones(100_000)
            d = np.ones(100_000)
            raise ZeroDivisionError
        e = np.ones(100_000)
        raise KeyError
    assert one.owns(a) and two.owns(b) and one.owns(c) and two.owns(d) and one.owns(e)
    assert not one.owns(np.ones(100_000)) and not two.owns(np.ones(100_000))
    b[:] = a + c
    assert b.sum() == 200_000
    del a, b, c, d, e


def test_a_block_that_is_closed_inside(make_memory: Make) -> None:
    memory = make_memory("8M", "32M")
    with memory:
        small = np.ones(10)
        memory.close()
        big = np.ones(1_000_000)  # goes to NumPy's own allocator
        assert big.sum() == 1_000_000
    assert small.sum() == 10
    with pytest.raises(ClosedError), memory:
        pass


def test_refused_inside_a_block(make_memory: Make) -> None:
    """NumPy says MemoryError, and nothing is lost."""
    memory = make_memory("8M", "8M")
    with memory:
        kept = FLOATS.copy()
        with pytest.raises(MemoryError):
            np.ones(4_000_000)
        with pytest.raises(MemoryError):
            np.concatenate([kept] * 30)
        grown = np.ones(100_000)
        with pytest.raises(MemoryError):
            grown.resize(10_000_000, refcheck=False)
        assert grown.sum() == 100_000
        assert np.array_equal(kept, FLOATS)
        again = np.ones(100_000)
        assert memory.owns(again)
    memory.check_valid("full")
    del kept, grown, again
