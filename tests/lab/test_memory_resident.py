"""`bench memory --resident` at its smallest: rows, turns, and what it must refuse to report."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner

from coldmem.cli.bench_memory import command
from coldmem.errors import InternalError, UsageError
from coldmem.lab import memory_resident
from coldmem.linux.userfaultfd import rights_here
from coldmem.memory.memory import Memory

pytestmark = pytest.mark.skipif(
    rights_here() == "none", reason="userfaultfd gives this process no rights: see `coldmem doctor`"
)
MIB = 1 << 20


def test_rows() -> None:
    found = memory_resident.run(["sigbus"], 3, MIB)
    assert [(r["workload"], r["system"]) for r in found.rows] == [
        (name, system) for name in ("sum", "matmul", "sort") for system in ("numpy", "coldmem")]
    for row in found.rows:
        assert 0 < row["ms_min"] <= row["ms"] <= row["ms_max"] and row["repeats"] == 3
        assert row["speed_to_plain"] > 0
        assert row["delivery"] == ("sigbus" if row["system"] == "coldmem" else "none")
    assert all(r["speed_to_plain"] == 1 for r in found.rows if r["system"] == "numpy")


def test_turns_change_who_begins(monkeypatch: pytest.MonkeyPatch) -> None:
    began: list[bool] = []
    monkeypatch.setattr(memory_resident, "OPERATIONS", {
        "first": lambda side: (began.append(type(side.data.base).__name__), side.data[:1])[1]})
    memory_resident.run(["sigbus"], 3, MIB)
    pairs = [tuple(began[i : i + 2]) for i in range(0, len(began), 2)]
    assert len(pairs) == 4 and len(set(pairs)) == 2 and pairs[0] == pairs[2] != pairs[1]


def test_a_wrong_result_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[Any] = []
    monkeypatch.setattr(memory_resident, "OPERATIONS", {
        "bad": lambda side: (calls.append(0), np.array([len(calls)]))[1]})
    with pytest.raises(InternalError, match="bad: a managed array gave another result"):
        memory_resident.run(["sigbus"], 1, MIB)


def test_an_array_that_does_not_stay_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[Memory] = []

    class Watched(Memory):
        def __init__(self, *args: Any, **options: Any) -> None:
            super().__init__(*args, **options)
            made.append(self)

    def evicting(side: memory_resident.Side) -> np.ndarray:
        if made[0].owns(side.data):
            made[0].evict(side.data)
        return side.data[:1]

    monkeypatch.setattr(memory_resident, "Memory", Watched)
    monkeypatch.setattr(memory_resident, "OPERATIONS", {"out": evicting})
    with pytest.raises(InternalError, match="taken out of RAM"):
        memory_resident.run(["sigbus"], 1, MIB)


def test_arguments() -> None:
    with pytest.raises(UsageError):
        memory_resident.run(["sigbus"], 0, MIB)
    with pytest.raises(UsageError):
        memory_resident.run(["sigbus"], 1, MIB - 1)


def test_command() -> None:
    words = ["--resident", "--delivery", "sigbus", "--repeats", "1", "--array", "1M"]
    done = CliRunner().invoke(command, [*words, "--json"])
    assert done.exit_code == 0, done.output
    assert len(json.loads(done.stdout)["rows"]) == 6
    done = CliRunner().invoke(command, words)
    assert done.exit_code == 0 and "of plain" in done.stdout and "matmul" in done.stdout
