"""The tools around the package: they say what is missing, and invent nothing."""

import importlib.util
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


def load(path):
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def figures(tmp_path, monkeypatch):
    module = load(ROOT / "tools" / "figures.py")
    monkeypatch.setattr(module, "RESULTS", tmp_path)
    return module


def engine_row(corpus, unit, ratio):
    return {"corpus": corpus, "unit_bytes": unit, "codec": "lz4", "overhead_ratio": ratio}


def test_figures_come_from_the_results(figures, tmp_path):
    machine = {"cpu_model": "A CPU", "cpus": 2, "kernel": "6.18", "python": "3.11.7"}
    rows = [engine_row("a", 4096, 1.03), engine_row("b", 4096, 1.07), engine_row("c", 4096, 1.05),
            engine_row("zeros", 4096, None), engine_row("a", 65536, 1.0)]
    (tmp_path / "engine.json").write_text(
        json.dumps({"name": "bench engine", "machine": machine, "settings": {}, "rows": rows}))
    text = figures.figures()
    assert "| lz4 | 4K | 3 | 1.050 | 1.070 |" in text
    assert "| lz4 | 64K | 1 | 1.000 | 1.000 |" in text
    assert "A CPU, 2 CPUs, Linux 6.18, Python 3.11.7" in text


def test_figures_of_the_lock_experiment(figures, tmp_path):
    rows = [
        {"workload": "alloc", "codec": "none", "arm": arm, "threads": threads, "mops_per_s": mops}
        for arm, threads, mops in [("pool", 1, 4.871), ("pool", 32, 1.9), ("handle", 32, 6.2)]
    ]
    (tmp_path / "locks.json").write_text(
        json.dumps({"name": "lab locks", "machine": {}, "settings": {}, "rows": rows}))
    text = figures.figures()
    assert "| 1 thread | 32 threads |" in text
    assert "| alloc | none | `pool` | 4.87 | 1.90 |" in text
    assert "| alloc | none | `handle` |  | 6.20 |" in text


def test_arms_are_shown_beside_32_pools(figures, tmp_path):
    rows = [
        {"workload": "alloc", "codec": "none", "arm": arm, "threads": 2,
         "mops_per_s": runs[1], "mops_per_s_runs": runs}
        for arm, runs in [("pools32", [4.0, 2.0, 1.0]), ("class", [8.0, 3.0, 2.0])]
    ]
    (tmp_path / "locks.json").write_text(
        json.dumps({"name": "lab locks", "machine": {}, "settings": {}, "rows": rows}))
    assert "| alloc | none | `class` | 3.00 (2.00) |" in figures.figures()


def test_figures_of_dask(figures, tmp_path):
    """A ratio is to the quicker one of Dask's own, in the same repeat; what failed does not count."""
    rows = [
        {"job": "join", "data_kind": "random", "disk": "slow", "system": system, "repeat": repeat,
         "seconds": seconds, "failed": failed}
        for system, repeat, seconds, failed in [
            ("spillbuffer", 0, 40.0, None), ("spillbuffer-lz4", 0, 50.0, None),
            ("coldmem", 0, 20.0, None), ("spillbuffer", 1, 90.0, None),
            ("spillbuffer-lz4", 1, 60.0, None), ("coldmem", 1, 42.0, None),
            ("coldmem", 2, 1.0, "killed")]
    ]
    settings = {"workers": 2, "limit_bytes": 1 << 29, "size_bytes": 3 << 30}
    (tmp_path / "dask_slow.json").write_text(
        json.dumps({"name": "bench dask", "machine": {}, "settings": settings, "rows": rows}))
    assert "| join | random | slow |  | 65 | 55 | 31 (0.60) |" in figures.figures()


def test_figures_of_the_kernel_build(figures, tmp_path):
    def row(arm, repeat, real, **more):
        return {"arm": arm, "repeat": repeat, "failure": None, "real_s": real, "user_s": 10.0,
                "sys_s": 2.0, "total_cpu_s": real, "total_peak_bytes": 1 << 30,
                "server_user_s": None, **more}

    rows = [row("none", 0, 50.0), row("zswap", 0, 100.0), row("zswap", 1, 200.0),
            row("pools32", 0, 100.0, server_user_s=1.0), row("handle", 0, 110.0, server_user_s=1.0),
            row("handle", 1, 180.0, server_user_s=1.0), row("handle", 2, 9.0, failure="killed")]
    settings = {"config": "tinyconfig", "jobs": 32, "limit_bytes": 1 << 30, "repeats": 2}
    content = {"machine": {}, "settings": settings, "rows": rows}
    (tmp_path / "build.json").write_text(json.dumps(content))
    text = figures.figures()
    assert "| no limit | 50 | 10 | 2 | 50 |  |  | 1024 |" in text
    assert "| coldmem, handle | 145 | 10 | 2 | 145 | 1.00 | 1.10 | 1024 |" in text


def test_figures_without_results_say_so(figures):
    assert "Nothing has been measured" in figures.figures()
    assert figures.updated(f"a\n{figures.BEGIN}\nold\n{figures.END}\nb") == (
        f"a\n{figures.figures()}\nb")


def test_requirements_are_those_of_pyproject():
    for name in ("build", "test", "lint", "docs"):
        done = subprocess.run(
            [sys.executable, ROOT / "tools" / "requirements.py", name],
            check=True, capture_output=True, text=True)
        assert done.stdout.split()


def test_the_machine_check_is_silent_where_all_is_there():
    done = subprocess.run([sys.executable, ROOT / "tools" / "check_machine.py"],
                          capture_output=True, text=True)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_the_machine_check_names_a_missing_compiler():
    done = subprocess.run(
        [sys.executable, ROOT / "tools" / "check_machine.py"],
        env=os.environ | {"CC": "no-such-compiler -O2"}, capture_output=True, text=True)
    assert done.returncode == 1
    assert "no-such-compiler" in done.stderr


@pytest.mark.skipif(shutil.which("make") is None, reason="needs make")
class TestMake:
    def make(self, *arguments, path):
        return subprocess.run(
            [shutil.which("make"), *arguments], cwd=ROOT, env={"PATH": str(path)},
            capture_output=True, text=True)

    @pytest.fixture
    def tools_without_python(self, tmp_path):
        for name in ("sh", "awk", "find", "cksum", "tr", "cat", "rm", "echo", "nproc", "true", "test"):
            there = shutil.which(name)
            if there:
                (tmp_path / name).symlink_to(there)
        return tmp_path

    def test_help_lists_each_target(self, tools_without_python):
        done = self.make("help", path=tools_without_python)
        assert done.returncode == 0
        for target in ("demo", "test", "lint", "bench", "lab", "tsan", "htmldocs", "pdfdocs"):
            assert f"make {target} " in done.stdout

    def test_without_python_it_says_what_to_do(self, tools_without_python):
        done = self.make("-n", "build", "VENV=no-such-venv", path=tools_without_python)
        assert "no Python 3.11 or later" in done.stdout + done.stderr

    def test_an_old_python_is_refused(self, tools_without_python):
        old = tools_without_python / "python3"
        old.write_text("#!/bin/sh\nexit 1\n")  # as every candidate that is older than 3.11 does
        old.chmod(0o755)
        done = self.make("check-python", path=tools_without_python)
        assert done.returncode != 0
        assert "no Python 3.11 or later" in done.stderr
