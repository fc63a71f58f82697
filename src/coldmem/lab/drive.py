"""Run native worker loops from Python threads, and measure what they took.

Owns: the threads of one run, joined before it returns, also on Ctrl-C.
Guarantees: nothing is timed before every worker stands at the gate; `user_s` and `sys_s` are of the
whole process from the gate's opening to the last worker's end, so a compactor or shrinker thread is
in them. CPU time that *other* processes used meanwhile is measured too: a run that was disturbed
can be told from one that was not. Takes no locks.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from coldmem.errors import InternalError
from coldmem.lab.gate import Gate
from coldmem.linux.usage import machine_cpu_s, process_cpu_s

START_S_MAX = 120.0  # for all workers to fill their slots
FOREIGN_SHARE_MAX = 0.04  # of all CPUs' time; more than this and the run counts as disturbed
_TICK_S = 0.03  # /proc/stat counts in steps of 10 ms per CPU


@dataclass(frozen=True, slots=True)
class Timing:
    """What one run took."""

    real_s: float
    user_s: float
    sys_s: float
    foreign_cpu_s: float | None  # CPU time of other processes; None: unknown

    @property
    def disturbed(self) -> bool:
        """Whether other processes used a share of the machine that shows in the figures."""
        if self.foreign_cpu_s is None:
            return False
        cpus = len(os.sched_getaffinity(0))
        return self.foreign_cpu_s > FOREIGN_SHARE_MAX * self.real_s * cpus + _TICK_S


class _Crew:
    """Threads that start together; the first error in any of them is kept."""

    def __init__(
        self, jobs: Sequence[Callable[[], object]], helpers: Sequence[Callable[[], object]]
    ) -> None:
        self.error: BaseException | None = None
        self.jobs = [self._thread(job) for job in jobs]
        self.helpers = [self._thread(job) for job in helpers]

    def _thread(self, job: Callable[[], object]) -> threading.Thread:
        def run() -> None:
            try:
                job()
            except BaseException as error:
                self.error = error

        return threading.Thread(target=run, daemon=True)

    def start(self, gate: Gate) -> None:
        """Start all and wait until all stand at the gate."""
        everybody = self.jobs + self.helpers
        for thread in everybody:
            thread.start()
        end = time.monotonic() + START_S_MAX
        while gate.arrived() < len(everybody):
            if self.error is not None:
                raise self.error
            if time.monotonic() > end:
                raise InternalError("the worker threads did not come to the start in time")
            time.sleep(0.0005)

    def join(self, threads: Sequence[threading.Thread]) -> None:
        for thread in threads:
            if thread.ident is not None:
                thread.join()


def drive(
    gate: Gate,
    jobs: Sequence[Callable[[], object]],
    helpers: Sequence[Callable[[], object]],
    end_ns: Callable[[], int],
    seconds: float | None,
) -> Timing:
    """Run `jobs` and `helpers` through `gate` and time the jobs.

    Parameters
    ----------
    gate : Gate
        What the loops wait for and look at; fresh.
    jobs, helpers : sequences of callables
        Each runs in a thread of its own and ends soon after the gate closes.
    end_ns : callable
        When the last job ended (CLOCK_MONOTONIC), asked after the join.
    seconds : float or None
        When to close the gate. None: the jobs end by themselves; then the gate closes.
    """
    crew = _Crew(jobs, helpers)
    try:
        crew.start(gate)
        busy, (user, system) = machine_cpu_s(), process_cpu_s()
        start_ns = time.monotonic_ns()
        gate.open()
        if seconds is None:
            crew.join(crew.jobs)
        else:
            time.sleep(seconds)
    finally:
        gate.close()
        crew.join(crew.jobs)
        crew.join(crew.helpers)
    (user_after, system_after), busy_after = process_cpu_s(), machine_cpu_s()
    if crew.error is not None:
        raise crew.error
    user, system = user_after - user, system_after - system
    foreign = None
    if busy is not None and busy_after is not None:
        foreign = max(0.0, busy_after - busy - user - system)
    return Timing((end_ns() - start_ns) / 1e9, user, system, foreign)
