"""Predicted against measured: the model beside runs of the real pools, in one invocation.

Owns nothing that outlives a call. Guarantees: the runs are those of ``coldmem lab locks`` and take
turns; the model has seen none of them. It is told two things of the moment of each run: what a cache
line costs from CPU to CPU, measured before and after, and how fast the same threads are beside it in
pools of their own, where they share no lock and no data: the machine's mood, and what CPUs take from
each other anyway. Takes no locks.
"""

from __future__ import annotations

import os
import statistics
from collections.abc import Callable, Sequence

from coldmem.errors import EnvironmentFailure
from coldmem.lab.arms import arm
from coldmem.lab.result import Row, rounded
from coldmem.lab.scale_bench import undisturbed, wanted_runs
from coldmem.lab.scale_calibrate import apart_ns
from coldmem.lab.scale_model import Calibration, Mix, mix_of, simulate
from coldmem.lab.scale_primitives import with_line
from coldmem.lab.workloads import Load, Material, run_alloc

SECONDS = 0.08
ERROR_GOAL = 0.10
MOOD_DRIFT_MAX = 1.1  # before and after; else the run in between does not count
TRIES_MAX = 25  # for one run that counts


def validate(
    calibration: Calibration, arms: Sequence[str], threads: Sequence[int], stuff: Material, *,
    repeats: int = 7, seconds: float = SECONDS, ops: int = 200_000, tries: int = TRIES_MAX,
    workload: str = "alloc", report: Callable[[str], None] = lambda line: None,
) -> list[Row]:
    """A row per arm and number of threads; all arms of one repeat before the next repeat."""
    cores = len(os.sched_getaffinity(0))
    mix = mix_of(workload, calibration)
    found: dict[tuple[str, int], list[tuple[float, float, float]]] = {}
    disturbed: dict[tuple[str, int], int] = {}
    for repeat in range(repeats):
        report(f"measuring, {repeat + 1} of {repeats}")
        for name in arms:
            for count in threads:
                got, bad = _pair(calibration, name, count, cores, stuff, seconds, tries, workload)
                found.setdefault((name, count), []).append(got)
                disturbed[name, count] = disturbed.get((name, count), 0) + bad
    rows = []
    for (name, count), runs in found.items():
        report(f"{arm(name).label}, {count} threads: predicting {len(runs)} runs")
        rows.append(_row(calibration, name, count, cores, runs, mix, ops, workload)
                    | {"disturbed_runs": disturbed[name, count]})
    return rows


def _pair(
    calibration: Calibration, name: str, threads: int, cores: int, stuff: Material, seconds: float,
    tries: int, workload: str,
) -> tuple[tuple[float, float, float], int]:
    """(speed of this many threads, Mops/s; an operation of theirs apart, ns; cost of a line, ns)."""
    what = arm(name)

    def measure(count: int) -> Callable[[], tuple[float, float]]:
        def run() -> tuple[float, float]:
            load = Load(seconds * max(1, count // cores),
                        live_objects=count * calibration.objects_per_core)
            got = run_alloc(what, stuff, count, load, compactor=workload == "compact")
            busy = min(count + (workload == "compact"), cores)
            if got.ops == 0:
                return 0.0, 0.0
            share = undisturbed(got.timing, min(count, cores))
            # Threads that sleep for a lock leave their CPU of their own will.
            if busy > 1 and not got.timing.disturbed and count > cores:
                share = 1.0
            return got.mops_per_s, share
        return run

    def apart() -> tuple[float, float]:
        return apart_ns(what, min(threads, cores), threads, stuff, calibration.objects_per_core, seconds)

    def both() -> tuple[tuple[float, float, float], float]:
        before, first = apart()
        if threads == 1:
            (speed, second), line = measure(1)(), 0.0
        else:
            (speed, line), second = with_line(measure(threads))
        after, third = apart()
        steady = max(before, after) <= MOOD_DRIFT_MAX * min(before, after)
        share = min(first, second, third) if steady else 0.0
        return (speed, (before + after) / 2, line), share

    runs, bad = wanted_runs(both, 1, tries)
    if runs[0][0] <= 0:
        raise EnvironmentFailure(f"{what.label}, {threads} threads: not one operation in a run: "
                                 "make the runs longer (--seconds), or wait for a quieter machine")
    return runs[0], bad


def _row(
    calibration: Calibration, name: str, threads: int, cores: int,
    runs: Sequence[tuple[float, float, float]], mix: Mix, ops: int, workload: str,
) -> Row:
    compacting = workload == "compact"
    alone = calibration.at(name, "op_ns", threads)
    predicted, raw, errors = [], [], []
    for measured, apart, line in runs:
        found = simulate(calibration, name, threads, cores, mix, ops, compacting=compacting,
                         line_ns=line, mood=apart / alone)["mops_per_s"]
        predicted.append(found)
        errors.append(found / measured - 1)
        raw.append(apart / alone)
    speeds = [run[0] for run in runs]
    error = statistics.median(errors)
    return {
        "part": "validation", "workload": workload, "arm": name, "threads": threads, "cores": cores,
        "measured_mops_per_s": rounded(statistics.median(speeds)),
        "measured_min": rounded(min(speeds)), "measured_max": rounded(max(speeds)),
        "predicted_mops_per_s": rounded(statistics.median(predicted)),
        "mood": rounded(statistics.median(raw)),
        "error": rounded(error), "error_min": rounded(min(errors)), "error_max": rounded(max(errors)),
        "line_ns": rounded(statistics.median(run[2] for run in runs)), "repeats": len(runs),
        "within_goal": abs(error) <= ERROR_GOAL,
    }
