"""How much memory a pool uses for what it stores, after churn and after compaction.

Owns the pools that it makes. Guarantees: the same random operations for every arm (one thread, a
fixed number of operations, one seed), so the live objects are the same to the byte; they are
verified at the end, and the row has a hash of them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from coldmem.errors import UsageError
from coldmem.lab import workloads
from coldmem.lab.alloc_work import AllocWork
from coldmem.lab.arms import Opens, arm, members
from coldmem.lab.gate import Gate
from coldmem.lab.result import Result, Row, rounded

LIVE = (200_000, 4_096)
ARM_NAMES = ("class", "pools32")
CHAINS = (8, 16)
ROUNDS_MAX = 100


def run(
    live: Sequence[int] = LIVE, arms: Sequence[str] = ARM_NAMES, churn: float = 5.0,
    chains: Sequence[int] = CHAINS, units_n: int = workloads.SAMPLE_UNITS,
    report: Callable[[str], None] = lambda line: None,
) -> Result:
    """Measure every arm with each number of live objects.

    Parameters
    ----------
    live : sequence of int
        Objects alive at any time, nearly: half of twice as many slots.
    arms : sequence of str
        Names of `coldmem.lab.arms.ARMS`.
    churn : float
        Operations per slot. One operation frees a random full slot or fills a random empty one.
    chains : sequence of int
        Longest zspage, in units; 8 is the kernel's default, 16 the most that it can be built with.
    """
    if churn <= 0 or not live or min(live) < 16:
        raise UsageError("--churn must be more than 0, --live 16 or more")
    report("reading units of this machine's data")
    stuff = workloads.material(units_n)
    settings: Row = {
        "churn_ops_per_slot": churn, "unit_bytes": workloads.UNIT_BYTES,
        "mean_object_bytes": rounded(stuff.mean_compressed_bytes),
    }
    result = Result("lab_fragmentation", settings)
    for name in arms:
        for objects in live:
            for chain in chains:
                report(f"{arm(name).label}, {objects:,} live objects, chain {chain}")
                result.rows.append(
                    measure(arm(name), objects, churn, chain, stuff.compressed))
    return result


def measure(
    what: Opens, live: int, churn: float, chain: int, payloads: Sequence[bytes]
) -> Row:
    """One row: what an arm takes for `live` objects, each one of `payloads`, and once more compacted."""
    pool = what.open(unit_bytes=workloads.UNIT_BYTES, chain=chain)
    try:
        gate = Gate()
        gate.open()
        work = AllocWork(pool, payloads, gate, 1, 2 * live)
        work.run(0, int(2 * live * churn))
        used = pool.used_bytes
        objects, stored, _ = work.verify()
        for _ in range(ROUNDS_MAX):
            if pool.compact() == 0:
                break
        _, _, state = work.verify()
        compacted = pool.used_bytes
        moved = sum(p.stats().objects_moved for p in members(pool))
        work.clear()
        return {
            "arm": what.name,
            "chain": chain,
            "live_objects": objects,
            "stored_bytes": stored,
            "used_bytes": used,
            "fragmentation": rounded(used / stored),
            "compacted_used_bytes": compacted,
            "compacted_fragmentation": rounded(compacted / stored),
            "moved_objects": moved,
            "result_hash": state,
        }
    finally:
        for p in members(pool):
            p.close()
