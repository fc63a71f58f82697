"""``lab build``: a kernel is built under a memory limit, once for each way to swap.

Owns: the folder with the source, the swap file and the sockets, unless one was given; what `build_run`
sets up for a run. All of it is gone when it returns or raises, also on Ctrl-C and SIGTERM.
Guarantees: arms and repeats take turns, each repeat beginning with another arm; every file that was
built is compared with what was built without a limit.
Assumes: root. The build without a limit always takes part: the others are compared with it.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import tempfile
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path

from coldmem.errors import EnvironmentFailure, UsageError
from coldmem.lab.build_case import BuildCase
from coldmem.lab.build_rows import row_of
from coldmem.lab.build_run import Attempt, run_once
from coldmem.lab.build_source import BUILD_TOOLS, HEADERS, require, unpacked
from coldmem.lab.build_swap import (
    COLDMEM_ARMS,
    DEFAULT_ARMS,
    FILE,
    NO_LIMIT,
    SwapSettings,
    check_machine,
)
from coldmem.lab.postponed import PostponedSignals
from coldmem.lab.result import Result, Row
from coldmem.zswap.swapdir import default_directory

LIMIT_BYTES, SWAP_BYTES, POOL_BYTES_MAX = 1 << 30, 4 << 30, 2 << 30
LIMIT_BYTES_MIN = 16 << 20
RUN_S_MAX = 3600.0
RECORDED = "handle"
VM_SETTINGS = ("swappiness", "page-cluster")

Report = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class BuildPlan:
    """What is measured.

    Attributes
    ----------
    arms : tuple of str
        See `BUILD_ARMS`.
    coldmem_pool_bytes_max : int or None
        Another limit for coldmem's pool alone, so that it takes no more memory than the kernel's.
    command : tuple of str
        Run in an empty tmpfs in place of a kernel build; then every file that it leaves is compared.
    record : Path or None
        Where the first run of the arm `RECORDED` leaves what the device was asked for.
    work : Path or None
        A folder that is kept, with the unpacked source; None: one of our own.
    spoil : bool
        One file of one run is changed before it is compared: it must show.
    """

    arms: tuple[str, ...] = DEFAULT_ARMS
    repeats: int = 3
    limit_bytes: int = LIMIT_BYTES
    swap_bytes: int = SWAP_BYTES
    pool_bytes_max: int = POOL_BYTES_MAX
    coldmem_pool_bytes_max: int | None = None
    jobs: int = 32
    target: str = "bzImage"
    config: str = "tinyconfig"
    source: Path | None = None
    work: Path | None = None
    command: tuple[str, ...] = ()
    compressor: str = ""
    codec: str = "lz4"
    discard: bool = False
    face: str = FILE
    record: Path | None = None
    run_s_max: float = RUN_S_MAX
    spoil: bool = False

    def pool_bytes_max_of(self, arm: str) -> int:
        """What the pool of `arm` may take."""
        ours = self.coldmem_pool_bytes_max if arm in COLDMEM_ARMS else None
        return self.pool_bytes_max if ours is None else ours

    def check(self) -> None:
        """Raise UsageError where it makes no sense, EnvironmentFailure where it cannot be here."""
        if self.repeats < 1 or self.jobs < 1:
            raise UsageError("--repeats and --jobs must be 1 or more")
        if self.limit_bytes < LIMIT_BYTES_MIN:
            raise UsageError("--limit must be 16M or more")
        pool_bytes = min(self.pool_bytes_max, self.pool_bytes_max_of(RECORDED))
        if self.swap_bytes < self.limit_bytes // 4 or pool_bytes < LIMIT_BYTES_MIN:
            raise UsageError(
                "--swap must be a quarter of --limit or more, "
                "--pool-max and --coldmem-pool-max 16M or more"
            )
        if self.record is not None and RECORDED not in self.arms:
            raise UsageError(f"--record records the arm {RECORDED}, which is not among --arms")
        if os.geteuid() != 0:
            raise EnvironmentFailure("a memory cgroup, mounts and swap need root")
        check_machine(self.arms, self.face)
        if not self.command:
            require(BUILD_TOOLS, HEADERS)


def run(plan: BuildPlan, report: Report = lambda line: None) -> Result:
    """Measure everything in `plan`, taking turns."""
    plan.check()
    with PostponedSignals() as signals, ExitStack() as undo:
        folder = _folder(plan, undo)
        source = ""
        if not plan.command:
            report("unpacking the kernel's source")
            with signals.open():
                source = str(unpacked(plan.source, folder))
        tree = folder / "tree"
        undo.callback(shutil.rmtree, tree, ignore_errors=True)
        tree.mkdir(exist_ok=True)
        runs = folder / "run"
        undo.callback(shutil.rmtree, runs, ignore_errors=True)
        runs.mkdir(exist_ok=True)
        attempts = _turns(plan, _case(plan, str(tree), source), runs, signals, report)
    return _result(plan, attempts)


def _folder(plan: BuildPlan, undo: ExitStack) -> Path:
    if plan.work is not None:
        plan.work.mkdir(parents=True, exist_ok=True)
        return plan.work.absolute()
    folder = Path(tempfile.mkdtemp(prefix="coldmem-build-", dir=default_directory()))
    undo.callback(shutil.rmtree, folder)
    return folder


def _case(plan: BuildPlan, tree: str, source: str) -> BuildCase:
    if plan.command:
        return BuildCase(tree, "", "", [], [list(plan.command)], all_files=True)
    make = ["make", f"-j{plan.jobs}"]
    return BuildCase(tree, "", source, [["make", plan.config]], [[*make, *plan.target.split()]])


def turns(arms: tuple[str, ...], repeats: int) -> list[tuple[int, str]]:
    """(repeat, arm) in the order of the runs; the first is the one without a limit."""
    others = [arm for arm in dict.fromkeys(arms) if arm != NO_LIMIT]
    found = []
    for repeat in range(repeats):
        first = repeat % max(len(others), 1)
        found += [(repeat, arm) for arm in (NO_LIMIT, *others[first:], *others[:first])]
    return found if NO_LIMIT in arms else [t for t in found if t[1] != NO_LIMIT or t[0] == 0]


def _turns(
    plan: BuildPlan, case: BuildCase, runs: Path, signals: PostponedSignals, report: Report
) -> list[Attempt]:
    todo = turns(plan.arms, plan.repeats)
    attempts: list[Attempt] = []
    record = plan.record
    for number, (repeat, arm) in enumerate(todo):
        report(f"{number + 1}/{len(todo)}: {arm}, repeat {repeat + 1}")
        folder = Path(tempfile.mkdtemp(prefix=f"{arm}-", dir=runs))
        settings = SwapSettings(
            plan.swap_bytes, plan.pool_bytes_max_of(arm), folder, plan.compressor, plan.codec,
            record if arm == RECORDED else None, plan.discard, plan.face,
        )
        if arm == RECORDED:
            record = None
        try:
            attempt = run_once(
                arm, repeat, case, plan.limit_bytes, settings, plan.run_s_max, signals
            )
        except EnvironmentFailure as error:
            attempt = Attempt(arm, repeat, failure=str(error))
        shutil.rmtree(folder, ignore_errors=True)
        if plan.spoil and arm != NO_LIMIT and attempt.files:
            attempt.files[max(attempt.files)] = "spoilt"
            plan = replace(plan, spoil=False)
        attempts.append(attempt)
        report(_told(attempt))
    return attempts


def _told(attempt: Attempt) -> str:
    if attempt.failure:
        why = "killed for want of memory: " if attempt.killed else ""
        return f"FAILED: {attempt.arm}: {why}{attempt.failure}"
    found = attempt.fields
    return (f"  {attempt.arm}: real {found['real_s']:.2f} user {found['user_s']:.2f} "
            f"sys {found['sys_s']:.2f}, {len(attempt.files)} files")


def digest(files: dict[str, str]) -> str:
    """One hash over all files and their names."""
    state = hashlib.sha256()
    for name in sorted(files):
        state.update(f"{name} {files[name]}\n".encode())
    return state.hexdigest()


def first_difference(expected: dict[str, str], found: dict[str, str]) -> str:
    """The first file that is not the same in both; empty: they are equal."""
    names = sorted(expected.keys() | found.keys())
    return next((name for name in names if expected.get(name) != found.get(name)), "")


def _result(plan: BuildPlan, attempts: list[Attempt]) -> Result:
    reference = next((a.files for a in attempts if a.arm == NO_LIMIT and not a.failure), {})
    rows: list[Row] = []
    for attempt in attempts:
        differs = ""
        if not attempt.failure and reference:
            differs = first_difference(reference, attempt.files)
        rows.append(row_of(
            attempt, plan.limit_bytes, digest(attempt.files) if attempt.files else None,
            differs or None,
        ))
    settings: dict[str, object] = {
        "limit_bytes": plan.limit_bytes, "swap_bytes": plan.swap_bytes,
        "pool_bytes_max": plan.pool_bytes_max,
        "coldmem_pool_bytes_max": plan.coldmem_pool_bytes_max, "jobs": plan.jobs, "target": plan.target,
        "config": plan.config, "command": " ".join(plan.command) or None,
        "source": plan.source.name if plan.source else None, "repeats": plan.repeats,
        "arms": list(plan.arms), "codec": plan.codec, "discard": plan.discard, "face": plan.face,
    }
    for name in VM_SETTINGS:
        settings[name.replace("-", "_")] = int(Path("/proc/sys/vm", name).read_text())
    return Result("lab_build", settings, rows)


def problems(result: Result) -> list[str]:
    """A sentence for each run that failed, was killed, or built something else."""
    found = []
    for row in result.rows:
        run_name = f"{row['arm']}, repeat {int(str(row['repeat'])) + 1}"
        if row["killed"]:
            found.append(f"{run_name}: killed for want of memory: {row['failure']}")
        elif row["failure"]:
            found.append(f"{run_name}: {row['failure']}")
        elif row["first_difference"]:
            found.append(f"{run_name}: {row['first_difference']} is not what was built without a limit")
    return found
