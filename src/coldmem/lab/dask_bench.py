"""``bench dask``: jobs on a LocalCluster whose data is larger than its workers' memory.

Owns: one child process at a time with its cluster, a memory cgroup and a disk of its own; all of it is
gone when it returns or raises, also on Ctrl-C.
Guarantees: each run is in a process of its own; systems take turns within each repeat, and each repeat
begins with another one. What a job found is compared with what the first system found.
Equal memory: with root, workers, scheduler and client together are in a memory cgroup of the workers'
limits and `BESIDE_BYTES`, so that what waits for the disk in the page cache takes of it too, as it
does in a container. Without root there is no cgroup, the disk is that of temporary files, and its
traffic is not counted; the rows say so.
"""

from __future__ import annotations

import itertools
import math
import os
import tempfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from coldmem.errors import EnvironmentFailure, UsageError
from coldmem.lab.child import KilledError, TooSlowError, run_child
from coldmem.lab.dask_case import MEMORY, SPILL_LZ4, SYSTEMS, DaskCase
from coldmem.lab.dask_jobs import DATA_KINDS, JOBS, Outcome
from coldmem.lab.own_disk import OwnDisk, own_disk
from coldmem.lab.postponed import PostponedSignals
from coldmem.lab.result import Result, Row, rounded
from coldmem.linux.memory_group import MemoryGroup
from coldmem.linux.throttle import find_blkio
from coldmem.zswap.swapdir import default_directory

MIB = 1 << 20
FAST, SLOW = "fast", "slow"
DISKS = (FAST, SLOW)
BESIDE_BYTES = 300 * MIB  # of scheduler and client
LIMIT_BYTES_MIN = 256 * MIB
DISK_TIMES = 6  # size of the file system, in sizes of the data
CLOSE = 1e-9

Report = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class DaskPlan:
    """What is measured.

    Attributes
    ----------
    limit_bytes : int
        Memory limit of each worker.
    times : float
        Data, in sums of the workers' limits.
    slow_bytes_per_s : int
        Of the disk `SLOW`.
    spoil : bool
        One result is changed before it is compared: it must show.
    """

    jobs: tuple[str, ...] = tuple(JOBS)
    data_kinds: tuple[str, ...] = DATA_KINDS
    disks: tuple[str, ...] = DISKS
    systems: tuple[str, ...] = SYSTEMS
    repeats: int = 1
    workers: int = 2
    threads: int = 1
    limit_bytes: int = 512 * MIB
    times: float = 3.0
    parts: int = 160
    slow_bytes_per_s: int = 200_000_000
    run_s_max: float = 600.0
    spoil: bool = False

    @property
    def size_bytes(self) -> int:
        return int(self.times * self.workers * self.limit_bytes)

    def check(self) -> None:
        """Raise UsageError where it makes no sense."""
        for name in ("repeats", "workers", "threads", "parts", "slow_bytes_per_s"):
            if getattr(self, name) < 1:
                raise UsageError(f"--{name.replace('_', '-')} must be 1 or more")
        if self.limit_bytes < LIMIT_BYTES_MIN:
            raise UsageError("--limit must be 256M or more: a worker's libraries alone take 150M")
        if not self.times > 0:
            raise UsageError("--times must be more than 0")


def run(plan: DaskPlan, report: Report = lambda line: None) -> Result:
    """Measure everything in `plan`, taking turns."""
    plan.check()
    if find_spec("distributed") is None:
        raise EnvironmentFailure("distributed is not installed: pip install 'coldmem[dask]'")
    with PostponedSignals() as signals:
        bench = _Bench(plan, signals, report)
        bench.prepare()
        for repeat, job, kind in itertools.product(range(plan.repeats), plan.jobs, plan.data_kinds):
            bench.turn(repeat, job, kind)
        return bench.result()


def differing(result: Result) -> list[str]:
    """A sentence for each row whose result is not that of the others."""
    return [f"{row['job']}, {row['data_kind']}, {row['disk']} disk: {row['system']} found something else"
            for row in result.rows if row["result"] == "differs"]


class _Bench:
    """One run: what was found so far, and who takes part."""

    def __init__(self, plan: DaskPlan, signals: PostponedSignals, report: Report) -> None:
        self._plan = plan
        self._signals = signals
        self._report = report
        self._rows: list[Row] = []
        self._skipped: list[Row] = []
        self._systems = [name for name in SYSTEMS if name in plan.systems]
        self._disks = list(plan.disks)
        self._fenced = os.geteuid() == 0
        self._known: dict[tuple[str, str], Outcome] = {}

    def prepare(self) -> None:
        """Find out what can be done here; what cannot is named."""
        if SPILL_LZ4 in self._systems and find_spec("lz4") is None:
            self._skip(SPILL_LZ4, "lz4 is not installed: pip install 'coldmem[peers]'")
            self._systems.remove(SPILL_LZ4)
        if not self._fenced:
            self._skip("cgroup", "it needs root: memory is limited by Dask alone")
        if SLOW in self._disks:
            try:
                if not self._fenced:
                    raise EnvironmentFailure("a slow disk needs root")
                find_blkio()
            except EnvironmentFailure as error:
                self._skip(f"disk {SLOW}", str(error))
                self._disks.remove(SLOW)
        if not self._disks or not self._systems:
            raise EnvironmentFailure("nothing of this can run here: " + "; ".join(
                str(row["reason"]) for row in self._skipped))

    def _skip(self, what: str, reason: str) -> None:
        self._skipped.append({"what": what, "reason": reason})
        self._report(f"SKIPPED: {what}: {reason}")

    def turn(self, repeat: int, job: str, kind: str) -> None:
        """One job on one kind of data, once by each system on each disk."""
        at = repeat % len(self._systems)
        for disk in self._disks:
            for system in self._systems[at:] + self._systems[:at]:
                if system != MEMORY or disk == self._disks[0]:  # it uses none
                    self._one(repeat, job, kind, disk, system)

    def _one(self, repeat: int, job: str, kind: str, disk: str, system: str) -> None:
        plan = self._plan
        what = f"{job}, {kind} data, {disk} disk, {system}"
        self._report(f"repeat {repeat + 1}: {what}")
        row: Row = {"job": job, "data_kind": kind, "disk": disk, "system": system,
                    "repeat": repeat + 1, "seconds": None, "result": None, "failed": None}
        case = DaskCase(
            system=system, job=job, data_kind=kind, size_bytes=plan.size_bytes, parts=plan.parts,
            workers=plan.workers, threads=plan.threads, limit_bytes=plan.limit_bytes, folder="")
        found: dict[str, Any] = {}
        with self._surroundings(case, disk) as (ready, own, group):
            before = None if own is None else own.traffic()
            try:
                with self._signals.open():
                    found = run_child("coldmem.lab.dask_case", ready.to_json(), what, plan.run_s_max)
            except (KilledError, TooSlowError) as problem:
                row["failed"] = str(problem)
            after = None if own is None else own.traffic()
            row["oom_kills"] = None if group is None else group.oom_kills()
        for name, n in (("disk_read_bytes", 0), ("disk_written_bytes", 1)):
            row[name] = None if before is None or after is None else after[n] - before[n]
        row |= self._figures(job, kind, found)
        if row["failed"]:
            self._report(f"{what}: {row['failed']}")
        self._rows.append(row)

    def _figures(self, job: str, kind: str, found: dict[str, Any]) -> Row:
        """Of what a child said, for its row."""
        row: Row = {name: found.get(name) for name in ("peak_bytes", "killed_workers")}
        for name in ("paused_s", "workers_cpu_s", "machine_cpu_s"):
            value = found.get(name)
            row[name] = None if value is None else rounded(value)
        row["store"] = found.get("store", {})
        outcome = found.get("outcome")
        if outcome is None:
            return row if not found else row | {"failed": found["failure"]}
        if self._plan.spoil and (job, kind) in self._known:
            outcome["equal"][0] += 1
        known = self._known.setdefault((job, kind), outcome)
        return row | {"seconds": rounded(found["seconds"]),
                      "result": "equal" if _same(known, outcome) else "differs"}

    @contextmanager
    def _surroundings(self, case: DaskCase, disk: str
                      ) -> Iterator[tuple[DaskCase, OwnDisk | None, MemoryGroup | None]]:
        """The disk and the cgroup, where there are any."""
        plan = self._plan
        with ExitStack() as undo:
            if not self._fenced:
                folder = undo.enter_context(
                    tempfile.TemporaryDirectory(prefix="coldmem-dask-", dir=default_directory()))
                yield replace(case, folder=folder), None, None
                return
            own = undo.enter_context(own_disk(
                default_directory(), DISK_TIMES * plan.size_bytes + (1 << 30),
                plan.slow_bytes_per_s if disk == SLOW else None))
            limit = plan.workers * plan.limit_bytes + BESIDE_BYTES
            group = MemoryGroup(None if case.system == MEMORY else limit)
            undo.callback(group.close)
            undo.callback(group.kill)  # workers whose nanny was killed
            folder = str(own.folder / "dask")
            Path(folder).mkdir()
            yield replace(case, folder=folder, join_path=str(group.join_path)), own, group

    def result(self) -> Result:
        """What was measured: a row for each run."""
        plan = self._plan
        return Result("bench_dask", {
            "repeats": plan.repeats, "workers": plan.workers, "threads": plan.threads,
            "limit_bytes": plan.limit_bytes, "size_bytes": plan.size_bytes, "parts": plan.parts,
            "slow_bytes_per_s": plan.slow_bytes_per_s, "beside_bytes": BESIDE_BYTES,
            "in_cgroup": self._fenced, "skipped": self._skipped,
        }, self._rows)


def _same(known: Outcome, found: Outcome) -> bool:
    """Integers equal, floating point numbers up to rounding."""
    return known["equal"] == found["equal"] and len(known["close"]) == len(found["close"]) and all(
        math.isclose(a, b, rel_tol=CLOSE) for a, b in zip(known["close"], found["close"], strict=True))
