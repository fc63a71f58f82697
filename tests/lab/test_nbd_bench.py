"""`bench nbd`: its client against a server, its orders, its bounds, and the command in small."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from coldmem.cli.main import run as cli_run
from coldmem.errors import EnvironmentFailure, UsageError
from coldmem.lab import nbd_bench
from coldmem.lab.gate import Gate
from coldmem.lab.nbd_bench import Case, Plan, order_of
from coldmem.lab.nbd_client import connect, disconnect
from coldmem.lab.nbd_work import NbdWork
from coldmem.linux.usage import other_cpu_s
from coldmem.nbd import Server

MIB = 1 << 20
SMALL = ["--size", "512K", "--repeats", "1", "--requests", "16", "--connections", "2", "--depth", "4"]


def need_nbdkit() -> None:
    if shutil.which("nbdkit") is None:
        pytest.skip("nbdkit is not installed: apt install nbdkit")


def used(path: Path, command: str, content: Any, order: Any, **how: Any) -> dict[str, int]:
    """Two clients on the server at `path`; the totals."""
    clients = [connect(path)[0] for _ in range(2)]
    gate = Gate()
    work = NbdWork([one.fileno() for one in clients], True, nbd_bench.COMMANDS[command],
                   how.get("request_bytes", 4096), 3, content, order, gate, True)
    gate.open()
    for number in range(2):
        work.run(number)
    for one in clients:
        disconnect(one)
    assert sum(work.times()) == work.totals()["requests"]
    return work.totals()


def test_the_client_writes_reads_and_notices(tmp_path: Path) -> None:
    content = np.random.default_rng(1).integers(0, 256, MIB, np.uint8)
    order = np.random.default_rng(2).permutation(MIB // 4096).astype(np.uint64) * np.uint64(4096)
    with Server(MIB, socket=tmp_path / "s", memory_max="64M") as server:
        found = used(tmp_path / "s", "write", content, order)
        assert (found["requests"], found["error"], found["bad_reads"]) == (256, 0, 0)
        assert server._device.read(0, MIB) == content.tobytes()
        assert used(tmp_path / "s", "read", content, order)["bad_reads"] == 0
        content[5 * 4096 + 2000] ^= 1
        content[-1] ^= 1
        assert used(tmp_path / "s", "read", content, order)["bad_reads"] == 2


def test_the_client_tells_what_failed(tmp_path: Path) -> None:
    content = np.random.default_rng(1).integers(0, 256, 4 * MIB, np.uint8)
    order = np.arange(0, 4 * MIB, 4096, dtype=np.uint64)
    with Server(4 * MIB, socket=tmp_path / "s", memory_max="1M"):
        found = used(tmp_path / "s", "write", content, order)
    assert found["error"] > 0 and found["requests"] < len(order), os.strerror(found["error"])


@pytest.mark.parametrize("pattern", nbd_bench.PATTERNS)
@pytest.mark.parametrize("connections", [1, 3])
def test_orders(pattern: str, connections: int) -> None:
    plan = Plan(size_bytes=MIB, requests_max=100)
    order = order_of(Case("read", pattern, 4096, connections, 1), plan, 5)
    assert len(set(order.tolist())) == len(order) == 100
    assert (order % 4096 == 0).all() and order.max() <= MIB - 4096
    assert (np.diff(order.astype(np.int64)) == 4096).all() == (pattern == "sequential")


def test_bounds() -> None:
    """One request at a time: times add up. Several: CPU times do, shared by all CPUs."""
    def row(system: str, depth: int, speed: float, unit: int | None = None) -> dict[str, object]:
        return {"system": system, "op": "write", "pattern": "sequential", "request_bytes": 65536,
                "connections": 1, "depth": depth, "unit_bytes": unit, "mb_per_s": speed,
                "server_cpu_s": 0.5, "client_cpu_s": 0.5, "moved_bytes": 1_000_000_000}

    rows = [row(nbd_bench.SOCKET, 1, 1000.0), row(nbd_bench.SOCKET, 8, 2000.0),
            row(nbd_bench.COLDMEM, 1, 250.0, 4096), row(nbd_bench.COLDMEM, 8, 400.0, 4096)]
    nbd_bench._bound(rows, {"compress_4k_mb_per_s": 500.0})
    cpus = len(os.sched_getaffinity(0))
    assert rows[0]["bound_mb_per_s"] is None
    assert rows[2]["bound_mb_per_s"] == pytest.approx(1 / (1 / 500 + 1 / 1000), rel=1e-3)
    assert rows[2]["of_bound"] == pytest.approx(250 * (1 / 500 + 1 / 1000), rel=1e-3)
    assert rows[3]["bound_mb_per_s"] == pytest.approx(cpus / (1 / 500 + 1 / 1000), rel=1e-3)


def test_the_cpu_time_of_another_process() -> None:
    before = other_cpu_s(os.getpid())
    sum(range(300_000))
    assert before < other_cpu_s(os.getpid())
    with pytest.raises(OSError):
        other_cpu_s(1 << 22)


@pytest.mark.parametrize(("change", "kind"), [
    ({"repeats": 0}, UsageError), ({"size_bytes": 5}, UsageError), ({"corpus": "x"}, UsageError),
])
def test_plans_that_make_no_sense(change: dict[str, Any], kind: type[Exception]) -> None:
    with pytest.raises(kind):
        Plan(**change).check()


def test_what_is_missing_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "which", lambda name: None)
    with pytest.raises(EnvironmentFailure, match="apt install nbdkit"):
        Plan().check()
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    with pytest.raises(EnvironmentFailure, match="root"):
        Plan(with_kernel=True).check()


def zram_devices() -> set[str]:
    return {path.name for path in Path("/sys/block").glob("zram*")}


def test_rows(capsys: pytest.CaptureFixture[str]) -> None:
    need_nbdkit()
    kernel = os.geteuid() == 0 and Path("/sys/class/zram-control").exists()
    before = zram_devices()
    assert cli_run(["bench", "nbd", *SMALL, "--json", *(["--with-kernel"] if kernel else [])]) == 0
    found = json.loads(capsys.readouterr().out)
    assert zram_devices() == before
    assert {"compress_4k_mb_per_s", "decompress_64k_mb_per_s", "copy_mb_per_s"} <= set(found["settings"])
    systems = {(row["system"], row["unit_bytes"]) for row in found["rows"]}
    assert {("coldmem", 4096), ("coldmem", 65536), ("nbdkit-memory", None)} <= systems
    assert len(found["rows"]) == 4 * 2 * 2 * 2, "a device has no depth of 4"
    for row in found["rows"]:
        assert row["mb_per_s_min"] <= row["mb_per_s"] <= row["mb_per_s_max"]
        assert 0 < row["p50_us"] <= row["p99_us"] and row["moved_bytes"] <= 512 << 10
        if row["system"] == "coldmem":
            assert row["ratio"] > 0 and row["pool_bytes"] > 0 and row["of_bound"] > 0
            assert row["ratio_to_nbdkit"] > 0 and row["server_cpu_s"] > 0
        if row["system"] == "nbdkit-memory":
            assert row["ratio_to_nbdkit"] == 1 and row["ratio"] is None


def test_tables(capsys: pytest.CaptureFixture[str]) -> None:
    need_nbdkit()
    assert cli_run(["bench", "nbd", *SMALL, "--unit", "64K", "--request", "64K"]) == 0
    text = capsys.readouterr().out
    assert "Requests of 64K" in text and "nbdkit-memory" in text and "64K sequential" in text
