"""``coldmem bench cache``: coldmem.Cache beside what else there is."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import click
from rich.console import Console
from rich.table import Table

from coldmem.cli import output
from coldmem.cli.options import SIZE, SeveralValues, json_option
from coldmem.lab import cache_bench
from coldmem.lab.cache_bench import MIB, SIZES, CachePlan
from coldmem.lab.cache_case import ENTRIES, GET, SCAN, SET, WORKLOADS, ZIPF
from coldmem.lab.cache_corpora import VALUE_KINDS
from coldmem.lab.cache_goals import Verdict, cell_of, judge
from coldmem.lab.cache_peers import PEERS
from coldmem.lab.result import Result, Row, Spread

TITLES = {
    GET: "Gets, everything fits", SET: "Sets of keys that are there",
    ENTRIES: "Entries in {limit} MiB", ZIPF: "Hits in {limit} MiB, Zipf 0.99",
    SCAN: "Hits in {limit} MiB, Zipf 0.99 with 30 % of scans",
}
QUICK = {"repeats": 1, "memory_repeats": 1, "seconds": 0.1, "data_bytes": 4 * MIB,
         "limit_bytes": 8 * MIB, "source_bytes": 4 * MIB,
         "cells": (("json", 1024), ("numpy", 16384))}


@click.command("cache", cls=SeveralValues)
@click.option("--peers", type=click.Choice(list(PEERS)), multiple=True,
              help="Which peers. Default: all that are installed, with gets and sets the usual ones.")
@click.option("--workloads", type=click.Choice(list(WORKLOADS)), multiple=True, default=WORKLOADS,
              help="Which workloads. Default: all five.")
@click.option("--value-kinds", type=click.Choice(VALUE_KINDS), multiple=True,
              help="With gets and sets. Default: json of all sizes, the others of 16K.")
@click.option("--value-bytes", type=SIZE, multiple=True,
              help="With gets and sets; with this or --value-kinds each kind has each size.")
@click.option("--threads", type=click.IntRange(1, 64), multiple=True, default=(1, 8),
              show_default=True, help="With gets and sets.")
@click.option("--repeats", type=click.IntRange(1), help="Of gets and sets. Default: 3.")
@click.option("--memory-repeats", type=click.IntRange(1), help="Of entries and hits. Default: 1.")
@click.option("--seconds", type=float, help="Of a pass of gets; sets take half. Default: 0.35.")
@click.option("--data", "data_bytes", type=SIZE, help="Of all values, where all fit. Default: 32M.")
@click.option("--limit", "limit_bytes", type=SIZE,
              help="Memory, where entries and hits are counted. Default: 16M.")
@click.option("--accesses", "accesses_times", type=float,
              help="For each key, where hits are counted. Default: 2.")
@click.option("--quick", is_flag=True, help="Everything once, and small; other options still count.")
@click.option("--spoil", is_flag=True, hidden=True,
              help="Change what peers return: we must notice.")
@json_option
@click.pass_context
def command(
    ctx: click.Context, /, peers: tuple[str, ...], workloads: tuple[str, ...],
    value_kinds: tuple[str, ...], value_bytes: tuple[int, ...], threads: tuple[int, ...],
    quick: bool, spoil: bool, as_json: bool, **more: object,
) -> None:
    """Gets, sets, entries held and hit ratio of coldmem.Cache and other caches, in one run.

    The other caches are Python packages (pip install 'coldmem[peers]') and Debian's redis-server; those
    that are not there are left out, and named. Values are checked; ends with 1 if one is wrong.
    """
    plan = CachePlan(peers=peers, workloads=workloads, threads=threads, spoil=spoil)
    if quick:
        plan = replace(plan, **QUICK)  # type: ignore[arg-type]
    if value_kinds or value_bytes:
        plan = replace(plan, cells=tuple(
            (kind, size) for kind in value_kinds or VALUE_KINDS for size in value_bytes or SIZES))
    given = {name: value for name, value in more.items() if value is not None}
    plan = replace(plan, **given)  # type: ignore[arg-type]
    with output.progress() as report:
        result = cache_bench.run(plan, report)
    _show_missing(result)
    if as_json:
        output.print_json(result)
    else:
        show(result, output.console())
    wrong = cache_bench.wrong(result)
    for line in wrong:
        click.echo(f"coldmem: wrong: {line}", err=True)
    if wrong:
        ctx.exit(1)


def _show_missing(result: Result) -> None:
    """On stderr, so that it is seen beside --json too."""
    for key, word in (("skipped_peers", "SKIPPED"), ("failed", "FAILED")):
        rows = result.settings[key]
        assert isinstance(rows, list)
        for row in rows:
            click.echo(f"coldmem: {word} {row['peer']}: {row['reason']}", err=True)


def show(result: Result, screen: Console) -> None:
    """A table for each workload, and the goals."""
    limit = int(str(result.settings["limit_bytes"])) // MIB
    for workload, title in TITLES.items():
        rows = [row for row in result.rows if row["workload"] == workload]
        if not rows:
            continue
        made = _speeds(rows, title) if workload in (GET, SET) else _sizes(
            rows, title.format(limit=limit))
        screen.print(made)
        screen.print()
    _show_goals(judge(result.rows), screen)


def _grouped(rows: Sequence[Row]) -> dict[tuple[object, ...], list[Row]]:
    """The repeats of each peer in each cell."""
    found: dict[tuple[object, ...], list[Row]] = {}
    for row in rows:
        found.setdefault((*cell_of(row), row["peer"]), []).append(row)
    return found


def _spread(rows: Sequence[Row], figure: str) -> Spread | None:
    values = [float(v) for row in rows if isinstance(v := row[figure], int | float)]
    return Spread.of(values) if values else None


def _median(rows: Sequence[Row], figure: str, digits: int = 3) -> str:
    found = _spread(rows, figure)
    return output.number(None if found is None else found.median, digits)


def _between(rows: Sequence[Row], figure: str, digits: int = 3) -> str:
    found = _spread(rows, figure)
    if found is None:
        return "-"
    return f"{output.number(found.low, digits)} .. {output.number(found.high, digits)}"


def _speeds(rows: Sequence[Row], title: str) -> Table:
    made = output.table(title, ["values", "bytes", "threads", "peer", "per second", "min .. max",
                                "p50 us", "p99 us"], left=4)
    last: object = None
    for (kind, size, threads, peer), some in _grouped(rows).items():
        if last not in (None, (kind, size, threads)):
            made.add_row()
        last = (kind, size, threads)
        made.add_row(str(kind), f"{int(str(size)) >> 10}K", str(threads), str(peer),
                     _median(some, "ops_per_s"), _between(some, "ops_per_s"),
                     _median(some, "get_p50_us"), _median(some, "get_p99_us"))
    return made


def _sizes(rows: Sequence[Row], title: str) -> Table:
    made = output.table(title, ["peer", "entries", "bytes each", "min .. max", "MiB held", "hit ratio",
                                "min .. max", "per second"])
    for (*_, peer), some in _grouped(rows).items():
        held = _spread(some, "held_bytes")
        made.add_row(
            str(peer), _median(some, "entries"), _median(some, "bytes_per_entry"),
            _between(some, "bytes_per_entry"),
            output.number(None if held is None else held.median / MIB),
            _median(some, "hit_ratio", 4), _between(some, "hit_ratio", 4), _median(some, "ops_per_s"))
    return made


def _show_goals(verdicts: Sequence[Verdict], screen: Console) -> None:
    made = output.table("Goals: the worst of all sizes, kinds and threads", [
        "", "goal", "worst", "where", "median", ""])
    words = {True: "[green]met[/]", False: "[red]missed[/]", None: "not measured"}
    for verdict in verdicts:
        where = ""
        if verdict.by_cell:
            cell = min(verdict.by_cell, key=lambda c: verdict.by_cell[c])
            kind, size, threads = cell
            where = f"{kind} {size >> 10}K, {threads} threads" if verdict.goal.workload == GET else ""
            where = where or f"against {verdict.against[cell]}"
        median = Spread.of(list(verdict.by_cell.values())).median if verdict.by_cell else None
        made.add_row(verdict.goal.text, output.number(verdict.goal.bound),
                     output.number(verdict.worst), where, output.number(median), words[verdict.met])
    screen.print(made)
