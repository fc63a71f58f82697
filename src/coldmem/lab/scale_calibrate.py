"""Calibration of the scaling model: what locks, operations and neighbours cost on this machine.

Owns: the pools that it opens, closed before it returns. Guarantees: nothing here is fitted to the
throughput of threads that contend: figures come from one thread, from two that meet at one word, and
from two that take strict turns. Every row says how its figures were found. Takes no locks.
"""

from __future__ import annotations

import statistics
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from coldmem.errors import EnvironmentFailure, InternalError, UsageError
from coldmem.lab.alloc_work import AllocWork
from coldmem.lab.arms import ARMS, Arm, arm, members
from coldmem.lab.codec_timing import time_codec
from coldmem.lab.drive import drive
from coldmem.lab.gate import Gate
from coldmem.lab.result import Result, Row, rounded
from coldmem.lab.scale_bench import cpus, pinned, together, undisturbed, wanted_runs
from coldmem.lab.scale_primitives import figure, line_ns, primitives, with_line
from coldmem.lab.scale_work import LOCK_NAMES, PHASE_NAMES, ScaleWork
from coldmem.lab.workloads import UNIT_BYTES, Material
from coldmem.zsmalloc import Pool, Pools
from coldmem.zsmalloc.size_class import SizeClasses

OBJECTS_PER_CORE = 1024
POPULATIONS = (1, 2, 8, 32, 256)
WATCH_POPULATION = 2  # of the runs that are watched, and of those in turns
CHURN = 4
WATCH_PAUSE_NS = 4000
COMPACT_ROUNDS = 40
COMPACT_PAUSE_S = 0.003
COUNTED_OPS_MIN = 2000
LOOKS_MIN = 2000
TURNS_MIN = 1000
SPINS = 40  # looks of linux/lock.py before it sleeps
Report = Callable[[str], None]


@dataclass(frozen=True)
class Effort:
    """How long and how often; `of` keeps all in proportion."""

    seconds: float = 0.04  # of a run of one thread
    repeats: int = 7
    watch_seconds: float = 3.0
    turns: int = 40_000
    tries: int = 42  # runs of which `repeats` should count
    objects: int = OBJECTS_PER_CORE
    populations: Sequence[int] = POPULATIONS
    arms: Sequence[str] = field(default_factory=lambda: tuple(ARMS))

    @classmethod
    def of(cls, seconds: float, repeats: int, **others: Any) -> Effort:
        """Everything as long and as often as these are, beside the defaults."""
        scale = seconds / cls.seconds
        return cls(seconds, repeats, watch_seconds=scale * cls.watch_seconds,
                   turns=max(TURNS_MIN, round(scale * cls.turns)),
                   tries=max(2, repeats * cls.tries // cls.repeats), **others)

    def check(self) -> None:
        """Raise `UsageError` for what cannot be run."""
        for name in self.arms:
            arm(name)
        if not self.populations or min(self.populations) < 1:
            raise UsageError("populations must be 1 or more")
        if self.objects < 16:
            raise UsageError("--objects must be 16 or more")


def calibrate(stuff: Material, effort: Effort, report: Report = lambda line: None) -> Result:
    """Measure everything that the model needs; rows of kinds ``primitive``, ``classes``, ``arm``.

    Returns
    -------
    Result
        Named ``lab_scale_calibration``.
    """
    effort.check()
    result = Result("lab_scale_calibration", {
        "objects_per_core": effort.objects, "unit_bytes": UNIT_BYTES, "repeats": effort.repeats,
        "seconds": effort.seconds, "churn_ops_per_slot": CHURN, "watch_seconds": effort.watch_seconds,
    })
    report("what a lock costs")
    result.rows += primitives(effort.repeats, effort.tries)
    lines = [line_ns()]
    result.rows.append(classes_row(stuff))
    result.rows += codec_rows(stuff, effort)
    result.rows += arm_rows(stuff, effort, report)
    for name in effort.arms:
        report(f"{arm(name).label}: where the time goes")
        result.rows.append(share_row(arm(name), stuff, effort))
        report(f"{arm(name).label}: two threads in turns")
        result.rows.append(turn_row(arm(name), stuff, effort))
        lines.append(line_ns())
        report(f"{arm(name).label}: compaction")
        result.rows.append(compact_row(arm(name), stuff, effort))
        lines.append(line_ns())
    lines += [float(str(row["line_ns"])) for row in result.rows if row["kind"] == "turns"]
    result.rows.append(figure("line_ns", lines, "two threads on two CPUs pass a word to and fro with "
                               "atomic adds: half a round trip; at several moments"))
    return result


# -- what is worked on ------------------------------------------------------------------------------
def classes_row(stuff: Material) -> Row:
    """Popularity of the size classes, of the compressed sizes of this machine's units."""
    geometry = SizeClasses(UNIT_BYTES)
    counts = Counter(geometry.lookup(len(payload)).index for payload in stuff.compressed)
    total = sum(counts.values())
    return {
        "kind": "classes", "name": "classes",
        "popularity": {str(index): counts[index] / total for index in sorted(counts)},
        "how": f"size classes of {total} units of this machine, compressed",
    }


def codec_rows(stuff: Material, effort: Effort) -> list[Row]:
    """What compressing and decompressing one unit takes, beside the allocator."""
    data, n = b"".join(stuff.units), len(stuff.units)
    passes = [time_codec("lz4", data, UNIT_BYTES, UNIT_BYTES, 0) for _ in range(effort.repeats)]
    packs = [found["compress_ns"] / n for found in passes]
    unpacks = [found["decompress_ns"] / n for found in passes]
    return [
        figure("compress_ns", packs, "one thread compresses the units with lz4, one after the other"),
        figure("decompress_ns", unpacks, "the same units decompressed"),
    ]


# -- operations of an arm --------------------------------------------------------------------------
@dataclass
class Filled:
    """An arm's pool with the churned objects of `population` cores; one thread works on its share."""

    pool: Pool | Pools
    work: AllocWork
    watched: ScaleWork
    gate: Gate  # of the turns; open

    def close(self) -> None:
        for pool in members(self.pool):
            pool.close()

    def check(self) -> None:
        totals = self.work.totals()
        if totals["bad_reads"] or totals["failed"]:
            raise InternalError(f"calibration: {totals}")


def filled(what: Arm, population: int, stuff: Material, objects: int, counting: bool = False) -> Filled:
    """Open an arm's pool and fill it."""
    pool = what.open(unit_bytes=UNIT_BYTES, lock_statistics=counting)
    gate = Gate()
    gate.open()
    work = AllocWork(pool, stuff.compressed, gate, population, 2 * objects * population)
    watched = ScaleWork(work)
    watched.fill(CHURN)
    return Filled(pool, work, watched, gate)


def apart_ns(
    what: Arm, threads: int, population: int, stuff: Material, objects: int, seconds: float
) -> tuple[float, float]:
    """Time of an operation when threads work at once on a CPU each, every one in a pool of its own.

    They share no lock and no data, only what CPUs have in common: caches, memory, a clock rate. Also
    returns the share of time in which they had their CPUs.
    """
    on = cpus(threads)
    pools = [filled(what, population, stuff, objects) for _ in range(threads)]
    try:
        gate = Gate()
        for one in pools[1:]:
            one.watched.read_from(pools[0].watched)
        timing = drive(
            gate, [pinned(on[i], partial(one.watched.run, i, gate)) for i, one in enumerate(pools)], [],
            lambda: max(one.work.totals()["end_ns"] for one in pools), seconds)
        for one in pools:
            one.check()
        ops = sum(one.work.totals()["ops"] for one in pools)
        return timing.real_s * 1e9 * threads / ops, undisturbed(timing, threads)
    finally:
        for one in pools:
            one.close()


def arm_rows(stuff: Material, effort: Effort, report: Report) -> list[Row]:
    """Time of an operation of one thread, memory used, and locks taken: each arm and population.

    All of them once before any of them again: on a machine that is faster at some times than at others,
    they differ by what they are and not by when they were looked at.
    """
    cases = [(name, population) for name in effort.arms for population in effort.populations]
    rows: dict[tuple[str, int], Row] = {}
    runs: dict[tuple[str, int], list[float]] = {case: [] for case in cases}
    disturbed: Counter[tuple[str, int]] = Counter()
    for repeat in range(effort.repeats):
        report(f"one thread, {repeat + 1} of {effort.repeats}")
        for case in cases:
            found, bad, rows[case] = one_run(arm(case[0]), case[1], stuff, effort)
            runs[case].append(found)
            disturbed[case] += bad
    return [{
        "kind": "arm", "name": name, "population": population,
        "op_ns": rounded(statistics.median(runs[name, population])),
        "op_ns_min": rounded(min(runs[name, population])),
        "op_ns_max": rounded(max(runs[name, population])),
        "runs": effort.repeats, "disturbed_runs": disturbed[name, population],
        **rows[name, population],
        "how": "one thread toggles random slots of its share, the shares of the others lying there; all "
               "arms in turn",
    } | acquisitions(arm(name), population, stuff, effort) for name, population in cases]


def one_run(what: Arm, population: int, stuff: Material, effort: Effort) -> tuple[float, int, Row]:
    """Time of an operation in a pool of its own, whether that is disturbed, and the memory used."""
    one = filled(what, population, stuff, effort.objects)
    cpu = cpus(1)[0]
    try:
        def measure() -> tuple[float, float]:
            gate, before = Gate(), one.work.totals()["ops"]
            timing = drive(gate, [pinned(cpu, partial(one.watched.run, 0, gate))], [],
                           lambda: one.work.totals()["end_ns"], effort.seconds)
            ops = one.work.totals()["ops"] - before
            return timing.real_s * 1e9 / ops, undisturbed(timing, 1)

        measure()
        found, bad = wanted_runs(measure, 1, max(1, effort.tries // effort.repeats))
        one.check()
        objects, stored, _ = one.work.verify()
        return found[0], bad, {"live_objects": objects, "stored_bytes": stored,
                               "used_bytes": one.pool.used_bytes}
    finally:
        one.close()


def acquisitions(what: Arm, population: int, stuff: Material, effort: Effort) -> Row:
    """How often an operation takes each kind of lock: exact counts, on a pool that counts."""
    one = filled(what, population, stuff, effort.objects, counting=True)
    try:
        def counts() -> dict[str, int]:
            total: Counter[str] = Counter()
            for pool in members(one.pool):
                for kind, stats in pool.lock_stats().items():
                    total[kind] += stats.acquisitions
            return total

        before, ops, done = counts(), one.work.totals()["ops"], 0
        while done < COUNTED_OPS_MIN:  # a run without its CPU does few
            gate = Gate()
            drive(gate, [partial(one.watched.run, 0, gate)], [], lambda: one.work.totals()["end_ns"],
                  effort.seconds)
            done = one.work.totals()["ops"] - ops
        after = counts()
        return {f"{k}_per_op": rounded((after[k] - before[k]) / done) for k in (*LOCK_NAMES, "migrate")}
    finally:
        one.close()


def share_row(what: Arm, stuff: Material, effort: Effort) -> Row:
    """Shares of time of each phase, and of holding each lock in it, seen by a thread on another CPU."""
    one = filled(what, WATCH_POPULATION, stuff, effort.objects)
    geometry = SizeClasses(UNIT_BYTES)
    used = sorted({geometry.lookup(len(payload)).index for payload in stuff.compressed})
    here, there = cpus(2)
    slices = max(1, round(effort.watch_seconds / 0.1))
    kept: dict[str, dict[str, tuple[int, int]]] = {}
    try:
        def measure() -> tuple[dict[str, dict[str, tuple[int, int]]], float]:
            gate, before = Gate(), one.watched.seen()
            timing = drive(
                gate, [pinned(here, lambda: one.watched.run(0, gate)),
                       pinned(there, lambda: one.watched.watch(used, WATCH_PAUSE_NS, gate))], [],
                lambda: one.work.totals()["end_ns"], effort.watch_seconds / slices)
            after = one.watched.seen()
            gained = {
                kind: {phase: (after[kind][phase][0] - before[kind][phase][0],
                               after[kind][phase][1] - before[kind][phase][1])
                       for phase in PHASE_NAMES} for kind in LOCK_NAMES
            }
            return gained, undisturbed(timing, 2)

        found, bad = wanted_runs(measure, slices, 2 * slices)
        one.check()
    finally:
        one.close()
    for kind in LOCK_NAMES:
        kept[kind] = {
            phase: (sum(f[kind][phase][0] for f in found), sum(f[kind][phase][1] for f in found))
            for phase in PHASE_NAMES
        }
    looks = sum(kept[kind][phase][0] for kind in LOCK_NAMES for phase in PHASE_NAMES)
    if looks < LOOKS_MIN:
        raise EnvironmentFailure(
            f"{what.label}: {looks} looks at where the time goes, and {LOOKS_MIN} are the least: make "
            "the runs longer (--seconds), or wait for a quieter machine")
    row: Row = {"kind": "shares", "name": what.name, "population": WATCH_POPULATION, "looks": looks,
                "runs": len(found), "disturbed_runs": bad,
                "how": "a thread on another CPU looks, every 4 us or so, at where the worker is and at "
                       "the word of one lock: shares of looks are shares of time"}
    locks = {"pool": what.pools_n, "class": len(used), "arena": what.pools_n}
    for phase in PHASE_NAMES:
        in_phase = sum(kept[kind][phase][0] for kind in LOCK_NAMES)
        row[f"{phase}_share"] = rounded(in_phase / looks)
        for kind in LOCK_NAMES:
            seen, held = kept[kind][phase]
            row[f"{phase}_{kind}_held"] = rounded(min(1.0, locks[kind] * held / seen)) if seen else 0.0
    return row


def turn_row(what: Arm, stuff: Material, effort: Effort) -> Row:
    """What an operation takes longer when another core was here before: shared pool, and pools apart."""
    two = cpus(2)

    def measure(apart: bool) -> tuple[dict[str, float], float]:
        pools = [filled(what, 2, stuff, effort.objects) for _ in range(1 + apart)]

        def close() -> None:
            for one in pools:
                one.gate.close()

        try:
            works = [pools[0].watched, pools[-1].watched]
            works[1].read_from(works[0])
            for turns in (effort.turns // 4, effort.turns):  # first to warm the caches
                for work in works:
                    work.forget_turns()
                ran = together(
                    [partial(works[i].turns, i, 2, turns, works[0]) for i in (0, 1)], two,
                    close)
            found = works[0].turn_ns()
            if apart:
                other = works[1].turn_ns()
                found = {phase: (found[phase] + other[phase]) / 2 for phase in found}
            for one in pools:
                one.check()
            return found, ran.cpu_share
        finally:
            for one in pools:
                one.close()

    def both() -> tuple[dict[str, float], float]:
        (shared, line), one = with_line(lambda: measure(False))
        (apart, _), other = with_line(lambda: measure(True))
        found = {f"{phase}_lines": (shared[phase] - apart[phase]) / line for phase in shared}
        found |= {f"{phase}_shared_ns": shared[phase] for phase in shared}
        found |= {f"{phase}_apart_ns": apart[phase] for phase in shared}
        return found | {"line_ns": line}, min(one, other)

    runs, bad = wanted_runs(both, max(3, effort.repeats), effort.tries)
    return {
        "kind": "turns", "name": what.name, "population": 2, "runs": len(runs), "disturbed_runs": bad,
        **{key: rounded(statistics.median(run[key] for run in runs)) for key in runs[0]},
        "how": "two threads on two CPUs take strict turns, each phase between two clock reads: in one "
               "pool, and each in a pool of its own. Nobody waits for a lock. The difference, in times "
               "of a line's way from CPU to CPU, measured before and after",
    }


def compact_row(what: Arm, stuff: Material, effort: Effort) -> Row:
    """What a compactor finds to do after some operations: moves, holds of locks, and their time."""
    one = filled(what, WATCH_POPULATION, stuff, effort.objects, counting=True)
    main = "pool" if what.locking == "pool" else "class"
    ops = moved = holds = 0
    spent: list[int] = []
    idle: list[int] = []

    def taken() -> int:
        return sum(pool.lock_stats()[main].acquisitions for pool in members(one.pool))

    def objects_moved() -> int:
        return sum(pool.stats().objects_moved for pool in members(one.pool))

    try:
        while one.pool.compact():
            pass
        for _ in range(COMPACT_ROUNDS):
            begin = one.work.totals()["ops"]
            gate = Gate()
            drive(gate, [partial(one.watched.run, 0, gate)], [],
                  lambda: one.work.totals()["end_ns"], COMPACT_PAUSE_S)
            ops += one.work.totals()["ops"] - begin
            before = objects_moved()
            there = taken()
            start = time.perf_counter_ns()
            for pool in members(one.pool):
                if isinstance(pool, Pool) and pool.can_compact():
                    pool.compact()
            took = time.perf_counter_ns() - start
            holds += taken() - there
            gained = objects_moved() - before
            moved += gained
            (spent if gained else idle).append(took)
    finally:
        one.close()
    return {"kind": "compact", "name": what.name, "population": WATCH_POPULATION,
            "moved_per_op": rounded(moved / ops), "holds_per_op": rounded(holds / ops),
            "hold_ns": rounded(sum(spent) / holds) if holds and spent else 0.0,
            "look_ns": rounded(statistics.median(idle)) if idle else 0.0, "rounds": COMPACT_ROUNDS,
            "how": "one thread works for a while, then compacts what can be compacted, again and again: "
                   "counted by the pool's own statistics, timed by the clock"}
