"""zsmalloc beside zbud and z3fold: density, speed, fragmentation; each on the same objects.

Owns nothing. Guarantees: every arm gets the same objects in the same order. Speed: the arms of one
number of threads are interleaved (each repeat runs all of them, in another order); figures are medians,
with the smallest and largest beside them, and what is compared are ratios within repeats. Every read is
looked at; an arm that gave other bytes than were written ends the run.

Where speed and fragmentation are compared, the objects are those that all three take: at most what zbud
does. What the others cost is in the rows of density.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

from coldmem.errors import InternalError, UsageError
from coldmem.lab import backend_corpora, fragmentation
from coldmem.lab.alloc_work import PHASES, AllocWork
from coldmem.lab.arms import members
from coldmem.lab.backend import Backend
from coldmem.lab.backend_arms import ARMS, ONE_OF_EACH, BackendArm, arm
from coldmem.lab.drive import Timing, drive
from coldmem.lab.gate import Gate
from coldmem.lab.result import Result, Row, Spread, rounded
from coldmem.lab.workloads import UNIT_BYTES, Load, Material, Measurement, run_alloc

PARTS = ("density", "speed", "fragmentation")
THREADS = (1, 2, 8, 32)
SHARED_BYTES_MAX = 3968  # what zbud takes; checked against it when a run begins
OBJECT_BYTES_MIN = 16  # what the loops look at
SPEED_CORPUS = ("mix", "lz4")
FRAGMENTATION_CORPORA = (("mix", "lz4"), ("text", "zstd"))
SHARED_UNITS = 4096  # units that the objects of speed and fragmentation are drawn from
CHAIN = 8
BASE = "zsmalloc_class"

Report = Callable[[str], None]


@dataclass(frozen=True)
class Plan:
    """What to run.

    Attributes
    ----------
    units_n : sequence of int
        Units of each corpus in the rows of density.
    objects : int
        Objects that each run of speed puts, reads and frees, in all threads together.
    live, churn
        As for ``lab fragmentation``.
    """

    parts: Sequence[str] = PARTS
    arms: Sequence[str] = tuple(ARMS)
    corpora: Sequence[str] = tuple(backend_corpora.CORPORA)
    codecs: Sequence[str] = backend_corpora.CODECS
    units_n: Sequence[int] = (4_096, 65_536)
    threads: Sequence[int] = THREADS
    repeats: int = 5
    seconds: float = 0.2
    objects: int = 32_768
    live: Sequence[int] = fragmentation.LIVE
    churn: float = 5.0

    def check(self) -> None:
        """Raise `UsageError` for what cannot be run."""
        for name in self.parts:
            if name not in PARTS:
                raise UsageError(f"no part is called {name!r}; there are {', '.join(PARTS)}")
        for name in self.arms:
            arm(name)
        if self.repeats < 1 or self.seconds <= 0 or self.churn <= 0:
            raise UsageError("--repeats, --seconds and --churn must be more than 0")
        if not self.threads or min(self.threads) < 1 or self.objects < 2 * max(self.threads):
            raise UsageError("--threads must be 1 or more, with at least two --objects each")
        if not self.units_n or not self.live or min(*self.units_n, *self.live) < 16:
            raise UsageError("--units and --live must be 16 or more")


def run(plan: Plan, report: Report = lambda line: None) -> Result:
    """Run `plan`; `report` gets a line of progress now and then.

    Returns
    -------
    Result
        Rows of three kinds, told apart by ``part``.
    """
    plan.check()
    with Backend("zbud") as smallest:
        if smallest.object_bytes_max != SHARED_BYTES_MAX:
            raise InternalError(f"zbud takes {smallest.object_bytes_max} bytes")
    result = Result("lab_backends", {
        "unit_bytes": UNIT_BYTES, "repeats": plan.repeats,
        "seconds": plan.seconds, "objects": plan.objects, "churn_ops_per_slot": plan.churn,
        "speed_corpus": SPEED_CORPUS[0], "speed_codec": SPEED_CORPUS[1],
        "shared_object_bytes_max": SHARED_BYTES_MAX,
    })
    if "density" in plan.parts:
        result.rows += _density(plan, report)
    if "speed" in plan.parts:
        result.rows += _speed(plan, report)
    if "fragmentation" in plan.parts:
        result.rows += _fragmentation(plan, report)
    return result


def _shared(corpus: str, codec: str) -> list[bytes]:
    """Objects that every allocator takes, long enough to be looked at."""
    packed = backend_corpora.objects(corpus, codec, SHARED_UNITS).packed
    return [p.ljust(OBJECT_BYTES_MIN, b"\0") for p in packed if len(p) <= SHARED_BYTES_MAX]


# -- density ----------------------------------------------------------------------------------------
def _density(plan: Plan, report: Report) -> list[Row]:
    one_of_each = [arm(name) for name in ONE_OF_EACH if name in plan.arms]
    rows: list[Row] = []
    for corpus in plan.corpora:
        for codec in plan.codecs:
            report(f"density: {corpus}, {codec}")
            whole = backend_corpora.objects(corpus, codec, max(plan.units_n))
            rows += [
                store_all(what, corpus, codec, whole.part(n))
                for n in plan.units_n for what in one_of_each
            ]
    return rows


def store_all(
    what: BackendArm, corpus: str, codec: str, objects: backend_corpora.Objects
) -> Row:
    """Store every object in a fresh pool of `what`; what was refused stays a page outside."""
    pool = what.open()
    try:
        store = members(pool)[0].store
        largest = SHARED_BYTES_MAX if what.backend == "zbud" else UNIT_BYTES
        handles = []
        stored = refused = 0
        for data in objects.packed:
            if len(data) > largest:
                refused += 1
                continue
            handles.append(store(data))
            stored += len(data)
        used = pool.used_bytes
        outside = refused * UNIT_BYTES
        return {
            "part": "density", "backend": what.backend, "corpus": corpus, "codec": codec,
            "units": len(objects.units),
            "same_filled_units": objects.same_filled,
            "incompressible_units": objects.incompressible,
            "mean_object_bytes": rounded(objects.packed_bytes / max(len(objects.packed), 1)),
            "refused_objects": refused,
            "stored_bytes": stored,
            "used_bytes": used,
            "used_per_stored": rounded(used / stored) if stored else None,
            "objects_per_page": rounded(len(handles) / (used / UNIT_BYTES)) if used else None,
            "outside_bytes": outside,
            "ratio": _ratio(objects.data_bytes, used + outside),
            "codec_ratio": _ratio(objects.data_bytes, objects.packed_bytes),
        }
    finally:
        pool.close()


def _ratio(data_bytes: int, taken_bytes: int) -> float | None:
    return rounded(data_bytes / taken_bytes) if taken_bytes else None


# -- speed ------------------------------------------------------------------------------------------
@dataclass(frozen=True)
class _Run:
    """One arm, once: millions of operations per second of each phase, and of the steady mix."""

    mops: dict[str, float]
    disturbed: bool
    churn: Measurement


def _end_ns(work: AllocWork) -> int:
    return work.totals()["end_ns"]


def phases(
    what: BackendArm, payloads: Sequence[bytes], threads: int, objects: int
) -> dict[str, tuple[float, Timing]]:
    """Put, read and free `objects` objects with `threads` threads: Mops/s and time of each phase."""
    pool = what.open()
    try:
        work = AllocWork(pool, payloads, Gate(), threads, objects)
        found = {}
        for phase in PHASES:
            gate = Gate()
            jobs = [partial(work.phase, phase, thread, gate) for thread in range(threads)]
            timing = drive(gate, jobs, [], partial(_end_ns, work), None)
            totals = work.totals()
            if totals["bad_reads"] or totals["failed"]:
                raise InternalError(f"{what.name}, {phase}: {totals}")
            found[phase] = (totals["ops"] / timing.real_s / 1e6, timing)
        if pool.used_bytes:
            raise InternalError(f"{what.name}: {pool.used_bytes} bytes are in use, all is freed")
        return found
    finally:
        for p in members(pool):
            p.close()


def _once(what: BackendArm, payloads: list[bytes], threads: int, plan: Plan) -> _Run:
    found = phases(what, payloads, threads, plan.objects)
    churn = run_alloc(
        what, Material([], payloads), threads, Load(plan.seconds, live_objects=plan.objects // 2))
    mops = {phase: speed for phase, (speed, _) in found.items()}
    mops["churn"] = churn.mops_per_s
    times = [timing for _, timing in found.values()]
    return _Run(mops, any(t.disturbed for t in [*times, churn.timing]), churn)


def _speed(plan: Plan, report: Report) -> list[Row]:
    report("speed: compressing")
    payloads = _shared(*SPEED_CORPUS)
    arms = [arm(name) for name in dict.fromkeys(plan.arms)]
    rows: list[Row] = []
    for threads in dict.fromkeys(plan.threads):
        report(f"speed: {threads} threads")
        runs: dict[str, list[_Run]] = {what.name: [] for what in arms}
        for repeat in range(plan.repeats):
            first = repeat % len(arms)
            for what in arms[first:] + arms[:first]:
                runs[what.name].append(_once(what, payloads, threads, plan))
        waits = {
            what.name: run_alloc(
                what, Material([], payloads), threads,
                Load(plan.seconds, live_objects=plan.objects // 2), statistics=True)
            for what in arms
        }
        base = runs.get(BASE)
        rows += [_speed_row(what, threads, runs[what.name], base, waits[what.name]) for what in arms]
    return rows


def _speed_row(
    what: BackendArm, threads: int, runs: list[_Run], base: list[_Run] | None, waits: Measurement
) -> Row:
    row: Row = {
        "part": "speed", "arm": what.name, "backend": what.backend, "threads": threads,
        "repeats": len(runs), "disturbed_repeats": sum(run.disturbed for run in runs),
    }
    for phase in (*PHASES, "churn"):
        values = [run.mops[phase] for run in runs]
        spread = Spread.of(values)
        row[f"{phase}_mops_per_s"] = rounded(spread.median)
        row[f"{phase}_mops_per_s_min"] = rounded(spread.low)
        row[f"{phase}_mops_per_s_max"] = rounded(spread.high)
        if base is not None:  # runs of one repeat stood side by side
            row[f"{phase}_ratio_to_{BASE}"] = rounded(statistics.median(
                value / other.mops[phase] for value, other in zip(values, base, strict=True)))
    # What others took of the machine meanwhile is not in this.
    cpu = [(r.churn.timing.user_s + r.churn.timing.sys_s) / r.churn.ops * 1e9 for r in runs]
    row["churn_cpu_ns_per_op"] = rounded(statistics.median(cpu))
    row["churn_cpu_ns_per_op_min"] = rounded(min(cpu))
    row["wait_share"] = rounded(sum(waits.waits.values()))
    row["contended_share_by_lock"] = {k: rounded(v) for k, v in waits.contended.items()}
    used = statistics.median_low([run.churn.used_bytes for run in runs])
    stored = statistics.median_low([run.churn.stored_bytes for run in runs])
    row["used_per_stored"] = rounded(used / stored) if stored else None
    return row


# -- fragmentation ----------------------------------------------------------------------------------
def _fragmentation(plan: Plan, report: Report) -> list[Row]:
    # Memory depends on how many pools there are, not on how each locks.
    arms = [arm(n) for n in plan.arms if n in ONE_OF_EACH or arm(n).pools_n > 1]
    rows: list[Row] = []
    for corpus, codec in FRAGMENTATION_CORPORA:
        payloads = _shared(corpus, codec)
        mean = rounded(statistics.mean(map(len, payloads)))
        for live in plan.live:
            for what in arms:
                report(f"fragmentation: {corpus}, {codec}, {what.label}, {live:,} live objects")
                measured = fragmentation.measure(what, live, plan.churn, CHAIN, payloads)
                rows.append({
                    "part": "fragmentation", "backend": what.backend, "corpus": corpus,
                    "codec": codec, "mean_object_bytes": mean, **measured,
                })
    return rows
