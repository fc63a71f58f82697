"""``coldmem demo``: the main job. Managed memory first, then the engine under it."""

from __future__ import annotations

import sys

import click

from coldmem.cli import demo_engine, output
from coldmem.cli.options import SIZE, json_option
from coldmem.lab import demo
from coldmem.lab.result import Result, Row
from coldmem.linux.userfaultfd import rights_here

SKIPPED = (
    "this system permits no userfaultfd, so there is no managed memory: only the engine is shown. "
    "`coldmem doctor` says how to permit it"
)


@click.command("demo")
@click.option("--part", type=click.Choice(["all", "memory", "engine"]), default="all",
              show_default=True, help="Which of the two.")
@click.option("--memory-max", type=SIZE, default="64M", show_default=True,
              help="Limit of the Memory; its arrays take more than four times as much.")
@click.option("--delivery", type=click.Choice(["auto", "handler", "sigbus"]), default="auto",
              show_default=True, help="How faults reach the Memory.")
@click.option("--max-pool", type=SIZE, default="16M", show_default=True,
              help="Limit of the engine's pool; four times as much data is stored.")
@click.option("--threads", type=click.IntRange(1, 256), default=4, show_default=True,
              help="Threads that store and read.")
@click.option("--unit", type=SIZE, default="4K", show_default=True, help="4K, 16K or 64K.")
@click.option("--codec", default="lz4", show_default=True,
              help="Of the engine: lz4, zstd, zlib, auto, raw, ...")
@click.option("--locking", type=click.Choice(["handle", "class", "pool"]), default="handle",
              show_default=True, help="How the pool locks.")
@click.option("--swap-directory", type=click.Path(exists=True, file_okay=False),
              help="Where the swap file lives. Default: a directory for temporary files.")
@click.option("--spoil", is_flag=True, hidden=True,
              help="Change a little of what was stored before it is checked: we must notice.")
@json_option
@click.pass_context
def command(
    ctx: click.Context, part: str, memory_max: int, delivery: str, max_pool: int, threads: int,
    unit: int, codec: str, locking: str, swap_directory: str | None, spoil: bool, as_json: bool,
) -> None:
    """Real work on more data than fits, every byte checked.

    NumPy and pandas on arrays of four times the limit of a Memory, with every result compared with
    plain NumPy's, block by block. Then the engine alone: text and libraries of this machine
    and arrays, four times as much as its pool may hold, stored, read back and compared. Ends with 1
    if anything is wrong.
    """
    engine = demo.Plan(max_pool, threads, unit, codec, locking, swap_directory, spoil=spoil)
    engine.check()
    wrong = False
    rows: list[Row] = []
    settings: dict[str, object] = {"part": part}
    if part != "engine" and rights_here() == "none":
        print(f"coldmem: {SKIPPED}", file=sys.stderr)
        settings["memory_skipped"] = SKIPPED
        part = "engine"
    screen = output.console()
    if part != "engine":
        from coldmem.cli import demo_memory
        from coldmem.lab.memory_job import MemoryPlan

        plan = MemoryPlan(memory_max, delivery, unit, swap_directory, spoil)
        found = demo_memory.run(plan)
        settings |= {"memory_max_bytes": memory_max, "delivery": delivery}
        rows += demo_memory.rows(found)
        if not as_json:
            demo_memory.show(plan, found, screen)
        demo_memory.complain(found)
        wrong |= bool(found.differences)
    if part != "memory":
        if part == "all" and not as_json:
            screen.print("\n[bold]The engine alone[/]")
        outcome = demo_engine.run(engine)
        settings |= demo_engine.settings(engine)
        rows += demo_engine.rows(outcome)
        if not as_json:
            demo_engine.show(engine, outcome, screen)
        demo_engine.complain(outcome)
        wrong |= bool(outcome.differences)
    if as_json:
        output.print_json(Result("demo", settings, rows))
    if wrong:
        ctx.exit(1)
