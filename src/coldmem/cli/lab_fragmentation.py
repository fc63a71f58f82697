"""``coldmem lab fragmentation``."""

from __future__ import annotations

import click

from coldmem.cli import output
from coldmem.cli.options import SeveralValues, json_option
from coldmem.lab import fragmentation
from coldmem.lab.arms import ARMS
from coldmem.lab.result import Result
from coldmem.units import format_bytes

GOAL_LIVE, GOAL_CHURNED, GOAL_COMPACTED = 200_000, 1.04, 1.015


@click.command("fragmentation", cls=SeveralValues)
@click.option("--live", type=click.IntRange(16), multiple=True, default=fragmentation.LIVE,
              show_default=True, help="Objects alive; several values make several rows.")
@click.option("--arm", "arms", type=click.Choice(list(ARMS)), multiple=True,
              default=fragmentation.ARM_NAMES, show_default=True, help="Which pools.")
@click.option("--churn", type=click.FloatRange(0, min_open=True), default=5.0, show_default=True,
              help="Random operations per slot.")
@click.option("--chain", "chains", type=click.IntRange(1, 16), multiple=True,
              default=fragmentation.CHAINS, show_default=True, help="Longest zspage, in units.")
@json_option
def command(
    live: tuple[int, ...], arms: tuple[str, ...], churn: float, chains: tuple[int, ...],
    as_json: bool,
) -> None:
    """Memory used per byte stored: after random churn, and after compaction.

    Two arms by default: one pool, and the 32 pools that once worked around the pool lock. Every
    arm gets the same operations on the same objects, made from data of this machine.
    """
    with output.progress() as report:
        result = fragmentation.run(live, arms, churn, chains, report=report)
    if as_json:
        output.print_json(result)
    else:
        _show(result)


def _show(result: Result) -> None:
    screen = output.console()
    made = output.table(
        "Memory used / bytes stored (1 would be no waste at all)",
        ["", "live objects", "chain", "stored", "after churn", "compacted", "objects moved"],
    )
    for row in result.rows:
        made.add_row(
            ARMS[str(row["arm"])].label, f"{row['live_objects']:,}", str(row["chain"]),
            format_bytes(float(str(row["stored_bytes"]))), f"{row['fragmentation']:.3f}",
            f"{row['compacted_fragmentation']:.3f}", f"{row['moved_objects']:,}",
        )
    screen.print(made)
    screen.print(
        f"Goal with {GOAL_LIVE:,} objects in one pool: {GOAL_CHURNED} after churn, "
        f"{GOAL_COMPACTED} compacted.", style="dim",
    )
