"""``coldmem lab replay``: the swapping of a recorded build, against the engine alone."""

from __future__ import annotations

from pathlib import Path

import click
from rich.console import Console

from coldmem.cli import output
from coldmem.cli.options import SIZE, SeveralValues, json_option
from coldmem.lab import goals, replay
from coldmem.lab.arms import ARMS
from coldmem.lab.replay import ReplayPlan
from coldmem.lab.result import Result
from coldmem.units import format_bytes


@click.command("replay", cls=SeveralValues)
@click.argument("path", metavar="[FILE]", required=False,
                type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.option("--threads", type=click.IntRange(1, 1024), multiple=True, default=replay.THREADS,
              show_default=True, help="How many threads; several values make several rows.")
@click.option("--arms", type=click.Choice(list(ARMS)), multiple=True, default=tuple(ARMS),
              help="Which ways of locking. Default: all.")
@click.option("--repeats", type=click.IntRange(1), default=5, show_default=True,
              help="Runs of each arm; the median counts.")
@click.option("--rounds", type=click.IntRange(1), default=1, show_default=True,
              help="How often a run goes through the trace, each time from an empty pool.")
@click.option("--codec", default="none", show_default=True,
              help="Compress and decompress as well, units that come to about the recorded sizes.")
@click.option("--memory-max", "memory_max_bytes", type=SIZE,
              help="Limit of the pool; the rest goes to a swap file. Default: none.")
@json_option
def command(
    path: Path | None, threads: tuple[int, ...], arms: tuple[str, ...], repeats: int, rounds: int,
    codec: str, memory_max_bytes: int | None, as_json: bool,
) -> None:
    """The stores, loads and trims of a kernel build's swap, without a kernel build and without root.

    FILE is what lab build or nbd recorded, and stands before the options; without it, a build that
    ships with coldmem is taken.

    Slots are shared out among the threads, and each does what was recorded of its own, in order, as
    fast as it can. Everything that is loaded is compared with what was stored.
    """
    plan = ReplayPlan(path, threads, arms, repeats, rounds, codec, memory_max_bytes)
    with output.progress() as report:
        result = replay.run(plan, report)
    if as_json:
        output.print_json(result)
    else:
        show(result, output.console())


def show(result: Result, screen: Console) -> None:
    """One table."""
    found = result.settings
    made = output.table(
        f"{found['trace']}: {found['stores']} stores, {found['loads']} loads, {found['trims']} trims, "
        f"at most {format_bytes(int(str(found['live_bytes_max'])))} at a time",
        ["", "threads", "Mops/s", "min .. max", "x 32 pools", "waiting", "used/stored", "to disk"],
    )
    base = {r["threads"]: r for r in result.rows if r["arm"] == "pools32"}
    last = result.rows[0]["threads"]
    for row in result.rows:
        if row["threads"] != last:
            made.add_row()
            last = row["threads"]
        pools = base.get(row["threads"])
        made.add_row(
            ARMS[str(row["arm"])].label, str(row["threads"]), output.number(row["mops_per_s"]),
            f"{row['mops_per_s_min']:.3f} .. {row['mops_per_s_max']:.3f}",
            output.number(None if pools is None else goals.paired_ratio(row, pools)),
            output.percent(row["wait_share"]), output.number(row["fragmentation"]),
            str(row["written_back_units"]),
        )
    screen.print(made)
