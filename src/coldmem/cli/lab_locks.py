"""``coldmem lab locks``: the locking experiment, its tables, and its picture."""

from __future__ import annotations

from pathlib import Path

import click
from rich.console import Console
from rich.markup import escape

from coldmem.cli import output
from coldmem.cli.options import SeveralValues, json_option
from coldmem.errors import EnvironmentFailure, MissingLibraryError
from coldmem.lab import goals, locks
from coldmem.lab.arms import ARMS
from coldmem.lab.result import Result, Row
from coldmem.lab.seed import SEED
from coldmem.lab.workloads import WORKLOADS, Load

TITLES = {
    ("alloc", "none"): "alloc: malloc, write, read, free of compressed units",
    ("compact", "none"): "compact: alloc with a compactor running",
    ("zswap", "lz4"): "zswap: store, load, invalidate under a memory limit, lz4",
    ("zswap", "none"): "zswap: the same on units that are compressed already",
}


@click.command("locks", cls=SeveralValues)
@click.option("--workload", "workloads", type=click.Choice(WORKLOADS), multiple=True,
              default=WORKLOADS, show_default=True, help="What the threads do.")
@click.option("--arm", "arms", type=click.Choice(list(ARMS)), multiple=True,
              default=tuple(ARMS), help="Which ways of locking. Default: all.")
@click.option("--threads", type=click.IntRange(1, 1024), multiple=True, default=locks.THREADS,
              show_default=True, help="How many threads; several values make several rows.")
@click.option("--seconds", type=click.FloatRange(0, min_open=True), default=0.5, show_default=True,
              help="Length of one run.")
@click.option("--repeats", type=click.IntRange(1), default=5, show_default=True,
              help="Runs of each arm; the median counts.")
@click.option("--ops", "ops_per_thread", type=click.IntRange(1),
              help="Operations per thread instead of --seconds: then the state at the end, and "
                   "with it result_hash, is the same for all arms.")
@click.option("--objects", type=click.IntRange(16), default=4096, show_default=True,
              help="Objects alive at any time; four times as many in zswap.")
@click.option("--patience", type=click.IntRange(0), default=3, show_default=True,
              help="How often a run is repeated when other processes used the CPUs meanwhile.")
@click.option("--plot", type=click.Path(dir_okay=False, path_type=Path),
              help="Draw the result into this file (.png, .svg or .pdf).")
@json_option
def command(
    workloads: tuple[str, ...], arms: tuple[str, ...], threads: tuple[int, ...], seconds: float,
    repeats: int, ops_per_thread: int | None, objects: int, patience: int,
    plot: Path | None, as_json: bool,
) -> None:
    """The same work in 32 pools and in one, with each way of locking.

    Threads work on slots of their own and share only the allocator. Throughput is measured without
    lock statistics; shares of waiting come from runs of their own. A full run takes some minutes;
    --workload, --arm, --threads, --seconds and --repeats narrow it.
    """
    if plot is not None:
        check_plot(plot)
    plan = locks.Plan(
        workloads, arms, threads, repeats,
        Load(None if ops_per_thread else seconds, ops_per_thread, objects),
        quiet_tries=1 + patience,
    )
    with output.progress() as report:
        result = locks.run(plan, report)
    if as_json:
        output.print_json(result)
    else:
        show(result, output.console())
    if plot is not None:
        from coldmem.lab.locks_plot import draw

        draw(result, plot)
        click.echo(f"drawn: {plot}", err=True)


def check_plot(path: Path) -> None:
    """Better refused now than after minutes of measuring."""
    try:
        import matplotlib  # noqa: F401
    except ImportError as error:
        raise MissingLibraryError(
            "--plot needs matplotlib: pip install 'coldmem[plot]'"
        ) from error
    if path.suffix not in (".png", ".svg", ".pdf"):
        raise click.BadParameter(f"{path.name}: end it in .png, .svg or .pdf", param_hint="--plot")
    if not path.absolute().parent.is_dir():
        raise EnvironmentFailure(f"there is no directory {path.absolute().parent}")


def show(result: Result, screen: Console) -> None:
    """Every table of the experiment."""
    for key, title in TITLES.items():
        rows = [r for r in result.rows if (r["workload"], r["codec"]) == key]
        if rows:
            _show_cell(key, title, rows, screen)
    _show_kernel(result, screen)
    _show_goals(result.rows, screen)


def _show_cell(key: tuple[str, str], title: str, rows: list[Row], screen: Console) -> None:
    columns = ["", "threads", "Mops/s", "min .. max", "x 32 pools", "waiting", "most at",
               "used/stored"]
    if key[0] == "compact":
        columns += ["moved", "read p50", "p99", "p99.9 ns"]
    if key[0] == "zswap":
        columns += ["to disk", "load p50", "p99", "p99.9 ns"]
    made = output.table(title, columns)
    base = {r["threads"]: r for r in rows if r["arm"] == "pools32"}
    last = rows[0]["threads"]
    for row in rows:
        if row["threads"] != last:
            made.add_row()
            last = row["threads"]
        made.add_row(*_cells(key[0], row, base.get(row["threads"])))
    screen.print(made)
    for row in rows:
        if row["refused_stores"]:
            screen.print(
                f"{ARMS[str(row['arm'])].label}, {row['threads']} threads: "
                f"{row['refused_stores']} stores were refused, the pool being full", style="yellow",
            )
    screen.print()


def _cells(workload: str, row: Row, base: Row | None) -> list[str]:
    speed = row["mops_per_s"]
    waits = row["wait_share_by_lock"]
    assert isinstance(speed, float) and isinstance(waits, dict)
    most = max(waits, key=lambda kind: waits[kind], default="")
    cells = [
        ARMS[str(row["arm"])].label, str(row["threads"]), f"{speed:.3f}",
        f"{row['mops_per_s_min']:.3f} .. {row['mops_per_s_max']:.3f}",
        output.number(None if base is None else goals.paired_ratio(row, base)),
        output.percent(row["wait_share"]), most if waits.get(most) else "-",
        output.number(row["fragmentation"]),
    ]
    if workload == "compact":
        cells.append(f"{row['moved_objects']:,}")
    if workload == "zswap":
        cells.append(f"{row['written_back_units']:,}")
    if workload != "alloc":
        cells += [output.number(row[f"load_{p}_ns"]) for p in ("p50", "p99", "p999")]
    return cells


def _show_kernel(result: Result, screen: Console) -> None:
    """The table of the patch, and the same three columns of ours with most threads."""
    most = max((int(str(r["threads"])) for r in result.rows), default=0)
    ours = {
        (r["workload"], r["codec"], r["arm"]): r for r in result.rows if r["threads"] == most
    }
    made = output.table(
        f"Seconds for {locks.OPS_FOR_TIMES / 1e6:.0f} million operations with {most} threads, and "
        "the kernel's table", ["", "arm", "real", "user", "sys"], left=2,
    )
    for seed in SEED:
        made.add_row("the kernel's", seed.label,
                     *(f"{value:.2f}" for value in (seed.real_s, seed.user_s, seed.sys_s)))
    for (workload, codec), _ in TITLES.items():
        rows = [ours[workload, codec, a] for a in ARMS if (workload, codec, a) in ours]
        if rows:
            made.add_row()
        for row in rows:
            name = workload if codec == "none" else f"{workload}, {codec}"
            made.add_row(
                name, ARMS[str(row["arm"])].label,
                *(f"{row[key]:.2f}" for key in ("real_s", "user_s", "sys_s")),
            )
    screen.print(made)
    screen.print(
        "The kernel's: building a kernel in tmpfs under memory pressure, zswap on, as its patch "
        "reports it. Another\nmachine and another job: compare arms within one block, not blocks.",
        style="dim",
    )
    screen.print()


def _show_goals(rows: list[Row], screen: Console) -> None:
    made = output.table(
        "Goals (2 CPUs; the worst number of threads counts)",
        ["", "goal", "measured", "threads: ratio", "", "a first prototype had"],
    )
    for verdict in goals.judge(rows):
        if verdict.met is None and not verdict.by_threads:
            continue
        goal = verdict.goal
        sign = ">=" if goal.at_least else "<="
        met = {True: "[green]met[/]", False: "[red]missed[/]", None: "not all run"}[verdict.met]
        made.add_row(
            escape(goal.text), f"{sign} {goal.bound:g}", output.number(verdict.worst),
            "  ".join(f"{t}: {output.number(v)}" for t, v in verdict.by_threads.items()), met,
            goal.prototype,
        )
    if made.row_count:
        screen.print(made)
