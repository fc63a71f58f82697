"""``coldmem lab backends``."""

from __future__ import annotations

import click
from rich.console import Console

from coldmem.cli import output
from coldmem.cli.options import SeveralValues, json_option
from coldmem.lab import backend_bench, backend_corpora
from coldmem.lab.backend_arms import ARMS
from coldmem.lab.backend_bench import BASE, PARTS, Plan
from coldmem.lab.result import Result, Row
from coldmem.units import format_bytes

DEFAULT = Plan()
PHASES = {"put": "malloc + write", "read": "read", "free": "free", "churn": "mixed"}


@click.command("backends", cls=SeveralValues)
@click.option("--part", "parts", type=click.Choice(PARTS), multiple=True, default=PARTS,
              show_default=True, help="What to measure.")
@click.option("--arm", "arms", type=click.Choice(list(ARMS)), multiple=True,
              default=tuple(ARMS), help="Which allocators and locks. Default: all.")
@click.option("--corpus", "corpora", type=click.Choice(list(backend_corpora.CORPORA)), multiple=True,
              default=tuple(backend_corpora.CORPORA), show_default=True, help="Density: what is stored.")
@click.option("--codec", "codecs", multiple=True, default=backend_corpora.CODECS, show_default=True,
              help="Density: what packs it.")
@click.option("--units", type=click.IntRange(16), multiple=True, default=DEFAULT.units_n,
              show_default=True,
              help="Density: units of 4K of each corpus.")
@click.option("--threads", type=click.IntRange(1, 1024), multiple=True, default=DEFAULT.threads,
              show_default=True, help="Speed: how many threads; several values make several rows.")
@click.option("--repeats", type=click.IntRange(1), default=DEFAULT.repeats, show_default=True,
              help="Speed: runs of each arm; the median counts.")
@click.option("--seconds", type=click.FloatRange(0, min_open=True), default=DEFAULT.seconds,
              show_default=True, help="Speed: length of a run of the mixed work.")
@click.option("--objects", type=click.IntRange(16), default=DEFAULT.objects, show_default=True,
              help="Speed: objects that are put, read and freed.")
@click.option("--live", type=click.IntRange(16), multiple=True, default=DEFAULT.live,
              show_default=True, help="Fragmentation: objects alive.")
@click.option("--churn", type=click.FloatRange(0, min_open=True), default=DEFAULT.churn,
              show_default=True, help="Fragmentation: random operations per slot.")
@json_option
def command(
    parts: tuple[str, ...], arms: tuple[str, ...], corpora: tuple[str, ...], codecs: tuple[str, ...],
    units: tuple[int, ...], threads: tuple[int, ...], repeats: int, seconds: float, objects: int,
    live: tuple[int, ...], churn: float, as_json: bool,
) -> None:
    """zsmalloc beside zbud (two objects a page) and z3fold (three).

    The same objects, made from data of this machine, in each: how dense they lie, what ratio that
    gives a cache of units of 4K, how fast each is with how many threads and locks, and how much
    memory is lost after random churn. A full run takes some minutes.
    """
    plan = Plan(parts, arms, corpora, codecs, units, threads, repeats, seconds, objects, live, churn)
    with output.progress() as report:
        result = backend_bench.run(plan, report)
    if as_json:
        output.print_json(result)
    else:
        _show(result, output.console())


def _rows(result: Result, part: str) -> list[Row]:
    return [row for row in result.rows if row["part"] == part]


def _show(result: Result, screen: Console) -> None:
    for part, show in (("density", _density), ("speed", _speed), ("fragmentation", _fragmentation)):
        rows = _rows(result, part)
        if rows:
            show(rows, screen)
            screen.print()


def _density(rows: list[Row], screen: Console) -> None:
    made = output.table(
        "Density: every unit stored once, nothing freed",
        ["corpus", "codec", "units", "", "mean object", "used/stored", "objects/page", "refused",
         "ratio", "of the codec's"], left=4,
    )
    last: list[object] = []
    for row in rows:
        key = [row["corpus"], row["codec"], row["units"]]
        if last not in ([], key):
            made.add_row()
        last = key
        made.add_row(
            *map(str, key), str(row["backend"]),
            output.number(row["mean_object_bytes"]), output.number(row["used_per_stored"]),
            output.number(row["objects_per_page"]), f"{row['refused_objects']:,}",
            output.number(row["ratio"]), output.number(row["codec_ratio"]),
        )
    screen.print(made)
    screen.print(
        "ratio: bytes of units / bytes of pages, what is refused kept in a page of its own outside.\n"
        "of the codec's: the same if objects took no more than their length.", style="dim",
    )


def _speed(rows: list[Row], screen: Console) -> None:
    made = output.table(
        f"Speed: Mops/s, and in brackets the median ratio to {ARMS[BASE].label}",
        ["", "threads", *PHASES.values(), "min .. max", "CPU ns", "waiting", "used/stored"],
    )
    last: object = rows[0]["threads"]
    for row in rows:
        if row["threads"] != last:
            made.add_row()
            last = row["threads"]
        made.add_row(
            ARMS[str(row["arm"])].label, str(row["threads"]), *(_cell(row, p) for p in PHASES),
            f"{row['churn_mops_per_s_min']:.2f} .. {row['churn_mops_per_s_max']:.2f}",
            output.number(row["churn_cpu_ns_per_op"]), output.percent(row["wait_share"]),
            output.number(row["used_per_stored"]),
        )
    screen.print(made)
    screen.print(
        "mixed: slots half full, a random one is filled, or read and freed; min .. max and CPU time "
        "are of it.", style="dim",
    )


def _cell(row: Row, phase: str) -> str:
    ratio = row.get(f"{phase}_ratio_to_{BASE}")
    text = f"{row[f'{phase}_mops_per_s']:.2f}"
    return text if ratio is None else f"{text} ({ratio:.2f})"


def _fragmentation(rows: list[Row], screen: Console) -> None:
    made = output.table(
        "Fragmentation: memory used / bytes stored, after random churn",
        ["corpus", "codec", "", "live objects", "stored", "after churn", "compacted",
         "objects moved"], left=3,
    )
    for row in rows:
        made.add_row(
            str(row["corpus"]), str(row["codec"]), ARMS[str(row["arm"])].label,
            f"{row['live_objects']:,}",
            format_bytes(float(str(row["stored_bytes"]))), f"{row['fragmentation']:.3f}",
            f"{row['compacted_fragmentation']:.3f}", f"{row['moved_objects']:,}",
        )
    screen.print(made)
