"""One case of ``bench dask``, in a process of its own: ``python -m coldmem.lab.dask_case``.

Reads a `DaskCase` as JSON from stdin, prints one object to stdout. Owns: a LocalCluster with its
workers' processes, and the client; all have ended when it ends.
Guarantees: time is from the job's first graph to its result, with workers that have done a small job of
the same kind before. Memory is what the workers' processes have as their own by the kernel's account,
looked at every 20 ms. A worker that had to be replaced is counted.
Assumes: a folder and, if one is named, a cgroup of its own. Locks: none.
"""

from __future__ import annotations

import json
import sys
import time
from dataclasses import asdict, dataclass
from typing import Any

from coldmem.lab.dask_jobs import JOBS, Size
from coldmem.lab.footprint import Fence, Sampler
from coldmem.linux.usage import machine_cpu_s, other_cpu_s, other_process_bytes

MEMORY, COLDMEM, SPILL, SPILL_LZ4 = "no-limit", "coldmem", "spillbuffer", "spillbuffer-lz4"
SYSTEMS = (MEMORY, SPILL, SPILL_LZ4, COLDMEM)
WARM_UP = Size(8 << 20, 4)
LOOK_S = 0.02
#: A shuffle or rechunk of this kind passes through no worker's store, whichever it is.
CONFIG = {"array.rechunk.method": "tasks", "dataframe.shuffle.method": "tasks"}
#: What is compressed on the way to disk by the systems that are Dask's own.
SPILL_COMPRESSION = {SPILL: None, SPILL_LZ4: "lz4"}


@dataclass(frozen=True, slots=True)
class DaskCase(Fence):
    """What the child is to do.

    Attributes
    ----------
    limit_bytes : int
        Memory limit of each worker, Dask's; not of `MEMORY`.
    folder : str
        The workers' local directory.
    """

    system: str
    job: str
    data_kind: str
    size_bytes: int
    parts: int
    workers: int
    threads: int
    limit_bytes: int
    folder: str
    seed: int = 1

    def to_json(self) -> str:
        return json.dumps(asdict(self))


class _Watch:
    """What is looked at now and then: memory, who lives, who is paused."""

    def __init__(self, cluster: Any) -> None:
        self._cluster = cluster
        self.first = set(self._pids())
        self.pids = set(self.first)
        self.looks = self.paused = 0

    def _pids(self) -> list[int]:
        found = (getattr(nanny, "pid", None) for nanny in list(self._cluster.workers.values()))
        return [pid for pid in found if pid]

    def look(self) -> int:
        """Bytes of all workers together, now."""
        now = self._pids()
        self.pids.update(now)
        self.looks += 1
        states = list(self._cluster.scheduler.workers.values())
        self.paused += sum(state.status.name == "paused" for state in states)
        return sum(other_process_bytes(pid, "RssAnon") for pid in now)

    @property
    def killed(self) -> int:
        """Processes that others have replaced."""
        return len(self.pids) - len(self.first)

    def cpu_s(self) -> float:
        """CPU seconds of the processes that are there."""
        total = 0.0
        for pid in self._pids():
            try:
                total += other_cpu_s(pid)
            except OSError:
                continue
        return total


def _store_figures(dask_worker: Any) -> dict[str, float]:
    """Bytes that a store has written, as it counts them itself; in the worker."""
    found = getattr(dask_worker.data, "cumulative_metrics", {})
    return {f"{label}_{unit}": float(value) for (label, unit), value in found.items()}


def run(case: DaskCase) -> dict[str, Any]:
    """Measure `case`."""
    import dask
    from distributed import Client, LocalCluster

    options: dict[str, Any] = {"memory_limit": case.limit_bytes}
    config: dict[str, Any] = dict(CONFIG)
    if case.system == COLDMEM:
        from coldmem.dask import Nanny

        options["worker_class"] = Nanny
    elif case.system == MEMORY:
        options["memory_limit"] = 0
    else:
        config["distributed.worker.memory.spill-compression"] = SPILL_COMPRESSION[case.system]
    with dask.config.set(config), LocalCluster(  # type: ignore[no-untyped-call]
        n_workers=case.workers, threads_per_worker=case.threads, dashboard_address=":0",
        local_directory=case.folder, silence_logs=50, **options,
    ) as cluster, Client(cluster) as client:  # type: ignore[no-untyped-call]
        job = JOBS[case.job]
        job(WARM_UP, case.data_kind, case.seed)
        watch = _Watch(cluster)
        failure, outcome = "", None
        busy, cpu = machine_cpu_s(), watch.cpu_s()
        began_s = time.monotonic()
        with Sampler(watch.look, LOOK_S) as sampler:
            try:
                outcome = job(Size(case.size_bytes, case.parts), case.data_kind, case.seed)
            except Exception as error:
                failure = f"{type(error).__name__}: {str(error)[:300]}"
        seconds = time.monotonic() - began_s
        after = machine_cpu_s()
        figures: dict[str, float] = {}
        if not failure:
            for one in client.run(_store_figures).values():
                for name, value in one.items():
                    figures[name] = round(figures.get(name, 0.0) + value, 3)
        return {
            "seconds": seconds, "outcome": outcome, "failure": failure,
            "peak_bytes": sampler.peak_bytes, "killed_workers": watch.killed,
            "paused_s": seconds * watch.paused / max(watch.looks, 1),
            "workers_cpu_s": None if watch.killed else watch.cpu_s() - cpu,
            "machine_cpu_s": None if busy is None or after is None else after - busy,
            "store": figures,
        }


if __name__ == "__main__":
    ready = DaskCase(**json.load(sys.stdin))
    ready.join()
    print(json.dumps(run(ready)))
