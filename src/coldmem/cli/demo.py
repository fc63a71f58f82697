"""``coldmem demo``: the main job, with live progress and a short table."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import click
from rich.console import Console
from rich.progress import BarColumn, TaskProgressColumn, TextColumn
from rich.progress import Progress as Bars

from coldmem.cli import output
from coldmem.cli.options import SIZE, json_option
from coldmem.lab import demo
from coldmem.lab.result import Result, rounded
from coldmem.units import format_bytes

PLAIN_LINES = 4  # of each phase, where there is no terminal
MB = 1e6

Watch = Callable[[demo.Progress], None]


@click.command("demo")
@click.option("--max-pool", type=SIZE, default="64M", show_default=True,
              help="Limit of the pool; four times as much data is stored.")
@click.option("--threads", type=click.IntRange(1, 256), default=4, show_default=True,
              help="Threads that store and read.")
@click.option("--unit", type=SIZE, default="4K", show_default=True, help="4K, 16K or 64K.")
@click.option("--codec", default="lz4", show_default=True, help="lz4, zstd, zlib, auto, raw, ...")
@click.option("--locking", type=click.Choice(["handle", "class", "pool"]), default="handle",
              show_default=True, help="How the pool locks.")
@click.option("--swap-directory", type=click.Path(exists=True, file_okay=False),
              help="Where the swap file lives. Default: a directory for temporary files.")
@click.option("--spoil", is_flag=True, hidden=True,
              help="Change one stored unit before reading back: the demo must notice.")
@json_option
@click.pass_context
def command(
    ctx: click.Context, max_pool: int, threads: int, unit: int, codec: str, locking: str,
    swap_directory: str | None, spoil: bool, as_json: bool,
) -> None:
    """Store real data of this machine, read all of it back, compare every byte.

    Takes text and shared libraries of the Python installation and NumPy arrays made on the spot,
    four times as much as the pool may hold: what does not fit goes to a swap file, compressed. Ends
    with 1 if anything came back changed.
    """
    plan = demo.Plan(max_pool, threads, unit, codec, locking, swap_directory, spoil=spoil)
    plan.check()
    with output.progress() as report:
        data = demo.make_data(plan, report)
    with _bars() as watch:
        outcome = demo.run(plan, data, watch)
    if as_json:
        output.print_json(_result(plan, outcome))
    else:
        _show(plan, outcome, output.console())
    if outcome.differences:
        _complain(outcome)
        ctx.exit(1)


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


def _show(plan: demo.Plan, found: demo.Outcome, screen: Console) -> None:
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


def _complain(found: demo.Outcome) -> None:
    n = len(found.differences)
    print(f"coldmem: {n} units came back changed:", file=sys.stderr)
    for line in sorted(found.differences)[: demo.DIFFERENCES_SHOWN]:
        print(f"  {line}", file=sys.stderr)
    if n > demo.DIFFERENCES_SHOWN:
        print(f"  and {n - demo.DIFFERENCES_SHOWN} more", file=sys.stderr)


def _result(plan: demo.Plan, found: demo.Outcome) -> Result:
    settings = {
        "max_pool_bytes": plan.max_pool_bytes, "threads": plan.threads,
        "unit_bytes": plan.unit_bytes, "codec": plan.codec, "locking": plan.locking,
    }
    total = {
        "kind": "all", "stored_bytes": found.total_bytes, "ram_bytes": found.ram_bytes,
        "disk_bytes": found.disk_bytes,
        "ratio": rounded(found.total_bytes / (found.ram_bytes + found.disk_bytes)),
        "store_mb_per_s": rounded(found.total_bytes / MB / found.store_s),
        "load_mb_per_s": rounded(found.total_bytes / MB / found.load_s),
        "wait_share": rounded(found.wait_share),
        "peak_pool_bytes": found.peak_pool_bytes, "differing_units": len(found.differences),
    }
    return Result("demo", settings, [*found.kinds, total])
