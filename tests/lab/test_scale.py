"""`lab scale`: a calibration in small, what the model makes of it, the command, its picture."""

from __future__ import annotations

import copy
import json
import os
from pathlib import Path
from typing import Any

import pytest

from coldmem.cli.main import run as cli_run
from coldmem.errors import EnvironmentFailure, UsageError
from coldmem.lab import scale, scale_bench, scale_kernel
from coldmem.lab.arms import ARMS
from coldmem.lab.gate import Gate
from coldmem.lab.scale_calibrate import Effort, filled, share_row
from coldmem.lab.scale_model import (
    MODEL_ARMS,
    PHASES,
    Calibration,
    Mix,
    cold_in_turns,
    mix_of,
    phases,
    simulate,
)
from coldmem.lab.workloads import material

SMALL = ["--objects", "64", "--seconds", "0.004", "--repeats", "1", "--units", "64"]
LITTLE = ["--cores", "1", "4", "--ops", "400", "--no-kernel"]


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A calibration of this machine, short and rough."""
    if len(os.sched_getaffinity(0)) < 2:
        pytest.skip("two threads that meet need two CPUs")
    path = tmp_path_factory.mktemp("scale") / "calibration.json"
    assert cli_run(["lab", "scale", "--calibrate", "--calibration", str(path), *SMALL,
                    "--cores", "2"]) == 0
    return path


@pytest.fixture(scope="module")
def calibration(file: Path) -> Calibration:
    return Calibration.load(file)


def test_a_calibration_says_how_each_figure_was_found(file: Path) -> None:
    content = json.loads(file.read_text())
    assert content["name"] == "lab_scale_calibration" and content["machine"]["cpus"] >= 1
    kinds = {row["kind"] for row in content["rows"]}
    assert kinds == {"primitive", "classes", "arm", "shares", "turns", "compact"}
    for row in content["rows"]:
        if row["kind"] in ("primitive", "shares", "turns", "compact"):
            assert row["how"], row
        if row["kind"] == "primitive":
            assert 0 <= row["ns_min"] <= row["ns"] <= row["ns_max"]
        if row["kind"] == "shares":
            total = row["loop_share"] + sum(row[f"{phase}_share"] for phase in PHASES)
            assert total == pytest.approx(1, abs=0.01)


def test_a_run_that_gets_no_time_has_an_operation_to_divide_by() -> None:
    one = filled(ARMS["pool"], 1, material(64), 64)
    try:
        gate = Gate()
        gate.close()
        one.watched.run(0, gate)
        assert one.work.totals()["ops"] == 1
    finally:
        one.close()


def test_too_short_to_see_anything_is_said() -> None:
    if len(os.sched_getaffinity(0)) < 2:
        pytest.skip("two threads that meet need two CPUs")
    with pytest.raises(EnvironmentFailure, match="--seconds"):
        share_row(ARMS["class"], material(64), Effort(watch_seconds=1e-5, repeats=1, objects=64))


def test_one_core_is_what_was_measured(calibration: Calibration) -> None:
    """Without neighbours the model is the sum of its parts: the measured time of an operation."""
    for name in calibration.arms():
        _, found = phases(calibration, name, 1, 0.0)
        assert all(0 <= sum(p.takes[k] * p.holds[k] for k in p.takes) <= p.ns * 1.000001
                   for p in found.values()), name
        speed = simulate(calibration, name, 1, 1, mix_of("alloc", calibration), 4000,
                         line_ns=0.0)["mops_per_s"]
        assert 1e3 / speed == pytest.approx(calibration.at(name, "op_ns", 1), rel=0.15), name


def test_dearer_lines_never_help_one_lock(calibration: Calibration) -> None:
    mix = mix_of("alloc", calibration)
    cheap, dear = (simulate(calibration, "pool", 8, 8, mix, 4000, line_ns=ns)["mops_per_s"]
                   for ns in (10.0, 500.0))
    assert dear < cheap


def test_one_lock_is_the_first_to_be_full(calibration: Calibration) -> None:
    mix = mix_of("alloc", calibration)
    many = {name: simulate(calibration, name, 32, 32, mix, 8000)["mops_per_s"]
            for name in ("pool", "class", "handle")}
    assert many["pool"] < many["class"] and many["pool"] < many["handle"]


def test_cold_in_turns() -> None:
    """Two threads in strict turns on one class: always the other one's; on two: two times in three."""
    assert cold_in_turns([1.0], 1) == 1
    assert cold_in_turns([1.0, 1.0], 1) == pytest.approx(2 / 3)
    assert cold_in_turns([1.0], 2) == pytest.approx(2 / 3)


def test_a_mix_from_operations() -> None:
    found = scale.mix_of_operations(
        [(0, 1, 100), (0, 2, 0), (1, 1, 100), (1, 2, 0), (1, 9, 5), (0, 1, 3000), (2, 1, 0), (2, 1, 0)],
        4096)
    assert found == Mix(2, 0.0, 1, 2, True, (1.0, 1.0))
    with pytest.raises(UsageError, match="stores nothing"):
        scale.mix_of_operations([(1, 1, 5)], 4096)


def test_the_shipped_build_is_a_mix() -> None:
    found = scale.trace_mix(None)
    assert found.put > found.free > 0 and found.read > 0 and len(found.classes) > 20


def test_the_kernels_table() -> None:
    """One pool with one lock costs system time, class locks nearly none; less held, less lost."""
    classes = (3.0, 2.0, 1.0, 1.0, 1.0, 1.0)
    found = scale_kernel.added(classes, scale_kernel.ASSUMED, 20_000)
    assert found["pool"] > 0.05 and abs(found["class"]) < found["pool"] / 3
    half = scale_kernel.added(classes, scale_kernel.Assumed(held=0.5), 20_000)
    assert half["pool"] < found["pool"]


def test_the_command(file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    plot = tmp_path / "scale.png"
    assert cli_run(["lab", "scale", "--calibration", str(file), *LITTLE, "--units", "64",
                    "--workload", "alloc", "compact", "build", "--plot", str(plot), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    rows: list[dict[str, Any]] = found["rows"]
    assert {row["part"] for row in rows} == {"scale", "saturation", "memory"}
    cells = {(r["workload"], r["arm"], r["cores"]) for r in rows if r["part"] == "scale"}
    loads = ("alloc", "compact", "build")
    assert cells == {(w, a, n) for w in loads for a in MODEL_ARMS for n in (1, 4)}
    assert all(r["mops_per_s"] > 0 and 0 <= r["busiest_lock_use"] <= 1 for r in rows
               if r["part"] == "scale")
    used = {(r["arm"], r["cores"]): r["fragmentation"] for r in rows if r["part"] == "memory"}
    assert used["pools32", 1] > 1.5 * used["class", 1] >= 1.5, "pools that are nearly empty"
    assert plot.read_bytes().startswith(b"\x89PNG")


def test_predicted_beside_measured(file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli_run(["lab", "scale", "--calibration", str(file), "--cores", "2", "--ops", "400",
                    "--arm", "pool", "handle", "--no-memory", "--no-kernel", "--validate",
                    "--threads", "1", "2", *SMALL]) == 0
    text = capsys.readouterr().out
    assert "Predicted and measured" in text and "1 pool, handle" in text


def test_misuse(file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli_run(["lab", "scale", "--calibration", str(tmp_path / "none"), "--no-memory"]) == 2
    assert "cannot read" in capsys.readouterr().err
    (tmp_path / "other").write_text("{}")
    assert cli_run(["lab", "scale", "--calibration", str(tmp_path / "other"), "--no-memory"]) == 2
    assert "--calibrate" in capsys.readouterr().err
    content = json.loads(file.read_text())
    for spoil in ("line_ns", "wake_ns"):
        less = copy.deepcopy(content)
        less["rows"] = [row for row in less["rows"] if row.get("name") != spoil]
        with pytest.raises(UsageError, match="lacks"):
            Calibration(less)
    with pytest.raises(UsageError, match="no arm"):
        scale.Plan(arms=("x",)).check()


def test_runs_that_were_disturbed_are_repeated_but_not_for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scale_bench, "QUIET_PAUSE_S", 0.0)
    monkeypatch.setattr(scale_bench, "TRIES_LEAST", 6)
    shares = iter([0.5, 1.0, 0.9, 0.99, 0.2, 1.0])
    assert scale_bench.wanted_runs(lambda: (s := next(shares), s), 3, 40) == ([1.0, 0.99, 1.0], 0)
    shares = iter([0.5, 1.0, 0.9, *[0.1] * 40])
    assert scale_bench.wanted_runs(lambda: (s := next(shares), s), 3, 40) == ([1.0, 0.9, 0.5], 2)
    busy = iter([0.1 + 0.01 * i for i in range(40)])  # never quiet: the best of the few that were made
    found, bad = scale_bench.wanted_runs(lambda: (s := next(busy), s), 3, 40)
    assert found == pytest.approx([0.15, 0.14, 0.13]) and bad == 3
