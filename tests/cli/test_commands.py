"""Every bench and lab command at its smallest: it runs, and its JSON has the promised shape."""

from __future__ import annotations

import json
import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from coldmem.cli import main

SNAKE = re.compile(r"[a-z][a-z0-9_]*")
MACHINE = {"cpu_model", "cpus", "memory_bytes", "kernel", "python", "coldmem", "compiler",
           "load_1min_at_start", "governor"}
QUICK_LOCKS = ["--objects", "2048", "--repeats", "1", "--patience", "0", "--ops", "512"]


def keys(value: Any) -> set[str]:
    if isinstance(value, dict):
        return set(value) | {key for part in value.values() for key in keys(part)}
    return {key for part in value for key in keys(part)} if isinstance(value, list) else set()


def run_json(arguments: list[str], name: str, capsys: pytest.CaptureFixture[str]) -> Any:
    assert main.run([*arguments, "--json"]) == 0
    got = capsys.readouterr()
    found = json.loads(got.out)  # exactly one object: anything else on stdout would not parse
    assert set(found) == {"name", "machine", "settings", "rows"}
    assert found["name"] == name and found["rows"] and set(found["machine"]) >= MACHINE
    assert all(SNAKE.fullmatch(key) for key in keys(found)), keys(found)
    return found


@pytest.mark.parametrize("workload", ["alloc", "compact", "zswap"])
def test_lab_locks(workload: str, capsys: pytest.CaptureFixture[str]) -> None:
    found = run_json(
        ["lab", "locks", "--workload", workload, "--threads", "1", "3", *QUICK_LOCKS],
        "lab_locks", capsys,
    )
    rows = found["rows"]
    codecs = {"lz4", "none"} if workload == "zswap" else {"none"}
    assert {(r["arm"], r["threads"], r["codec"]) for r in rows} == {
        (arm, threads, codec)
        for arm in ("pools32", "pool", "class", "handle", "handle_magazine")
        for threads in (1, 3) for codec in codecs
    }
    for row in rows:
        assert {"arm", "workload", "codec", "threads", "mops_per_s", "real_s", "user_s", "sys_s",
                "wait_share", "used_bytes", "stored_bytes"} <= set(row)
        assert row["workload"] == workload and row["mops_per_s"] > 0
        # Under so small a limit 32 pools may hold nothing: their partly filled zspages take it all.
        least = 0 if row["arm"] == "pools32" else 1
        assert row["used_bytes"] >= row["stored_bytes"] >= least
        assert row["mops_per_s_min"] <= row["mops_per_s"] <= row["mops_per_s_max"]
        assert (workload == "alloc") == ("load_p999_ns" not in row)
        assert row["wait_share_by_lock"]
        if workload == "zswap":
            assert row["swap_bytes"] > 0 and row["written_back_units"] > 0
    # The state at the end is that of the operations, whatever the arm: one hash per column.
    for threads in (1, 3):
        for codec in codecs:
            hashes = {r["result_hash"] for r in rows if (r["threads"], r["codec"])
                      == (threads, codec)}
            assert len(hashes) == 1 and None not in hashes


def test_lab_locks_counts_time(capsys: pytest.CaptureFixture[str]) -> None:
    found = run_json(
        ["lab", "locks", "--workload", "compact", "--arm", "handle", "class", "--threads", "2",
         "--seconds", "0.05", "--repeats", "2", "--objects", "2000", "--patience", "0"],
        "lab_locks", capsys,
    )
    assert [row["arm"] for row in found["rows"]] == ["handle", "class"]
    for row in found["rows"]:
        assert row["repeats"] == 2 and row["moved_objects"] > 0
        assert row["load_p50_ns"] <= row["load_p99_ns"] <= row["load_p999_ns"]


def test_lab_locks_tables_and_plot(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for suffix, magic in ((".png", b"\x89PNG"), (".svg", b"<?xml"), (".pdf", b"%PDF")):
        picture = tmp_path / f"locks{suffix}"
        arguments = ["lab", "locks", "--workload", "alloc", "--threads", "1", "2",
                     "--plot", str(picture), *QUICK_LOCKS]
        assert main.run(arguments) == 0
        assert picture.read_bytes().startswith(magic)
    text = capsys.readouterr().out
    for figure in ("138.18", "1241.38", "1452.73", "149.45", "1240.45", "1844.69",
                   "138.23", "1242.37", "1469.71"):
        assert figure in text
    assert "the kernel's" in text and "alloc, 1 thread: class / pool" in text


def test_plot_needs_a_directory(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main.run(["lab", "locks", "--plot", str(tmp_path / "no" / "p.png")]) == 3
    assert "there is no directory" in capsys.readouterr().err


def test_plot_needs_matplotlib(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    assert main.run(["lab", "locks", "--plot", "p.png"]) == 3
    assert "pip install 'coldmem[plot]'" in capsys.readouterr().err


def test_lab_fragmentation(capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["lab", "fragmentation", "--live", "2000", "--churn", "1", "--arm", "class",
                 "handle", "pools32", "--chain", "8"]
    found = run_json(arguments, "lab_fragmentation", capsys)
    by_arm = {row["arm"]: row for row in found["rows"]}
    assert set(by_arm) == {"class", "handle", "pools32"}
    for row in by_arm.values():
        assert row["used_bytes"] >= row["compacted_used_bytes"] > row["stored_bytes"]
    # The same objects in all arms, and the waste that 32 pools were known for.
    assert len({(r["stored_bytes"], r["result_hash"]) for r in by_arm.values()}) == 1
    assert by_arm["pools32"]["fragmentation"] > 1.2 * by_arm["class"]["fragmentation"]
    assert main.run(arguments) == 0
    assert "1 pool, class lock" in capsys.readouterr().out


def test_bench_engine(capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["bench", "engine", "--repeats", "2", "--bytes", "256K"]
    found = run_json(arguments, "bench_engine", capsys)
    assert {(r["corpus"], r["unit_bytes"]) for r in found["rows"]} == {
        (corpus, unit)
        for corpus in ("text", "elf", "float64", "int64", "zeros", "random")
        for unit in (4096, 16384, 65536)
    }
    for row in found["rows"]:
        assert {"corpus", "unit_bytes", "codec", "ratio", "bare_ns", "coldmem_ns",
                "overhead_ratio"} <= set(row)
        assert row["bare_ns"] > 0 and row["coldmem_ns"] > 0 and row["ratio"] >= 1
    by_corpus: dict[str, set[str]] = {}
    for row in found["rows"]:
        by_corpus.setdefault(row["corpus"], set()).add(row["result_hash"])
    assert all(len(hashes) == 1 for hashes in by_corpus.values())
    assert main.run([*arguments, "--corpus", "text", "--unit", "4K"]) == 0
    assert "Goals" in capsys.readouterr().out


def test_bench_codecs(capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["bench", "codecs", "--seconds", "0.01", "--bytes", "256K", "--unit", "4K",
                 "--corpus", "float64_prices", "int64_range"]
    found = run_json(arguments, "bench_codecs", capsys)
    assert {(r["corpus"], r["codec"]) for r in found["rows"]} == {
        (corpus, codec) for corpus in ("float64_prices", "int64_range") for codec in ("lz4", "auto")
    }
    assert main.run(arguments) == 0
    assert "against lz4" in capsys.readouterr().out


def test_ctrl_c_ends_cleanly() -> None:
    """While native loops run in other threads: they are stopped, and nothing hangs."""
    process = subprocess.Popen(
        [sys.executable, "-m", "coldmem", "lab", "locks", "--workload", "alloc", "--threads", "4",
         "--seconds", "60", "--objects", "512"],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        # A suite that a shell started in the background has SIGINT ignored, and so would its children.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    assert process.stderr is not None
    for line in process.stderr:
        if line.startswith("1/"):
            break
    time.sleep(0.3)
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=60)
    assert process.returncode == 130
    assert out == "" and err.splitlines()[-1] == "coldmem: interrupted"
