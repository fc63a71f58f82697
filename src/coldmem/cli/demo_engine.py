"""The engine's part of ``coldmem demo``: live progress, then a short table."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, TaskProgressColumn, TextColumn
from rich.progress import Progress as Bars

from coldmem.cli import output
from coldmem.lab import demo
from coldmem.lab.result import Row, rounded
from coldmem.units import format_bytes

PLAIN_LINES = 4  # of each phase, where there is no terminal
MB = 1e6

Watch = Callable[[demo.Progress], None]


def run(plan: demo.Plan) -> demo.Outcome:
    """Make the data, store it, read it back; progress on stderr."""
    with output.progress() as report:
        data = demo.make_data(plan, report)
    with _bars() as watch:
        return demo.run(plan, data, watch)


@contextmanager
def _bars() -> Iterator[Watch]:
    screen = Console(file=sys.stderr, highlight=False)
    if not screen.is_terminal:
        yield _plain_lines()
        return
    columns = (
        TextColumn("{task.description:<12}"), BarColumn(12), TaskProgressColumn(),
        TextColumn("{task.fields[speed]:>9}  in RAM {task.fields[ram]:>9}"),
        TextColumn("on disk {task.fields[disk]:>9}"),
    )
    with Bars(*columns, console=screen) as bars:
        tasks: dict[str, int] = {}

        def watch(now: demo.Progress) -> None:
            if now.phase not in tasks:
                tasks[now.phase] = bars.add_task(
                    now.phase, total=now.total_bytes, speed="", ram="", disk=""
                )
            bars.update(
                bars.task_ids[list(tasks).index(now.phase)], completed=now.done_bytes,
                speed=_speed(now), ram=format_bytes(now.ram_bytes),
                disk=format_bytes(now.disk_bytes),
            )

        yield watch


def _plain_lines() -> Watch:
    said: dict[str, int] = {}

    def watch(now: demo.Progress) -> None:
        step = PLAIN_LINES * now.done_bytes // now.total_bytes
        if step > said.get(now.phase, 0):
            said[now.phase] = step
            print(
                f"{now.phase}: {format_bytes(now.done_bytes)} of {format_bytes(now.total_bytes)}, "
                f"{_speed(now)}, in RAM {format_bytes(now.ram_bytes)}, "
                f"on disk {format_bytes(now.disk_bytes)}", file=sys.stderr, flush=True,
            )

    return watch


def _speed(now: demo.Progress) -> str:
    return f"{now.done_bytes / MB / max(now.seconds, 1e-9):.0f} MB/s"


def show(plan: demo.Plan, found: demo.Outcome, screen: Console) -> None:
    """The table at the end."""
    made = output.table("", ["kind of data", "stored", "in RAM", "on disk", "ratio"])
    made.title = None
    for row in found.kinds:
        ratio = row["ratio"]
        made.add_row(
            str(row["kind"]), *(format_bytes(float(str(row[k]))) for k in
                                ("stored_bytes", "ram_bytes", "disk_bytes")),
            f"{ratio:.2f}" if isinstance(ratio, float) else "no object",
        )
    kept = found.ram_bytes + found.disk_bytes
    made.add_section()
    made.add_row(
        "all, pool overhead included", format_bytes(found.total_bytes),
        format_bytes(found.ram_bytes), format_bytes(found.disk_bytes),
        f"{found.total_bytes / kept:.2f}", style="bold",
    )
    screen.print(made)
    most = max(found.wait_share_by_lock, key=lambda k: found.wait_share_by_lock[k], default="")
    screen.print(
        f"\nin {found.total_bytes / MB / found.store_s:.0f} MB/s, "
        f"out {found.total_bytes / MB / found.load_s:.0f} MB/s and compared, "
        f"{plan.threads} threads; "
        f"lock waits {output.percent(found.wait_share)} of thread time (most: {most})"
    )
    screen.print(
        f"pool: {format_bytes(plan.max_pool_bytes)} at most, "
        f"{format_bytes(found.peak_pool_bytes)} at its peak, "
        f"{format_bytes(found.metadata_bytes)} of metadata; "
        f"{found.written_back_units:,} units written back, {found.disk_loads:,} read from disk"
    )
    if not found.differences:
        n = found.total_bytes // plan.unit_bytes
        screen.print(f"[green]all {n:,} units came back unchanged[/]")


def complain(found: demo.Outcome) -> None:
    """What came back changed, on stderr."""
    n = len(found.differences)
    if not n:
        return
    print(f"coldmem: {n} units came back changed:", file=sys.stderr)
    for line in sorted(found.differences)[: demo.DIFFERENCES_SHOWN]:
        print(f"  {line}", file=sys.stderr)
    if n > demo.DIFFERENCES_SHOWN:
        print(f"  and {n - demo.DIFFERENCES_SHOWN} more", file=sys.stderr)


def settings(plan: demo.Plan) -> dict[str, object]:
    """For ``--json``."""
    return {
        "max_pool_bytes": plan.max_pool_bytes, "threads": plan.threads,
        "unit_bytes": plan.unit_bytes, "codec": plan.codec, "locking": plan.locking,
    }


def rows(found: demo.Outcome) -> list[Row]:
    """For ``--json``: each kind, then all together."""
    total: Row = {
        "kind": "all", "stored_bytes": found.total_bytes, "ram_bytes": found.ram_bytes,
        "disk_bytes": found.disk_bytes,
        "ratio": rounded(found.total_bytes / (found.ram_bytes + found.disk_bytes)),
        "store_mb_per_s": rounded(found.total_bytes / MB / found.store_s),
        "load_mb_per_s": rounded(found.total_bytes / MB / found.load_s),
        "wait_share": rounded(found.wait_share),
        "peak_pool_bytes": found.peak_pool_bytes, "differing_units": len(found.differences),
    }
    return [{"part": "engine", **row} for row in (*found.kinds, total)]
