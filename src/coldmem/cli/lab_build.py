"""``coldmem lab build``: a kernel build under a memory limit, for each way to swap."""

from __future__ import annotations

import shlex
from pathlib import Path

import click
from rich.console import Console

from coldmem.cli import output
from coldmem.cli.options import SIZE, SeveralValues, json_option
from coldmem.lab import build, build_goals
from coldmem.lab.arms import ARMS
from coldmem.lab.build import BuildPlan
from coldmem.lab.build_rows import median_of
from coldmem.lab.build_swap import BUILD_ARMS, COLDMEM_ARMS, DEFAULT_ARMS, FACES, FILE
from coldmem.lab.result import Result, Row
from coldmem.lab.seed import SEED
from coldmem.units import format_bytes

LABELS = {
    "none": "no limit", "zswap": "kernel zswap", "zram": "kernel zram", "swapfile": "swap file",
    "nbdkit": "nbdkit memory, no codec",
} | {name: f"coldmem, {ARMS[name].label}" for name in COLDMEM_ARMS}


@click.command("build", cls=SeveralValues)
@click.option("--limit", "limit_bytes", type=SIZE, default=build.LIMIT_BYTES,
              help="Of the memory cgroup that the build runs in. Default: 1G.")
@click.option("--swap", "swap_bytes", type=SIZE, default=build.SWAP_BYTES,
              help="Size of the swap area. Default: 4G.")
@click.option("--pool-max", "pool_bytes_max", type=SIZE, default=build.POOL_BYTES_MAX,
              help="What a compressed pool may take. Default: 2G.")
@click.option("--coldmem-pool-max", "coldmem_pool_bytes_max", type=SIZE,
              help="What coldmem's may take, to compare at equal memory; the rest goes to a file. "
                   "Default: --pool-max.")
@click.option("--jobs", type=click.IntRange(1), default=32, show_default=True, help="Of make.")
@click.option("--target", default="bzImage", show_default=True, help="What make builds.")
@click.option("--config", default="tinyconfig", show_default=True, help="How it is configured.")
@click.option("--source", type=click.Path(exists=True, path_type=Path),
              help="Archive or tree of the kernel. Default: Debian's in /usr/src.")
@click.option("--work", type=click.Path(file_okay=False, path_type=Path),
              help="Unpack here, and keep it for another time. Default: a folder that is removed.")
@click.option("--command", "program",
              help="Run this in place of a kernel build, in an empty tmpfs under the limit.")
@click.option("--arms", "arms", type=click.Choice(BUILD_ARMS), multiple=True, default=DEFAULT_ARMS,
              help="Ways to swap. Default: all but nbdkit.")
@click.option("--repeats", type=click.IntRange(1), default=3, show_default=True,
              help="Runs of each arm; the median counts.")
@click.option("--compressor", default="", help="Of the kernel's zswap. Default: as it is set.")
@click.option("--codec", default="lz4", show_default=True, help="Of coldmem.")
@click.option("--discard", is_flag=True,
              help="The kernel tells coldmem's device which clusters are free. It costs memory.")
@click.option("--face", type=click.Choice(FACES), default=FILE, show_default=True,
              help="What the block device is made of: a file that coldmem serves itself, or nbdfuse's "
                   "view of its NBD export.")
@click.option("--record", type=click.Path(dir_okay=False, path_type=Path),
              help="Write what the first run of the arm handle asks of its device: see lab replay.")
@click.option("--seconds", "run_s_max", type=click.FloatRange(0, min_open=True),
              default=build.RUN_S_MAX, show_default=True, help="A step that takes longer fails.")
@click.option("--spoil", is_flag=True, hidden=True)
@json_option
def command(as_json: bool, program: str | None, **options: object) -> int:
    """A kernel is built with less memory than it needs: on coldmem, and on what else there is.

    The experiment of the patch that this project comes from. Only the build is under the limit; the
    server behind the swap device is not. Needs root, Debian's linux-source, flex, bison, bc and
    libelf-dev (with --face nbdfuse libnbd-bin), and some minutes a run. Exit code 1: a build failed,
    or built other files than without a limit.
    """
    plan = BuildPlan(command=tuple(shlex.split(program or "")), **options)  # type: ignore[arg-type]
    with output.progress() as report:
        result = build.run(plan, report)
    if as_json:
        output.print_json(result)
    else:
        show(result, output.console())
    found = build.problems(result)
    for line in found:
        click.echo(f"coldmem: {line}", err=True)
    return 1 if found else 0


def show(result: Result, screen: Console) -> None:
    """The patch's table, ours below it, memory, and the goals."""
    _show_seed(screen)
    arms = list(dict.fromkeys(str(row["arm"]) for row in result.rows))
    rows = {arm: [row for row in result.rows if row["arm"] == arm] for arm in arms}
    _show_times(result, rows, screen)
    _show_memory(rows, screen)
    _show_goals(result, screen)


def _show_seed(screen: Console) -> None:
    made = output.table(
        "The kernel's patch: bzImage, -j32, limit 1 GB, its own machine",
        ["", "real s", "user s", "sys s", "real x 32 pools", "sys x 32 pools"],
    )
    for row in SEED:
        made.add_row(
            row.label, f"{row.real_s:.2f}", f"{row.user_s:.2f}", f"{row.sys_s:.2f}",
            f"{row.real_s / SEED[0].real_s:.3f}", f"{row.sys_s / SEED[0].sys_s:.3f}",
        )
    screen.print(made)
    screen.print()


def _show_times(result: Result, rows: dict[str, list[Row]], screen: Console) -> None:
    found = result.settings
    what = found["command"] or f"{found['config']}, {found['target']}, -j{found['jobs']}"
    made = output.table(
        f"Here: {what}, limit {format_bytes(int(str(found['limit_bytes'])))}, "
        f"median of {found['repeats']}",
        ["", "real s", "user s", "sys s", "server", "nbdfuse", "kernel thr.", "CPU s",
         "machine", "real x 32 pools", "CPU x", "real x zswap"],
    )
    for arm, runs in rows.items():
        made.add_row(
            LABELS[arm],
            *(_seconds(median_of(runs, name)) for name in ("real_s", "user_s", "sys_s")),
            _seconds(_server(runs)),
            *(_seconds(median_of(runs, name)) for name in (
                "fuse_cpu_s", "kernel_threads_cpu_s", "total_cpu_s", "machine_busy_s")),
            *(output.number(build_goals.paired(result.rows, arm, below, name)) for below, name in (
                ("pools32", "real_s"), ("pools32", "total_cpu_s"), ("zswap", "real_s"))),
        )
    screen.print(made)
    screen.print(
        "user and sys are of the build. CPU s: build, server, nbdfuse and threads of the kernel; "
        "machine: all that\nthe machine did meanwhile.", style="dim",
    )
    screen.print()


def _server(runs: list[Row]) -> float | None:
    parts = [median_of(runs, name) for name in ("server_user_s", "server_sys_s")]
    return None if None in parts else sum(part or 0.0 for part in parts)


def _seconds(value: float | None) -> str:
    return "-" if value is None else f"{value:.2f}"


def _size(value: float | None) -> str:
    return "-" if value is None else f"{value / (1 << 20):,.0f}"


def _show_memory(rows: dict[str, list[Row]], screen: Console) -> None:
    made = output.table(
        "Pages and memory",
        ["", "out k", "in k", "to disk k", "pool MiB", "holds", "pool/held", "server RSS",
         "cgroup + pool", "lock waits", "wait s", "PSI mem s", "objects"],
    )
    for arm, runs in rows.items():
        pool, held = (median_of(runs, f"pool_peak_{name}bytes") for name in ("", "original_"))
        made.add_row(
            LABELS[arm],
            *(_thousands(median_of(runs, n)) for n in ("pages_out", "pages_in", "written_back")),
            _size(pool), _size(held), output.number(pool / held if pool and held else None),
            _size(median_of(runs, "server_rss_peak_bytes")),
            _size(median_of(runs, "total_peak_bytes")),
            output.number(median_of(runs, "lock_waits")),
            output.number(median_of(runs, "lock_wait_s")),
            output.number(median_of(runs, "psi_memory_some_s")), _verdict(runs),
        )
    screen.print(made)
    screen.print()


def _thousands(value: float | None) -> str:
    return "-" if value is None else f"{value / 1000:,.0f}"


def _verdict(runs: list[Row]) -> str:
    if any(row["killed"] for row in runs):
        return "[red]killed[/]"
    if any(row["failure"] for row in runs):
        return "[red]failed[/]"
    return "[red]differ[/]" if any(row["first_difference"] for row in runs) else "same"


def _show_goals(result: Result, screen: Console) -> None:
    made = output.table("Goals", ["", "bound", "measured", ""])
    for goal in build_goals.judge(result.rows):
        met = {True: "[green]met[/]", False: "[red]missed[/]", None: "not all run"}[goal.met]
        made.add_row(goal.text, f"<= {goal.bound:g}", output.number(goal.measured, 4), met)
    screen.print(made)
