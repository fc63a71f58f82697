"""The locking experiment in a few seconds, for ``coldmem demo``: one workload, one small table."""

from __future__ import annotations

from rich.console import Console

from coldmem.cli import output
from coldmem.lab import goals, locks
from coldmem.lab.arms import ARMS
from coldmem.lab.result import Result, Row
from coldmem.lab.workloads import Load

THREADS = (2, 8)
REPEATS = 3
WORKLOAD = "alloc"


def run(seconds: float) -> Result:
    """All arms, each for `seconds` a few times; progress on stderr."""
    plan = locks.Plan(
        (WORKLOAD,), threads=THREADS, repeats=REPEATS, load=Load(seconds, None, 4096), quiet_tries=1
    )
    with output.progress() as report:
        return locks.run(plan, lambda line: report(f"locks: {line}"))


def show(found: Result, screen: Console) -> None:
    """One line for each arm, one group of columns for each number of threads."""
    columns = [""]
    for threads in THREADS:
        columns += [f"{threads} threads: Mops/s", "x 32 pools", "waiting"]
    made = output.table(
        "Five ways of locking the allocator: malloc, write, read, free of compressed units", columns)
    by_arm: dict[str, dict[object, Row]] = {name: {} for name in ARMS}
    for row in found.rows:
        by_arm[str(row["arm"])][row["threads"]] = row
    for name, arm in ARMS.items():
        cells = [arm.label]
        for threads in THREADS:
            row = by_arm[name][threads]
            ratio = goals.paired_ratio(row, by_arm["pools32"][threads])
            cells += [f"{row['mops_per_s']:.2f}", "-" if ratio is None else f"{ratio:.2f}",
                      output.percent(row["wait_share"])]
        made.add_row(*cells)
    screen.print(made)
    screen.print(
        "32 pools is what a kernel's zswap had before its patch of 2024, one pool with a lock for each "
        "class what it\nhas since; the last two are coldmem's own. A ratio is the median of the ratios "
        "within each repeat.\nRuns are short here: `coldmem lab locks` has all workloads, and spread.",
        style="dim",
    )


def rows(found: Result) -> list[Row]:
    """For ``--json``."""
    return [{"part": "locks", **row} for row in found.rows]
