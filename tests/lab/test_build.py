"""`lab build` on a program that is smaller than a kernel: results, failures, and that nothing is left.

What swaps needs root and Debian's tools, and is skipped loudly where they are missing.
"""

from __future__ import annotations

import json
import os
import shlex
import shutil
import signal
import subprocess
import sys
import tarfile
import time
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from coldmem.cli.main import run as cli_run
from coldmem.errors import EnvironmentFailure, UsageError
from coldmem.lab import build, build_goals, build_swap
from coldmem.lab.build import BuildPlan, digest, first_difference, problems, turns
from coldmem.lab.build_case import digests, result_files
from coldmem.lab.build_rows import median_of, row_of
from coldmem.lab.build_run import Attempt
from coldmem.lab.build_source import find_archive, missing_packages, require, unpacked
from coldmem.lab.build_swap import NBDKIT, NO_LIMIT, ZSWAP, SwapSettings, ready
from coldmem.lab.kernel_swap import ZSWAP_SETTINGS
from coldmem.lab.nbd_swap import mounted
from coldmem.linux.loop import LoopDevice
from coldmem.linux.memory_group import MemoryGroup, find_hierarchy
from coldmem.linux.swap import in_use
from coldmem.linux.usage import pressure_s, swap_events
from coldmem.nbd.trace import STORE, Trace

MIB = 1 << 20
# 40 MB of text in a tmpfs under a limit of 24 MiB, twice, and compared.
FILL = ("sh", "-c", "seq 1 2900000 > a; seq 1 2900000 > b; cmp a b; echo done > c")
FOLDER = "/var/tmp"


# -- without the kernel ----------------------------------------------------------------------------
def test_turns_begin_without_a_limit_and_with_another_arm_each_time() -> None:
    assert turns(("none", "a", "b"), 2) == [
        (0, "none"), (0, "a"), (0, "b"), (1, "none"), (1, "b"), (1, "a"),
    ]
    assert turns(("b",), 2) == [(0, "none"), (0, "b"), (1, "b")]  # the reference is always built


def test_the_first_difference_is_named() -> None:
    good = {"a.o": "1", "b.o": "2"}
    assert first_difference(good, dict(good)) == ""
    assert first_difference(good, {"a.o": "1", "b.o": "3"}) == "b.o"
    assert first_difference(good, {"a.o": "1"}) == "b.o"
    assert first_difference(good, {**good, "aa.o": "1"}) == "aa.o"
    assert digest(good) != digest({"a.o": "2", "b.o": "1"}) != digest({"a.o": "1"})


def test_what_counts_as_built(tmp_path: Path) -> None:
    for name in ("x/a.o", "vmlinux", "arch/bzImage", "a.c", "vmlinux.lds"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(name)
    (tmp_path / "l.o").symlink_to("vmlinux")
    names = [str(p.relative_to(tmp_path)) for p in result_files(tmp_path, False)]
    assert names == ["arch/bzImage", "vmlinux", "x/a.o"]
    assert len(digests(tmp_path, True)) == 5
    (tmp_path / "x/a.o").write_text("b")
    assert digests(tmp_path, False)["x/a.o"] != digests(tmp_path, False)["vmlinux"]


def attempt(arm: str, repeat: int, real_s: float, **fields: Any) -> Attempt:
    times = {"real_s": real_s, "user_s": 3.0, "sys_s": 2.0}
    return Attempt(arm, repeat, {**times, **fields}, {"a.o": "1"})


def test_rows() -> None:
    found = attempt(
        "zswap", 0, 10.0, kernel_threads_cpu_s=0.5, vm_pswpout=7, vm_pswpin=1, vm_zswpout=10,
        vm_zswpin=3, vm_zswpwb=5, pool_peak_bytes=9, copy_counters={"vm_pswpout": 4, "vm_pswpin": 0},
    )
    row = row_of(found, 64, "abc", None)
    # Of seven pages that went to the device, five had left before, to zswap.
    assert (row["pages_out"], row["pages_in"], row["written_back"]) == (12, 4, 5)
    assert row["copy_pages_out"] == 4 and row["total_cpu_s"] == 5.5
    assert row["server_user_s"] is None and row["fuse_cpu_s"] is None
    assert not [name for name in row if name.startswith("vm_")]
    failed = row_of(Attempt("pool", 0, failure="no", killed=True), 64, None, None)
    assert failed["killed"] and failed["total_cpu_s"] is None and failed["real_s"] is None
    assert median_of([row, failed], "real_s") == 10.0 and median_of([failed], "real_s") is None


def test_goals_compare_within_repeats() -> None:
    rows = [
        row_of(attempt(arm, repeat, real_s, total_peak_bytes=5, pool_peak_bytes=4), 64, "x", None)
        for arm, reals in {"pools32": (10.0, 20.0), "class": (10.1, 20.2), "handle": (11.0, 22.0),
                           "zswap": (10.0, 20.0)}.items()
        for repeat, real_s in enumerate(reals)
    ]
    assert build_goals.paired(rows, "class", "pools32", "real_s") == pytest.approx(1.01)
    met = {goal.text: goal.met for goal in build_goals.judge(rows)}
    assert met["class: real / 32 pools"] and not met["handle: real / 32 pools"]
    assert met["handle: real / the kernel's zswap"] and met["handle: memory of the pool / 32 pools"]
    assert met["builds that failed, were killed, or gave other objects"]
    rows[0]["killed"] = True
    assert not build_goals.judge(rows)[0].met
    assert {g.met for g in build_goals.judge(rows[:2])[1:]} == {None}


def test_packages_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    assert missing_packages({"sh": "dash", "no-such-tool": "some-package"}) == ["some-package"]
    with pytest.raises(EnvironmentFailure, match="apt install libelf-dev zz"):
        require({"no-such-tool": "zz"}, {"/no/libelf.h": "libelf-dev"})


def kernel_tree(folder: Path) -> Path:
    (folder / "scripts").mkdir(parents=True)
    (folder / "scripts" / "Makefile.build").write_text("")
    (folder / "Makefile").write_text("")
    return folder


def test_source(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(EnvironmentFailure, match="apt install linux-source"):
        find_archive(tmp_path)
    for version in ("6.9", "6.12", "5.10"):
        (tmp_path / f"linux-source-{version}.tar.xz").write_text("not one")
    newest = find_archive(tmp_path)
    assert newest.name == "linux-source-6.12.tar.xz"
    with pytest.raises(EnvironmentFailure, match="cannot be unpacked"):
        unpacked(newest, tmp_path / "work")
    assert not list((tmp_path / "work").iterdir())
    tree = kernel_tree(tmp_path / "linux-source-6.12")
    with tarfile.open(newest, "w:xz") as archive:
        archive.add(tree, tree.name)
    made = unpacked(newest, tmp_path / "work")
    assert (made / "scripts" / "Makefile.build").exists()
    assert unpacked(newest, tmp_path / "work") == made and unpacked(tree, tmp_path) == tree
    (tree / ".config").write_text("")
    with pytest.raises(UsageError, match="built already"):
        unpacked(tree, tmp_path)
    with pytest.raises(UsageError, match="no kernel source"):
        unpacked(tmp_path, tmp_path)
    with pytest.raises(UsageError, match="there is no"):
        unpacked(tmp_path / "nothing", tmp_path)


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({"repeats": 0}, "--repeats"), ({"jobs": 0}, "--jobs"), ({"limit_bytes": MIB}, "--limit"),
        ({"swap_bytes": 0}, "--swap"), ({"pool_bytes_max": 0}, "--pool-max"),
        ({"coldmem_pool_bytes_max": 0}, "--coldmem-pool-max"),
        ({"record": Path("x.npz"), "arms": ("pool",)}, "handle"),
    ],
)
def test_plans_that_make_no_sense(change: dict[str, Any], expected: str) -> None:
    with pytest.raises(UsageError, match=expected):
        BuildPlan(**change).check()


def test_without_root(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    with pytest.raises(EnvironmentFailure, match="root"):
        BuildPlan().check()


def test_other_swap_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(build_swap, "in_use", lambda: ["/dev/sda2"])
    with pytest.raises(EnvironmentFailure, match="/dev/sda2"):
        build_swap.check_machine(("swapfile",))


def test_accounts_of_the_kernel() -> None:
    assert set(swap_events()) >= {"pswpin", "pswpout"}
    assert all(value >= 0 for value in pressure_s().values())


# -- with it ---------------------------------------------------------------------------------------
def state() -> dict[str, object]:
    """All that a run changes."""
    settings = {p.name: p.read_text() for p in sorted(ZSWAP_SETTINGS.glob("*")) if p.is_file()}
    folder = find_hierarchy().folder
    return {
        "swaps": in_use(), "settings": settings, "mounts": sorted(mounted()),
        "groups": sorted(str(p) for p in folder.glob("coldmem-*")),
        "loops": sorted(str(p) for p in Path("/sys/block").glob("loop*/loop")),
        "files": sorted(str(p) for f in (FOLDER, "/tmp") for p in Path(f).glob("coldmem-build-*")),
        "processes": helpers(),
    }


def helpers(text: str = "coldmem-build-") -> list[int]:
    """Processes with `text` in their arguments."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            words = (folder / "cmdline").read_bytes().decode(errors="replace")
        except OSError:
            continue
        if text in words and int(folder.name) != os.getpid():
            found.append(int(folder.name))
    return found


@pytest.fixture(scope="module")
def can_swap() -> None:
    """A skip with the reason where the experiment cannot run."""
    if os.geteuid() != 0:
        pytest.skip("a memory cgroup, mounts and swap need root")
    try:
        build_swap.check_machine((NBDKIT, "handle"), build_swap.NBDFUSE)
        MemoryGroup(64 * MIB).close()
        subprocess.run(
            ["unshare", "--mount", "--pid", "--fork", "--mount-proc", "true"], check=True,
            capture_output=True,
        )
    except (EnvironmentFailure, subprocess.CalledProcessError) as failure:
        pytest.skip(f"this machine cannot swap to a device of ours: {failure}")


@pytest.fixture
def same_state(can_swap: None) -> Iterator[None]:
    """The machine is as it was when the test began."""
    before = state()
    yield
    assert state() == before


def plan(*arms: str, **options: Any) -> BuildPlan:
    made = BuildPlan(
        arms=arms, repeats=1, limit_bytes=24 * MIB, swap_bytes=128 * MIB, pool_bytes_max=64 * MIB,
        command=FILL, run_s_max=60,
    )
    return replace(made, **options)


@pytest.mark.usefixtures("same_state")
@pytest.mark.parametrize("face", build_swap.FACES)
def test_a_program_swaps_to_coldmem(tmp_path: Path, face: str) -> None:
    record = tmp_path / "record.npz"
    result = build.run(plan("none", "handle", "pools32", record=record, face=face))
    rows = {str(row["arm"]): row for row in result.rows}
    assert list(rows) == ["none", "handle", "pools32"] and problems(result) == []
    assert len({row["objects_sha256"] for row in result.rows}) == 1
    assert rows["none"]["pages_out"] == 0 and rows["none"]["limit_bytes"] is None
    for arm in ("handle", "pools32"):
        row = rows[arm]
        assert row["pages_out"] > 4000 and row["pages_in"] > 1000  # type: ignore[operator]
        assert row["loop_direct"] and row["oom_kills"] == 0 and row["files"] == 3
        assert row["pool_peak_original_bytes"] > row["pool_peak_bytes"] > 4 * MIB  # type: ignore[operator]
        assert row["cgroup_peak_bytes"] <= 24 * MIB < row["total_peak_bytes"]  # type: ignore[operator]
        assert row["server_user_s"] + row["server_sys_s"] > 0  # type: ignore[operator]
        assert (row["fuse_cpu_s"] > 0) == (face == "nbdfuse")  # type: ignore[operator]
        assert row["lock_acquisitions"] > 0  # type: ignore[operator]
        assert row["total_cpu_s"] >= row["user_s"] + row["sys_s"]  # type: ignore[operator]
    json.loads(result.to_json())
    trace = Trace.load(record)
    # Of what the kernel counts as out, a part is still on its way when the program has ended and the
    # area is given back, on a busy machine a tenth.
    assert np.count_nonzero(trace.op == STORE) >= 0.7 * rows["handle"]["pages_out"]  # type: ignore[operator]


@pytest.mark.usefixtures("same_state")
def test_a_pool_of_its_own_size_for_coldmem() -> None:
    result = build.run(plan("none", "handle", coldmem_pool_bytes_max=16 * MIB))
    row = next(row for row in result.rows if row["arm"] == "handle")
    assert problems(result) == []
    assert row["pool_peak_bytes"] <= 16 * MIB and row["written_back"] > 0  # type: ignore[operator]
    assert BuildPlan(coldmem_pool_bytes_max=5).pool_bytes_max_of("zswap") == build.POOL_BYTES_MAX


@pytest.mark.usefixtures("same_state")
def test_a_spoilt_file_is_found(capsys: pytest.CaptureFixture[str]) -> None:
    code = cli_run([
        "lab", "build", "--arms", "swapfile", "--repeats", "1", "--limit", "24M", "--swap", "128M",
        "--spoil", "--command", "sh -c 'seq 1 9 > x; seq 1 2900000 > z'",
    ])
    out, err = capsys.readouterr()
    assert code == 1 and "swapfile, repeat 1: z is not what was built" in err
    assert "differ" in out and "1844.69" in out


@pytest.mark.usefixtures("same_state")
def test_a_program_that_is_killed_or_fails_is_told() -> None:
    big = ("sh", "-c", "head -c 90M /dev/urandom > a")
    result = build.run(plan("swapfile", command=big, swap_bytes=16 * MIB))
    row = result.rows[-1]
    assert row["killed"] and row["oom_kills"] and row["failure"]
    assert [line for line in problems(result) if "killed for want of memory" in line]
    result = build.run(plan("handle", command=("sh", "-c", "echo bad luck; exit 7")))
    assert "ended with 7: bad luck" in problems(result)[0]


@pytest.mark.usefixtures("same_state")
def test_a_program_that_takes_too_long_is_ended() -> None:
    result = build.run(plan("handle", command=("sleep", "600"), run_s_max=1.0))
    assert all("not done after 1 s" in line for line in problems(result))
    assert len(problems(result)) == 2


def started(tmp_path: Path, face: str = "file") -> subprocess.Popen[str]:
    """The command, while its arm `handle` swaps."""
    process = subprocess.Popen(
        [sys.executable, "-m", "coldmem", "lab", "build", "--arms", "handle", "--repeats", "9",
         "--limit", "24M", "--swap", "128M", "--face", face,
         "--work", str(tmp_path / "coldmem-build-test"),
         "--command", shlex.join(FILL)],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    end = time.monotonic() + 60
    events = swap_events()["pswpout"]
    while not in_use() or swap_events()["pswpout"] < events + 1000:
        assert time.monotonic() < end and process.poll() is None, "it never swapped"
        time.sleep(0.01)
    return process


@pytest.mark.usefixtures("same_state")
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_nothing_is_left_after_a_signal(tmp_path: Path, number: signal.Signals) -> None:
    process = started(tmp_path)
    os.killpg(process.pid, number)  # as a terminal does
    out, _ = process.communicate(timeout=60)
    assert process.returncode == (130 if number == signal.SIGINT else 128 + signal.SIGTERM)
    assert out == "" and not list((tmp_path / "coldmem-build-test").iterdir())


@pytest.mark.usefixtures("same_state")
@pytest.mark.parametrize(
    ("face", "who"), [("nbdfuse", "nbdfuse"), ("nbdfuse", "coldmem\0nbd"), ("file", "coldmem\0nbd")])
def test_a_device_that_dies_is_told_and_nothing_is_left(
    tmp_path: Path, face: str, who: str
) -> None:
    process = started(tmp_path, face)
    mine = helpers(str(tmp_path / "coldmem-build-test"))
    victims = [p for p in mine if who in Path(f"/proc/{p}/cmdline").read_bytes().decode()]
    victims = [p for p in victims if p != process.pid]
    assert len(victims) == 1
    os.kill(victims[0], signal.SIGKILL)
    line = ""
    assert process.stderr is not None
    for line in process.stderr:
        if line.startswith("FAILED: handle"):
            break
    assert line.startswith("FAILED: handle")
    process.terminate()
    process.communicate(timeout=60)


@pytest.mark.usefixtures("same_state")
def test_kernel_arms_are_restored_after_an_error(tmp_path: Path) -> None:
    settings = SwapSettings(64 * MIB, 64 * MIB, Path(FOLDER))
    arms = ["swapfile", NBDKIT] if shutil.which("nbdkit") else ["swapfile"]
    arms += [ZSWAP] if ZSWAP_SETTINGS.exists() else []
    for arm in arms:
        folder = tmp_path / arm
        folder.mkdir()
        settings = SwapSettings(64 * MIB, 64 * MIB, folder)
        with pytest.raises(RuntimeError), ready(arm, settings) as swap:
            assert len(in_use()) == 1 and swap.pool()[1] >= 0
            swap.check()
            raise RuntimeError
        assert not in_use() and not list(folder.iterdir())
    with ready(NO_LIMIT, settings):
        assert not in_use()


@pytest.mark.usefixtures("same_state")
def test_loop_device_is_direct_where_the_file_system_is(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(bytes(4 * MIB))
    with ExitStack() as undo:
        loop = LoopDevice(path)
        undo.callback(loop.close)
        assert loop.path.is_block_device() and isinstance(loop.direct, bool)
        loop.path.write_bytes(b"hello")
    loop.close()  # once more does nothing
    assert path.read_bytes()[:5] == b"hello"
    with pytest.raises(EnvironmentFailure, match="no-such-file"):
        LoopDevice(tmp_path / "no-such-file")


@pytest.mark.usefixtures("same_state")
def test_group_kills_all_that_it_holds(can_swap: None) -> None:
    group = MemoryGroup(None)
    try:
        child = subprocess.Popen(
            ["sh", "-c", 'echo 0 > "$1"; sleep 600 & sleep 600', "sh", str(group.join_path)]
        )
        end = time.monotonic() + 20
        while len(group.members()) < 3:
            assert time.monotonic() < end
            time.sleep(0.01)
        assert group.kill() and group.members() == []
        assert child.wait(10) == -signal.SIGKILL and group.oom_kills() in (0, None)
    finally:
        group.close()

