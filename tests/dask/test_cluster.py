"""Real clusters on the loopback device: what Dask does to a worker and its store."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import dask
import dask.array as da
import dask.dataframe as dd
import numpy as np
import pandas as pd
import pytest
from conftest_dask import MIB, threads_of_stores
from distributed import Client, KilledWorker, LocalCluster, Scheduler, wait
from distributed import Worker as DaskWorker

import coldmem.dask
from coldmem.dask import Nanny, Store, Worker, WorkerPlugin

pytestmark = pytest.mark.filterwarnings(
    "ignore:Sending large graph", "ignore:Increasing number of chunks")

# The process of the tests has hundreds of MiB; only what the store counts may matter in it.
IN_PROCESS = {
    "distributed.worker.memory.spill": False, "distributed.worker.memory.pause": False,
    "distributed.worker.memory.terminate": False, "distributed.admin.log-length": 0,
    "dataframe.shuffle.method": "tasks", "array.rechunk.method": "tasks",
    "distributed.scheduler.worker-saturation": 1.1,
}


@contextmanager
def cluster(tmp_path: Path, processes: bool = False, config: dict[str, Any] | None = None,
            **options: Any) -> Iterator[Client]:
    settings = {**({} if processes else IN_PROCESS), **(config or {})}
    worker: dict[str, Any] = {"n_workers": 2, "threads_per_worker": 2, "memory_limit": 40 * MIB,
                              "worker_class": Nanny if processes else Worker}
    with dask.config.set(settings):
        with LocalCluster(dashboard_address=":0", processes=processes, silence_logs=40,
                          local_directory=str(tmp_path), **{**worker, **options}) as made:
            with Client(made) as client:
                yield client
    assert not threads_of_stores()
    assert not [p for p in tmp_path.rglob("*") if p.is_file() and ".lock" not in p.name]


def stores(client: Client) -> list[dict[str, float]]:
    """Figures of each worker's store."""
    def look(dask_worker: Any) -> dict[str, float]:
        assert isinstance(dask_worker.data, Store)
        dask_worker.data.check_valid()
        return {**dask_worker.data.stats(), **{"-".join(k): v for k, v in
                                               dask_worker.data.cumulative_metrics.items()}}

    return list(client.run(look).values())


def until(client: Client, condition: Callable[[list[dict[str, float]]], bool],
          seconds: float = 20) -> list[dict[str, float]]:
    """Figures that meet the condition: the threads of a store may be at it still."""
    end = time.monotonic() + seconds
    while not condition(found := stores(client)):
        assert time.monotonic() < end, found
        time.sleep(0.02)
    return found


def compressed(found: list[dict[str, float]]) -> float:
    """How many values were."""
    return sum(f.get("compress-count", 0) for f in found)


def frame(rows: int = 300_000) -> pd.DataFrame:
    chance = np.random.default_rng(3)
    return pd.DataFrame({"key": chance.integers(0, 1000, rows), "x": np.arange(rows) % 977,
                         "y": chance.integers(0, 50, rows), "z": np.arange(rows) / 8})


def test_jobs_larger_than_the_workers_memory_are_right(tmp_path: Path) -> None:
    with cluster(tmp_path) as client:
        data = frame()
        other = pd.DataFrame({"key": np.arange(1000), "name": [f"name {i}" for i in range(1000)]})
        ours = dd.from_pandas(data, npartitions=24).persist()
        shuffled = ours.shuffle("key").persist()
        wait(shuffled)
        joined = shuffled.merge(dd.from_pandas(other, npartitions=2), on="key")
        right = data.merge(other, on="key").groupby("name")["x"].sum().sort_index()
        pd.testing.assert_series_equal(joined.groupby("name")["x"].sum().compute().sort_index(), right,
                                       check_index_type=False)

        made = da.from_array(np.arange(4_000_000.0).reshape(2000, 2000) % 1009, chunks=(2000, 400))
        held = made.persist()
        again = held.rechunk((400, 2000)).persist()
        wait([held, again])
        product = (again[:100] @ held).sum().compute()
        plain = np.arange(4_000_000.0).reshape(2000, 2000) % 1009
        assert product == pytest.approx((plain[:100] @ plain).sum(), rel=1e-12)
        figures = until(client, lambda found: compressed(found) > 20
                        and sum(f["cold_bytes"] for f in found) > 20 * MIB)
        assert all(f["target_bytes"] == int(40 * MIB * 0.6) for f in figures)


def test_scatter_gather_and_release(tmp_path: Path) -> None:
    with cluster(tmp_path) as client:
        values = {f"v{i}": np.arange(i, i + MIB // 4) for i in range(40)}  # 80 MiB into 80
        futures = client.scatter(values)
        back = client.gather(futures)
        assert all((back[k] == values[k]).all() for k in values)
        total = client.submit(lambda *parts: sum(int(p[0]) for p in parts), *list(futures.values())[:10])
        assert total.result() == sum(range(10))
        until(client, lambda found: sum(f["cold_bytes"] for f in found) > 10 * MIB)
        everywhere = client.scatter(np.arange(1000), broadcast=True)
        assert client.gather(client.submit(np.sum, everywhere)) == 499_500
        del futures, total, everywhere, back
        until(client, lambda found: not any(f["entries"] or f["raw_bytes"] for f in found))


def test_retiring_a_worker_moves_its_cold_values(tmp_path: Path) -> None:
    with cluster(tmp_path, memory_limit=60 * MIB) as client:
        first, second = client.scheduler_info(-1)["workers"]
        futures = [client.submit(np.full, MIB // 4, i, workers=[first], allow_other_workers=True)
                   for i in range(30)]
        wait(futures)
        client.retire_workers([first])
        assert list(client.scheduler_info(-1)["workers"]) == [second]
        assert [int(v[0]) for v in client.gather(futures)] == list(range(30))


def test_spilling_to_disk_and_what_is_reported(tmp_path: Path) -> None:
    with cluster(tmp_path, n_workers=1) as client:
        chance = np.random.default_rng(1)
        values = [chance.integers(0, 255, 2 * MIB, dtype="u1") for _ in range(30)]
        expected = [v.tobytes() for v in values]
        futures = client.scatter(values, hash=False)
        del values  # the worker is in this process, and finds again what somebody holds
        wait(futures)

        def reported(dask_scheduler: Any) -> tuple[int, int]:
            (state,) = dask_scheduler.workers.values()
            return state.metrics["spilled_bytes"]["memory"], state.metrics["spilled_bytes"]["disk"]

        end = time.monotonic() + 20
        while (got := client.run_on_scheduler(reported))[1] < 20 * MIB:
            assert time.monotonic() < end, (got, stores(client))
            time.sleep(0.05)
        until(client, lambda found: found[0]["disk-write-bytes"] > 20 * MIB)
        assert got[0] > 20 * MIB
        assert [v.tobytes() for v in client.gather(futures)] == expected
        (figures,) = stores(client)
        assert figures["disk-read-bytes"] > 20 * MIB


def test_pause_and_evict_by_the_memory_of_the_process(tmp_path: Path) -> None:
    """Dask's monitor sees a process at 90 %: it pauses, and sends values away; then it goes on."""
    config = {"distributed.worker.memory.spill": 0.7, "distributed.worker.memory.pause": 0.8,
              "distributed.worker.memory.monitor-interval": "10ms",
              "distributed.worker.memory.target": 0.6}
    with cluster(tmp_path, n_workers=1, memory_limit="8GiB", config=config) as client:
        futures = client.scatter([np.full(MIB // 8, i) for i in range(20)], hash=False)

        def pretend(share: float, dask_worker: Any = None) -> None:
            size = int(share * dask_worker.memory_manager.memory_limit)
            dask_worker.monitor.get_process_memory = lambda: size

        def state(dask_worker: Any) -> tuple[str, int]:
            return dask_worker.status.name, dask_worker.data.stats()["raw_bytes"]

        def reached(condition: Callable[[tuple[str, int]], bool]) -> None:
            end = time.monotonic() + 10
            while not condition(found := next(iter(client.run(state).values()))):
                assert time.monotonic() < end, found
                time.sleep(0.01)

        client.run(pretend, 0.9)
        reached(lambda found: found == ("paused", 0))
        client.run(pretend, 0.3)
        reached(lambda found: found[0] == "running")
        assert [int(v[0]) for v in client.gather(futures)] == list(range(20))


def test_a_plugin_exchanges_the_store_of_workers_that_hold_keys(tmp_path: Path) -> None:
    with cluster(tmp_path, worker_class=DaskWorker) as client:
        futures = client.map(lambda i: np.full(MIB // 4, i), range(40))  # 80 MiB: much is on disk
        wait(futures)
        late = client.map(lambda a: int(a.sum()), futures)
        client.register_plugin(WorkerPlugin(threads=1))
        more = client.map(lambda i: np.full(MIB // 4, i + 100), range(20))
        assert client.gather(late) == [i * (MIB // 4) for i in range(40)]
        assert [int(v[0]) for v in client.gather([*futures, *more])] == [
            *range(40), *range(100, 120)]
        until(client, lambda found: compressed(found) > 10)
        client.cluster.scale(3)
        client.wait_for_workers(3, timeout=10)
        assert len(stores(client)) == 3
        client.unregister_worker_plugin("coldmem-store")
        assert len(stores(client)) == 3  # they stay, with what they hold
        assert int(client.gather(futures[7])[0]) == 7


def double(x: Any) -> Any:
    return x * 2


def test_processes_restart_and_go_on(tmp_path: Path, sanitized: str) -> None:
    """Workers with a nanny: a killed one is replaced and its results are made again; a restart."""
    if sanitized:
        pytest.skip("a nanny ends its worker for the memory that the sanitizer takes")
    # The target is low, the limit far: a slow machine must not end the process for what it holds.
    config = {"distributed.worker.memory.target": 0.15}
    with cluster(tmp_path, True, config, n_workers=1, memory_limit="400MB") as client:
        values = client.map(lambda i: np.arange(i, i + MIB // 2), range(30))  # 120 MiB
        wait(values)
        until(client, lambda found: compressed(found) > 10)
        assert os.getpid() not in client.run(os.getpid).values()
        pid = next(iter(client.run(os.getpid).values()))
        os.kill(pid, signal.SIGKILL)
        sums = client.map(lambda a: int(a[0]), client.map(double, values))
        assert client.gather(sums) == [2 * i for i in range(30)]
        client.restart(timeout=30)
        assert len(stores(client)) == 1
        assert client.submit(double, 21).result() == 42


def hog() -> int:
    """Take memory until Dask's nanny ends the process; 600 MB at most."""
    held = []
    for _ in range(30):
        held.append(np.ones(20_000_000, np.uint8))
        time.sleep(0.05)
    time.sleep(20)
    return len(held)


def test_a_worker_that_takes_too_much_is_ended(tmp_path: Path, sanitized: str) -> None:
    """Dask's threshold to terminate is Dask's still; what was lost is made again."""
    if sanitized:
        pytest.skip("a nanny ends its worker for the memory that the sanitizer takes")
    config = {"distributed.scheduler.allowed-failures": 0, "distributed.worker.memory.target": 0.15}
    with cluster(tmp_path, True, config, memory_limit="400MB") as client:
        values = client.map(lambda i: np.arange(i, i + MIB // 2), range(30))  # 120 MiB
        wait(values)
        before = set(client.run(os.getpid).values())
        with pytest.raises(KilledWorker):
            client.submit(hog, pure=False).result(timeout=60)
        sums = client.map(lambda a: int(a[0]), client.map(double, values))
        assert client.gather(sums) == [2 * i for i in range(30)]
        client.wait_for_workers(2, timeout=60)
        after = set(client.run(os.getpid).values())
        assert len(after) == 2 and len(after - before) == 1


@pytest.mark.parametrize("how", [["--worker-class", "coldmem.dask.Worker"],
                                 ["--preload", "coldmem.dask"]], ids=lambda how: how[0])
def test_from_the_command_line(tmp_path: Path, how: list[str]) -> None:
    with cluster(tmp_path, n_workers=0, protocol="tcp://") as client:
        command = [sys.executable, "-m", "distributed.cli.dask_worker", client.scheduler.address, *how,
                   "--no-dashboard", "--memory-limit", "300MB", "--nthreads", "1",
                   "--local-directory", str(tmp_path), "--no-nanny"]
        paths = os.pathsep.join([str(Path(coldmem.dask.__file__).parents[2]), *sys.path])
        worker = subprocess.Popen(command, env={**os.environ, "PYTHONPATH": paths},
                                  stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        try:
            client.wait_for_workers(1, timeout=20)
            assert client.submit(double, 4).result(timeout=20) == 8
            (figures,) = stores(client)
            assert figures["target_bytes"] == int(300e6 * 0.6)
        finally:
            worker.terminate()
            said, _ = worker.communicate(timeout=20)
        assert "Traceback" not in said, said


def test_a_store_as_data_finds_the_limit_of_its_worker(tmp_path: Path) -> None:
    """``Worker(data=Store)`` of Dask's own worker: Dask passes the directory alone."""
    async def main() -> None:
        async with Scheduler(dashboard_address=":0", port=0) as scheduler:
            async with DaskWorker(scheduler.address, data=Store, memory_limit=123 * MIB, nthreads=3,
                                  local_directory=str(tmp_path)) as worker:
                worker.data["x"] = 1
                assert worker.data.stats()["target_bytes"] == int(123 * MIB * 0.6)
                assert str(worker.data._directory) == worker.local_directory
                worker.data.close()

    asyncio.run(main())
