"""The locking experiment: every arm on every workload at every number of threads, side by side.

Owns nothing. Guarantees: the arms of one cell are interleaved (each repeat runs all of them, in
another order), so that whatever drifts on the machine drifts for all; figures are medians, with the
smallest and largest beside them. Throughput is measured with lock statistics off; shares of waiting
come from separate runs with statistics on, times of single reads from separate runs with a clock
around each. A run during which other processes used a visible share of the CPUs is repeated a few
times; if none was quiet the least disturbed counts, and the row says so.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import partial

from coldmem.errors import UsageError
from coldmem.lab.arms import ARMS, Arm, arm
from coldmem.lab.gate import percentile_ns
from coldmem.lab.result import Result, Row, Spread, rounded
from coldmem.lab.workloads import (
    SAMPLE_UNITS,
    UNIT_BYTES,
    WORKLOADS,
    ZSWAP_TIMES,
    Load,
    Material,
    Measurement,
    material,
    run_alloc,
    run_zswap,
)

OPS_FOR_TIMES = 10_000_000  # real_s, user_s, sys_s are seconds for so many operations
THREADS = (1, 2, 8, 32)
QUIET_TRIES = 4
QUIET_PAUSE_S = 1.0
SIDE_RUNS = 2  # of lock statistics and of read times, per cell and arm

Report = Callable[[str], None]


@dataclass(frozen=True)
class Plan:
    """What to run."""

    workloads: Sequence[str] = WORKLOADS
    arms: Sequence[str] = tuple(ARMS)
    threads: Sequence[int] = THREADS
    repeats: int = 5
    load: Load = field(default_factory=Load)
    units_n: int = SAMPLE_UNITS
    quiet_tries: int = QUIET_TRIES

    def check(self) -> None:
        """Raise `UsageError` for what cannot be run."""
        for name in self.workloads:
            if name not in WORKLOADS:
                raise UsageError(f"no workload is called {name!r}; there are {', '.join(WORKLOADS)}")
        for name in self.arms:
            arm(name)
        if self.repeats < 1:
            raise UsageError("--repeats must be 1 or more")
        if self.load.seconds is not None and self.load.seconds <= 0:
            raise UsageError("--seconds must be more than 0")
        slots_per_thread = 2 * self.load.live_objects // max([*self.threads, 1])
        if not self.threads or min(self.threads) < 1 or slots_per_thread < 2:
            raise UsageError("--threads must be 1 or more, with at least one object each")


@dataclass(frozen=True)
class Cell:
    """What the arms are compared in."""

    workload: str
    codec: str
    threads: int

    def measure(
        self, what: Arm, stuff: Material, load: Load, statistics: bool = False, timed: bool = False
    ) -> Measurement:
        if self.workload == "zswap":
            return run_zswap(
                what, stuff, self.threads, load, codec=self.codec, statistics=statistics,
                timed=timed,
            )
        return run_alloc(
            what, stuff, self.threads, load, compactor=self.workload == "compact",
            statistics=statistics, timed=timed,
        )


def cells(plan: Plan) -> Iterator[Cell]:
    """Every cell of `plan`; ``zswap`` is run with a codec and without."""
    for workload in dict.fromkeys(plan.workloads):
        for codec in ("lz4", "none") if workload == "zswap" else ("none",):
            for threads in dict.fromkeys(plan.threads):
                yield Cell(workload, codec, threads)


def run(plan: Plan, report: Report = lambda line: None) -> Result:
    """Run `plan`; `report` gets a line of progress now and then.

    Returns
    -------
    Result
        One row per arm, workload, codec and number of threads.
    """
    plan.check()
    report("reading units of this machine's data")
    stuff = material(plan.units_n)
    result = Result("lab_locks", _settings(plan, stuff))
    todo = list(cells(plan))
    start = time.monotonic()
    for number, cell in enumerate(todo):
        left = ""
        if number:
            left = f", about {(time.monotonic() - start) / number * (len(todo) - number):.0f} s left"
        report(
            f"{number + 1}/{len(todo)}: {cell.workload}, codec {cell.codec}, "
            f"{cell.threads} threads{left}"
        )
        result.rows += _run_cell(cell, plan, stuff)
    return result


def _settings(plan: Plan, stuff: Material) -> Row:
    return {
        "seconds": plan.load.seconds,
        "ops_per_thread": plan.load.ops_per_thread,
        "repeats": plan.repeats,
        "threads": list(plan.threads),
        "workloads": list(plan.workloads),
        "arms": list(plan.arms),
        "live_objects": plan.load.live_objects,
        "zswap_live_units": ZSWAP_TIMES * plan.load.live_objects,
        "unit_bytes": UNIT_BYTES,
        "chain": plan.load.chain,
        "zswap_limit_share": plan.load.limit_share,
        "mean_object_bytes": rounded(stuff.mean_compressed_bytes),
        "times_are_for_ops": OPS_FOR_TIMES,
    }


def _quiet(measure: Callable[[], Measurement], tries: int) -> Measurement:
    best: Measurement | None = None
    for attempt in range(max(1, tries)):
        if attempt:
            time.sleep(QUIET_PAUSE_S)
        found = measure()
        if best is None or (found.timing.foreign_cpu_s or 0) < (best.timing.foreign_cpu_s or 0):
            best = found
        if not best.timing.disturbed:
            break
    assert best is not None
    return best


def _run_cell(cell: Cell, plan: Plan, stuff: Material) -> list[Row]:
    arms = [arm(name) for name in dict.fromkeys(plan.arms)]
    runs: dict[str, list[Measurement]] = {a.name: [] for a in arms}
    for repeat in range(plan.repeats):
        first = repeat % len(arms)
        for what in arms[first:] + arms[:first]:
            runs[what.name].append(
                _quiet(partial(cell.measure, what, stuff, plan.load), plan.quiet_tries)
            )
    side = plan.load
    if side.seconds is not None and side.ops_per_thread is None:
        side = replace(side, seconds=max(0.02, side.seconds / 2))
    rows = []
    for what in arms:
        waits = [cell.measure(what, stuff, side, statistics=True) for _ in range(SIDE_RUNS)]
        timed = []
        if cell.workload != "alloc":
            timed = [
                _quiet(partial(cell.measure, what, stuff, plan.load, timed=True), plan.quiet_tries)
                for _ in range(SIDE_RUNS)
            ]
        rows.append(_row(cell, what, runs[what.name], waits, timed))
    return rows


def _median(values: Iterator[float]) -> float:
    return rounded(statistics.median(values))


def _row(
    cell: Cell, what: Arm, runs: list[Measurement], waits: list[Measurement],
    timed: list[Measurement],
) -> Row:
    speed = Spread.of([run.mops_per_s for run in runs])
    used = statistics.median_low([run.used_bytes for run in runs])
    stored = statistics.median_low([run.stored_bytes for run in runs])
    kinds = sorted({kind for run in waits for kind in run.waits})
    shares = {k: _median(run.waits.get(k, 0.0) for run in waits) for k in kinds}
    hashes = {run.state_hash for run in runs}
    row: Row = {
        "arm": what.name,
        "workload": cell.workload,
        "codec": cell.codec,
        "threads": cell.threads,
        "mops_per_s": rounded(speed.median),
        "mops_per_s_min": rounded(speed.low),
        "mops_per_s_max": rounded(speed.high),
        # In the order of the repeats: runs of one repeat stood side by side, so arms are compared
        # by the ratios within repeats, which a machine of changing speed does not spoil.
        "mops_per_s_runs": [rounded(run.mops_per_s) for run in runs],
        "repeats": speed.n,
        "disturbed_repeats": sum(run.timing.disturbed for run in runs),
        "real_s": _median(r.timing.real_s / r.ops * OPS_FOR_TIMES for r in runs),
        "user_s": _median(r.timing.user_s / r.ops * OPS_FOR_TIMES for r in runs),
        "sys_s": _median(r.timing.sys_s / r.ops * OPS_FOR_TIMES for r in runs),
        "wait_share": rounded(sum(shares.values())),
        "wait_share_by_lock": shares,
        "contended_share_by_lock": {
            k: _median(run.contended.get(k, 0.0) for run in waits) for k in kinds
        },
        "used_bytes": used,
        "stored_bytes": stored,
        "fragmentation": rounded(used / stored) if stored else None,
        "swap_bytes": statistics.median_low([run.swap_bytes for run in runs]),
        "moved_objects": statistics.median_low([run.moved_objects for run in runs]),
        "refused_stores": sum(run.failed for run in runs),
        "written_back_units": statistics.median_low([run.written_back_units for run in runs]),
        "result_hash": hashes.pop() if len(hashes) == 1 else None,
    }
    if timed:
        counts = [sum(column) for column in zip(*(r.read_times for r in timed), strict=True)]
        for name, share in (("p50", 0.5), ("p99", 0.99), ("p999", 0.999)):
            row[f"load_{name}_ns"] = percentile_ns(counts, share)
    return row


