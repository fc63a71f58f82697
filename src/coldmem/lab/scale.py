"""``coldmem lab scale``: throughput over cores of each way of locking, and where each stops growing.

Owns: the pools whose memory it measures, closed before it returns. Guarantees: the same calibration,
options and seed give the same simulated figures. Takes no locks.
"""

from __future__ import annotations

import importlib
import math
import statistics
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any

from coldmem.errors import UsageError
from coldmem.lab import scale_kernel
from coldmem.lab.arms import ARMS
from coldmem.lab.result import Result, Row, rounded
from coldmem.lab.scale_calibrate import filled
from coldmem.lab.scale_model import (
    CORES_PER_CACHE,
    MODEL_ARMS,
    WORKLOADS,
    Calibration,
    Mix,
    base_arm,
    mix_of,
    simulate,
)
from coldmem.lab.workloads import Material
from coldmem.zsmalloc.size_class import SizeClasses

CORES = (1, 2, 4, 8, 16, 32, 64, 128, 256)
CORES_MAX = 256
GROWTH_MIN = 0.10  # less than this for twice the cores: saturated
TRACE = "build.npz"  # a recorded build, in lab/data
Report = Callable[[str], None]


@dataclass(frozen=True)
class Plan:
    """What to simulate."""

    cores: Sequence[int] = CORES
    arms: Sequence[str] = MODEL_ARMS
    workloads: Sequence[str] = ("alloc",)
    ops: int = 60_000  # least operations of a run; more where there are more cores
    ops_per_core: int = 1500
    kernel_ops: int = 200_000  # 0: not the kernel's table
    memory: bool = True
    trace: Path | None = None

    def check(self) -> None:
        """Raise `UsageError` for what cannot be run."""
        for name in self.arms:
            if name not in MODEL_ARMS:
                raise UsageError(f"no arm is called {name!r}; there are {', '.join(MODEL_ARMS)}")
        for name in self.workloads:
            if name not in WORKLOADS:
                raise UsageError(f"no workload is called {name!r}; there are {', '.join(WORKLOADS)}")
        if not self.cores or min(self.cores) < 1 or max(self.cores) > CORES_MAX:
            raise UsageError(f"--cores must be 1 to {CORES_MAX}")


def run(
    calibration: Calibration, plan: Plan, stuff: Material | None, report: Report = lambda line: None
) -> Result:
    """Simulate `plan`; with `stuff`, measure the memory of each arm too.

    Returns
    -------
    Result
        Rows of several tables, named in ``part``: ``scale``, ``saturation``, ``memory``, ``kernel``,
        ``kernel_sensitivity``.
    """
    plan.check()
    result = Result("lab_scale", {
        "cores": list(plan.cores), "arms": list(plan.arms), "workloads": list(plan.workloads),
        "ops": plan.ops, "ops_per_core": plan.ops_per_core, "growth_min": GROWTH_MIN,
        "cores_per_cache": CORES_PER_CACHE, "objects_per_core": calibration.objects_per_core,
        "calibrated": str(calibration.content["machine"].get("started_utc")),
        "calibrated_cpu": str(calibration.content["machine"].get("cpu_model")),
    })
    for workload in dict.fromkeys(plan.workloads):
        mix = trace_mix(plan.trace) if workload == "build" else mix_of(workload, calibration)
        for name in dict.fromkeys(plan.arms):
            report(f"simulating {workload}, {name}")
            rows = [_scale_row(calibration, plan, workload, name, cores, mix)
                    for cores in sorted(set(plan.cores))]
            result.rows += [*rows, _saturation(rows)]
    if plan.memory and stuff is not None:
        for name in dict.fromkeys(base_arm(name).name for name in plan.arms):
            for cores in sorted(set(plan.cores)):
                report(f"memory of {name} with the objects of {cores} cores")
                result.rows.append(_memory(name, cores, stuff, calibration.objects_per_core))
    if plan.kernel_ops:
        report("the kernel's table")
        result.rows += scale_kernel.rows(calibration.classes, plan.kernel_ops)
    return result


def _scale_row(
    calibration: Calibration, plan: Plan, workload: str, name: str, cores: int, mix: Mix
) -> Row:
    ops = max(plan.ops, plan.ops_per_core * cores)
    found = simulate(calibration, name, cores, cores + (workload == "compact"), mix, ops,
                     compacting=workload == "compact", line_ns=calibration.line_at(cores))
    spent = found["spent_ns"]
    total = sum(spent.values())
    elapsed = found["elapsed_ns"]
    use = {kind: found["locks"][kind]["busiest_ns"] / elapsed
           for kind in ("pool", "class", "arena", "line")}
    busiest = max(use, key=lambda kind: use[kind])
    return {
        "part": "scale", "workload": workload, "arm": name, "cores": cores,
        "mops_per_s": rounded(found["mops_per_s"]),
        "mops_per_s_per_core": rounded(found["mops_per_s"] / cores),
        "noise": rounded(noise(found["ends_ns"]), 2),
        "busiest_lock": busiest if use[busiest] > 0 else None,
        "busiest_lock_use": rounded(use[busiest]),
        "use_by_lock": {kind: rounded(share) for kind, share in use.items()},
        "spin_share": rounded(spent["spin"] / total), "call_share": rounded(spent["call"] / total),
        "sleep_share": rounded(spent["sleep"] / total),
        "line_ns": rounded(calibration.line_at(cores)), "events": found["events"],
    }


def noise(ends_ns: Sequence[float]) -> float:
    """Standard error of the speed, as a share of it, from batches of equally many operations."""
    lengths = [b - a for a, b in zip(ends_ns, ends_ns[1:], strict=False)]
    return float(statistics.stdev(lengths) / statistics.mean(lengths) / len(lengths) ** 0.5)


def _saturation(rows: Sequence[Row]) -> Row:
    """The first number of cores from which twice as many (the next, scaled) add too little."""
    speeds: dict[int, float] = {int(str(r["cores"])): float(str(r["mops_per_s"])) for r in rows}
    counts = sorted(speeds)
    found = None
    for low, high in zip(counts, counts[1:], strict=False):
        doubled = (speeds[high] / speeds[low]) ** (1 / math.log2(high / low))
        if doubled < 1 + GROWTH_MIN:
            found = low
            break
    best = max(counts, key=lambda n: speeds[n])
    at = next((r for r in rows if r["cores"] == found), rows[-1])
    return {
        "part": "saturation", "workload": rows[0]["workload"], "arm": rows[0]["arm"],
        "saturates_at_cores": found, "mops_per_s": at["mops_per_s"], "lock": at["busiest_lock"],
        "lock_use": at["busiest_lock_use"], "best_mops_per_s": speeds[best], "best_at_cores": best,
    }


def _memory(name: str, cores: int, stuff: Material, objects: int) -> Row:
    """Bytes of an arm's pool with the churned objects of so many cores: measured, on real pools."""
    one = filled(ARMS[name], cores, stuff, objects)
    try:
        one.check()
        live, stored, state = one.work.verify()
        used = one.pool.used_bytes
    finally:
        one.close()
    return {"part": "memory", "arm": name, "cores": cores, "live_objects": live, "stored_bytes": stored,
            "used_bytes": used, "wasted_bytes": used - stored, "fragmentation": rounded(used / stored),
            "result_hash": state}


def trace_mix(path: Path | None) -> Mix:
    """The mix of a recorded trace: the one named, or the packaged recording of a kernel build.

    A store over an older unit frees that one; units of one repeated word take no object: left out.
    """
    where = path or Path(str(resources.files("coldmem.lab") / "data" / TRACE))
    try:
        module: Any = importlib.import_module("coldmem.nbd.trace")
    except ImportError as error:
        raise UsageError("workload build needs coldmem.nbd.trace, which this version lacks") from error
    if not where.exists():
        raise UsageError(f"workload build needs a recorded trace: {where} is not there (--trace FILE)")
    trace = module.Trace.load(where)
    return mix_of_operations(zip(trace.op.tolist(), trace.slot.tolist(), trace.nbytes.tolist(),
                                 strict=True), trace.unit_bytes)


def mix_of_operations(operations: Any, unit_bytes: int) -> Mix:
    """`Mix` of (operation 0 store, 1 load, 2 trim; slot; compressed bytes), in their order."""
    geometry = SizeClasses(unit_bytes)
    there: set[int] = set()
    puts = reads = frees = 0
    classes: Counter[int] = Counter()
    for op, slot, nbytes in operations:
        if op == 1:
            reads += slot in there
            continue
        if slot in there:
            there.discard(slot)
            frees += 1
        if op == 0 and nbytes > 0:
            there.add(slot)
            puts += 1
            classes[geometry.lookup(nbytes).index] += 1
    if not puts:
        raise UsageError("the trace stores nothing")
    return Mix(puts, 0.0, reads, frees, True, tuple(float(n) for _, n in sorted(classes.items())))
