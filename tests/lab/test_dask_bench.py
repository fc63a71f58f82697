"""`bench dask`: its jobs are right, its data is what it says, it sees errors, it leaves nothing."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import dask
import numpy as np
import pandas as pd
import pytest
from distributed import Client, LocalCluster

from coldmem.cli.main import run as cli_run
from coldmem.codecs import get_codec
from coldmem.errors import EnvironmentFailure, UsageError
from coldmem.lab import dask_bench, dask_jobs
from coldmem.lab.dask_bench import DaskPlan
from coldmem.lab.dask_case import COLDMEM, CONFIG, SPILL, SPILL_LZ4
from coldmem.lab.dask_goals import judge
from coldmem.lab.dask_jobs import COMPRESSIBLE, DATA_KINDS, JOBS, RANDOM, Size
from coldmem.lab.own_disk import own_disk
from coldmem.lab.result import Row
from coldmem.linux.memory_group import find_hierarchy
from coldmem.linux.throttle import find_blkio

MIB = 1 << 20
SMALL = Size(2 * MIB, 6)
ROOT = pytest.mark.skipif(os.geteuid() != 0, reason="a disk and a cgroup of our own need root")
pytestmark = pytest.mark.filterwarnings("ignore:Increasing number of chunks", "ignore:Sending large")


@pytest.fixture(scope="module")
def client() -> Iterator[Client]:
    settings = {**CONFIG, "distributed.worker.memory.terminate": False}
    with dask.config.set(settings), LocalCluster(
            n_workers=1, threads_per_worker=2, processes=False, dashboard_address=":0",
            silence_logs=40) as cluster, Client(cluster) as made:
        yield made


# -- the jobs ----------------------------------------------------------------------------------------
@pytest.mark.parametrize("kind", DATA_KINDS)
def test_the_join_is_that_of_pandas(client: Client, kind: str) -> None:
    found = JOBS["join"](SMALL, kind, 1)
    many, few = Size(SMALL.nbytes * 3 // 4, 6), Size(SMALL.nbytes // 4, 2)
    keys = few.rows * few.parts
    left = pd.concat([dask_jobs.sales(n, rows=many.rows, keys=keys, kind=kind, seed=1)
                      for n in range(6)])
    right = pd.concat([dask_jobs.articles(n, rows=few.rows, kind=kind, seed=1) for n in range(2)])
    assert right["key"].is_unique
    joined = left.merge(right, on="key")
    assert len(joined) == len(left) == many.rows * 6  # each sale has its article
    sums = dask_jobs._per_shop(joined)
    expected = dask_jobs._summed(sums.groupby("shop").sum())
    assert found["equal"] == expected["equal"]
    assert found["close"] == pytest.approx(expected["close"], rel=1e-9)


@pytest.mark.parametrize("kind", DATA_KINDS)
def test_the_product_is_that_of_numpy(client: Client, kind: str) -> None:
    found = JOBS["rechunk"](SMALL, kind, 1)
    rows, width = SMALL.nbytes // 8 // 256, 64  # 6 pieces do not divide 256 columns: 4 do
    whole = np.concatenate([
        dask_jobs.columns({None: {"chunk-shape": (rows, width), "chunk-location": (0, at)}},
                          kind=kind, seed=1) for at in range(4)], axis=1)
    whole -= whole.min(axis=0)
    product = whole.T @ whole / rows
    assert found["equal"] == [256, 256]
    assert found["close"] == pytest.approx([product.trace(), np.abs(product).sum()], rel=1e-9)


@pytest.mark.parametrize("kind", DATA_KINDS)
def test_the_groups_are_those_of_pandas(client: Client, kind: str) -> None:
    found = JOBS["groupby"](SMALL, kind, 1)
    table = pd.concat([dask_jobs.sales(n, rows=SMALL.rows, keys=100_000, kind=kind, seed=1)
                       for n in range(SMALL.parts)])
    by_shop = table.groupby(table["key"] % dask_jobs.SHOPS).agg(
        {"price": "sum", "pieces": "sum", "time": "max", "clerk": "max"})
    expected = dask_jobs._summed(by_shop)
    assert found["equal"][:4] == expected["equal"]
    assert found["close"][0] == pytest.approx(expected["close"][0], rel=1e-9)


def test_the_data_is_what_its_name_says() -> None:
    codec = get_codec("lz4")
    ratios: dict[str, list[float]] = {kind: [] for kind in DATA_KINDS}
    for kind in DATA_KINDS:
        pieces = [dask_jobs.sales(3, rows=50_000, keys=1_000_000, kind=kind, seed=1),
                  dask_jobs.articles(3, rows=50_000, kind=kind, seed=1)]
        columns = [frame[name].to_numpy() for frame in pieces for name in frame]
        columns.append(dask_jobs.columns(
            {None: {"chunk-shape": (5000, 8), "chunk-location": (0, 3)}}, kind=kind, seed=1))
        for column in columns:
            data = column.tobytes()[: 64 << 10]
            ratios[kind].append(codec.compressed_bytes([data]) / len(data))
    assert np.mean(ratios[COMPRESSIBLE]) < 0.4, ratios
    assert min(ratios[RANDOM]) > 0.95, ratios


def test_other_pieces_are_other_data() -> None:
    for kind in DATA_KINDS:
        first, second = (dask_jobs.sales(n, rows=1000, keys=10_000, kind=kind, seed=1) for n in (0, 1))
        assert not first["key"].equals(second["key"]) and not first["time"].equals(second["time"])


# -- the goals ---------------------------------------------------------------------------------------
def row(system: str, seconds: float | None, repeat: int = 1, kind: str = COMPRESSIBLE, killed: int = 0
        ) -> Row:
    return {"job": "join", "data_kind": kind, "disk": "fast", "system": system, "repeat": repeat,
            "seconds": seconds, "killed_workers": killed}


def test_the_quickest_rival_of_the_same_repeat_counts() -> None:
    rows = [row(COLDMEM, 6.0), row(SPILL, 12.0), row(SPILL_LZ4, 10.0),
            row(COLDMEM, 8.0, 2), row(SPILL, 10.0, 2), row(SPILL_LZ4, 20.0, 2)]
    (verdict,) = judge(rows)
    assert verdict.ratio == pytest.approx(0.7) and verdict.met
    (verdict,) = judge([row(COLDMEM, 10.6, kind=RANDOM), row(SPILL, 10.0, kind=RANDOM)])
    assert verdict.met is False


def test_a_killed_worker_or_a_job_that_failed() -> None:
    (verdict,) = judge([row(COLDMEM, 1.0, killed=1), row(SPILL, 10.0)])
    assert verdict.met is False
    (verdict,) = judge([row(COLDMEM, 1.0), row(SPILL, None)])
    assert verdict.met is True and verdict.ratio is None  # only we could
    (verdict,) = judge([row(COLDMEM, None), row(SPILL, 1.0)])
    assert verdict.met is None
    (verdict,) = judge([row(COLDMEM, 1.0)])
    assert verdict.met is None


# -- the disk ----------------------------------------------------------------------------------------
@ROOT
def test_a_disk_of_our_own_counts_what_reaches_it_and_goes(tmp_path: Path) -> None:
    with own_disk(tmp_path, 64 * MIB) as disk:
        before = disk.traffic()
        data = os.urandom(5 * MIB)
        file = disk.folder / "file"
        with file.open("wb") as out:
            out.write(data)
            out.flush()
            os.fsync(out.fileno())
        written = disk.traffic()[1] - before[1]
        assert 5 * MIB <= written < 8 * MIB
        device = disk.device
        folder = disk.folder
        assert os.path.ismount(folder)
    assert not folder.exists() and not list(tmp_path.iterdir())
    assert not Path("/sys/block", device.name, "loop").exists()


@ROOT
def test_a_slow_disk_is_throttled_and_no_longer(tmp_path: Path) -> None:
    try:
        blkio = find_blkio()
    except EnvironmentFailure as error:
        pytest.skip(str(error))

    def limits(number: str) -> list[str]:
        return [line for name in ("read", "write")
                for line in (blkio / f"blkio.throttle.{name}_bps_device").read_text().splitlines()
                if line.startswith(f"{number} ")]

    with own_disk(tmp_path, 64 * MIB, 7_000_000) as disk:
        number = Path("/sys/block", disk.device.name, "dev").read_text().strip()
        assert limits(number) == [f"{number} 7000000"] * 2
    assert limits(number) == []


def test_where_the_throttle_is_mounted(tmp_path: Path) -> None:
    (tmp_path / "mountinfo").write_text(
        "30 23 0:26 / /sys/fs/cgroup/memory rw shared:9 - cgroup cgroup rw,memory\n")
    with pytest.raises(EnvironmentFailure, match="blkio"):
        find_blkio(tmp_path)
    room = tmp_path / "blkio"
    room.mkdir()
    (room / "blkio.throttle.read_bps_device").touch()
    (tmp_path / "mountinfo").write_text(f"31 23 0:27 / {room} rw shared:9 - cgroup cgroup rw,blkio\n")
    assert find_blkio(tmp_path) == room


@pytest.mark.skipif(os.geteuid() == 0, reason="only without root")
def test_without_root_there_is_no_disk_of_our_own(tmp_path: Path) -> None:
    with pytest.raises(EnvironmentFailure, match="root"), own_disk(tmp_path, MIB):
        raise AssertionError


# -- the command -------------------------------------------------------------------------------------
def left_over() -> list[str]:
    """Cgroups and loop devices of this process's benchmarks."""
    groups = list(find_hierarchy().folder.glob(f"coldmem-bench-{os.getpid()}*"))
    loops = subprocess.run(["losetup", "--list", "--noheadings", "--output", "BACK-FILE"],
                           capture_output=True, text=True, check=False).stdout
    return [str(g) for g in groups] + [line for line in loops.splitlines() if "coldmem-disk-" in line]


ONE = ["bench", "dask", "--jobs", "groupby", "--data-kinds", COMPRESSIBLE, "--disks", "fast",
       "--workers", "1", "--times", "0.02", "--parts", "4", "--systems", SPILL, COLDMEM, "--json"]


def told(capsys: Any) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(capsys.readouterr().out)
    return found


def test_the_command_in_small(capsys: Any) -> None:
    assert cli_run(ONE) == 0
    result = told(capsys)
    assert result["name"] == "bench_dask"
    rows = result["rows"]
    assert [r["system"] for r in rows] == [SPILL, COLDMEM]
    assert all(r["result"] == "equal" and r["seconds"] > 0 and r["peak_bytes"] > 30 * MIB for r in rows)
    assert all(r["killed_workers"] == 0 and not r["failed"] for r in rows)
    if os.geteuid() == 0:
        assert all(isinstance(r["disk_written_bytes"], int) and r["oom_kills"] == 0 for r in rows)
        assert not left_over()
    else:
        assert [s["what"] for s in result["settings"]["skipped"]] == ["cgroup"]


def test_another_result_is_noticed(capsys: Any) -> None:
    assert cli_run([*ONE, "--spoil"]) == 1
    said = capsys.readouterr()
    assert "found something else" in said.err
    assert [r["result"] for r in json.loads(said.out)["rows"]] == ["equal", "differs"]


def test_a_job_that_fails_is_a_row(capsys: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> dict[str, Any]:
        return {"seconds": 1.0, "outcome": None, "failure": "KilledWorker: gone", "peak_bytes": 1,
                "killed_workers": 3, "paused_s": 0.0, "workers_cpu_s": None, "machine_cpu_s": 1.0}

    monkeypatch.setattr(dask_bench, "run_child", fail)
    assert cli_run(ONE) == 0
    rows = told(capsys)["rows"]
    assert [(r["failed"], r["seconds"], r["killed_workers"]) for r in rows] == [
        ("KilledWorker: gone", None, 3)] * 2


@pytest.mark.parametrize(("bad", "word"), [
    ({"repeats": 0}, "--repeats"), ({"limit_bytes": MIB}, "--limit"), ({"times": 0.0}, "--times"),
    ({"parts": 0}, "--parts"),
])
def test_a_plan_that_makes_no_sense(bad: dict[str, Any], word: str) -> None:
    with pytest.raises(UsageError, match=word):
        dask_bench.run(DaskPlan(**bad))
