"""``coldmem bench programs``."""

from __future__ import annotations

import click

from coldmem.cli import output
from coldmem.cli.options import SIZE, SeveralValues, json_option
from coldmem.lab import program_bench
from coldmem.lab.program_bench import ProgramPlan
from coldmem.lab.program_jobs import PROGRAMS
from coldmem.lab.result import Result, Row

MIB = 1 << 20
COLOURS = {"differs": "red", "equal": "green", "close": "green"}


@click.command("programs", cls=SeveralValues)
@click.option("--program", "programs", type=click.Choice(list(PROGRAMS)), multiple=True,
              default=tuple(PROGRAMS), help="Which programs. Default: all six.")
@click.option("--system", "systems", type=click.Choice(program_bench.SYSTEM_NAMES), multiple=True,
              default=program_bench.SYSTEM_NAMES,
              help="Which systems. Default: all that this machine permits; no-limit always runs.")
@click.option("--size", "size_bytes", type=SIZE, default=program_bench.SIZE_BYTES,
              help="Bytes that a program holds at its peak, about. Default: 256M.")
@click.option("--limit", "limit_bytes", type=SIZE, help="Default: a quarter of the size.")
@click.option("--repeats", type=click.IntRange(1), default=3, show_default=True,
              help="Runs of each program in each system; the median counts.")
@click.option("--seconds", "run_s_max", type=float, default=program_bench.RUN_S_MAX,
              show_default=True, help="A run that takes longer is ended, and said to be too slow.")
@click.option("--spoil", is_flag=True, hidden=True,
              help="Change results before they are compared: we must notice.")
@json_option
@click.pass_context
def command(
    ctx: click.Context, programs: tuple[str, ...], systems: tuple[str, ...], size_bytes: int,
    limit_bytes: int | None, repeats: int, run_s_max: float, spoil: bool, as_json: bool,
) -> None:
    """Whole programs on four times the limit: in coldmem, and in what else there is.

    The kernel's zswap and zram and memmap run in a memory cgroup and need root; coldmem gets what the
    kernel's systems take in all. Each run is a process of its own, and its result is compared with the
    one without a limit. Ends with 1 if one differs.
    """
    plan = ProgramPlan(
        programs=programs, systems=systems, repeats=repeats, size_bytes=size_bytes,
        limit_bytes=limit_bytes or size_bytes // program_bench.SIZE_LIMITS, run_s_max=run_s_max,
        spoil=spoil,
    )
    with output.progress() as report:
        result = program_bench.run(plan, report)
    _show_skipped(result)
    if as_json:
        output.print_json(result)
    else:
        _show(result)
    wrong = program_bench.differing(result)
    for line in wrong:
        click.echo(f"coldmem: wrong: {line}", err=True)
    if wrong:
        ctx.exit(1)


def _show_skipped(result: Result) -> None:
    """On stderr, so that it is seen beside --json too."""
    skipped = result.settings["skipped_systems"]
    assert isinstance(skipped, dict)
    for name, reason in skipped.items():
        click.echo(f"coldmem: SKIPPED {name}: {reason}", err=True)


def _show(result: Result) -> None:
    limit, size = (int(str(result.settings[k])) // MIB for k in ("limit_bytes", "size_bytes"))
    made = output.table(
        f"Whole programs that hold about {size} MiB; limit {limit} MiB",
        ["program", "system", "seconds", "min .. max", "x no-limit", "coldmem x", "work s",
         "x no-limit", "coldmem x", "peak MiB", "allowed", "faults", "result"], left=2,
    )
    last: object = None
    notes = []
    for row in result.rows:
        if last not in (None, row["program"]):
            made.add_row()
        last = row["program"]
        made.add_row(*_cells(row))
        reason = row["skipped"] or row["failed"]
        if reason:
            notes.append(f"{row['program']} in {row['system']}: {reason}")
    screen = output.console()
    screen.print(made)
    screen.print(
        "seconds: with the making of the data; work: without.  x no-limit: this time by that without\n"
        "a limit.  coldmem x: coldmem's time by this one; below 1 coldmem is faster."
    )
    for note in notes:
        screen.print(note, style="dim")


def _cells(row: Row) -> list[str]:
    def mib(key: str) -> str:
        value = row[key]
        return output.number(None if value is None else int(str(value)) / MIB)

    verdict = row["result"]
    if verdict is None:
        verdict = "skipped" if row["skipped"] else "failed"
    between = "-"
    if row["seconds"] is not None:
        between = f"{output.number(row['seconds_min'])} .. {output.number(row['seconds_max'])}"
    colour = COLOURS.get(str(verdict), "default")
    return [
        str(row["program"]), str(row["system"]), output.number(row["seconds"]), between,
        *(output.number(row[k]) for k in ("ratio_to_no_limit", "coldmem_ratio", "work_s",
                                          "work_ratio_to_no_limit", "coldmem_work_ratio")),
        mib("footprint_peak_bytes"), mib("allowed_bytes"), output.number(row["faults"]),
        f"[{colour}]{verdict}[/]",
    ]
