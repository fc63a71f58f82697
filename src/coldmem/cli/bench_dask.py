"""``coldmem bench dask``: workers with coldmem's store beside workers with Dask's own."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import click
from rich.console import Console

from coldmem.cli import output
from coldmem.cli.options import SIZE, SeveralValues, json_option
from coldmem.lab import dask_bench
from coldmem.lab.dask_bench import DISKS, MIB, DaskPlan
from coldmem.lab.dask_case import SYSTEMS
from coldmem.lab.dask_goals import cell_of, judge
from coldmem.lab.dask_jobs import DATA_KINDS, JOBS
from coldmem.lab.result import Result, Row, Spread

QUICK = {"disks": ("fast",), "times": 0.1, "parts": 24}


@click.command("dask", cls=SeveralValues)
@click.option("--jobs", type=click.Choice(list(JOBS)), multiple=True, default=tuple(JOBS),
              help="Which jobs. Default: all three.")
@click.option("--data-kinds", type=click.Choice(DATA_KINDS), multiple=True, default=DATA_KINDS,
              help="Default: both.")
@click.option("--disks", type=click.Choice(DISKS), multiple=True,
              help="As it is, or throttled (root). Default: both.")
@click.option("--systems", type=click.Choice(SYSTEMS), multiple=True, default=SYSTEMS,
              help="Default: all that can run.")
@click.option("--repeats", type=click.IntRange(1), default=1, show_default=True)
@click.option("--workers", type=click.IntRange(1), default=2, show_default=True)
@click.option("--threads", type=click.IntRange(1), default=1, show_default=True,
              help="Of each worker.")
@click.option("--limit", "limit_bytes", type=SIZE, default="512M", show_default=True,
              help="Memory limit of each worker.")
@click.option("--times", type=float, help="Data, in sums of the workers' limits. Default: 3.")
@click.option("--parts", type=click.IntRange(1), help="Pieces of the data. Default: 160.")
@click.option("--slow", "slow_bytes_per_s", type=SIZE,
              help="Of the slow disk, in a second. Default: 200 MB.")
@click.option("--quick", is_flag=True,
              help="A tenth of the memory as data, one disk; other options still count.")
@click.option("--spoil", is_flag=True, hidden=True, help="Change what a system found: we must notice.")
@json_option
@click.pass_context
def command(ctx: click.Context, /, quick: bool, as_json: bool, disks: tuple[str, ...],
            **more: object) -> None:
    """Join, rechunk and groupby of more data than the workers' memory, on a LocalCluster.

    Time, peak memory by the kernel's account, bytes to disk and workers killed, with coldmem.dask and
    with Dask's SpillBuffer, plain and with LZ4. Root gives them a memory cgroup and a disk of their own.
    Results are compared; ends with 1 if one differs. All of it takes about 50 minutes.
    """
    plan = DaskPlan()
    if quick:
        plan = replace(plan, **QUICK)  # type: ignore[arg-type]
    if disks:
        plan = replace(plan, disks=disks)
    given = {name: value for name, value in more.items() if value is not None}
    plan = replace(plan, **given)  # type: ignore[arg-type]
    with output.progress() as report:
        result = dask_bench.run(plan, report)
    skipped = result.settings["skipped"]
    assert isinstance(skipped, list)
    for row in skipped:
        click.echo(f"coldmem: SKIPPED {row['what']}: {row['reason']}", err=True)
    if as_json:
        output.print_json(result)
    else:
        show(result, output.console())
    wrong = dask_bench.differing(result)
    for line in wrong:
        click.echo(f"coldmem: wrong: {line}", err=True)
    if wrong:
        ctx.exit(1)


def _median(rows: Sequence[Row], figure: str, unit: float = 1.0) -> str:
    values = [float(v) / unit for row in rows if isinstance(v := row[figure], int | float)]
    return output.number(Spread.of(values).median if values else None)


def show(result: Result, screen: Console) -> None:
    """A table of all runs, and the goals."""
    settings = result.settings
    made = output.table(
        f"{settings['workers']} workers of {int(str(settings['limit_bytes'])) // MIB} MiB, "
        f"{int(str(settings['size_bytes'])) // MIB} MiB of data",
        ["job", "data", "disk", "store", "seconds", "min .. max", "peak MiB", "written MiB", "read MiB",
         "paused s", "killed", "CPU s"], left=4)
    groups: dict[tuple[str, ...], list[Row]] = {}
    for row in result.rows:
        groups.setdefault((*cell_of(row), str(row["system"])), []).append(row)
    last: object = None
    for (*cell, system), rows in sorted(groups.items(), key=lambda item: item[0][:3]):
        if last not in (None, cell):
            made.add_row()
        last = cell
        times = [float(v) for row in rows if isinstance(v := row["seconds"], int | float)]
        spread = Spread.of(times) if times else None
        killed = sum(int(str(row["killed_workers"] or 0)) for row in rows)
        made.add_row(
            *cell, system, output.number(spread.median if spread else "failed"),
            f"{output.number(spread.low)} .. {output.number(spread.high)}" if spread else "-",
            _median(rows, "peak_bytes", MIB), _median(rows, "disk_written_bytes", MIB),
            _median(rows, "disk_read_bytes", MIB), _median(rows, "paused_s"), str(killed),
            _median(rows, "machine_cpu_s"))
    screen.print(made)
    screen.print()
    verdicts = output.table("Goals: coldmem's time by the quickest of Dask's own stores, and no worker "
                            "killed", ["job", "data", "disk", "goal", "ratio", "killed", ""], left=3)
    words = {True: "[green]met[/]", False: "[red]missed[/]", None: "not measured"}
    for verdict in judge(result.rows):
        verdicts.add_row(*verdict.cell, f"<= {verdict.bound}", output.number(verdict.ratio),
                         str(verdict.killed_workers), words[verdict.met])
    screen.print(verdicts)
