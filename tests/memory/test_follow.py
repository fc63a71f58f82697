"""Handler threads that wait where the faulting thread runs: every fault is served, whoever waits."""

from __future__ import annotations

import os
import threading
import time

import numpy as np
import pytest

from coldmem import Memory
from coldmem.linux.userfaultfd import rights_here
from coldmem.testing.handlers import waiting

pytestmark = pytest.mark.skipif(
    rights_here() != "full", reason="needs the right to serve faults by handlers: `coldmem doctor`"
)
MIB = 1 << 20
WANT = np.random.default_rng(5).integers(0, 1 << 20, 3 * MIB // 2).astype(np.float64)


def read_all(array: np.ndarray, times: int) -> None:
    order = np.random.default_rng(6).permutation(len(WANT) // 512) * 512
    for _ in range(times):
        assert np.array_equal(array[order], WANT[order])


@pytest.mark.tsan
def test_one_thread_that_moves() -> None:
    with_memory(lambda array: move_and_read(array))


def move_and_read(array: np.ndarray) -> None:
    def run() -> None:
        mine = os.sched_getaffinity(0)
        for cpu in [*sorted(mine), *sorted(mine)]:
            os.sched_setaffinity(0, {cpu})
            read_all(array, 2)
            time.sleep(0.01)

    in_threads([run])


@pytest.mark.tsan
def test_one_thread_then_many_then_one() -> None:
    def work(array: np.ndarray) -> None:
        for number in (1, 6, 1, 3):
            in_threads([lambda: read_all(array, 2)] * number)

    with_memory(work)


@pytest.mark.tsan
def test_it_closes_while_only_one_handler_waits() -> None:
    for _ in range(5):
        with_memory(lambda array: read_all(array, 2))


@pytest.mark.skipif(len(os.sched_getaffinity(0)) < 2, reason="one CPU: one handler, which always waits")
def test_who_waits() -> None:
    """All at first; one while a thread faults alone; where it has moved to; all for another thread."""
    memory = Memory("9M", "64M", delivery="handler")
    everybody = waiting(memory)[1]
    assert everybody.bit_count() > 1 and waiting(memory) == (everybody, everybody)
    array = memory.array(WANT)
    seen: list[int] = []
    cpus = sorted(os.sched_getaffinity(0))[:2]

    def alone() -> None:
        for cpu in (*cpus, *cpus):
            os.sched_setaffinity(0, {cpu})
            read_all(array, 1)
            seen.append(waiting(memory)[0])

    def other() -> None:
        memory.evict(array)
        assert array[0] == WANT[0]  # one fault
        end = time.monotonic() + 5  # what follows from it is done when it has been served
        while waiting(memory)[0] != everybody and time.monotonic() < end:
            time.sleep(0.001)
        seen.append(waiting(memory)[0])

    in_threads([alone])
    assert seen == [1 << cpu for cpu in (*cpus, *cpus)]
    in_threads([other])
    assert seen[-1] == everybody
    del array
    memory.close()


def in_threads(jobs: list) -> None:
    errors: list[BaseException] = []

    def guarded(job) -> None:
        try:
            job()
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=guarded, args=(job,)) for job in jobs]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not errors, errors


def with_memory(work) -> None:
    memory = Memory("9M", "64M", delivery="handler")
    array = memory.array(WANT)
    work(array)
    assert memory.stats()["loads"] > 1000
    memory.check_valid("full")
    del array
    memory.close()
