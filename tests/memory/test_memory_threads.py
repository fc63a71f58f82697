"""Threads that verify what they read, while others evict, prefetch, pin, make and free arrays."""

from __future__ import annotations

import os
import signal
import threading
import time
import warnings
from collections.abc import Callable
from typing import Any, Self

import numpy as np
import pytest

from coldmem import Memory
from coldmem.testing.memory_stress import MemoryStress

Make = Callable[..., Memory]
KIB = 1 << 10
MIB = 1 << 20


def run(stress: MemoryStress, seconds: float, workers: int, disturbers: int,
        beside: Callable[[], Any] | None = None) -> list[int]:
    """All of them for `seconds`; sums of their results."""
    results: list[tuple[int, int, int]] = []
    errors: list[BaseException] = []

    def body(job: Callable[[int], tuple[int, int, int]], seed: int) -> None:
        try:
            results.append(job(seed))
        except BaseException as error:
            errors.append(error)

    jobs = [stress.worker] * workers + [stress.disturber] * disturbers
    crew = [threading.Thread(target=body, args=(job, seed)) for seed, job in enumerate(jobs)]
    for thread in crew:
        thread.start()
    end = time.monotonic() + seconds
    try:
        while time.monotonic() < end:
            if beside is not None:
                beside()
            time.sleep(0.02)
    finally:
        stress.stop_all()
        for thread in crew:
            thread.join()
    assert not errors, errors
    return [sum(column) for column in zip(*results, strict=True)]


@pytest.mark.tsan
@pytest.mark.parametrize("unit", [4 * KIB, 16 * KIB, 64 * KIB])
def test_contents_under_eviction(make_memory: Make, unit: int, stress_seconds: float) -> None:
    memory = make_memory("10M", "96M", unit_bytes=unit)
    stress = MemoryStress(memory, [memory.allocate(8 * MIB) for _ in range(4)])
    done, bad, rewritten = run(stress, stress_seconds, 5, 2, beside=memory.check_valid)
    assert bad == 0
    assert stress.wrong() == 0
    memory.check_valid("full")
    stats = memory.stats()
    assert done > 0 and rewritten > 0
    assert stats["loads"] > 0 and stats["dropped"] > 0 and stats["write_faults"] > 0
    assert stats["failed"] == 0
    assert stats["overshoots"] > 0 or stats["footprint_peak_bytes"] <= 10 * MIB
    del stress


@pytest.mark.tsan
def test_one_unit_that_everybody_writes(make_memory: Make, stress_seconds: float) -> None:
    """Few units, many writers, eviction all the time: the window where an update could be lost."""
    memory = make_memory("16M", "16M")
    stress = MemoryStress(memory, [memory.allocate(128 * 4 * KIB)])
    done, bad, _ = run(stress, stress_seconds, 4, 4)
    assert done > 0 and bad == 0 and stress.wrong() == 0
    memory.check_valid("full")
    assert memory.stats()["dropped"] > 1000
    del stress


class Beside:
    """Jobs that are called over and over, each in a thread of its own, until the with block ends."""

    def __init__(self, *jobs: Callable[[], Any]) -> None:
        self.stop = threading.Event()
        self.errors: list[BaseException] = []
        self.rounds = [0] * len(jobs)
        self.crew = [
            threading.Thread(target=self.again, args=pair) for pair in enumerate(jobs)
        ]

    def again(self, index: int, job: Callable[[], Any]) -> None:
        try:
            while not self.stop.is_set():
                job()
                self.rounds[index] += 1
        except BaseException as error:
            self.errors.append(error)

    def __enter__(self) -> Self:
        for thread in self.crew:
            thread.start()
        return self

    def __exit__(self, *exc: object) -> None:
        self.stop.set()
        for thread in self.crew:
            thread.join()
        assert not self.errors, self.errors
        assert all(self.rounds)


@pytest.mark.tsan
@pytest.mark.parametrize("unit", [4 * KIB, 64 * KIB])
def test_faults_beside_all_that_works_on_what_is_stored(
    make_memory: Make, unit: int, stress_seconds: float
) -> None:
    """Recompression by hand and by its thread, writeback, copies given up, pins: all at once."""
    memory = make_memory("12M", "96M", unit_bytes=unit, codec="lz4", cold_codec="zstd")
    stress = MemoryStress(memory, [memory.allocate(8 * MIB) for _ in range(3)])
    pinned = memory.zeros(32 * unit, np.uint8)
    turn = 0

    def pin() -> None:
        nonlocal turn
        with memory.pinned(pinned):
            assert (pinned == turn % 256).all()
            turn += 1
            pinned[:] = turn % 256
        memory.evict(pinned)

    with Beside(
        lambda: memory.zswap.recompress(all=True), lambda: memory.zswap.shrink("256K"), pin,
        lambda: (memory.stats(), memory.zswap.stats(), memory.zswap.counters()),
    ):
        done, bad, _ = run(stress, stress_seconds, 3, 2, beside=memory.check_valid)
    assert done > 0 and bad == 0 and stress.wrong() == 0
    memory.check_valid("full")
    stats = memory.stats()
    assert stats["recompressed_bytes"] > 0 and stats["stripped"] > 0
    assert memory.zswap.counters()["written_back_pages"] > 0
    assert stats["failed"] == 0
    del stress, pinned


@pytest.mark.tsan
@pytest.mark.skipif(len(os.sched_getaffinity(0)) < 2, reason="one CPU: there is no recompressor")
def test_the_recompressor_beside_faults(make_memory: Make, stress_seconds: float) -> None:
    """Most of it stays cold, and goes to its other form while threads work on the rest."""
    memory = make_memory("24M", codec="lz4", cold_codec="zstd", overcommit=True)
    rng = np.random.default_rng(1)
    cold = memory.array(rng.integers(0, 16, 8 * MIB, np.uint8))
    model = cold.copy()
    stress = MemoryStress(memory, [memory.allocate(4 * MIB)])
    memory.evict(cold)
    _, bad, _ = run(stress, max(stress_seconds, 2), 2, 1)
    assert bad == 0 and stress.wrong() == 0
    end = time.monotonic() + 60
    while not memory.stats()["recompressed_bytes"] and time.monotonic() < end:
        time.sleep(0.1)
    assert memory.stats()["recompressed_bytes"] > 0
    assert np.array_equal(cold, model)
    memory.check_valid("full")
    del stress, cold


@pytest.mark.tsan
def test_memories_come_and_go_beside_faults(
    make_memory: Make, stress_seconds: float, sanitized: str
) -> None:
    """A fault looks for its memory among all that there are."""
    memory = make_memory("10M", "64M")
    stress = MemoryStress(memory, [memory.allocate(8 * MIB) for _ in range(2)])

    def other() -> None:
        with warnings.catch_warnings():
            if sanitized == "thread":  # its runtime blocks all signals while a handler is running
                warnings.filterwarnings("ignore", "threads of this process block", RuntimeWarning)
            beside = make_memory("8M")
        a = beside.zeros(MIB, np.uint8)
        a[::4096] = 1
        assert beside.evict(a) and int(a.sum()) == 256
        del a
        beside.close()

    _, bad, _ = run(stress, stress_seconds, 3, 1, beside=other)
    assert bad == 0 and stress.wrong() == 0
    memory.check_valid("full")
    del stress


@pytest.mark.tsan
def test_full_checks_beside_arrays_that_come_and_go(
    make_memory: Make, stress_seconds: float
) -> None:
    """Nobody is found half-way between having its addresses and having its units."""
    memory = make_memory("16M", "64M")

    def use() -> None:
        for n in (1, 30, 2000):
            memory.allocate(n * 4 * KIB)

    with Beside(use, use, lambda: memory.check_valid("full")):
        time.sleep(stress_seconds)
    assert memory.stats()["arrays"] == 0


def test_python_threads_with_numpy(make_memory: Make, run_threads: Callable[..., Any]) -> None:
    """With and without Python's lock: ufuncs give it up, indexing does not."""
    memory = make_memory("10M", "64M")
    n = 300_000

    def work(seed: int) -> Callable[[], None]:
        def body() -> None:
            rng = np.random.default_rng(seed)
            for _ in range(4):
                model = rng.normal(size=n).round(2)
                a = memory.array(model)
                for place in rng.integers(0, n, 100):
                    assert a[place] == model[place]
                    a[place] = model[place] = place
                assert np.array_equal(a * 2 + 1, model * 2 + 1)
                a.sort()
                model.sort()
                assert np.array_equal(a, model)
        return body

    run_threads(*(work(seed) for seed in range(4)))
    memory.check_valid("full")
    assert memory.stats()["loads"] > 0


@pytest.mark.filterwarnings("ignore:This process.*multi-threaded:DeprecationWarning")
def test_fork_in_the_middle_of_it(make_memory: Make) -> None:
    """No lock that another thread held at the moment of the fork may stay locked in the child."""
    memory = make_memory("10M", "64M")
    stress = MemoryStress(memory, [memory.allocate(8 * MIB) for _ in range(2)])
    forks = 0

    def fork() -> None:
        nonlocal forks
        pid = os.fork()
        if pid == 0:
            status = 9
            try:
                memory.check_valid("full")
                for _ in range(50):
                    a = memory.ones(5000)
                    memory.evict(a)
                    assert a.sum() == 5000
                status = 0
            finally:
                os._exit(status)
        end = time.monotonic() + 30
        while time.monotonic() < end:
            done, status = os.waitpid(pid, os.WNOHANG)
            if done:
                assert status == 0
                forks += 1
                return
            time.sleep(0.005)
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
        raise AssertionError("the child hangs")

    try:
        _, bad, _ = run(stress, 2, 2, 4, beside=fork)
    finally:
        stress.stop_all()
    assert bad == 0 and stress.wrong() == 0 and forks > 0
    memory.check_valid("full")
    del stress
