"""``bench nbd``: coldmem's server beside nbdkit's plugin memory and the kernel's zram.

Owns: a folder for sockets, and one system at a time (`nbd_systems`); all gone when `run` returns or
raises. Guarantees: the systems take turns in each repeat, each begins empty and is filled before it is
measured, and at its end every byte of it is compared with what was written. Takes no locks.

What is possible is measured too, in the same run: the bare codec on the same units, a copy of memory,
and nbdkit's plugin null, which is nothing but protocol and socket. From these comes a bound for each row
of coldmem: with one request at a time the answer cannot be there before the socket and the codec have
had their turns; with more, all CPUs together cannot do more than both of them ask for, client included.
"""

from __future__ import annotations

import itertools
import os
import random
import shutil
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import numpy.typing as npt

from coldmem.errors import EnvironmentFailure, UsageError
from coldmem.lab.codec_timing import time_codec
from coldmem.lab.drive import drive
from coldmem.lab.gate import Gate, percentile_ns
from coldmem.lab.memory_corpora import KINDS, write_corpus
from coldmem.lab.nbd_systems import COLDMEM, NBDKIT, SOCKET, ZRAM, Kind, Running, System
from coldmem.lab.nbd_work import NbdWork
from coldmem.lab.result import Result, Row, rounded
from coldmem.nbd import protocol

MB = 1_000_000
FILL_BYTES, FILL_DEPTH = 65536, 16
COMMANDS = {"read": protocol.CMD_READ, "write": protocol.CMD_WRITE}
PATTERNS = ("sequential", "random")
CODEC = "lz4"
SPEED_GOAL = 0.8
Report = Callable[[str], None]
Bytes = npt.NDArray[np.uint8]


@dataclass(frozen=True, slots=True)
class Case:
    """One row: what the clients do."""

    op: str
    pattern: str
    request_bytes: int
    connections: int
    depth: int

    def fields(self) -> Row:
        return {"op": self.op, "pattern": self.pattern, "request_bytes": self.request_bytes,
                "connections": self.connections, "depth": self.depth}


@dataclass(frozen=True, slots=True)
class Plan:
    """What is measured."""

    size_bytes: int = 64 << 20
    request_bytes: Sequence[int] = (4096, 65536)
    connections: Sequence[int] = (1, 2)
    depths: Sequence[int] = (1, 16)
    units: Sequence[int] = (4096, 65536)
    corpus: str = "tree"
    repeats: int = 3
    requests_max: int = 8192  # of one run
    with_kernel: bool = False

    def check(self) -> None:
        """Raise where it cannot be run."""
        if self.repeats < 1:
            raise UsageError("--repeats must be 1 or more")
        if self.size_bytes % FILL_BYTES or self.size_bytes < FILL_BYTES * max(self.connections):
            raise UsageError("--size must be a multiple of 64K, and 64K for each connection or more")
        if self.corpus not in KINDS:
            raise UsageError(f"no corpus is called {self.corpus!r}; there are {', '.join(KINDS)}")
        if self.with_kernel and os.geteuid() != 0:
            raise EnvironmentFailure("--with-kernel makes a zram device: that needs root")
        if shutil.which("nbdkit") is None:
            raise EnvironmentFailure("there is no nbdkit: apt install nbdkit (Debian's name)")

    def kinds(self) -> list[Kind]:
        """The systems."""
        found = [Kind(COLDMEM, unit, CODEC) for unit in self.units] + [Kind(NBDKIT), Kind(SOCKET)]
        return found + ([Kind(ZRAM)] if self.with_kernel else [])

    def cases(self, kind: Kind) -> Iterator[Case]:
        """What is asked of a system: a device has no depth."""
        for request, connections, depth, pattern, op in itertools.product(
            self.request_bytes, self.connections, self.depths, PATTERNS, COMMANDS
        ):
            if depth == 1 or not kind.is_device:
                yield Case(op, pattern, request, connections, depth)


def run(plan: Plan, report: Report = lambda line: None) -> Result:
    """Measure everything in `plan`, systems in turn."""
    plan.check()
    kinds = plan.kinds()
    content = _content(plan)
    runs: dict[tuple[Kind, Case], list[Row]] = {}
    stored: dict[Kind, Row] = {}
    bounds: list[dict[str, float]] = []
    for repeat in range(plan.repeats):
        first = repeat % len(kinds)
        for kind in [*kinds[first:], *kinds[:first]]:
            report(f"repeat {repeat + 1} of {plan.repeats}: {name_of(kind)}")
            for case, row in _one(kind, plan, content, stored):
                runs.setdefault((kind, case), []).append(row)
        bounds.append(_bare(plan, content))
    rows = [_merged(kind, case, found, stored) for (kind, case), found in runs.items()]
    bare = {key: statistics.median(one[key] for one in bounds) for key in bounds[0]}
    _compare(rows, runs)
    _bound(rows, bare)
    settings: dict[str, object] = {
        "size_bytes": plan.size_bytes, "corpus": plan.corpus, "repeats": plan.repeats,
        "requests_max": plan.requests_max, "codec": CODEC, "with_kernel": plan.with_kernel,
        **{key: rounded(value) for key, value in bare.items()},
    }
    return Result("bench_nbd", settings, rows)


def name_of(kind: Kind) -> str:
    """For people: the unit too, where there is one."""
    return kind.system + (f", unit {kind.unit_bytes >> 10}K" if kind.unit_bytes else "")


def _content(plan: Plan) -> Bytes:
    with tempfile.TemporaryDirectory(prefix="coldmem-nbd-") as folder:
        path = Path(folder, "corpus")
        write_corpus(plan.corpus, plan.size_bytes, path)
        # Whole pages: O_DIRECT wants it, and zram of Linux 6.18 mixes up what lies across two pages.
        room = np.empty(plan.size_bytes + 4096, np.uint8)
        pages = room[-room.ctypes.data % 4096 :][: plan.size_bytes]
        pages[:] = np.fromfile(path, np.uint8)[: plan.size_bytes]
        return pages


def _one(
    kind: Kind, plan: Plan, content: Bytes, stored: dict[Kind, Row]
) -> Iterator[tuple[Case, Row]]:
    """Every case on one fresh system, filled first and compared with `content` last."""
    with ExitStack() as undo:
        folder = Path(tempfile.mkdtemp(prefix="coldmem-nbd-"))
        undo.callback(shutil.rmtree, folder, ignore_errors=True)
        system = undo.enter_context(System(kind, plan.size_bytes, folder))
        whole = np.arange(0, plan.size_bytes, FILL_BYTES, dtype=np.uint64)
        depth = 1 if kind.is_device else FILL_DEPTH
        filling = Case("write", "sequential", FILL_BYTES, 1, depth)
        _measure(system, filling, content, whole)
        stored[kind] = dict(system.stored())
        for number, case in enumerate(plan.cases(kind)):
            yield case, _measure(system, case, content, order_of(case, plan, number))
        if kind.keeps:
            _measure(system, Case("read", "sequential", FILL_BYTES, 1, depth), content, whole, True)


def order_of(case: Case, plan: Plan, seed: int) -> npt.NDArray[np.uint64]:
    """Offsets: each at most once, from the start in order, or some of all in any order."""
    slots = plan.size_bytes // case.request_bytes
    count = max(min(slots, plan.requests_max), case.connections)
    if case.pattern == "sequential":
        chosen: Sequence[int] = range(count)
    else:
        chosen = random.Random(seed).sample(range(slots), count)
    return np.array(chosen, np.uint64) * case.request_bytes


def _measure(
    system: Running, case: Case, content: Bytes, order: npt.NDArray[np.uint64],
    compare_all: bool = False,
) -> Row:
    kind = system.kind
    with system.clients(case.connections) as fds:
        gate = Gate()
        work = NbdWork(fds, not kind.is_device, COMMANDS[case.op], case.request_bytes, case.depth,
                       content, order, gate, compare_all)
        before = system.cpu_s()
        timing = drive(gate, [partial(work.run, n) for n in range(case.connections)], [],
                       lambda: work.totals()["end_ns"], None)
        after = system.cpu_s()
    found = work.totals()
    if found["error"]:
        raise EnvironmentFailure(
            f"{name_of(kind)}: a {case.op} failed: "
            + (os.strerror(found["error"]) if found["error"] > 0 else "the server ended the connection")
        )
    if found["bad_reads"] and kind.keeps:
        raise EnvironmentFailure(f"{name_of(kind)}: {found['bad_reads']} reads gave other bytes than "
                                 "were written")
    times = work.times()
    server = None if before is None or after is None else after - before
    return {
        "mb_per_s": len(order) * case.request_bytes / timing.real_s / MB,
        "p50_us": (percentile_ns(times, 0.5) or 0) / 1000,
        "p99_us": (percentile_ns(times, 0.99) or 0) / 1000,
        "server_cpu_s": server, "client_cpu_s": timing.user_s + timing.sys_s,
        "moved_bytes": len(order) * case.request_bytes, "disturbed": server is not None and (
            timing.foreign_cpu_s or 0.0) - server > 0.04 * timing.real_s * (os.cpu_count() or 1) + 0.03,
    }


def _merged(kind: Kind, case: Case, found: list[Row], stored: dict[Kind, Row]) -> Row:
    row: Row = {"system": kind.system, "unit_bytes": kind.unit_bytes, "codec": kind.codec,
                **case.fields()}
    for key in ("mb_per_s", "p50_us", "p99_us", "server_cpu_s", "client_cpu_s"):
        values = [float(str(one[key])) for one in found if one[key] is not None]
        row[key] = rounded(statistics.median(values)) if values else None
    speeds = [float(str(one["mb_per_s"])) for one in found]
    row |= {"mb_per_s_min": rounded(min(speeds)), "mb_per_s_max": rounded(max(speeds)),
            "moved_bytes": found[0]["moved_bytes"], "runs": len(found),
            "disturbed_runs": sum(bool(one["disturbed"]) for one in found)}
    packed = stored[kind]
    row["ratio"] = None if packed["ratio"] is None else rounded(float(str(packed["ratio"])))
    row["pool_bytes"] = packed["pool_bytes"]
    return row


def _compare(rows: list[Row], runs: dict[tuple[Kind, Case], list[Row]]) -> None:
    """Speeds repeat by repeat, and the median of these ratios; zram has no depth."""
    by_case = {(kind.system, case): found for (kind, case), found in runs.items()}
    for row, (kind, case) in zip(rows, runs, strict=True):
        for name, other in (("nbdkit", NBDKIT), ("zram", ZRAM)):
            alike = case if other != ZRAM else Case(
                case.op, case.pattern, case.request_bytes, case.connections, 1)
            theirs = by_case.get((other, alike), [])
            ratios = [float(str(a["mb_per_s"])) / float(str(b["mb_per_s"]))
                      for a, b in zip(runs[kind, case], theirs, strict=False)]
            row[f"ratio_to_{name}"] = rounded(statistics.median(ratios)) if ratios else None


def _bare(plan: Plan, content: Bytes) -> dict[str, float]:
    """MB/s of one CPU: the codec on the same units, both ways, and a copy."""
    found = {}
    part = content[: 16 << 20]
    for unit in plan.units:
        took = time_codec(CODEC, part, unit, 1 << 20, 0)
        for what in ("compress", "decompress"):
            found[f"{what}_{unit >> 10}k_mb_per_s"] = len(part) / took[f"{what}_ns"] * 1e9 / MB
    there = np.empty_like(part)
    start = time.perf_counter_ns()
    np.copyto(there, part)
    found["copy_mb_per_s"] = len(part) / (time.perf_counter_ns() - start) * 1e9 / MB
    return found


def _bound(rows: list[Row], bare: dict[str, float]) -> None:
    cpus = len(os.sched_getaffinity(0))
    alone = {_key(row): row for row in rows if row["system"] == SOCKET}
    for row in rows:
        row["bound_mb_per_s"] = row["of_bound"] = None
        socket = alone.get(_key(row))
        if row["system"] != COLDMEM or socket is None:
            continue
        what = "compress" if row["op"] == "write" else "decompress"
        codec = 1 / bare[f"{what}_{int(str(row['unit_bytes'])) >> 10}k_mb_per_s"]  # s per MB
        speed = float(str(socket["mb_per_s"]))
        if row["depth"] == 1 and row["connections"] == 1:
            bound = 1 / (codec + 1 / speed)
        else:
            # CPU seconds of the socket for a megabyte, of server and client together.
            seconds = float(str(socket["server_cpu_s"])) + float(str(socket["client_cpu_s"]))
            moved = float(str(socket["moved_bytes"])) / MB
            bound = cpus / (codec + seconds / moved)
        row["bound_mb_per_s"] = rounded(bound)
        row["of_bound"] = rounded(float(str(row["mb_per_s"])) / bound)


def _key(row: Row) -> tuple[object, ...]:
    return tuple(row[key] for key in ("op", "pattern", "request_bytes", "connections", "depth"))


def goal_rows(result: Result) -> list[Row]:
    """64K sequential, the rows that the goal is about."""
    return [row for row in result.rows
            if row["system"] == COLDMEM and row["request_bytes"] == 65536
            and row["pattern"] == "sequential"]
