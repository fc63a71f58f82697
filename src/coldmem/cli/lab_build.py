"""``coldmem lab build``: a kernel build under a memory limit, for each way to swap."""

from __future__ import annotations

import shlex
from pathlib import Path

import click
from rich.console import Console

from coldmem.cli import output
from coldmem.cli.options import SIZE, SeveralValues, json_option
from coldmem.lab import build
from coldmem.lab.arms import ARMS
from coldmem.lab.build import BuildPlan
from coldmem.lab.build_rows import median_of
from coldmem.lab.build_swap import BUILD_ARMS, COLDMEM_ARMS, DEFAULT_ARMS, NO_LIMIT
from coldmem.lab.result import Result, Row
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
@click.option("--record", type=click.Path(dir_okay=False, path_type=Path),
              help="Write what the first run of the arm handle asks of its device: see lab replay.")
@click.option("--seconds", "run_s_max", type=click.FloatRange(0, min_open=True),
              default=build.RUN_S_MAX, show_default=True, help="A step that takes longer fails.")
@click.option("--spoil", is_flag=True, hidden=True)
@json_option
def command(as_json: bool, program: str | None, **options: object) -> int:
    """A kernel is built with less memory than it needs: on coldmem, and on what else there is.

    The experiment of the patch that this project comes from. Only the build is under the limit; the
    server behind the swap device is not. Needs root, Debian's linux-source, flex, bison, bc,
    libelf-dev and libnbd-bin, and some minutes a run. Exit code 1: a build failed, or built other
    files than without a limit.
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
    """Every table."""
    screen.print(result.rows and result.settings)


def _unused(row: Row) -> str:
    return format_bytes(0) + NO_LIMIT
