"""``coldmem lab backends``: what is stored, and what the rows say about it."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest

from coldmem.cli import main
from coldmem.codecs import get_codec
from coldmem.errors import UsageError
from coldmem.lab import backend_bench, backend_corpora
from coldmem.lab.backend_arms import ARMS, arm
from coldmem.lab.backend_corpora import Objects

QUICK = ["--units", "200", "--repeats", "2", "--seconds", "0.02", "--objects", "512", "--threads",
         "1", "3", "--live", "400", "--churn", "1"]


@pytest.fixture(scope="module")
def rows(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    """All rows of one quick run."""
    import contextlib
    import io

    out = io.StringIO()
    with contextlib.redirect_stdout(out):
        assert main.run(["lab", "backends", *QUICK, "--json"]) == 0
    found = json.loads(out.getvalue())
    assert found["name"] == "lab_backends" and found["settings"]["objects"] == 512
    made: list[dict[str, Any]] = found["rows"]
    return made


def of(rows: list[dict[str, Any]], part: str) -> list[dict[str, Any]]:
    return [row for row in rows if row["part"] == part]


def test_density_rows(rows: list[dict[str, Any]]) -> None:
    found = of(rows, "density")
    keys = {(r["corpus"], r["codec"], r["backend"]) for r in found}
    assert len(found) == len(keys) == len(backend_corpora.CORPORA) * 2 * 3
    for row in found:
        assert row["units"] == 200
        assert row["used_bytes"] % 4096 == 0 and row["used_per_stored"] > 1
        assert row["ratio"] <= row["codec_ratio"]
        most = {"zbud": 2, "z3fold": 3}.get(row["backend"], 99)
        assert row["objects_per_page"] <= most
        assert row["backend"] == "zbud" or row["refused_objects"] == 0
        assert row["outside_bytes"] == row["refused_objects"] * 4096
    by = {(r["corpus"], r["codec"], r["backend"]): r for r in found}
    # What JSON comes to with zstd: two, three, or as many as fit.
    assert by["json", "zstd", "zbud"]["ratio"] <= 2.0 < by["json", "zstd", "z3fold"]["ratio"] <= 3.0


def test_speed_rows(rows: list[dict[str, Any]]) -> None:
    found = of(rows, "speed")
    assert [(r["arm"], r["threads"]) for r in found] == [(a, t) for t in (1, 3) for a in ARMS]
    for row in found:
        for phase in ("put", "read", "free", "churn"):
            low, mid, high = (row[f"{phase}_mops_per_s{end}"] for end in ("_min", "", "_max"))
            assert 0 < low <= mid <= high
        assert row["repeats"] == 2 and row["wait_share"] >= 0
        if row["arm"] == "zsmalloc_class":
            assert row["churn_ratio_to_zsmalloc_class"] == 1
        if row["backend"] != "zsmalloc":
            assert set(row["contended_share_by_lock"]) == {"pool", "arena"}


def test_fragmentation_rows(rows: list[dict[str, Any]]) -> None:
    found = of(rows, "fragmentation")
    assert len(found) == 6 * 2
    for corpus in ("mix", "text"):
        mine = [r for r in found if r["corpus"] == corpus]
        assert len({(r["stored_bytes"], r["result_hash"]) for r in mine}) == 1  # the same objects
        by = {r["arm"]: r for r in mine}
        assert by["zbud_pool"]["compacted_used_bytes"] == by["zbud_pool"]["used_bytes"]
        assert by["zbud_pool"]["moved_objects"] == 0 < by["z3fold_pool"]["moved_objects"]
        for row in mine:
            assert row["used_bytes"] >= row["compacted_used_bytes"] > row["stored_bytes"]
        for backend in ("zbud", "z3fold"):
            assert by[f"{backend}_pools32"]["used_bytes"] > by[f"{backend}_pool"]["used_bytes"]


def test_refused_objects_cost_a_page_outside() -> None:
    objects = Objects([bytes(1000)] * 4 + [bytes(4096)] * 2 + [b""] * 2)
    assert (objects.same_filled, objects.incompressible) == (2, 2)
    assert (objects.data_bytes, objects.packed_bytes) == (8 * 4096, 4 * 1000 + 2 * 4096)
    rows = {
        name: backend_bench.store_all(arm(name), "test", "none", objects)
        for name in ("zbud_pool", "z3fold_pool", "zsmalloc_class")
    }
    zbud, z3fold = rows["zbud_pool"], rows["z3fold_pool"]
    assert (zbud["refused_objects"], zbud["used_bytes"], zbud["outside_bytes"]) == (
        2, 2 * 4096, 2 * 4096)
    assert zbud["ratio"] == 2.0 and zbud["stored_bytes"] == 4000 and zbud["objects_per_page"] == 2
    # Three and one in two pages, and two pages that one object fills.
    assert (z3fold["refused_objects"], z3fold["used_bytes"]) == (0, 4 * 4096)
    assert z3fold["ratio"] == 2.0 and z3fold["codec_ratio"] == 2.688
    assert objects.part(3).data_bytes == 3 * 4096


def test_objects_are_the_same_each_time_and_whole() -> None:
    first = backend_corpora.objects("json", "zstd", 64)
    assert first == backend_corpora.objects("json", "zstd", 64)
    assert len(first.units) == 64 and all(len(unit) <= 4096 for unit in first.units)
    with pytest.raises(UsageError, match="no corpus is called"):
        backend_corpora.objects("nix", "lz4", 64)


def test_what_becomes_of_a_unit(monkeypatch: pytest.MonkeyPatch) -> None:
    noise = np.random.default_rng(1).bytes(2 * 4096)
    text = b"to be or not to be, " * 1000
    made = bytes(3 * 4096) + b"\x01\x02\x03\x04\x05\x06\x07\x08" * 512 + noise + text[:4096] + b"tail"
    monkeypatch.setitem(backend_corpora.CORPORA, "test", (lambda size_bytes: made, ""))
    found = backend_corpora.objects("test", "lz4", 7)
    assert len(found.units) == 7  # the end that is no whole unit is left out
    assert (found.same_filled, found.incompressible, len(found.packed)) == (4, 2, 3)
    whole = {u if len(u) == 4096 else get_codec("lz4").decompress(u, 4096) for u in found.packed}
    assert whole == {noise[:4096], noise[4096:], text[:4096]}
    assert len(backend_corpora.objects("test", "lz4", 5).units) == 5


def test_bad_plans() -> None:
    for plan, words in (
        (backend_bench.Plan(parts=["nix"]), "no part"),
        (backend_bench.Plan(arms=["nix"]), "no arm"),
        (backend_bench.Plan(repeats=0), "more than 0"),
        (backend_bench.Plan(threads=[0]), "--threads"),
        (backend_bench.Plan(threads=[32], objects=40), "two --objects each"),
        (backend_bench.Plan(units_n=[]), "16 or more"),
    ):
        with pytest.raises(UsageError, match=words):
            plan.check()
    with pytest.raises(UsageError, match="pages of 4096 bytes only"):
        arm("zbud_pool").open(unit_bytes=16384)


def test_tables(capsys: pytest.CaptureFixture[str]) -> None:
    assert main.run(["lab", "backends", *QUICK, "--arm", "zbud_pool", "zsmalloc_class",
                     "--corpus", "json", "--codec", "lz4"]) == 0
    text = capsys.readouterr().out
    for words in ("Density", "Speed", "Fragmentation", "zbud, pool lock", "objects/page", "1.00)"):
        assert words in text
    assert "z3fold" not in text
