"""``coldmem bench codecs``."""

from __future__ import annotations

from typing import Any

import click

from coldmem.cli import output
from coldmem.cli.options import SIZE, SeveralValues, json_option
from coldmem.lab import codec_bench
from coldmem.lab.numeric_corpora import CORPORA
from coldmem.lab.result import Result, Row, rounded

BASE, PICKER = "lz4", "auto"
GOAL_STORED, GOAL_SPEED = 0.6, 2.5


@click.command("codecs", cls=SeveralValues)
@click.option("--corpus", "names", type=click.Choice(list(CORPORA)), multiple=True,
              help="Numeric corpora. Default: all.")
@click.option("--codec", "codecs", multiple=True, default=codec_bench.CODECS, show_default=True,
              help="Codecs to compare.")
@click.option("--unit", "units", type=SIZE, multiple=True, default=(4096, 65536),
              help="Unit sizes. Default: 4K 64K.")
@click.option("--seconds", type=click.FloatRange(0, min_open=True), default=30.0, show_default=True,
              help="For all of it; each combination runs at least twice.")
@click.option("--bytes", "corpus_bytes", type=SIZE, default=4 << 20,
              help="Of each corpus. Default: 4M.")
@json_option
def command(
    names: tuple[str, ...], codecs: tuple[str, ...], units: tuple[int, ...], seconds: float,
    corpus_bytes: int, as_json: bool,
) -> None:
    """Codecs on numeric data: bytes stored, and speed of both directions.

    "auto" is the picker: it tries bit shuffle and delta filters on a sample of each region and does
    not know the type of the data.
    """
    with output.progress() as report:
        report(f"measuring {', '.join(codecs)} for about {seconds:.0f} s")
        found = codec_bench.run(seconds, names or None, codecs, units, corpus_bytes)
    result = Result(
        "bench_codecs",
        {"seconds": seconds, "codecs": list(codecs), "unit_bytes": list(units),
         "corpus_bytes": corpus_bytes},
        [_row(row) for row in found],
    )
    if as_json:
        output.print_json(result)
    else:
        _show(result.rows, codecs)


def _row(row: dict[str, Any]) -> Row:
    return {key: rounded(v) if isinstance(v, float) else v for key, v in row.items()}


def _show(rows: list[Row], codecs: tuple[str, ...]) -> None:
    screen = output.console()
    made = output.table(
        "Codecs on numeric data",
        ["corpus", "codec", "unit", "ratio", "compress MB/s", "decompress MB/s"], left=2,
    )
    last = rows[0]["corpus"]
    for row in rows:
        if row["corpus"] != last:
            made.add_row()
            last = row["corpus"]
        made.add_row(
            str(row["corpus"]), str(row["codec"]), f"{int(str(row['unit_bytes'])) // 1024}K",
            *(output.number(row[k])
              for k in ("ratio", "compress_mb_per_s", "decompress_mb_per_s")),
        )
    screen.print(made)
    if BASE not in codecs:
        return
    made = output.table(
        f"All together, against {BASE}",
        ["codec", "unit", "bytes stored", "compress", "decompress", "goal"],
    )
    for total in codec_bench.summarise(rows, BASE):
        made.add_row(
            str(total["codec"]), f"{total['unit_bytes'] // 1024}K",
            f"{total['stored_ratio']:.3f}", f"x {total['compress_speed_ratio']:.2f}",
            f"x {total['decompress_speed_ratio']:.2f}", _verdict(total),
        )
    screen.print()
    screen.print(made)


def _verdict(total: dict[str, Any]) -> str:
    if total["codec"] != PICKER:
        return ""
    met = total["stored_ratio"] <= GOAL_STORED and total["compress_speed_ratio"] >= GOAL_SPEED
    goal = f"stored <= {GOAL_STORED}, compress >= x {GOAL_SPEED}"
    return f"{goal}: " + ("[green]met[/]" if met else "[red]missed[/]")
