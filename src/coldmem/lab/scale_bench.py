"""Timing small things on a machine that others use too: pinned threads, and runs that count.

Owns: the threads of one run, joined before it returns. Guarantees: a run counts when its threads had
their CPUs for nearly all of it, by the kernel's account of their CPU time; others are repeated, and when
none counted the least disturbed one is taken and said to be disturbed. Takes no locks.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from coldmem.errors import EnvironmentFailure
from coldmem.lab.drive import Timing

CPU_SHARE_MIN = 0.97
QUIET_PAUSE_S = 0.1
TRIES_LEAST = 10


def cpus(n: int) -> list[int]:
    """The first `n` CPUs of this process."""
    mine = sorted(os.sched_getaffinity(0))
    if len(mine) < n:
        raise EnvironmentFailure(
            f"calibrating needs {n} CPUs, and this process may use {len(mine)}: give it more "
            "(taskset), or name a calibration of another machine with --calibration"
        )
    return mine[:n]


def pinned(cpu: int, job: Callable[[], Any]) -> Callable[[], Any]:
    """`job`, for a thread of its own, which stays on one CPU."""

    def run() -> Any:
        os.sched_setaffinity(0, {cpu})
        return job()

    return run


@dataclass
class Ran:
    """What threads returned, and what share of the time they had a CPU."""

    results: list[Any]
    cpu_share: float


def together(jobs: Sequence[Callable[[], Any]], on: Sequence[int], stop: Callable[[], None]) -> Ran:
    """Run `jobs` at once, each on its CPU; `stop` lets them all end when one fails or on Ctrl-C."""
    results: list[Any] = [None] * len(jobs)
    shares = [0.0] * len(jobs)
    errors: list[BaseException] = []
    start = threading.Barrier(len(jobs))

    def run(i: int) -> None:
        try:
            os.sched_setaffinity(0, {on[i]})
            start.wait(60)
            wall, used = time.perf_counter(), time.thread_time()
            results[i] = jobs[i]()
            shares[i] = (time.thread_time() - used) / max(time.perf_counter() - wall, 1e-9)
        except BaseException as error:
            errors.append(error)
            start.abort()
            stop()

    threads = [threading.Thread(target=run, args=(i,), daemon=True) for i in range(len(jobs))]
    try:
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    except BaseException:
        stop()
        raise
    if errors:
        raise errors[0]
    return Ran(results, min(shares))


def undisturbed(timing: Timing, threads: int) -> float:
    """Share of the time of `threads` busy threads in which they had a CPU, 1 at best."""
    return min(1.0, (timing.user_s + timing.sys_s) / max(timing.real_s * threads, 1e-9))


def wanted_runs(
    measure: Callable[[], tuple[Any, float]], wanted: int, tries: int
) -> tuple[list[Any], int]:
    """Results of `wanted` runs that count, and how many of them do not, for want of better.

    `measure` returns a result and the share of time in which its threads had their CPUs. Where none of
    the first tries counts, others are not expected to: the machine is busy, not disturbed now and then.
    """
    good: list[Any] = []
    bad: list[tuple[float, Any]] = []
    for i in range(max(tries, wanted)):
        if not good and i >= max(2 * wanted, TRIES_LEAST):
            break
        result, share = measure()
        if share >= CPU_SHARE_MIN:
            good.append(result)
            if len(good) == wanted:
                break
        else:
            bad.append((share, result))
            time.sleep(QUIET_PAUSE_S)
    missing = wanted - len(good)
    if missing > 0:
        bad.sort(key=lambda pair: -pair[0])
        good += [result for _, result in bad[:missing]]
    return good, max(0, min(missing, len(bad)))
