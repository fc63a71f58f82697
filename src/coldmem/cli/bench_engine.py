"""``coldmem bench engine``."""

from __future__ import annotations

import click

from coldmem.cli import output
from coldmem.cli.options import SIZE, SeveralValues, json_option
from coldmem.lab import corpora, engine_bench
from coldmem.lab.result import Result, Row

GOALS = {4096: 1.05, 16384: 1.02, 65536: 1.01}
GOAL_CODEC = "lz4"


@click.command("engine", cls=SeveralValues)
@click.option("--corpus", "names", type=click.Choice(list(corpora.KINDS)), multiple=True,
              default=engine_bench.CORPORA, help="Kinds of data. Default: six of them.")
@click.option("--unit", "units", type=SIZE, multiple=True, default=engine_bench.UNIT_BYTES,
              help="Unit sizes. Default: 4K 16K 64K.")
@click.option("--codec", default=GOAL_CODEC, show_default=True, help="Which codec, on both sides.")
@click.option("--repeats", type=click.IntRange(1), default=7, show_default=True,
              help="Measured rounds over all units; the median counts.")
@click.option("--bytes", "corpus_bytes", type=SIZE, default=engine_bench.CORPUS_BYTES,
              help="Of each corpus. Default: 16M.")
@json_option
def command(
    names: tuple[str, ...], units: tuple[int, ...], codec: str, repeats: int, corpus_bytes: int,
    as_json: bool,
) -> None:
    """store + load + invalidate against the bare codec's compress + decompress.

    Same units, same run, taking turns. Times are nanoseconds per unit; "overhead" is coldmem's time
    divided by the bare codec's.
    """
    with output.progress() as report:
        result = engine_bench.run(names, units, codec, repeats, corpus_bytes, report=report)
    if as_json:
        output.print_json(result)
    else:
        _show(result)


def _show(result: Result) -> None:
    screen = output.console()
    made = output.table(
        f"coldmem over bare {result.settings['codec']}: ns per unit",
        ["corpus", "unit", "ratio", "compress", "decompress", "store", "load", "invalidate",
         "bare", "coldmem", "overhead", "min .. max"],
    )
    last = ""
    for row in result.rows:
        if last and row["corpus"] != last:
            made.add_row()
        last = str(row["corpus"])
        made.add_row(*_cells(row))
    screen.print(made)
    if result.settings["codec"] == GOAL_CODEC:
        _show_goals(result.rows)


def _cells(row: Row) -> list[str]:
    parts = ("compress", "decompress", "store", "load", "invalidate")
    return [
        str(row["corpus"]), f"{int(str(row['unit_bytes'])) // 1024}K", output.number(row["ratio"]),
        *(output.number(row[f"{part}_ns"]) for part in parts), output.number(row["bare_ns"]),
        output.number(row["coldmem_ns"]), f"{row['overhead_ratio']:.3f}",
        f"{row['overhead_ratio_min']:.3f} .. {row['overhead_ratio_max']:.3f}",
    ]


def _show_goals(rows: list[Row]) -> None:
    """By unit size: all kinds that have objects together (zeros need none)."""
    made = output.table(
        "Goals: coldmem / bare, over text, elf, float64, int64 and random together",
        ["unit", "goal", "measured", ""],
    )
    for unit, bound in GOALS.items():
        mine = [r for r in rows if r["unit_bytes"] == unit and r["corpus"] != "zeros"]
        if not mine:
            continue
        cold = sum(float(str(r["coldmem_ns"])) for r in mine)
        ratio = cold / sum(float(str(r["bare_ns"])) for r in mine)
        made.add_row(
            f"{unit // 1024}K", f"<= {bound:g}", f"{ratio:.3f}",
            "[green]met[/]" if ratio <= bound else "[red]missed[/]",
        )
    screen = output.console()
    screen.print()
    screen.print(made)
