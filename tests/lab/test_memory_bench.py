"""`bench memory` at its smallest: values, rows, goals; and that the kernel gets its settings back."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from coldmem.errors import EnvironmentFailure, InternalError, UsageError
from coldmem.lab import memory_bench, memory_goals
from coldmem.lab.gate import Gate
from coldmem.lab.kernel_swap import SYSTEMS, ZSWAP_SETTINGS, KernelSystem
from coldmem.lab.memory_bench import Config, Plan
from coldmem.lab.memory_case import COLDMEM, ZRAM, ZSWAP, Case
from coldmem.lab.memory_corpora import KINDS, write_corpus
from coldmem.lab.memory_work import NAMES, PlainRegion, TouchWork
from coldmem.lab.postponed import PostponedSignals
from coldmem.linux import memory_group
from coldmem.linux.memory_group import MemoryGroup, find_hierarchy
from coldmem.linux.swap import in_use
from coldmem.linux.userfaultfd import rights_here

MIB = 1 << 20
PAGE = 4096
PAGES = 512
KEYS = {"system", "corpus", "workload", "delivery", "unit_bytes", "codec", "threads", "fault_p50_us",
        "fault_p99_us", "access_mean_us", "mb_per_s", "ratio", "footprint_peak_bytes"}
RIGHTS = rights_here()
needs_faults = pytest.mark.skipif(
    RIGHTS == "none", reason="userfaultfd gives this process no rights at all: see `coldmem doctor`"
)


# -- the touches -----------------------------------------------------------------------------------
def touch(work: TouchWork, name: str, threads: int, touches: int = 300) -> dict[str, int]:
    gate = Gate()
    work.prepare(name, gate, touches)
    crew = [threading.Thread(target=work.run, args=(n,)) for n in range(threads)]
    for thread in crew:
        thread.start()
    gate.open()
    for thread in crew:
        thread.join()
    return work.totals()


@pytest.fixture(scope="module")
def corpus() -> np.ndarray[Any, Any]:
    return np.random.default_rng(7).integers(0, 256, 100 * PAGE, np.uint8)


@pytest.mark.parametrize("threads", [1, 3])
def test_touches(threads: int, corpus: np.ndarray[Any, Any]) -> None:
    region = np.zeros(PAGES * PAGE, np.uint8)
    work = TouchWork(corpus, PAGES, threads)
    work.attach(region)
    assert touch(work, "fill", threads)["touches"] == PAGES
    want = np.resize(corpus, (PAGES, PAGE))
    pages = region.reshape(PAGES, PAGE)
    assert np.array_equal(pages[:, 8:], want[:, 8:])
    first_words = pages[:, :8].copy().view(np.uint64)[:, 0]
    assert np.array_equal(first_words, np.arange(PAGES))
    written = 0
    for name in NAMES[1:]:
        totals = touch(work, name, threads)
        random = name in ("random", "random_write", "hot_set")
        assert totals["touches"] == (300 * threads if random else PAGES)
        assert totals["bad_reads"] == 0 and totals["ns"] > 0 and totals["end_ns"] > 0
        assert sum(work.fault_times()) == totals["faults"]
        written += totals["touches"] if name in ("random_write", "rewrite") else 0
        assert work.verify()[0] == 0
    words = pages[:, :8].copy().view(np.uint64)[:, 0]
    assert int(words.sum()) == PAGES * (PAGES - 1) // 2 + written
    assert (words >= np.arange(PAGES) + 1).all()  # each page was rewritten once at least


def test_a_wrong_byte_shows(corpus: np.ndarray[Any, Any]) -> None:
    region = np.zeros(PAGES * PAGE, np.uint8)
    work = TouchWork(corpus, PAGES, 1)
    work.attach(region)
    touch(work, "fill", 1)
    region[77 * PAGE + 4095] ^= 1
    assert work.verify() == (1, 77)
    region[77 * PAGE + 4095] ^= 1
    region[PAGE : 2 * PAGE] = region[101 * PAGE : 102 * PAGE]  # another page with the same corpus
    assert work.verify() == (1, 1)
    assert touch(work, "sequential", 1)["bad_reads"] == 1


def test_misuse_of_touches(corpus: np.ndarray[Any, Any]) -> None:
    work = TouchWork(corpus, PAGES, 1)
    with pytest.raises(UsageError, match="attach"):
        work.prepare("fill", Gate())
    with pytest.raises(UsageError, match="not 512 pages"):
        work.attach(np.zeros(PAGE, np.uint8))
    work.attach(PlainRegion(PAGES * PAGE))
    with pytest.raises(UsageError, match="no workload"):
        work.prepare("walk", Gate())
    with pytest.raises(UsageError, match="thread 1 of 1"):
        work.run(1)
    with pytest.raises(UsageError, match="too few"):
        TouchWork(corpus, 1, 2)


@pytest.mark.parametrize("kind", KINDS)
def test_corpora(kind: str, tmp_path: Path) -> None:
    write_corpus(kind, MIB, tmp_path / "a")
    write_corpus(kind, MIB, tmp_path / "b")
    data = (tmp_path / "a").read_bytes()
    assert len(data) >= MIB and len(data) % PAGE == 0
    assert data == (tmp_path / "b").read_bytes()


# -- cases and rows --------------------------------------------------------------------------------
def small(**changes: Any) -> Plan:
    plan: dict[str, Any] = {
        "workloads": ("fill", "random_write"), "corpora": ("tree",), "repeats": 1,
        "region_bytes": 32 * MIB, "limit_bytes": 16 * MIB, "memory_max_bytes": 24 * MIB,
        "swap_max_bytes": 64 * MIB,
    }
    return Plan(**(plan | changes))


@needs_faults
@pytest.mark.parametrize("delivery", ["sigbus", "handler"])
def test_rows(delivery: str) -> None:
    if delivery == "handler" and RIGHTS != "full":
        pytest.skip(f"userfaultfd gives this process the rights {RIGHTS!r} only")
    result = memory_bench.run(small(workloads=NAMES, threads=(2,), configs=(Config(delivery),)))
    large = (Config(delivery, 65536),)
    result.rows += memory_bench.run(small(workloads=("rewrite",), configs=large)).rows
    cells = [(r["workload"], r["threads"], r["unit_bytes"]) for r in result.rows]
    default = result.rows[0]["unit_bytes"]
    assert cells == [*((w, 2, default) for w in NAMES), ("rewrite", 1, 65536)]
    for row in result.rows:
        assert set(row) >= KEYS
        assert (row["system"], row["corpus"], row["delivery"]) == (COLDMEM, "tree", delivery)
        assert row["mb_per_s"] > 0 and row["access_mean_us"] > 0 and row["ratio"] > 0
        assert row["mb_per_s_min"] <= row["mb_per_s"] <= row["mb_per_s_max"]
        assert row["fault_p50_us"] <= row["fault_p99_us"]
        # It did evict, and what the kernel counted is about what was allowed.
        assert row["counters"]["dropped"] + row["counters"]["loads"] > 0
        assert 12 * MIB < row["footprint_peak_bytes"] < 28 * MIB


def test_a_case_that_fails_says_so(tmp_path: Path) -> None:
    with pytest.raises(InternalError, match="FileNotFoundError"):
        memory_bench.run_case(Case(COLDMEM, "fill", str(tmp_path / "none"), 32 * MIB))


@pytest.mark.parametrize("wrong", [
    {"repeats": 0}, {"region_bytes": 5000}, {"threads": (0,)}, {"limit_bytes": 32 * MIB},
])
def test_misuse(wrong: dict[str, Any]) -> None:
    with pytest.raises(UsageError):
        memory_bench.run(small(**wrong))


# -- goals -----------------------------------------------------------------------------------------
def row(system: str, runs: list[float], delivery: str = "kernel", **changes: Any) -> dict[str, Any]:
    return {
        "system": system, "corpus": "tree", "workload": "random", "threads": 1, "codec": "auto",
        "delivery": delivery, "unit_bytes": 4096, "mb_per_s": sorted(runs)[len(runs) // 2],
        "mb_per_s_runs": runs, "fault_p50_us": 6.0, "fault_p99_us": 500.0, "ratio": 2.0, **changes,
    }


def test_goals() -> None:
    rows = [
        row(ZSWAP, [100, 100, 100]), row(ZRAM, [200, 100, 300], fault_p50_us=5.0),
        row(COLDMEM, [400, 230, 570], "sigbus", fault_p50_us=5.5, fault_p99_us=20.0),
        row(COLDMEM, [300, 230, 570], "handler"),
    ]
    by_text = {v.text: v for v in memory_goals.judge(rows)}
    sigbus, handler = ("sigbus", 4096, "auto"), ("handler", 4096, "auto")
    speed = by_text["random read, tree"]
    assert speed.by_config == {sigbus: 2.0, handler: 1.9}  # against zram, repeat by repeat
    assert speed.met(sigbus) is True and speed.met(handler) is False
    assert by_text["random fault p50, tree"].by_config[sigbus] == pytest.approx(1.1)
    assert by_text["random fault p50, tree"].met(sigbus) is False
    assert by_text["random fault p99, tree"].met(sigbus) is True
    assert by_text["fill beyond the limit, tree"].met(sigbus) is None
    assert by_text["slowest of all workloads against the kernel"].by_config[handler] == 1.9
    assert by_text["slowest of all workloads against sigbus"].by_config == {handler: 1.0}
    assert all(v.met(sigbus) is None for v in memory_goals.judge(rows[2:3]))


# -- the kernel's systems --------------------------------------------------------------------------
def state() -> dict[str, object]:
    """All that the kernel's systems may change."""
    settings = sorted(ZSWAP_SETTINGS.glob("*")) if ZSWAP_SETTINGS.exists() else []
    try:
        folder = find_hierarchy().folder
        groups = sorted(str(p) for p in folder.glob("coldmem-bench-*"))
    except EnvironmentFailure:
        groups = []
    return {
        "settings": {path.name: path.read_text() for path in settings},
        "swaps": in_use(),
        "devices": sorted(p.name for p in Path("/sys/block").glob("zram*")),
        "groups": groups,
        "files": sorted(str(p) for p in Path("/var/tmp").glob("coldmem-bench-*")),
    }


@pytest.fixture(params=SYSTEMS, ids=lambda system: system.name)
def system(request: pytest.FixtureRequest) -> KernelSystem:
    """One that works here; else a skip with the reason."""
    found: KernelSystem = request.param
    if os.environ.get("COLDMEM_KERNEL_TESTS") != "1":
        pytest.skip("changes the whole machine's swap for a while: set COLDMEM_KERNEL_TESTS=1")
    try:
        with found.ready(32 * MIB, 16 * MIB):
            pass
    except EnvironmentFailure as failure:
        pytest.skip(f"{found.name}: {failure}")
    return found


@pytest.fixture
def same_state() -> Iterator[None]:
    """The machine is as it was when the test began."""
    before = state()
    yield
    assert state() == before


@pytest.mark.usefixtures("same_state")
def test_kernel_is_restored_after_an_error(system: KernelSystem) -> None:
    before = state()
    with pytest.raises(RuntimeError), system.ready(32 * MIB, 16 * MIB) as fields:
        during = state()
        assert len(in_use()) == len(before["swaps"]) + 1  # type: ignore[arg-type]
        assert during["groups"] != before["groups"]
        assert Path(fields["limit_path"]).read_text().strip() == str(16 * MIB)
        raise RuntimeError


@needs_faults
@pytest.mark.usefixtures("same_state")
def test_with_kernel(system: KernelSystem) -> None:
    result = memory_bench.run(
        small(with_kernel=True, workloads=("rewrite",), memory_max_bytes=None)
    )
    rows = {r["system"]: r for r in result.rows}
    kernel, mine = rows[system.name], rows[COLDMEM]
    assert set(kernel) >= KEYS
    assert kernel["ratio"] > 1 and kernel["mb_per_s"] > 0 and kernel["delivery"] == "kernel"
    assert kernel["limit_bytes"] >= 16 * MIB
    assert kernel["footprint_peak_bytes"] > 12 * MIB
    # Equal footprint: what the better of the kernel's systems took is what coldmem may take.
    peaks = [r["footprint_peak_bytes"] for r in result.rows if r["system"] != COLDMEM]
    assert mine["memory_max_bytes"] == min(peaks)
    assert mine["footprint_peak_bytes"] < 1.15 * min(peaks)


@needs_faults
@pytest.mark.usefixtures("same_state")
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_kernel_is_restored_after_a_signal(system: KernelSystem, number: signal.Signals) -> None:
    command = ["bench", "memory", "--with-kernel", "--region", "64M", "--repeats", "50", "--corpus",
               "tree", "--workload", "random_write"]
    process = subprocess.Popen(
        [sys.executable, "-m", "coldmem", *command],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    assert process.stderr is not None
    for line in process.stderr:
        if line.startswith(f"{system.name}: tree"):
            break
    end = time.monotonic() + 30
    while not any("coldmem-bench" in p or "zram" in p for p in in_use()):
        assert time.monotonic() < end, "the system was never set up"
        time.sleep(0.005)
    process.send_signal(number)
    out, _ = process.communicate(timeout=60)
    assert process.returncode == (130 if number == signal.SIGINT else 128 + signal.SIGTERM)
    assert out == ""


def test_without_root_the_kernel_is_skipped(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    for one in SYSTEMS:
        with pytest.raises(EnvironmentFailure, match="root"), one.ready(32 * MIB, 16 * MIB):
            pass
    if RIGHTS == "none":
        return
    lines: list[str] = []
    result = memory_bench.run(small(with_kernel=True, workloads=("fill",)), lines.append)
    assert set(result.settings["skipped_systems"]) == {ZSWAP, ZRAM}  # type: ignore[call-overload]
    assert sum(line.startswith("SKIPPED") for line in lines) == 2
    assert [r["system"] for r in result.rows] == [COLDMEM]


def fake_proc(folder: Path, cgroup: str, mountinfo: str) -> Path:
    folder.mkdir()
    (folder / "cgroup").write_text(cgroup)
    (folder / "mountinfo").write_text(mountinfo)
    return folder


def test_hierarchies(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory_group, "_BUSY_S_MAX", 0.1)
    own = tmp_path / "v1" / "mine"
    own.mkdir(parents=True)
    proc = fake_proc(
        tmp_path / "p1", "4:memory:/mine\n0::/\n",
        f"30 20 0:28 / {tmp_path}/v1 rw - cgroup cgroup rw,memory\n",
    )
    assert find_hierarchy(proc).version == 1 and find_hierarchy(proc).folder == own
    unified = tmp_path / "v2"
    unified.mkdir()
    (unified / "cgroup.controllers").write_text("cpu memory io\n")
    proc = fake_proc(
        tmp_path / "p2", "0::/user.slice\n", f"30 20 0:28 / {unified} rw - cgroup2 cgroup2 rw\n"
    )
    found = find_hierarchy(proc)
    assert (found.version, found.folder) == (2, unified)
    proc = fake_proc(tmp_path / "p3", "0::/\n", "30 20 0:28 / /proc rw - proc proc rw\n")
    with pytest.raises(EnvironmentFailure, match="no memory controller"):
        find_hierarchy(proc)
    # v2 by its files: the controller is handed down for the time, and taken back.
    (unified / "cgroup.subtree_control").write_text("cpu\n")
    with pytest.raises(EnvironmentFailure):  # a plain folder is left behind non-empty: not a cgroup
        group = MemoryGroup(MIB, found)
        assert (unified / "cgroup.subtree_control").read_text() == "+memory"
        assert group.limit_path.read_text() == str(MIB)
        group.close()


# -- signals ---------------------------------------------------------------------------------------
def test_signals_are_postponed() -> None:
    former = signal.getsignal(signal.SIGINT)
    done = []
    with pytest.raises(KeyboardInterrupt), PostponedSignals() as signals:
        signal.raise_signal(signal.SIGINT)
        done.append("not interrupted")
        try:
            with signals.open():
                done.append("not reached")
        finally:
            signal.raise_signal(signal.SIGINT)
            done.append("cleaned up")
    assert done == ["not interrupted", "cleaned up"]
    with pytest.raises(SystemExit) as ended, PostponedSignals() as signals, signals.open():
        signal.raise_signal(signal.SIGTERM)
    assert ended.value.code == 128 + signal.SIGTERM
    assert signal.getsignal(signal.SIGINT) is former
