"""`bench programs` at its smallest: results, rows, ratios, and that a wrong result shows."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from coldmem.cli import main
from coldmem.errors import EnvironmentFailure, InternalError, UsageError
from coldmem.lab import program_bench, program_blosc2, program_case
from coldmem.lab.child import KilledError, TooSlowError, run_child
from coldmem.lab.kernel_swap import SYSTEMS, limited
from coldmem.lab.memory_case import COLDMEM, ZRAM, ZSWAP
from coldmem.lab.program_bench import SYSTEM_NAMES, ProgramPlan
from coldmem.lab.program_case import BLOSC2, MEMMAP, NO_LIMIT, digest
from coldmem.lab.program_jobs import PROGRAMS, Outcome
from coldmem.lab.program_rows import Attempt, paired, rows_of, verdict
from coldmem.linux.memory_group import find_hierarchy
from coldmem.linux.userfaultfd import rights_here
from coldmem.zswap.swapdir import default_directory

MIB = 1 << 20
SMALL = {"size_bytes": 32 * MIB, "limit_bytes": 16 * MIB, "repeats": 1}
TOLD = {"program", "system", "seconds", "seconds_min", "seconds_max", "work_s", "ratio_to_no_limit",
        "coldmem_ratio", "footprint_peak_bytes", "allowed_bytes", "faults", "swap_bytes", "result"}
RIGHTS = rights_here()
needs_faults = pytest.mark.skipif(
    RIGHTS == "none", reason="userfaultfd gives this process no rights at all: see `coldmem doctor`"
)


def plain(shape: tuple[int, ...], kind: str) -> Any:
    return np.full(shape, 99, kind)


def need(name: str) -> None:
    module = PROGRAMS[name].needs
    if module and find_spec(module) is None:
        pytest.skip(f"{module} is not installed: the 'test' extra has it")


def same(found: Outcome, want: Outcome) -> bool:
    close = [np.allclose(a, b, rtol=1e-6) for a, b in zip(found.close, want.close, strict=True)]
    return digest(found.exact) == digest(want.exact) and all(close)


# -- the programs ----------------------------------------------------------------------------------
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.parametrize("name", PROGRAMS)
def test_programs(name: str, tmp_path: Path) -> None:
    need(name)
    program = PROGRAMS[name]
    want = program.work(program.make(plain, 2 * MIB, 1))
    assert want.exact or want.close
    assert same(program.work(program.make(plain, 2 * MIB, 1)), want)
    assert not same(program.work(program.make(plain, 2 * MIB, 9)), want)
    files = program_case._Files(str(tmp_path))
    assert same(program.work_in_files(program.make(files, 2 * MIB, 1), files), want)
    assert list(tmp_path.iterdir())
    files.close()
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("name", program_blosc2.WORK)
def test_blosc2(name: str) -> None:
    pytest.importorskip("blosc2", reason="blosc2 is not installed: the 'test' extra has it")
    need(name)
    program = PROGRAMS[name]
    found = program_blosc2.WORK[name](program.make(program_blosc2.empty, MIB, 1))
    assert same(found, program.work(program.make(plain, MIB, 1)))


def test_each_program_is_in_blosc2_or_has_a_reason() -> None:
    assert program_blosc2.WORK.keys() | program_blosc2.CANNOT.keys() == PROGRAMS.keys()
    assert not program_blosc2.WORK.keys() & program_blosc2.CANNOT.keys()


def test_a_digest_sees_every_byte() -> None:
    array = np.zeros((1000, 300))
    want = digest([array])
    array[999, 299] = 1e-300
    assert digest([array]) != want
    assert digest([np.zeros((300, 1000))]) != want


# -- rows ------------------------------------------------------------------------------------------
def attempt(seconds: float, exact: str | None = "a", close: tuple[float, ...] = ()) -> Attempt:
    return Attempt({
        "seconds": seconds, "make_s": 0.5, "work_s": seconds - 0.5, "user_s": 1.0, "sys_s": 0.1,
        "footprint_peak_bytes": MIB, "compressed_bytes": 0, "swap_bytes": 0, "faults": 3,
        "disturbed": False, "exact": exact, "close": list(close),
    }, allowed_bytes=MIB)


def test_rows_have_paired_ratios() -> None:
    found = {
        NO_LIMIT: [attempt(1.0), attempt(2.0), attempt(4.0)],
        COLDMEM: [attempt(3.0), attempt(4.0), attempt(20.0)],
        MEMMAP: [attempt(6.0), Attempt(failure="killed", killed=1), attempt(10.0)],
        BLOSC2: [],
    }
    rows = {row["system"]: row for row in rows_of("sort", found, {BLOSC2: "it cannot"})}
    assert rows[COLDMEM]["ratio_to_no_limit"] == 3.0  # of 3, 2 and 5
    assert rows[COLDMEM]["coldmem_ratio"] == 1.0
    assert rows[MEMMAP]["coldmem_ratio"] == 1.25  # of 0.5 and 2
    assert rows[MEMMAP]["work_ratio_to_no_limit"] == pytest.approx(6.857)
    assert (rows[MEMMAP]["repeats"], rows[MEMMAP]["killed_runs"]) == (2, 1)
    assert rows[MEMMAP]["failed"] == "killed"
    assert (rows[COLDMEM]["seconds_min"], rows[COLDMEM]["seconds_max"]) == (3.0, 20.0)
    assert (rows[BLOSC2]["skipped"], rows[BLOSC2]["result"]) == ("it cannot", None)
    assert rows[BLOSC2]["seconds"] is None and rows[BLOSC2]["ratio_to_no_limit"] is None
    assert paired([], found[NO_LIMIT], "seconds") is None


def test_verdicts() -> None:
    want = [attempt(1.0, "a", (1.0, 2.0))] * 2
    assert verdict(want, want) == "reference"
    assert verdict([attempt(1.0, "a", (1.0, 2.0 + 1e-9))] * 2, want) == "close"
    assert verdict([want[0], attempt(1.0, "a", (1.0, 2.1))], want) == "differs"
    assert verdict([attempt(1.0, "b", (1.0, 2.0))], want) == "differs"
    assert verdict([attempt(1.0, "a", (1.0,))], want) == "differs"
    assert verdict([attempt(1.0, "a", (1.0, float("nan")))], want) == "differs"
    assert verdict([attempt(1.0)], [attempt(2.0)]) == "equal"
    assert verdict([Attempt(failure="killed")], want) is None
    varying = [attempt(1.0, "a"), attempt(1.0, "b")]
    assert verdict(varying, varying) == "differs"


# -- children --------------------------------------------------------------------------------------
def test_how_a_child_may_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "ends.py").write_text(
        "import json, os, signal, sys, time\n"
        "how = json.load(sys.stdin)\n"
        "if how == 'killed': os.kill(os.getpid(), signal.SIGKILL)\n"
        "if how == 'slow': time.sleep(600)\n"
        "print(json.dumps({'how': how}) if how == 'well' else 1 / 0)\n"
    )
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    assert run_child("ends", '"well"', "a", 60) == {"how": "well"}
    with pytest.raises(KilledError, match="a: killed"):
        run_child("ends", '"killed"', "a", 60)
    with pytest.raises(TooSlowError, match="not done after"):
        run_child("ends", '"slow"', "a", 0.2)
    with pytest.raises(InternalError, match="ZeroDivisionError"):
        run_child("ends", '"badly"', "a", 60)


# -- the whole -------------------------------------------------------------------------------------
@pytest.mark.parametrize("wrong", [
    {"repeats": 0}, {"size_bytes": MIB}, {"limit_bytes": 32 * MIB}, {"limit_bytes": MIB},
    {"run_s_max": 0.0},
])
def test_misuse(wrong: dict[str, Any]) -> None:
    with pytest.raises(UsageError):
        program_bench.run(ProgramPlan(**(SMALL | wrong)))


@needs_faults
def test_json(capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["bench", "programs", "--program", "sort", "matmul", "--system", COLDMEM, BLOSC2,
                 "--size", "32M", "--limit", "16M", "--repeats", "2"]
    assert main.run([*arguments, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    rows = {(row["program"], row["system"]): row for row in found["rows"]}
    for program in ("sort", "matmul"):
        mine, reference = rows[program, COLDMEM], rows[program, NO_LIMIT]
        assert set(mine) >= TOLD
        assert (reference["result"], mine["result"]) == ("reference", "equal")
        assert mine["result_hash"] == reference["result_hash"]
        assert mine["repeats"] == 2 and mine["faults"] > 0 and mine["ratio_to_no_limit"] > 0
        assert mine["seconds_min"] <= mine["seconds"] <= mine["seconds_max"]
        assert mine["memory_max_bytes"] <= mine["allowed_bytes"] == 16 * MIB
        assert 8 * MIB < mine["footprint_peak_bytes"] < 24 * MIB < reference["footprint_peak_bytes"]
    if find_spec("blosc2") is not None:
        assert rows["matmul", BLOSC2]["result"] == "equal"
        assert "structured" in rows["sort", BLOSC2]["skipped"]


@needs_faults
def test_a_wrong_result_ends_with_1(capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["bench", "programs", "--program", "sort", "--system", COLDMEM, "--size", "32M",
                 "--repeats", "1", "--spoil"]
    assert main.run(arguments) == 1
    got = capsys.readouterr()
    assert "sort in coldmem: another result than without a limit" in got.err
    assert "differs" in got.out


def test_what_cannot_run_is_skipped_loudly(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    monkeypatch.setattr(program_bench, "find_spec", lambda name: None)
    arguments = ["bench", "programs", "--program", "kmeans", "sort", "--system", ZSWAP, ZRAM, MEMMAP,
                 BLOSC2, "--size", "32M", "--repeats", "1", "--json"]
    assert main.run(arguments) == 0
    got = capsys.readouterr()
    found = json.loads(got.out)
    assert set(found["settings"]["skipped_systems"]) == {ZSWAP, ZRAM, MEMMAP, BLOSC2}
    for name in (ZSWAP, ZRAM, MEMMAP, BLOSC2):
        assert f"coldmem: SKIPPED {name}: " in got.err
    rows = {row["program"]: row for row in found["rows"]}
    assert "scikit-learn is not installed" in rows["kmeans"]["skipped"]
    assert rows["sort"]["result"] == "reference"


def test_a_run_that_is_too_slow_is_a_row(capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["bench", "programs", "--program", "sort", "--system", NO_LIMIT, "--size", "32M",
                 "--repeats", "3", "--seconds", "0.01"]
    assert main.run(arguments) == 0
    got = capsys.readouterr()
    assert "sort in no-limit: not done after 0.01 s" in got.out
    assert got.err.count("sort: no-limit, repeat") == 1  # it is not tried again


# -- what needs root -------------------------------------------------------------------------------
@pytest.fixture
def groups(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """A function: the cgroup of a process, if it has one, and files. Ours are gone at the end."""
    monkeypatch.setenv("TMPDIR", str(tmp_path))  # else others' files would be seen as well
    if default_directory() != str(tmp_path):
        pytest.skip(f"{tmp_path} is in RAM: no place for files of arrays")
    try:
        with limited(16 * MIB):
            folder = find_hierarchy().folder
    except EnvironmentFailure as failure:
        pytest.skip(str(failure))

    def listed(pid: int) -> list[Path]:
        return [*folder.glob(f"coldmem-bench-{pid}"), *tmp_path.glob("coldmem-bench-*")]

    yield listed
    assert not listed(os.getpid())


@needs_faults
def test_memmap(groups: Any) -> None:
    plan = ProgramPlan(programs=("sort",), systems=(COLDMEM, MEMMAP), **SMALL)
    rows = {row["system"]: row for row in program_bench.run(plan).rows}
    assert rows[MEMMAP]["result"] == "equal"
    assert rows[MEMMAP]["allowed_bytes"] == rows[COLDMEM]["allowed_bytes"] == 16 * MIB
    assert int(str(rows[MEMMAP]["footprint_peak_bytes"])) <= 16 * MIB


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_nothing_is_left_after_a_signal(groups: Any, number: signal.Signals) -> None:
    process = subprocess.Popen(
        [sys.executable, "-m", "coldmem", "bench", "programs", "--program", "sort", "--system",
         MEMMAP, "--size", "64M", "--repeats", "100"],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    assert process.stderr is not None
    for line in process.stderr:
        if line.startswith("sort: memmap"):
            break
    end = time.monotonic() + 60
    while len(groups(process.pid)) < 2:  # the cgroup and the folder of files
        assert time.monotonic() < end, "memmap was never set up"
        time.sleep(0.005)
    process.send_signal(number)
    out, _ = process.communicate(timeout=60)
    assert process.returncode == (130 if number == signal.SIGINT else 128 + signal.SIGTERM)
    assert out == "" and not groups(process.pid)


@needs_faults
@pytest.mark.parametrize("system", SYSTEMS, ids=lambda system: system.name)
def test_equal_footprint(system: Any, groups: Any) -> None:
    if os.environ.get("COLDMEM_KERNEL_TESTS") != "1":
        pytest.skip("changes the whole machine's swap for a while: set COLDMEM_KERNEL_TESTS=1")
    plan = ProgramPlan(programs=("sort",), systems=(system.name, COLDMEM, MEMMAP), **SMALL)
    result = program_bench.run(plan)
    if system.name in result.settings["skipped_systems"]:  # type: ignore[operator]
        pytest.skip(f"{system.name}: {result.settings['skipped_systems']}")
    rows = {str(row["system"]): row for row in result.rows}
    if rows[system.name]["seconds"] is None:
        pytest.skip(f"{system.name}: {rows[system.name]['failed']}")
    taken = rows[system.name]["footprint_peak_bytes"]
    assert rows[system.name]["result"] == rows[COLDMEM]["result"] == "equal"
    assert rows[COLDMEM]["allowed_bytes"] == rows[MEMMAP]["allowed_bytes"] == max(taken, 16 * MIB)
    assert rows[COLDMEM]["footprint_peak_bytes"] < 1.2 * max(taken, 16 * MIB)


def test_the_order_of_systems() -> None:
    """What the kernel takes must be known before it is the turn of those that get as much."""
    order = SYSTEM_NAMES
    assert order[0] == NO_LIMIT
    assert max(order.index(ZSWAP), order.index(ZRAM)) < min(order.index(COLDMEM), order.index(MEMMAP))
