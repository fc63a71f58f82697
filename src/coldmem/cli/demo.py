"""``coldmem demo``: the main job in managed memory, then the locking experiment in short."""

from __future__ import annotations

import sys

import click

from coldmem.cli import demo_engine, output
from coldmem.cli.options import SIZE, json_option
from coldmem.lab import demo
from coldmem.lab.result import Result, Row
from coldmem.linux.userfaultfd import rights_here

SKIPPED = (
    "this system permits no userfaultfd, so there is no managed memory: the engine is shown in its "
    "place. `coldmem doctor` says how to permit it"
)


@click.command("demo")
@click.option("--part", type=click.Choice(["all", "memory", "locks", "engine"]), default="all",
              show_default=True, help="One of them; all: memory, then locks.")
@click.option("--memory-max", type=SIZE, default="128M", show_default=True,
              help="Limit of the Memory; its arrays take more than four times as much.")
@click.option("--delivery", type=click.Choice(["auto", "handler", "sigbus"]), default="auto",
              show_default=True, help="How faults reach the Memory.")
@click.option("--lock-seconds", type=click.FloatRange(0, min_open=True), default=0.2,
              show_default=True, help="Length of one run of the locking experiment; there are 30.")
@click.option("--max-pool", type=SIZE, default="16M", show_default=True,
              help="Limit of the engine's pool; four times as much data is stored.")
@click.option("--threads", type=click.IntRange(1, 256), default=4, show_default=True,
              help="Of the engine: threads that store and read.")
@click.option("--unit", type=SIZE, default="4K", show_default=True, help="4K, 16K or 64K.")
@click.option("--codec", default="lz4", show_default=True,
              help="Of the engine: lz4, zstd, zlib, auto, raw, ...")
@click.option("--locking", type=click.Choice(["handle", "class", "pool"]), default="handle",
              show_default=True, help="Of the engine: how its pool locks.")
@click.option("--swap-directory", type=click.Path(exists=True, file_okay=False),
              help="Where the swap file lives. Default: a directory for temporary files.")
@click.option("--spoil", is_flag=True, hidden=True,
              help="Change a little of what was stored before it is checked: we must notice.")
@json_option
@click.pass_context
def command(
    ctx: click.Context, part: str, memory_max: int, delivery: str, lock_seconds: float,
    max_pool: int, threads: int, unit: int, codec: str, locking: str, swap_directory: str | None,
    spoil: bool, as_json: bool,
) -> None:
    """Real work on more data than fits, every byte checked, and what locks cost.

    memory: NumPy and pandas on arrays of more than four times the limit of a Memory, with where
    the data are all along; every result is compared with plain NumPy's, block by block. locks: the
    allocator with five ways of locking, as ratios to 32 pools. engine: text and libraries of this
    machine and arrays, four times as much as its pool may hold, stored, read back and compared.
    Ends with 1 if anything is wrong.
    """
    engine = demo.Plan(max_pool, threads, unit, codec, locking, swap_directory, spoil=spoil)
    engine.check()
    parts = ["memory", "locks"] if part == "all" else [part]
    settings: dict[str, object] = {"part": part}
    if "memory" in parts and rights_here() == "none":
        print(f"coldmem: {SKIPPED}", file=sys.stderr)
        settings["memory_skipped"] = SKIPPED
        parts[parts.index("memory")] = "engine"
    wrong = False
    rows: list[Row] = []
    screen = None if as_json else output.console()
    for number, one in enumerate(parts):
        if number and screen is not None:
            screen.print()
        if one == "memory":
            from coldmem.cli import demo_memory
            from coldmem.lab.memory_job import MemoryPlan

            plan = MemoryPlan(memory_max, delivery, unit, swap_directory, spoil)
            found = demo_memory.run(plan)
            settings |= {"memory_max_bytes": memory_max, "delivery": delivery}
            rows += demo_memory.rows(found)
            if screen is not None:
                demo_memory.show(plan, found, screen)
            demo_memory.complain(found)
            wrong |= bool(found.differences)
        elif one == "locks":
            from coldmem.cli import demo_locks

            measured = demo_locks.run(lock_seconds)
            settings["lock_seconds"] = lock_seconds
            rows += demo_locks.rows(measured)
            if screen is not None:
                demo_locks.show(measured, screen)
        else:
            outcome = demo_engine.run(engine)
            settings |= demo_engine.settings(engine)
            rows += demo_engine.rows(outcome)
            if screen is not None:
                demo_engine.show(engine, outcome, screen)
            demo_engine.complain(outcome)
            wrong |= bool(outcome.differences)
    if as_json:
        output.print_json(Result("demo", settings, rows))
    if wrong:
        ctx.exit(1)
