"""``coldmem bench nbd``: the block device beside nbdkit's memory plugin and the kernel's zram."""

from __future__ import annotations

import click
from rich.console import Console

from coldmem.cli import output
from coldmem.cli.options import SIZE, SeveralValues, json_option
from coldmem.lab import nbd_bench
from coldmem.lab.nbd_bench import SPEED_GOAL, Plan, goal_rows
from coldmem.lab.result import Result, Row


@click.command("nbd", cls=SeveralValues)
@click.option("--size", "size_bytes", type=SIZE, default=64 << 20, help="Of the devices. Default: 64M.")
@click.option("--request", "request_bytes", type=SIZE, multiple=True, default=(4096, 65536),
              help="Bytes of a request. Default: 4K 64K.")
@click.option("--connections", type=click.IntRange(1, 16), multiple=True, default=(1, 2),
              show_default=True, help="Clients at once, a thread each.")
@click.option("--depth", "depths", type=click.IntRange(1, 64), multiple=True, default=(1, 16),
              show_default=True, help="Requests of a connection under way.")
@click.option("--unit", "units", type=SIZE, multiple=True, default=(4096, 65536),
              help="Units of coldmem. Default: 4K 64K.")
@click.option("--corpus", default="tree", show_default=True, help="Data: tree or num.")
@click.option("--repeats", type=click.IntRange(1), default=5, show_default=True,
              help="Of everything; the median counts.")
@click.option("--requests", "requests_max", type=click.IntRange(1), default=8192, show_default=True,
              help="Most requests of one run.")
@click.option("--with-kernel", is_flag=True, help="Also a zram device of its own, with O_DIRECT. Root.")
@json_option
def command(as_json: bool, **options: object) -> None:
    """coldmem's NBD server, nbdkit's plugin memory, and zram: speed and time of each request.

    Data is real (this machine's files), everything written is compared at the end. Needs nbdkit.
    """
    with output.progress() as report:
        result = nbd_bench.run(Plan(**options), report)  # type: ignore[arg-type]
    if as_json:
        output.print_json(result)
    else:
        show(result, output.console())


def show(result: Result, screen: Console) -> None:
    """A table for each size of request, and the goal."""
    for request in dict.fromkeys(int(str(row["request_bytes"])) for row in result.rows):
        made = output.table(
            f"Requests of {request >> 10}K",
            ["system", "op", "pattern", "clients", "depth", "MB/s", "min .. max", "p50 us", "p99 us",
             "server CPU s", "x nbdkit", "x zram", "of bound"], left=3,
        )
        rows = [row for row in result.rows if row["request_bytes"] == request]
        for row in sorted(rows, key=_place):
            made.add_row(
                _label(row), str(row["op"]), str(row["pattern"]), str(row["connections"]),
                str(row["depth"]), output.number(row["mb_per_s"]),
                f"{output.number(row['mb_per_s_min'])} .. {output.number(row['mb_per_s_max'])}",
                *(output.number(row[key]) for key in (
                    "p50_us", "p99_us", "server_cpu_s", "ratio_to_nbdkit", "ratio_to_zram", "of_bound")),
            )
        screen.print(made)
        screen.print()
    _show_goal(result, screen)


def _place(row: Row) -> tuple[str, str, int, int]:
    return (str(row["op"]), str(row["pattern"]), int(str(row["connections"])), int(str(row["depth"])))


def _label(row: Row) -> str:
    unit = row["unit_bytes"]
    return str(row["system"]) + (f" {int(str(unit)) >> 10}K" if unit else "")


def _show_goal(result: Result, screen: Console) -> None:
    made = output.table(
        f"64K sequential: at least {SPEED_GOAL} of nbdkit's plugin memory, which compresses nothing",
        ["", "op", "clients", "depth", "x nbdkit", "of what CPUs, codec and socket allow", ""], left=2)
    for row in goal_rows(result):
        ratio = float(str(row["ratio_to_nbdkit"] or 0))
        made.add_row(_label(row), str(row["op"]), str(row["connections"]), str(row["depth"]),
                     output.number(row["ratio_to_nbdkit"]), output.percent(row["of_bound"]),
                     "[green]met[/]" if ratio >= SPEED_GOAL else "[red]missed[/]")
    if made.row_count:
        screen.print(made)
