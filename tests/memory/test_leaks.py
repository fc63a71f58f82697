"""Memory, disk, descriptors, threads and mappings are back where they were, whatever was done meanwhile.

Each way of use is a function that opens a Memory and closes it. It runs so often that what one run might
leave behind, even half a unit of RAM, passes the bounds; and a leak grows in every round of that, where
the arenas of an allocator come and stay. So RAM and mappings must hold still in one round of several.
"""

from __future__ import annotations

import ctypes
import gc
import os
import signal
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

from coldmem import Memory
from coldmem.errors import CorruptDataError, MemoryLimitError, UsageError
from coldmem.linux.userfaultfd import rights_here

MIB = 1 << 20
ROUNDS, TIMES = 6, 16
# Arenas of malloc and of Python's own allocator come and go: what has grown by less than this in one
# round is no leak. 128 KiB for each time, or one mapping for each second time, would be.
RSS_MOST, MAPS_MOST = 2 * MIB, TIMES // 2
# It keeps what was freed, to see who uses it: RAM and mappings say nothing then.
ADDRESS_SANITIZER = os.environ.get("COLDMEM_SANITIZE") == "address"
NOISE = np.random.default_rng(7).integers(0, 256, 10 * MIB, np.uint8)
pytestmark = pytest.mark.filterwarnings("ignore:This process.*multi-threaded:DeprecationWarning")


@dataclass(frozen=True)
class Used:
    """What this process has in hand."""

    rss_bytes: int
    maps: int
    descriptors: int
    threads: int
    swap_files: int
    swap_blocks: int

    @classmethod
    def now(cls) -> Used:
        gc.collect()
        ctypes.CDLL(None).malloc_trim(0)  # what is free does not count
        status = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
        files = blocks = 0
        descriptors = os.listdir("/proc/self/fd")
        for fd in descriptors:
            try:
                if "(deleted)" in os.readlink(f"/proc/self/fd/{fd}"):
                    files, blocks = files + 1, blocks + os.fstat(int(fd)).st_blocks
            except OSError:
                pass  # the descriptor of the listing itself
        return cls(
            int(status["RssAnon"].split()[0]) << 10, Path("/proc/self/maps").read_text().count("\n"),
            len(descriptors), len(os.listdir("/proc/self/task")), files, blocks)


def assert_exact(before: Used, after: Used) -> None:
    """What no allocator holds back: descriptors, swap files and their blocks, threads."""
    # Less is no leak: what a test before this one left to the garbage collector may go meanwhile.
    assert after.descriptors <= before.descriptors
    assert after.swap_files <= before.swap_files and after.swap_blocks <= before.swap_blocks
    assert after.threads <= before.threads


def grown(before: Used, after: Used) -> str:
    """What has grown past its bound, in words; empty where nothing has."""
    rss, maps = after.rss_bytes - before.rss_bytes, after.maps - before.maps
    if ADDRESS_SANITIZER or (rss < RSS_MOST and maps < MAPS_MOST):
        return ""
    return f"{rss} bytes, {maps} mappings"


def assert_settles(use: Callable[[], object], times: int = TIMES) -> None:
    """In one of the rounds nothing grows; what must be back at once is back after each of them."""
    use()
    before = start = Used.now()
    seen = []
    for _ in range(ROUNDS):
        for _ in range(times):
            use()
        after = Used.now()
        assert_exact(start, after)
        seen.append(grown(before, after))
        if not seen[-1]:
            return
        before = after
    raise AssertionError(f"grows in every round of {times}: {'; '.join(seen)}")


def opened(delivery: str, swap_max: str = "32M", **options: object) -> Memory:
    return Memory("8M", swap_max, delivery=delivery, **options)  # type: ignore[arg-type]


# -- ways of use ------------------------------------------------------------------------------------
def everything(delivery: str) -> None:
    memory = opened(delivery)
    a = memory.array(NOISE)
    assert memory.stats()["swap_bytes"] > 0
    with memory.pinned(a[:MIB]), memory:
        b = a[::2] + 1
        assert memory.owns(b)
    memory.prefetch(a)
    memory.madvise(a, "sequential")
    memory.madvise(a[: 4 * MIB], "dontneed")
    assert np.array_equal(a[4 * MIB :], NOISE[4 * MIB :])
    del a, b
    memory.close()


def large_units(delivery: str) -> None:
    memory = opened(delivery, unit_bytes="64K")
    a = memory.array(NOISE)
    memory.evict(a)
    assert np.array_equal(a, NOISE)
    del a
    memory.close()


def refusals(delivery: str) -> None:
    memory = opened(delivery, "8M")
    a = memory.array(NOISE[: 4 * MIB])
    for _ in range(20):
        with pytest.raises(MemoryLimitError):
            memory.zeros(64 * MIB)
        with memory, pytest.raises(MemoryError):
            np.ones(64 * MIB)
        with pytest.raises(UsageError):
            memory.close()
        with pytest.raises(UsageError):
            memory.evict(NOISE)
        with pytest.raises(UsageError):
            memory.zeros(5, object)
        with pytest.raises(KeyError), memory, memory.pinned(a):
            raise KeyError
        with pytest.raises(MemoryLimitError), memory.pinned(a), memory.pinned(a):
            raise AssertionError("too much was pinned")
    del a
    memory.close()


def bad_arguments(delivery: str) -> None:
    for bad in ({"memory_max": "1M"}, {"codec": "none-such"}, {"unit_bytes": 5}, {"swap_max": "x"},
                {"directory": "/nowhere/at/all"}, {"delivery": "post"}, {"threshold": "much"}):
        with pytest.raises((ValueError, OSError)):
            Memory(**{"memory_max": "8M", "swap_max": "8M", "delivery": delivery, **bad})  # type: ignore


def other_threads(delivery: str) -> None:
    """Arrays that one thread makes, another evicts, a third drops."""
    memory = opened(delivery)
    arrays: list[np.ndarray] = []
    with memory, ThreadPoolExecutor(3) as pool:
        for seed in range(3):
            arrays += pool.map(lambda n: NOISE[: n * MIB] + np.uint8(seed), (1, 2, 3))
            list(pool.map(memory.evict, arrays))
            while arrays:
                pool.submit(arrays.pop).result()
    for _ in range(3):
        holder = [memory.array(NOISE[:MIB])]
        thread = threading.Thread(target=holder.clear)
        thread.start()
        thread.join()
    memory.close()


def ended_threads(delivery: str) -> None:
    """Threads that end while what they have touched is on its way out."""
    memory = opened(delivery)
    a = memory.array(NOISE)

    def touch(first: int) -> None:
        a[first :: 8 * 4096] ^= 1

    threads = [threading.Thread(target=touch, args=(n * 4096,)) for n in range(8)]
    for thread in threads:
        thread.start()
    memory.evict(a)
    for thread in threads:
        thread.join()
    del a
    memory.close()


def child(job: Callable[[], object], end: int = 0) -> None:
    pid = os.fork()
    if pid == 0:
        try:
            job()
            if end:
                os.kill(os.getpid(), end)
            os._exit(0)
        finally:
            os._exit(9)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == -end


def forks(delivery: str) -> None:
    """Children that read and write all of it, that close it, that are killed; grandchildren."""
    memory = opened(delivery)
    held = [memory.array(NOISE[: 8 * MIB])]
    assert memory.stats()["swap_bytes"] > 0

    def use() -> None:
        held[0][::4096] += 1
        assert np.array_equal(held[0][1:4096], NOISE[1:4096])

    def use_and_close() -> None:
        child(use)
        held.clear()
        memory.close()

    child(use)
    child(use_and_close)
    child(use, signal.SIGKILL)
    assert np.array_equal(held[0], NOISE[: 8 * MIB])
    held.clear()
    memory.close()


def many_at_once(delivery: str) -> None:
    memories = [opened(delivery, "8M") for _ in range(4)]
    for memory in memories:
        with memory:
            assert NOISE[:MIB].copy().sum() > 0
    for memory in memories:
        memory.close()


def only_opened(delivery: str) -> None:
    opened(delivery).close()
    opened(delivery, "0").close()


WAYS = [everything, large_units, refusals, bad_arguments, other_threads, ended_threads, forks,
        many_at_once, only_opened]


@pytest.mark.parametrize("way", WAYS)
def test_nothing_is_left_after_close(delivery: str, way: Callable[[str], None]) -> None:
    if ADDRESS_SANITIZER and way is forks:
        pytest.skip("a child may find the sanitizer's allocator locked by a thread that it has not got")
    assert_settles(lambda: way(delivery))


def test_the_other_delivery_in_between(delivery: str) -> None:
    """Both at once, closed in the other order: SIGBUS and its handlers are given back as often."""
    if rights_here() != "full":
        pytest.skip("this process may not use delivery 'handler'")
    before_handler = signal.getsignal(signal.SIGBUS)

    def way() -> None:
        one, two = opened("handler", "8M"), opened("sigbus", "8M")
        a, b = one.array(NOISE[:MIB]), two.array(NOISE[:MIB])
        one.evict(a)
        two.evict(b)
        assert np.array_equal(a, b)
        del a, b
        for memory in (one, two) if delivery == "handler" else (two, one):
            memory.close()

    assert_settles(way)
    assert signal.getsignal(signal.SIGBUS) == before_handler


def wait_until_empty(memory: Memory) -> None:
    """What a thread of ours has in hand while an array is freed goes with it a moment later."""
    names = ("arrays", "array_bytes", "hot_bytes", "clean_bytes", "compressed_bytes", "swap_bytes")
    left: dict[str, int] = {}
    for _ in range(1000):
        stats = memory.stats()
        left = {name: stats[name] for name in names if stats[name]}
        if not left:
            return
        time.sleep(0.005)
    raise AssertionError(f"left behind: {left}")


# -- one Memory that stays open ---------------------------------------------------------------------
def test_arrays_that_come_and_go(delivery: str) -> None:
    """In one open Memory: its pages and its blocks on disk go back with the arrays."""
    memory = opened(delivery)

    def fill(seed: int) -> None:
        sizes = np.random.default_rng(seed).integers(1, 2 * MIB, 9)
        arrays = [memory.array(NOISE[:size]) for size in sizes]
        views = [array[size // 2 :] for array, size in zip(arrays, sizes, strict=True)]
        arrays.clear()
        assert all(np.array_equal(view, NOISE[size // 2 : size])
                   for view, size in zip(views, sizes, strict=True))

    fill(0)  # of each size that will be asked for there is a run of addresses, then
    for seed in range(20):
        fill(seed)
    before = Used.now()
    rounds = [before]
    while len(rounds) < 4 or (len(rounds) <= ROUNDS and grown(*rounds[-2:])):
        for seed in range(20):
            fill(seed)
        wait_until_empty(memory)
        rounds.append(Used.now())
    assert max(used.swap_blocks for used in rounds) * 512 <= memory.swap_max
    assert not grown(*rounds[-2:])
    assert (rounds[-1].descriptors, rounds[-1].threads) == (before.descriptors, before.threads)
    memory.close()
    assert Used.now().swap_blocks == 0


def test_blocks_and_threads_that_come_and_go(delivery: str) -> None:
    """``with memory:``, pins and threads, a thousand times each, in one Memory."""
    memory = opened(delivery)
    a = memory.array(NOISE[:MIB])

    def use() -> None:
        for _ in range(250):
            with memory, memory.pinned(a[: 8 * 4096]):
                np.ones(40_000)
        for _ in range(25):
            thread = threading.Thread(target=lambda: a[::4096].sum())
            with memory:
                thread.start()
            thread.join()
        memory.evict(a)

    assert_settles(use, times=4)
    assert memory.stats()["pinned_bytes"] == 0 and memory.stats()["arrays"] == 1
    del a
    memory.close()


def test_a_pin_that_cannot_be(delivery: str, tmp_path: Path) -> None:
    """The swap file is cut short under it: the pin fails, and holds nothing."""
    memory = opened(delivery, directory=str(tmp_path))
    held = [memory.array(NOISE)]
    fds = [int(fd) for fd in os.listdir("/proc/self/fd") if str(tmp_path) in _name(fd)]
    assert len(fds) == 1
    os.ftruncate(fds[0], 0)
    before = Used.now()
    for _ in range(50):
        with pytest.raises(CorruptDataError), memory.pinned(held[0][: 5 * MIB]):
            pass
        assert memory.stats()["pinned_bytes"] == 0
    assert Used.now().descriptors == before.descriptors
    held.clear()
    assert memory.stats()["arrays"] == 0
    memory.close()


def _name(fd: str) -> str:
    try:
        return os.readlink(f"/proc/self/fd/{fd}")
    except OSError:
        return ""


@pytest.mark.skipif(ADDRESS_SANITIZER, reason="RAM that leaks is not seen")
def test_a_leak_would_be_seen(delivery: str) -> None:
    """The bounds themselves: what each of them is for is noticed."""
    kept: list[np.ndarray] = []
    with pytest.raises(AssertionError, match="grows in every round"):
        assert_settles(lambda: kept.append(np.ones(MIB // 8 // 4)))  # 256 KiB each time
    kept.clear()
    opens: list[Memory] = []
    with pytest.raises(AssertionError):
        assert_settles(lambda: opens.append(opened(delivery)), times=1)
    for memory in opens:
        memory.close()
    before = Used.now()
    opened(delivery).close()
    assert_exact(before, Used.now())
