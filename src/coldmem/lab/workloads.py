"""The workloads of the locking experiment, each measured once by one call of `measure`.

Owns: the pool, the Zswap and the swap file of one run, closed before it returns.
Guarantees: each run starts from a fresh pool filled by the same rules, and every live byte is
compared at its end; a run in which anything differs raises. Statistics of locks and times of single
reads are taken only when asked for, in runs of their own.
Assumes: `Material` was made once and is only read.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from coldmem.codecs import get_codec
from coldmem.errors import InternalError
from coldmem.lab import corpora
from coldmem.lab.alloc_work import AllocWork
from coldmem.lab.arms import Arm, Opens, members
from coldmem.lab.drive import Timing, drive
from coldmem.lab.gate import Gate
from coldmem.lab.zswap_work import ZswapWork
from coldmem.zswap import Zswap

WORKLOADS = ("alloc", "compact", "zswap")
UNIT_BYTES = 4096
SAMPLE_UNITS = 2048
ZSWAP_TIMES = 4  # units alive in ``zswap``, for each object alive in ``alloc``
# Half of what is compressed is files, half is arrays.
MIX = ("text", "elf", "text", "elf", "text", "elf",
       "float64", "float32", "int64", "int32", "int16", "bool")


@dataclass(frozen=True)
class Material:
    """Real units of this machine, and the same units compressed."""

    units: list[bytes]
    compressed: list[bytes]

    @property
    def mean_compressed_bytes(self) -> float:
        return sum(map(len, self.compressed)) / len(self.compressed)


def material(units_n: int = SAMPLE_UNITS, codec: str = "lz4", seed: int = 7) -> Material:
    """`units_n` units drawn from the corpora of this machine, in an order that mixes the kinds."""
    lz = get_codec(codec)
    rng = random.Random(seed)
    units: list[bytes] = []
    per_kind = -(-units_n // len(MIX))
    for kind in dict.fromkeys(MIX):
        wanted = per_kind * MIX.count(kind)
        # Twenty times what is taken, so that the sample is spread over many files.
        data = corpora.make(kind, 20 * wanted * UNIT_BYTES)
        for i in rng.sample(range(20 * wanted), wanted):
            units.append(data[i * UNIT_BYTES : (i + 1) * UNIT_BYTES].tobytes())
    rng.shuffle(units)
    del units[units_n:]
    packed = [lz.compress(unit) or unit for unit in units]
    # A unit of one repeated word takes no object in zswap, and some sixteen bytes here.
    return Material(units, [bytes(p) if len(p) >= 16 else bytes(p).ljust(16) for p in packed])


@dataclass(frozen=True)
class Load:
    """How much is done in one run."""

    seconds: float | None = 0.5
    ops_per_thread: int | None = None  # instead of seconds: the final state is then always the same
    live_objects: int = 4096
    limit_share: float = 0.7  # `zswap`: of the compressed bytes that fit in the pool
    chain: int = 8


@dataclass(frozen=True)
class Measurement:
    """One run."""

    timing: Timing
    ops: int
    failed: int  # stores that were refused for lack of room
    used_bytes: int
    stored_bytes: int
    swap_bytes: int
    moved_objects: int
    written_back_units: int
    state_hash: str
    waits: dict[str, float] = field(default_factory=dict)  # kind of lock -> share of thread time
    contended: dict[str, float] = field(default_factory=dict)  # -> share of acquisitions
    read_times: list[int] = field(default_factory=list)

    @property
    def mops_per_s(self) -> float:
        return self.ops / self.timing.real_s / 1e6


def _lock_shares(
    stats: dict[str, Any], threads: int, real_s: float
) -> tuple[dict[str, float], dict[str, float]]:
    """Shares of the time of `threads` threads, the compactor or shrinker among them."""
    waits = {kind: s.wait_ns / 1e9 / real_s / threads for kind, s in stats.items()}
    contended = {
        kind: s.contended / s.acquisitions if s.acquisitions else 0.0 for kind, s in stats.items()
    }
    return waits, contended


def _sum_lock_stats(pools: tuple[Any, ...]) -> dict[str, Any]:
    total: dict[str, Any] = {}
    for pool in pools:
        for kind, s in pool.lock_stats().items():
            if kind not in total:
                total[kind] = s
            else:
                old = total[kind]
                total[kind] = type(s)(
                    old.acquisitions + s.acquisitions, old.contended + s.contended,
                    old.wait_ns + s.wait_ns,
                )
    return total


def run_alloc(
    arm: Opens, stuff: Material, threads: int, load: Load, *, compactor: bool = False,
    statistics: bool = False, timed: bool = False,
) -> Measurement:
    """The workload ``alloc``, or with `compactor` the workload ``compact``."""
    gate = Gate()
    pool = arm.open(unit_bytes=UNIT_BYTES, chain=load.chain, lock_statistics=statistics)
    try:
        work = AllocWork(
            pool, stuff.compressed, gate, threads, 2 * load.live_objects, timed=timed
        )
        jobs = [_job(work.run, i, load.ops_per_thread) for i in range(threads)]
        timing = drive(
            gate, jobs, [work.compactor] if compactor else [],
            lambda: work.totals()["end_ns"], load.seconds if load.ops_per_thread is None else None,
        )
        moved = sum(p.stats().objects_moved for p in members(pool))
        totals = work.totals()
        if totals["bad_reads"] or totals["failed"]:
            raise InternalError(f"arm {arm.name}: {totals}")
        _, stored, state = work.verify()
        waits, contended = _lock_shares(
            _sum_lock_stats(members(pool)) if statistics else {}, threads + compactor,
            timing.real_s,
        )
        return Measurement(
            timing, totals["ops"], totals["failed"], pool.used_bytes, stored, 0, moved, 0, state,
            waits, contended, work.read_times() if timed else [],
        )
    finally:
        for p in members(pool):
            p.close()


def _job(run: Callable[[int, int | None], None], thread: int, ops: int | None) -> Callable[[], None]:
    return lambda: run(thread, ops)


def run_zswap(
    arm: Arm, stuff: Material, threads: int, load: Load, *, codec: str = "lz4",
    statistics: bool = False, timed: bool = False,
) -> Measurement:
    """The workload ``zswap``: more compressed data than fits, the rest goes to a swap file.

    With codec "none" the units are the compressed ones, kept as they come. There are four times as
    many as in ``alloc``: under a smaller limit the partly filled zspages of 32 pools leave no room.
    """
    gate = Gate()
    units_n = ZSWAP_TIMES * load.live_objects
    whole = units_n * stuff.mean_compressed_bytes
    with Zswap(
        unit_bytes=UNIT_BYTES, codec="lz4" if codec == "none" else codec, chain=load.chain,
        max_pool=max(int(whole * load.limit_share), load.chain * UNIT_BYTES),
        swap=4 * units_n * UNIT_BYTES, pools=arm.pools_n, locking=arm.locking,
        magazines=arm.magazines, lock_statistics=statistics,
    ) as zswap:
        bare = codec == "none"
        work = ZswapWork(
            zswap, stuff.compressed if bare else stuff.units, gate, threads,
            2 * units_n, bare, timed,
        )
        jobs = [_job(work.run, i, load.ops_per_thread) for i in range(threads)]
        timing = drive(
            gate, jobs, [], lambda: work.totals()["end_ns"],
            load.seconds if load.ops_per_thread is None else None,
        )
        totals = work.totals()
        # A store that is refused is counted and shown; a load that gave other bytes ends it all.
        if totals["bad_reads"]:
            raise InternalError(f"arm {arm.name}: {totals}")
        waits, contended = _lock_shares(
            zswap.lock_stats() if statistics else {}, threads + 1, timing.real_s
        )
        stats, counters = zswap.stats(), zswap.counters()
        _, state = work.verify()
        return Measurement(
            timing, totals["ops"], totals["failed"], stats["pool_used_bytes"],
            stats["stored_bytes"], stats["disk_bytes"],
            sum(p.objects_moved for p in zswap.pool_stats()), counters["written_back_pages"],
            state, waits, contended, work.read_times() if timed else [],
        )
