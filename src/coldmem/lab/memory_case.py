"""One case of ``bench memory``, in a process of its own: ``python -m coldmem.lab.memory_case``.

Reads a `Case` as JSON from stdin, prints one object to stdout. Owns: the region, and the thread that
samples how much memory the process has.
Guarantees: the footprint is the kernel's account of the process, less what it was before there was a
region: interpreter, NumPy, corpus and counters are in neither side's figure. The corpus is a mapped
file, so it is in no limit either. All pages are compared at the end.
For the kernel's systems the process joins its memory cgroup when all of that is in place: what was
charged before stays with the parent's group.
"""

from __future__ import annotations

import json
import sys
import threading
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from coldmem.errors import InternalError
from coldmem.lab.drive import Timing, drive
from coldmem.lab.gate import Gate, percentile_ns
from coldmem.lab.memory_work import PlainRegion, TouchWork
from coldmem.linux.usage import anonymous_bytes, machine_bytes
from coldmem.memory.memory import Memory

PAGE_BYTES = 4096
SAMPLE_S = 0.005
COLDMEM, ZSWAP, ZRAM = "coldmem", "kernel-zswap", "kernel-zram"
TOUCHES_PER_PAGE = {"hot_set": 4}  # of all threads together, where the pattern is random
TOUCHES_PER_PAGE_ELSE = 2


@dataclass(frozen=True, slots=True)
class Case:
    """What the child is to do.

    Attributes
    ----------
    corpus_path : str
        File with whole pages.
    memory_max_bytes, swap_max_bytes, unit_bytes, codec, delivery
        Of the Memory; `unit_bytes` None: the default of Memory. Not used by the kernel's systems.
    join_path : str
        ``cgroup.procs`` to write our number to; empty: none.
    usage_path, limit_path : str
        Files with the bytes that the cgroup holds, and those that it may hold.
    no_limit : str
        What to write to `limit_path` before the pages are compared: nothing is timed then, and in a
        cgroup that is full of pages in use the kernel may find nothing to take out and kill us.
    pool_path : str
        ``mm_stat`` of the zram device; empty: zswap's lines of /proc/meminfo.
    pool_charged : bool
        The pool is in the cgroup's account already.
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
    join_path: str = ""
    usage_path: str = ""
    limit_path: str = ""
    no_limit: str = ""
    pool_path: str = ""
    pool_charged: bool = False

    def to_json(self) -> str:
        return json.dumps(asdict(self))


class Sampler:
    """Peak of `footprint`, looked at every 5 ms by a thread, inside ``with``."""

    def __init__(self, footprint: Callable[[], int]) -> None:
        self.peak_bytes = 0
        self._footprint = footprint
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)

    def _run(self) -> None:
        while not self._stop.wait(SAMPLE_S):
            self.peak_bytes = max(self.peak_bytes, self._footprint())

    def __enter__(self) -> Sampler:
        self._thread.start()
        return self

    def __exit__(self, *exc: object) -> None:
        self._stop.set()
        self._thread.join()
        self.peak_bytes = max(self.peak_bytes, self._footprint())


class KernelPool:
    """What the kernel's compressed pool holds: bytes of pages, and bytes that they take."""

    def __init__(self, case: Case) -> None:
        self._zram = Path(case.pool_path) if case.pool_path else None
        self._before = (0, 0)
        self._before = self.sizes()

    def sizes(self) -> tuple[int, int]:
        """(original, used), less what was there when this was made."""
        if self._zram is not None:
            fields = self._zram.read_text().split()
            found = int(fields[0]), int(fields[2])
        else:
            found = machine_bytes("Zswapped") or 0, machine_bytes("Zswap") or 0
        return max(found[0] - self._before[0], 0), max(found[1] - self._before[1], 0)


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
    pool = memory.zswap.stats()
    original = (pool["units_ram"] + pool["units_same_filled"]) * pool["unit_bytes"]
    found |= {
        "delivery": memory.delivery,
        "unit_bytes": stats["unit_bytes"],
        "codec": case.codec,
        "ratio": original / pool["pool_used_bytes"] if pool["pool_used_bytes"] else None,
        "footprint_peak_bytes": sampler.peak_bytes,
        "footprint_own_account_bytes": stats["footprint_peak_bytes"],
        "swap_file_bytes": stats["swap_bytes"],
    }
    _verify(work)
    return found


def _run_kernel(work: TouchWork, case: Case) -> dict[str, Any]:
    pool = KernelPool(case)
    usage = Path(case.usage_path)
    if case.join_path:
        Path(case.join_path).write_text("0")  # 0: whoever writes

    def footprint() -> int:
        return int(usage.read_text()) + (0 if case.pool_charged else pool.sizes()[1])

    work.attach(PlainRegion(case.region_bytes))
    with Sampler(footprint) as sampler:
        found = _workload(work, case, dict)
    original, used = pool.sizes()
    found |= {
        "delivery": "kernel",
        "unit_bytes": PAGE_BYTES,
        "codec": case.codec,
        "ratio": original / used if used else None,
        "footprint_peak_bytes": sampler.peak_bytes,
    }
    if case.limit_path:
        Path(case.limit_path).write_text(case.no_limit)
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
