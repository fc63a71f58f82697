"""The main job: everything comes back, and anything that does not is noticed."""

from __future__ import annotations

import json

import numpy as np
import pytest

from coldmem.cli import demo as cli_demo
from coldmem.cli import demo_locks, main
from coldmem.errors import UsageError
from coldmem.lab import demo, memory_job
from coldmem.lab.arms import ARMS
from coldmem.linux.userfaultfd import rights_here
from coldmem.zswap import Zswap

SMALL = ["demo", "--part", "engine", "--max-pool", "4M", "--threads", "3"]


@pytest.mark.parametrize(
    "more", [[], ["--unit", "16K", "--max-pool", "8M"],
             ["--unit", "64K", "--max-pool", "16M"], ["--codec", "auto"],
             ["--locking", "class"], ["--locking", "pool", "--threads", "1"]]
)
def test_demo(more: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main.run([*SMALL, *more]) == 0
    got = capsys.readouterr()
    assert "came back unchanged" in got.out
    for kind in demo.PARTS:
        assert kind in got.out
    assert "storing: " in got.err and "reading back: " in got.err


def test_demo_json(capsys: pytest.CaptureFixture[str]) -> None:
    assert main.run([*SMALL, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert set(found) == {"name", "machine", "settings", "rows"}
    *kinds, total = found["rows"]
    limit = found["settings"]["max_pool_bytes"]
    assert [row["kind"] for row in kinds] == list(demo.PARTS)
    assert total["stored_bytes"] == sum(row["stored_bytes"] for row in kinds) >= 4 * limit
    assert 0 < total["ram_bytes"] <= total["peak_pool_bytes"] <= limit
    assert total["disk_bytes"] > 0 and total["differing_units"] == 0


def test_a_changed_unit_is_found_and_named(capsys: pytest.CaptureFixture[str]) -> None:
    assert main.run([*SMALL, "--spoil"]) == 1
    got = capsys.readouterr()
    assert "1 units came back changed" in got.err
    assert "(kind text, unit" in got.err and "first at byte 2048" in got.err
    assert "unchanged" not in got.out


def test_a_lost_unit_is_found_and_named(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A unit that is gone is a difference too, not an error of its own."""
    real = demo._Job.load_batches

    def lose_one(job: demo._Job, rng: np.random.Generator) -> list[demo.Batch]:
        kind = next(k for k in job.data.kinds if k.name == "int64")
        assert job.zswap.invalidate(kind.first + 3)
        return real(job, rng)

    monkeypatch.setattr(demo._Job, "load_batches", lose_one)
    assert main.run(SMALL) == 1
    assert "(kind int64, unit 3 of it)" in capsys.readouterr().err


def test_an_error_in_a_thread_is_the_demos_error(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(self: demo._Job, slots: demo.Batch) -> None:
        raise UsageError("broken on purpose")

    monkeypatch.setattr(demo._Job, "store", broken)
    plan = demo.Plan(max_pool_bytes=1 << 20, threads=2)
    with pytest.raises(UsageError, match="broken on purpose"):
        demo.run(plan, demo.make_data(plan))


def test_data_are_the_same_each_time() -> None:
    plan = demo.Plan(max_pool_bytes=1 << 20)
    one, two = demo.make_data(plan), demo.make_data(plan)
    assert np.array_equal(one.units, two.units) and one.kinds == two.kinds
    assert one.kinds[-1].end == len(one.units)
    assert [k.first for k in one.kinds[1:]] == [k.end for k in one.kinds[:-1]]


def test_every_slot_is_stored_and_compared_once() -> None:
    plan = demo.Plan(max_pool_bytes=1 << 20)
    data = demo.make_data(plan)
    with Zswap(max_pool="8M") as zswap:
        job = demo._Job(plan, data, zswap, {})
        rng = np.random.default_rng(0)
        for batches in (job.store_batches(rng), job.load_batches(rng)):
            slots = np.concatenate(batches)
            assert np.array_equal(np.sort(slots), np.arange(len(data.units)))
            assert not np.array_equal(slots, np.arange(len(data.units)))


# -- managed memory --------------------------------------------------------------------------------
needs_userfaultfd = pytest.mark.skipif(
    rights_here() == "none", reason="no userfaultfd here: see `coldmem doctor`"
)
JOB = ["demo", "--part", "memory", "--memory-max", "16M"]


@needs_userfaultfd
def test_the_job_in_a_memory(capsys: pytest.CaptureFixture[str]) -> None:
    assert main.run(JOB) == 0
    got = capsys.readouterr()
    assert "every result is that of plain NumPy" in got.out
    assert got.out.count("equal") == 4 and "differs" not in got.out
    assert "hot " in got.err and "on disk " in got.err and "wrong" not in got.err
    for number in range(1, memory_job.STEPS + 1):
        assert f"{number}/{memory_job.STEPS} " in got.err, "each step is told when it is done"
    assert "Five ways" not in got.out


@needs_userfaultfd
def test_on_a_terminal_it_shows_where_the_data_are(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")  # rich takes that for a terminal
    monkeypatch.setenv("TERM", "xterm-256color")
    assert main.run(JOB) == 0
    said = capsys.readouterr().err
    for word in ("hot", "compressed", "on disk", "\u2588", f"/{memory_job.STEPS} "):
        assert word in said


@needs_userfaultfd
def test_memory_and_locks_as_json(capsys: pytest.CaptureFixture[str]) -> None:
    assert main.run(["demo", "--memory-max", "16M", "--lock-seconds", "0.01", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    steps = [row for row in found["rows"] if row["part"] == "memory"]
    total = steps[-1]
    assert len(steps) == memory_job.STEPS + 1
    assert total["step"] == "all" and total["differences"] == 0
    assert total["array_bytes_peak"] >= 4 * total["memory_max_bytes"]
    assert total["footprint_peak_bytes"] > 0 and total["loads"] > 0
    assert any(row["swap_bytes"] > 0 and row["compressed_bytes"] > 0 for row in steps[:-1])
    locks = [row for row in found["rows"] if row["part"] == "locks"]
    assert [(row["arm"], row["threads"]) for row in locks] == [
        (arm, threads) for threads in demo_locks.THREADS for arm in ARMS]
    assert {row["part"] for row in found["rows"]} == {"memory", "locks"}


def test_the_lock_experiment(capsys: pytest.CaptureFixture[str]) -> None:
    assert main.run(["demo", "--part", "locks", "--lock-seconds", "0.01"]) == 0
    got = capsys.readouterr()
    lines = [line for line in got.out.splitlines() if "pool" in line and "%" in line]
    assert len(lines) == len(ARMS)
    assert lines[0].startswith("32 pools, pool lock") and lines[0].split().count("1.00") == 2
    assert "x 32 pools" in got.out and "NumPy on" not in got.out
    assert "locks: 1/2" in got.err


@needs_userfaultfd
def test_a_wrong_number_is_found(capsys: pytest.CaptureFixture[str]) -> None:
    assert main.run([*JOB, "--spoil"]) == 1
    got = capsys.readouterr()
    assert "coldmem: wrong: prices: 1 numbers from row" in got.err
    assert "differs" in got.out and "every result" not in got.out


@needs_userfaultfd
@pytest.mark.parametrize("step", ["_covariance", "_by_month", "_fill_volumes"])
def test_a_wrong_result_is_found(step: str, monkeypatch: pytest.MonkeyPatch) -> None:
    real = getattr(memory_job, step)

    def wrong(array: np.ndarray, *more: np.ndarray) -> object:
        found = real(array, *more)
        if found is None:  # it fills what it was given
            array.flat[5] += 1
            return None
        found = np.array(found)  # what pandas gives is read-only
        found.flat[5] += 1
        return found

    monkeypatch.setattr(memory_job, step, wrong)
    outcome = memory_job.MemoryJob(memory_job.MemoryPlan(16 << 20)).run()
    assert len(outcome.differences) == 1


@needs_userfaultfd
def test_without_pandas_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    def nothing(name: str) -> object:
        raise ImportError(name)

    monkeypatch.setattr(memory_job, "import_module", nothing)
    assert not memory_job.MemoryJob(memory_job.MemoryPlan(16 << 20)).run().differences


def test_without_userfaultfd_the_engine_instead_and_loudly(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(cli_demo, "rights_here", lambda: "none")
    assert main.run(["demo", "--max-pool", "4M", "--lock-seconds", "0.01"]) == 0
    got = capsys.readouterr()
    assert "no userfaultfd" in got.err and "coldmem doctor" in got.err
    assert "came back unchanged" in got.out and "NumPy on" not in got.out
    assert "x 32 pools" in got.out
    assert main.run(["demo", "--max-pool", "4M", "--lock-seconds", "0.01", "--spoil"]) == 1
