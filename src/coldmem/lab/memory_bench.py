"""``bench memory``: managed memory, and the kernel's compressed swap, under the same touches.

Owns: the files of the corpora, and one child process at a time; both are gone when it returns or
raises, also on Ctrl-C. Guarantees: each case runs in a process of its own, fills its region first, and
compares all of it at the end; systems and repeats take turns, so that whatever else the machine does
meets all of them.
Equal footprint: the kernel's systems run under a limit of a quarter of the region; what they and their
pool then really took is what coldmem gets, as its `memory_max`, right after (the smaller of the two, of
the same workload and repeat). Without the kernel, coldmem gets the share of the region that
they took where this was measured before.
"""

from __future__ import annotations

import itertools
import statistics
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from coldmem.errors import EnvironmentFailure, InternalError, UsageError
from coldmem.lab.child import KilledError, TooSlowError, run_child
from coldmem.lab.kernel_swap import SYSTEMS, KernelSystem
from coldmem.lab.memory_case import COLDMEM, PAGE_BYTES, Case
from coldmem.lab.memory_corpora import KINDS, write_corpus
from coldmem.lab.memory_work import NAMES as WORKLOADS
from coldmem.lab.postponed import PostponedSignals
from coldmem.lab.result import Result, Row, Spread, rounded

REGION_BYTES = 256 << 20
REGION_LIMITS = 4  # the kernel's limit is the region's size divided by this
CORPUS_BYTES_MAX = 64 << 20
# Footprint of the kernel's zswap with lzo, limit and pool together, per byte of such a region.
EQUAL_SHARE = {"tree": 0.64, "num": 0.71}
CASE_S_MAX = 900.0
KILLED_MOST = 5
SPREAD = ("fault_p50_us", "fault_p99_us", "access_mean_us", "mb_per_s")
MEDIANS = ("ratio", "ratio_idle", "footprint_peak_bytes", "swap_file_bytes", "memory_max_bytes",
           "limit_bytes", "user_s", "sys_s", "faults")

Report = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Config:
    """How coldmem is set up; None and "auto" are its defaults."""

    delivery: str = "auto"
    unit_bytes: int | None = None
    codec: str = "auto"


@dataclass(frozen=True, slots=True)
class Plan:
    """What is measured."""

    workloads: tuple[str, ...] = WORKLOADS
    corpora: tuple[str, ...] = tuple(KINDS)
    threads: tuple[int, ...] = (1,)
    configs: tuple[Config, ...] = (Config(),)
    repeats: int = 3
    region_bytes: int = REGION_BYTES
    limit_bytes: int = REGION_BYTES // REGION_LIMITS
    memory_max_bytes: int | None = None
    swap_max_bytes: int = 0
    with_kernel: bool = False

    def check(self) -> None:
        """Raise UsageError where it makes no sense."""
        if self.repeats < 1:
            raise UsageError("--repeats must be 1 or more")
        if self.region_bytes % PAGE_BYTES or self.region_bytes < 16 << 20:
            raise UsageError("--region must be 16M or more, in whole pages")
        if min(self.threads) < 1:
            raise UsageError("--threads must be 1 or more")
        if not 4 << 20 <= self.limit_bytes < self.region_bytes:
            raise UsageError("--limit must be 4M or more, and less than the region")

    def memory_max(self, corpus: str) -> int:
        """Of coldmem where no kernel was measured, in bytes."""
        return self.memory_max_bytes or int(self.region_bytes * EQUAL_SHARE[corpus])


def run_case(case: Case) -> dict[str, Any]:
    """Measure `case` in a process of its own."""
    what = f"{case.system}, {case.workload}"
    try:
        return run_child("coldmem.lab.memory_case", case.to_json(), what, CASE_S_MAX)
    except TooSlowError as error:
        raise EnvironmentFailure(str(error)) from None
    except KilledError as error:
        if case.system == COLDMEM:  # it has no cgroup of its own
            raise InternalError(str(error)) from None
        raise


def run(plan: Plan, report: Report = lambda line: None) -> Result:
    """Measure everything in `plan`, taking turns."""
    plan.check()
    with (
        PostponedSignals() as signals,
        tempfile.TemporaryDirectory(prefix="coldmem-bench-") as folder,
    ):
        bench = _Bench(plan, Path(folder), signals, report)
        bench.prepare()
        turns = itertools.product(range(plan.repeats), plan.corpora, plan.threads, plan.workloads)
        for repeat, corpus, threads, workload in turns:
            bench.turn(repeat, corpus, threads, workload)
        return bench.result()


class _Bench:
    """One run: what was found so far, and which of the kernel's systems take part."""

    def __init__(
        self, plan: Plan, folder: Path, signals: PostponedSignals, report: Report
    ) -> None:
        self._plan = plan
        self._folder = folder
        self._signals = signals
        self._report = report
        self._kernel: list[KernelSystem] = []
        self._skipped: dict[str, str] = {}
        self._killed: dict[str, int] = {}
        self._found: dict[tuple[object, ...], list[dict[str, Any]]] = {}

    def prepare(self) -> None:
        """Make the corpora; find out which of the kernel's systems can run here."""
        plan = self._plan
        for corpus in plan.corpora:
            self._report(f"making the corpus {corpus}")
            with self._signals.open():
                size = min(plan.region_bytes, CORPUS_BYTES_MAX)
                write_corpus(corpus, size, self._folder / corpus)
        for system in SYSTEMS if plan.with_kernel else ():
            try:
                with system.ready(plan.region_bytes, plan.limit_bytes):
                    self._kernel.append(system)
            except EnvironmentFailure as failure:
                self._skipped[system.name] = str(failure)
                self._report(f"SKIPPED: {system.name}: {failure}")

    def turn(self, repeat: int, corpus: str, threads: int, workload: str) -> None:
        """Every system once: the kernel's first, so that coldmem gets what they took."""
        plan = self._plan
        words = f"{corpus}, {workload}, {threads} threads, repeat {repeat + 1}/{plan.repeats}"
        case = Case(
            system=COLDMEM, workload=workload, corpus_path=str(self._folder / corpus),
            region_bytes=plan.region_bytes, threads=threads, seed=repeat + 1,
            swap_max_bytes=plan.swap_max_bytes,
        )
        footprints = []
        for system in self._kernel:
            self._report(f"{system.name}: {words}")
            limit = plan.memory_max(corpus) if system.pool_charged else plan.limit_bytes
            got = self._run_kernel(system, limit, corpus, case)
            got["limit_bytes"] = limit
            footprints.append(int(got["footprint_peak_bytes"]))
        memory_max = plan.memory_max(corpus)
        if footprints and plan.memory_max_bytes is None:
            memory_max = min(footprints)
        for config in plan.configs:
            self._report(f"coldmem: {words}")
            got = self._run(corpus, replace(
                case, memory_max_bytes=memory_max, unit_bytes=config.unit_bytes,
                codec=config.codec, delivery=config.delivery,
            ))
            got["memory_max_bytes"] = memory_max

    def _run_kernel(
        self, system: KernelSystem, limit_bytes: int, corpus: str, case: Case
    ) -> dict[str, Any]:
        for _ in range(KILLED_MOST):
            with system.ready(self._plan.region_bytes, limit_bytes) as fields:
                try:
                    return self._run(corpus, replace(case, system=system.name, **fields))
                except KilledError:
                    self._killed[system.name] = self._killed.get(system.name, 0) + 1
            self._report(f"{system.name}: killed for lack of memory in its cgroup; once more")
        raise EnvironmentFailure(
            f"{system.name} was killed for lack of memory {KILLED_MOST} times, with a limit of "
            f"{limit_bytes >> 20} MiB: take a larger --region"
        )

    def _run(self, corpus: str, case: Case) -> dict[str, Any]:
        with self._signals.open():
            got = run_case(case)
        key = (case.system, corpus, case.workload, got["delivery"], got["unit_bytes"],
               got["codec"], case.threads)
        self._found.setdefault(key, []).append(got)
        return got

    def result(self) -> Result:
        """What was measured, as rows."""
        plan = self._plan
        settings: Row = {
            "region_bytes": plan.region_bytes, "limit_bytes": plan.limit_bytes,
            "swap_max_bytes": plan.swap_max_bytes, "repeats": plan.repeats,
            "with_kernel": plan.with_kernel, "skipped_systems": self._skipped,
            "killed_cases": self._killed,
        }
        rows = [_row(key, runs) for key, runs in self._found.items()]
        return Result("bench_memory", settings, rows)


def _row(key: tuple[object, ...], runs: Sequence[dict[str, Any]]) -> Row:
    names = ("system", "corpus", "workload", "delivery", "unit_bytes", "codec", "threads")
    row: Row = dict(zip(names, key, strict=True))
    spreads = {}
    for name in SPREAD:
        values = [run[name] for run in runs if run[name] is not None]
        spread = Spread.of(values) if values else None
        row[name] = None if spread is None else rounded(spread.median)
        if spread is not None:
            spreads[f"{name}_min"] = rounded(spread.low)
            spreads[f"{name}_max"] = rounded(spread.high)
    for name in MEDIANS:
        values = [run[name] for run in runs if run.get(name) is not None]
        if name in runs[0]:
            row[name] = _median(values, name)
    row |= spreads
    row["mb_per_s_runs"] = [rounded(run["mb_per_s"]) for run in runs]
    row["repeats"] = len(runs)
    row["disturbed_repeats"] = sum(run["disturbed"] for run in runs)
    row["touches"] = runs[0]["touches"]
    row["counters"] = runs[-1]["counters"]
    return row


def _median(values: Sequence[float], name: str) -> float | int | None:
    if not values:
        return None
    middle = statistics.median(values)
    return int(middle) if name.endswith("_bytes") else rounded(middle)
