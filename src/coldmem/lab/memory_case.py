"""One case of ``bench memory``, in a process of its own: ``python -m coldmem.lab.memory_case``.

Reads a `Case` as JSON from stdin, prints one object to stdout. Owns: the region.
Guarantees: the footprint is the kernel's account of the process, less what it was before there was a
region: interpreter, NumPy, corpus and counters are in neither side's figure. The corpus is a mapped
file, so it is in no limit either. All pages are compared at the end.
For the kernel's systems the process joins its memory cgroup when all of that is in place: what was
charged before stays with the parent's group.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from coldmem.errors import InternalError
from coldmem.lab.drive import Timing, drive
from coldmem.lab.footprint import Fence, KernelPool, Sampler
from coldmem.lab.gate import Gate, percentile_ns
from coldmem.lab.memory_work import PlainRegion, TouchWork
from coldmem.linux.usage import anonymous_bytes
from coldmem.memory.memory import Memory

PAGE_BYTES = 4096
COLDMEM, ZSWAP, ZRAM = "coldmem", "kernel-zswap", "kernel-zram"
IDLE_S = 4.0  # after a fill: what a system does with what stays cold when nothing else is done
TOUCHES_PER_PAGE = {"hot_set": 16}  # of all threads together, where the pattern is random
TOUCHES_PER_PAGE_ELSE = 2


@dataclass(frozen=True, slots=True)
class Case(Fence):
    """What the child is to do.

    Attributes
    ----------
    corpus_path : str
        File with whole pages.
    memory_max_bytes, swap_max_bytes, unit_bytes, codec, delivery
        Of the Memory; `unit_bytes` None: the default of Memory. Not used by the kernel's systems.
    """

    system: str
    workload: str
    corpus_path: str
    region_bytes: int
    threads: int = 1
    seed: int = 1
    memory_max_bytes: int = 0
    swap_max_bytes: int = 0
    unit_bytes: int | None = None
    codec: str = "auto"
    delivery: str = "auto"

    def to_json(self) -> str:
        return json.dumps(asdict(self))


def _measure(work: TouchWork, case: Case, name: str) -> tuple[Timing, dict[str, Any]]:
    """Run one pattern; what all touches together took."""
    gate = Gate()
    pages = case.region_bytes // PAGE_BYTES
    per_page = TOUCHES_PER_PAGE.get(name, TOUCHES_PER_PAGE_ELSE)
    work.prepare(name, gate, per_page * pages // case.threads)
    jobs = [lambda n=n: work.run(n) for n in range(case.threads)]
    timing = drive(gate, jobs, [], lambda: work.totals()["end_ns"], None)
    totals = work.totals()
    if totals["bad_reads"]:
        raise InternalError(f"{totals['bad_reads']} reads gave another value than was written")
    times = work.fault_times()

    def us(share: float) -> float | None:
        ns = percentile_ns(times, share)
        return None if ns is None else ns / 1000

    return timing, {
        "fault_p50_us": us(0.5),
        "fault_p99_us": us(0.99),
        "access_mean_us": totals["ns"] / totals["touches"] / 1000,
        "mb_per_s": totals["touches"] * PAGE_BYTES / 1e6 / timing.real_s,
        "touches": totals["touches"],
        "faults": totals["faults"],
        "real_s": timing.real_s,
        "user_s": timing.user_s,
        "sys_s": timing.sys_s,
        "disturbed": timing.disturbed,
    }


def _verify(work: TouchWork) -> None:
    bad, first = work.verify()
    if bad:
        raise InternalError(f"{bad} pages differ from what was written, the first is page {first}")


def _counters(memory: Memory) -> dict[str, int]:
    return {k: v for k, v in memory.stats().items() if isinstance(v, int)}


def _workload(
    work: TouchWork, case: Case, counters: Callable[[], dict[str, int]]
) -> dict[str, Any]:
    """Fill, then the workload; the measurement and what was counted meanwhile."""
    before = counters()
    _, found = _measure(work, case, "fill")
    if case.workload != "fill":
        before = counters()
        _, found = _measure(work, case, case.workload)
    after = counters()
    found["counters"] = {key: after[key] - before[key] for key in after if not key.endswith("_bytes")}
    return found


def _pool_sizes(memory: Memory) -> tuple[int, int]:
    pool = memory.zswap.stats()
    units = pool["units_ram"] + pool["units_same_filled"]
    return units * pool["unit_bytes"], pool["pool_used_bytes"]


def _ratios(case: Case, sizes: Callable[[], tuple[int, int]]) -> dict[str, float | None]:
    """Original bytes per byte of the pool, now and, after a fill, once more when it has been idle."""
    original, used = sizes()
    found = {"ratio": original / used if used else None}
    if case.workload == "fill":
        time.sleep(IDLE_S)
        original, used = sizes()
        found["ratio_idle"] = original / used if used else None
    return found


def _run_coldmem(work: TouchWork, case: Case) -> dict[str, Any]:
    before = anonymous_bytes()
    options: dict[str, Any] = {"delivery": case.delivery, "codec": case.codec, "overcommit": True}
    if case.unit_bytes is not None:
        options["unit_bytes"] = case.unit_bytes
    memory = Memory(case.memory_max_bytes, case.swap_max_bytes, **options)
    region = memory.allocate(case.region_bytes)
    work.attach(region)
    with Sampler(lambda: anonymous_bytes() - before) as sampler:
        found = _workload(work, case, lambda: _counters(memory))
    stats = memory.stats()
    found |= _ratios(case, lambda: _pool_sizes(memory))
    found |= {
        "delivery": memory.delivery,
        "unit_bytes": stats["unit_bytes"],
        "codec": case.codec,
        "footprint_peak_bytes": sampler.peak_bytes,
        "footprint_own_account_bytes": stats["footprint_peak_bytes"],
        "swap_file_bytes": stats["swap_bytes"],
    }
    _verify(work)
    return found


def _run_kernel(work: TouchWork, case: Case) -> dict[str, Any]:
    pool = KernelPool(case)
    case.join()
    work.attach(PlainRegion(case.region_bytes))
    with Sampler(pool.footprint) as sampler:
        found = _workload(work, case, dict)
    found |= _ratios(case, pool.sizes)
    found |= {
        "delivery": "kernel",
        "unit_bytes": PAGE_BYTES,
        "codec": case.codec,
        "footprint_peak_bytes": sampler.peak_bytes,
    }
    case.lift()
    _verify(work)
    return found


def run(case: Case) -> dict[str, Any]:
    """Measure `case` in this process."""
    corpus = np.memmap(case.corpus_path, np.uint8, "r")
    int(corpus[::PAGE_BYTES].sum())  # mapped from here on
    work = TouchWork(corpus, case.region_bytes // PAGE_BYTES, case.threads, case.seed)
    return _run_coldmem(work, case) if case.system == COLDMEM else _run_kernel(work, case)


if __name__ == "__main__":
    print(json.dumps(run(Case(**json.load(sys.stdin)))))
