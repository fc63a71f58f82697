"""Threads that verify what they read, while others evict, prefetch, pin, make and free arrays."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Callable
from typing import Any

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
    while time.monotonic() < end:
        if beside is not None:
            beside()
        time.sleep(0.02)
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
