"""``lab replay``: what a recorded build asked of its swap device, asked of the engine alone.

Owns: the Zswap of one run, closed before it returns. Guarantees: arms and repeats take turns; every run
ends in the same state, which is compared; a load that gives other bytes than were stored ends it all.
Each thread has a share of the slots, by blocks of neighbours, as the kernel hands them out, and does
all that was recorded of them in order. With one cursor for all threads two of them could meet on one
slot and turn a store and its load round: then nothing could be checked.
Nobody waits for the recorded times: the engine works as fast as it can.
"""

from __future__ import annotations

import itertools
import os
import statistics
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from coldmem.errors import InternalError, UsageError
from coldmem.lab.arms import ARMS, Arm, arm
from coldmem.lab.drive import Timing, drive
from coldmem.lab.gate import Gate
from coldmem.lab.replay_work import ReplayWork
from coldmem.lab.result import Result, Row, Spread, rounded
from coldmem.nbd.trace import LOAD, STORE, TRIM, Trace
from coldmem.zswap import Zswap

BLOCK_SLOTS = 64  # neighbours that belong to one thread
MIX = 0x9E3779B1  # spreads the blocks over the threads
NOISE_BYTES, NOISE_SEED = 8 << 20, 11
SHIPPED = "build.npz"
ROOM = 1.5  # of the pool, over all bytes that can be stored at a time, where no limit is given
THREADS = (1, 2, 8, 32)

Report = Callable[[str], None]
_U32 = npt.NDArray[np.uint32]


@dataclass(frozen=True, slots=True)
class ReplayPlan:
    """What is measured.

    Attributes
    ----------
    path : Path or None
        A trace; None: the one that ships with coldmem.
    rounds : int
        How often the trace is run through, each time from an empty pool.
    codec : str
        "none": units have the recorded sizes already.
    memory_max_bytes : int or None
        Limit of the pool; what is over it goes to a swap file. None: no limit.
    """

    path: Path | None = None
    threads: tuple[int, ...] = THREADS
    arms: tuple[str, ...] = tuple(ARMS)
    repeats: int = 5
    rounds: int = 1
    codec: str = "none"
    memory_max_bytes: int | None = None

    def check(self) -> None:
        """Raise UsageError where it makes no sense."""
        if min(self.repeats, self.rounds, *self.threads) < 1:
            raise UsageError("--threads, --repeats and --rounds must be 1 or more")
        for name in self.arms:
            arm(name)


def load_trace(path: Path | None) -> Trace:
    """The trace at `path`, or the one that ships with coldmem."""
    if path is not None:
        return Trace.load(path)
    with resources.as_file(resources.files("coldmem.lab") / "data" / SHIPPED) as shipped:
        return Trace.load(shipped)


def block_hash(slot: _U32) -> _U32:
    """A number for the block of each slot, the same for neighbours, spread over 32 bits."""
    blocks = (slot // BLOCK_SLOTS).astype(np.uint64) * np.uint64(MIX)
    # The upper half of a product depends on all bits of its factor, the lower bits on few of them.
    return (((blocks >> np.uint64(16)) ^ blocks) & np.uint64(0xFFFFFFFF)).astype(np.uint32)


def sample(trace: Trace, share: float) -> Trace:
    """The operations on some blocks of slots, whole histories, in the order of time.

    Parameters
    ----------
    trace : Trace
    share : float
        Of the blocks, above 0 and up to 1.
    """
    if not 0 < share <= 1:
        raise UsageError(f"a share of {share}: give more than 0, at most 1")
    kept = block_hash(trace.slot) < share * (1 << 32)
    return Trace(
        time_ns=trace.time_ns[kept], op=trace.op[kept], slot=trace.slot[kept],
        nbytes=trace.nbytes[kept], thread=trace.thread[kept], unit_bytes=trace.unit_bytes,
        size_bytes=trace.size_bytes, codec=trace.codec, machine=trace.machine, dropped=trace.dropped,
    )


@dataclass(frozen=True)
class Facts:
    """What a trace holds."""

    stores: int
    loads: int
    trims: int
    slots: int
    live_units_max: int
    live_bytes_max: int
    mean_bytes: float
    seconds: float


def facts(trace: Trace) -> Facts:
    """Counts, and the most that is stored at a time."""
    order = np.argsort(trace.slot, kind="stable")
    op, slot = trace.op[order], trace.slot[order]
    held = np.where(op == STORE, trace.nbytes[order].astype(np.int64), 0)
    # What each operation changes: a store or trim ends what the last one on this slot has left.
    changes = op != LOAD
    at = np.flatnonzero(changes)
    before = np.zeros(len(at), np.int64)
    alive = np.zeros(len(at), np.int64)
    same = slot[at][1:] == slot[at][:-1]
    before[1:] = np.where(same, held[at][:-1], 0)
    alive[1:] = np.where(same, op[at][:-1] == STORE, False)
    bytes_by_op = np.zeros(len(trace), np.int64)
    units_by_op = np.zeros(len(trace), np.int64)
    bytes_by_op[order[at]] = held[at] - before
    units_by_op[order[at]] = (op[at] == STORE).astype(np.int64) - alive
    stores = trace.op == STORE
    return Facts(
        int(stores.sum()), int((trace.op == LOAD).sum()), int((trace.op == TRIM).sum()),
        len(np.unique(trace.slot)), int(np.cumsum(units_by_op).max(initial=0)),
        int(np.cumsum(bytes_by_op).max(initial=0)),
        float(trace.nbytes[stores].mean()) if stores.any() else 0.0,
        float(trace.time_ns[-1] - trace.time_ns[0]) / 1e9 if len(trace) else 0.0,
    )


@dataclass(frozen=True)
class Shares:
    """The operations of a trace, thread by thread; slots are numbered from 0."""

    op: npt.NDArray[np.uint8]
    slot: _U32
    nbytes: _U32
    starts: list[int]


def shared_out(trace: Trace, threads: int) -> Shares:
    """Give each block of slots to one of `threads` threads."""
    owner = block_hash(trace.slot) % np.uint32(threads)
    order = np.argsort(owner, kind="stable")
    _, numbered = np.unique(trace.slot, return_inverse=True)
    starts = np.searchsorted(owner[order], np.arange(threads))
    return Shares(
        trace.op[order], numbered.reshape(-1)[order].astype(np.uint32), trace.nbytes[order],
        [int(n) for n in starts],
    )


@dataclass(frozen=True)
class _Run:
    timing: Timing
    ops: int
    failed: int
    absent: int
    used_bytes: int
    stored_bytes: int
    written_back: int
    state: str
    waits: dict[str, float]

    @property
    def mops_per_s(self) -> float:
        return self.ops / self.timing.real_s / 1e6


class Replay:
    """A trace, ready to be run by any number of threads."""

    def __init__(self, trace: Trace, plan: ReplayPlan) -> None:
        if not len(trace):
            raise UsageError("this trace holds no operations")
        self.facts = facts(trace)
        self._trace, self._plan = trace, plan
        self._noise = np.random.default_rng(NOISE_SEED).bytes(NOISE_BYTES)
        self._shares: dict[int, Shares] = {}

    def run(self, what: Arm, threads: int, statistics_wanted: bool = False) -> _Run:
        """Once, in a fresh Zswap."""
        if threads not in self._shares:
            self._shares[threads] = shared_out(self._trace, threads)
        shares, plan, unit = self._shares[threads], self._plan, self._trace.unit_bytes
        coded = plan.codec != "none"
        limit = plan.memory_max_bytes
        room = int(ROOM * self.facts.live_units_max + 4096) * unit
        gate = Gate()
        with Zswap(
            unit_bytes=unit, codec=plan.codec if coded else "lz4", max_pool=limit or room,
            swap=room if limit else None, pools=what.pools_n, locking=what.locking,
            magazines=what.magazines, lock_statistics=statistics_wanted,
        ) as zswap:
            work = ReplayWork(
                zswap, gate, shares.op, shares.slot, shares.nbytes, shares.starts, self._noise,
                plan.rounds, coded,
            )
            jobs = [partial(work.run, n) for n in range(threads)]
            timing = drive(gate, jobs, [], lambda: work.totals()["end_ns"], None)
            totals = work.totals()
            if totals["bad_reads"]:
                raise InternalError(f"arm {what.name}: loads gave other bytes: {totals}")
            stats, counters = zswap.stats(), zswap.counters()
            waits = {
                kind: s.wait_ns / 1e9 / timing.real_s / threads
                for kind, s in (zswap.lock_stats() if statistics_wanted else {}).items()
            }
            _, state = work.verify()
            return _Run(
                timing, totals["ops"], totals["failed"], totals["absent"],
                stats["pool_used_bytes"], stats["stored_bytes"], counters["written_back_pages"],
                state, waits,
            )


def run(plan: ReplayPlan, report: Report = lambda line: None) -> Result:
    """Measure everything in `plan`, taking turns: one row per arm and number of threads."""
    plan.check()
    trace = load_trace(plan.path)
    replay = Replay(trace, plan)
    result = Result("lab_replay", _settings(plan, trace, replay.facts))
    arms = [arm(name) for name in dict.fromkeys(plan.arms)]
    for threads in dict.fromkeys(plan.threads):
        report(f"{threads} threads")
        runs: dict[str, list[_Run]] = {a.name: [] for a in arms}
        for what in _turns(arms, plan.repeats):
            runs[what.name].append(replay.run(what, threads))
        states = {r.state for found in runs.values() for r in found if not r.failed}
        if len(states) > 1:
            raise InternalError(f"runs of one trace ended in different states: {sorted(states)}")
        for what in arms:
            counted = replay.run(what, threads, statistics_wanted=True)
            result.rows.append(_row(what, threads, runs[what.name], counted))
    return result


def _turns(arms: list[Arm], repeats: int) -> Iterator[Arm]:
    for repeat in range(repeats):
        first = repeat % len(arms)
        yield from itertools.chain(arms[first:], arms[:first])


def _settings(plan: ReplayPlan, trace: Trace, found: Facts) -> Row:
    return {
        "trace": plan.path.name if plan.path else SHIPPED,
        "stores": found.stores, "loads": found.loads, "trims": found.trims, "slots": found.slots,
        "live_units_max": found.live_units_max, "live_bytes_max": found.live_bytes_max,
        "mean_bytes": rounded(found.mean_bytes), "recorded_s": rounded(found.seconds),
        "unit_bytes": trace.unit_bytes, "trace_codec": trace.codec, "codec": plan.codec,
        "rounds": plan.rounds, "repeats": plan.repeats, "threads": list(plan.threads),
        "memory_max_bytes": plan.memory_max_bytes, "cpus": len(os.sched_getaffinity(0)),
    }


def _row(what: Arm, threads: int, runs: list[_Run], counted: _Run) -> Row:
    speed = Spread.of([r.mops_per_s for r in runs])
    used = statistics.median_low([r.used_bytes for r in runs])
    stored = statistics.median_low([r.stored_bytes for r in runs])
    states: set[Any] = {r.state for r in runs}
    return {
        "arm": what.name,
        "threads": threads,
        "mops_per_s": rounded(speed.median),
        "mops_per_s_min": rounded(speed.low),
        "mops_per_s_max": rounded(speed.high),
        "mops_per_s_runs": [rounded(r.mops_per_s) for r in runs],
        "real_s": rounded(statistics.median(r.timing.real_s for r in runs)),
        "user_s": rounded(statistics.median(r.timing.user_s for r in runs)),
        "sys_s": rounded(statistics.median(r.timing.sys_s for r in runs)),
        "disturbed_repeats": sum(r.timing.disturbed for r in runs),
        "used_bytes": used,
        "stored_bytes": stored,
        "fragmentation": rounded(used / stored) if stored else None,
        "written_back_units": statistics.median_low([r.written_back for r in runs]),
        "refused_stores": sum(r.failed for r in runs),
        "wait_share": rounded(sum(counted.waits.values())),
        "wait_share_by_lock": {k: rounded(v) for k, v in counted.waits.items()},
        "result_hash": states.pop() if len(states) == 1 else None,
    }
