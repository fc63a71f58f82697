"""The main job: everything comes back, and anything that does not is noticed."""

from __future__ import annotations

import json

import numpy as np
import pytest

from coldmem.cli import main
from coldmem.errors import UsageError
from coldmem.lab import demo
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
