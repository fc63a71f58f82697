"""``coldmem bench memory``."""

from __future__ import annotations

import itertools

import click
from rich.table import Table

from coldmem.cli import output
from coldmem.cli.options import SIZE, SeveralValues, json_option
from coldmem.lab import memory_bench, memory_goals, memory_resident
from coldmem.lab.memory_bench import Config, Plan
from coldmem.lab.memory_case import COLDMEM
from coldmem.lab.memory_corpora import KINDS
from coldmem.lab.memory_work import NAMES
from coldmem.lab.result import Result, Row


@click.command("memory", cls=SeveralValues)
@click.option("--workload", "workloads", type=click.Choice(NAMES), multiple=True, default=NAMES,
              help="Patterns of touches. Default: all six.")
@click.option("--corpus", "corpora", type=click.Choice(list(KINDS)), multiple=True,
              default=tuple(KINDS), help="Kinds of data. Default: both.")
@click.option("--delivery", "deliveries", type=click.Choice(["auto", "handler", "sigbus"]),
              multiple=True, default=("auto",), help="How faults reach coldmem. Default: auto.")
@click.option("--unit", "units", type=SIZE, multiple=True,
              help="Units of coldmem. Default: as Memory chooses.")
@click.option("--codec", "codecs", multiple=True, default=("auto",),
              help="Codecs of coldmem. Default: auto.")
@click.option("--threads", type=click.IntRange(1), multiple=True, default=(1,),
              help="Threads that touch. Default: 1.")
@click.option("--repeats", type=click.IntRange(1), default=3, show_default=True,
              help="Runs of each case; the median counts.")
@click.option("--region", "region_bytes", type=SIZE, default=memory_bench.REGION_BYTES,
              help="Bytes that are touched. Default: 256M.")
@click.option("--limit", "limit_bytes", type=SIZE,
              help="Of the kernel's memory cgroup. Default: a quarter of the region.")
@click.option("--memory-max", "memory_max_bytes", type=SIZE,
              help="Of coldmem. Default: what the kernel really takes under its limit.")
@click.option("--swap-max", "swap_max_bytes", type=SIZE, default=0,
              help="Of coldmem's swap file. Default: none.")
@click.option("--with-kernel", is_flag=True,
              help="Also the kernel's zswap and zram, in turn (root).")
@click.option("--resident", is_flag=True,
              help="Instead: NumPy on arrays that stay in RAM, beside plain ones.")
@click.option("--array", "array_bytes", type=SIZE, default=memory_resident.ARRAY_BYTES,
              help="Bytes of these arrays. Default: 64M.")
@json_option
def command(
    workloads: tuple[str, ...], corpora: tuple[str, ...], deliveries: tuple[str, ...],
    units: tuple[int, ...], codecs: tuple[str, ...], threads: tuple[int, ...], repeats: int,
    region_bytes: int, limit_bytes: int | None, memory_max_bytes: int | None, swap_max_bytes: int,
    with_kernel: bool, resident: bool, array_bytes: int, as_json: bool,
) -> None:
    """Managed memory under six patterns of touches, beside the kernel's compressed swap.

    The region is four times the limit. A touch that takes longer than 2 µs counts as a fault; MB/s
    are of pages touched. Each case runs in a process of its own, and all pages are compared.
    """
    if resident:
        with output.progress() as report:
            result = memory_resident.run(deliveries, repeats, array_bytes, report)
        if as_json:
            output.print_json(result)
        else:
            _show_resident(result)
        return
    configs = tuple(
        Config(delivery, unit, codec)
        for delivery, unit, codec in itertools.product(deliveries, units or (None,), codecs)
    )
    plan = Plan(
        workloads=workloads, corpora=corpora, threads=threads, configs=configs, repeats=repeats,
        region_bytes=region_bytes,
        limit_bytes=limit_bytes or region_bytes // memory_bench.REGION_LIMITS,
        memory_max_bytes=memory_max_bytes, swap_max_bytes=swap_max_bytes, with_kernel=with_kernel,
    )
    with output.progress() as report:
        result = memory_bench.run(plan, report)
    _show_skipped(result)
    if as_json:
        output.print_json(result)
    else:
        _show(result)


def _show(result: Result) -> None:
    made = output.table(
        f"{int(str(result.settings['region_bytes'])) >> 20} MiB, touched page by page",
        ["corpus", "workload", "threads", "system", "delivery", "unit", "MB/s", "min .. max",
         "fault p50 us", "p99 us", "mean us", "ratio", "peak MiB"], left=2,
    )
    last: object = None
    rows = sorted(result.rows, key=lambda r: _order(result.rows, r))
    apart = ["corpus", "workload", "threads"]
    if len({tuple(str(row[k]) for k in apart) for row in rows}) == len(rows):
        apart = ["corpus"]  # a row each: no groups
    for row in rows:
        group = [row[k] for k in apart]
        if last not in (None, group):
            made.add_row()
        last = group
        made.add_row(*_cells(row))
    screen = output.console()
    screen.print(made)
    if any(row["system"] != COLDMEM for row in rows):
        screen.print()
        screen.print(_goals(rows))


def _show_resident(result: Result) -> None:
    made = output.table(
        f"{int(str(result.settings['array_bytes'])) >> 20} MiB that stay in RAM; goal: "
        f"{result.settings['goal']} of plain NumPy's speed",
        ["workload", "system", "delivery", "ms", "min .. max", "of plain"], left=3,
    )
    for row in result.rows:
        made.add_row(
            str(row["workload"]), str(row["system"]), str(row["delivery"]), output.number(row["ms"]),
            f"{output.number(row['ms_min'])} .. {output.number(row['ms_max'])}",
            output.number(row["speed_to_plain"]),
        )
    output.console().print(made)


def _goals(rows: list[Row]) -> Table:
    verdicts = memory_goals.judge(rows)
    configs = list(dict.fromkeys(memory_goals.config_of(r) for r in rows if r["system"] == COLDMEM))
    made = output.table(
        "Goals: coldmem divided by the better of the kernel's systems",
        ["figure", "goal", *(f"{way} {unit // 1024}K {codec}" for way, unit, codec in configs)],
    )
    for verdict in verdicts:
        cells = []
        for config in configs:
            met = verdict.met(config)
            value = output.number(verdict.by_config.get(config))
            colour = "dim" if met is None else "green" if met else "red"
            cells.append(f"[{colour}]{value}[/]")
        sign = ">=" if verdict.at_least else "<="
        made.add_row(verdict.text, f"{sign} {verdict.bound:g}", *cells)
    return made


def _show_skipped(result: Result) -> None:
    """On stderr, so that it is seen beside --json too."""
    skipped = result.settings["skipped_systems"]
    assert isinstance(skipped, dict)
    for name, reason in skipped.items():
        click.echo(f"coldmem: SKIPPED {name}: {reason}", err=True)


def _order(rows: list[Row], row: Row) -> int:
    """Rows of one corpus, workload and number of threads stand together."""
    keys = ("corpus", "workload", "threads")
    return next(i for i, other in enumerate(rows) if all(other[k] == row[k] for k in keys))


def _cells(row: Row) -> list[str]:
    return [
        str(row["corpus"]), str(row["workload"]), str(row["threads"]), str(row["system"]),
        str(row["delivery"]), f"{int(str(row['unit_bytes'])) // 1024}K",
        output.number(row["mb_per_s"]),
        f"{output.number(row['mb_per_s_min'])} .. {output.number(row['mb_per_s_max'])}",
        *(output.number(row[k])
          for k in ("fault_p50_us", "fault_p99_us", "access_mean_us", "ratio")),
        f"{int(str(row['footprint_peak_bytes'])) / (1 << 20):.1f}",
    ]
