"""``coldmem run``: a whole program whose NumPy arrays live in a Memory."""

from __future__ import annotations

import atexit
import os
import time
from collections.abc import Callable
from typing import Any

import click

from coldmem.cli.program import Program, execute, prepare
from coldmem.errors import UsageError
from coldmem.memory.whole import Settings, WholeProgram


class ThenProgram(click.Command):
    """Options of ours, then the program; from its name on, all arguments are the program's."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        return super().parse_args(ctx, split_arguments(self, args))


def split_arguments(command: click.Command, args: list[str]) -> list[str]:
    """`args` with "--" before what is the program's, "-m" and "-c" included."""
    takes_value = {
        name for option in command.params if isinstance(option, click.Option) and not option.is_flag
        for name in option.opts
    }
    at = 0
    while at < len(args):
        arg = args[at]
        if arg == "--":
            return args
        if arg.startswith(("-m", "-c")) or not arg.startswith("-") or arg == "-":
            return [*args[:at], "--", *args[at:]]
        at += 2 if arg in takes_value else 1
    return args


def _program(words: tuple[str, ...]) -> Program:
    if not words:
        raise UsageError("no program: give a script, -m and the name of a module, or -c and code")
    first, *rest = words
    option = first[:2]
    if option not in ("-m", "-c"):
        return Program(first, tuple(rest))
    what = first[2:]
    if not what:
        if not rest:
            missing = "the name of a module" if option == "-m" else "the code"
            raise UsageError(f"{option}: give {missing}")
        what, *rest = rest
    return Program(what, tuple(rest), module=option == "-m", code=option == "-c")


@click.command(
    "run", cls=ThenProgram, options_metavar="[OPTIONS]",
    context_settings={"allow_interspersed_args": False},
)
@click.option("--memory-max", default="auto", show_default=True,
              help='RAM for arrays: "512M", or "50%" of what the cgroup or machine has. auto: half.')
@click.option("--swap-max", default="auto", show_default=True,
              help="Most bytes of the swap file; 0 for none.")
@click.option("--delivery", type=click.Choice(["auto", "handler", "sigbus"]), default="auto",
              show_default=True, help="How faults reach coldmem; see `coldmem doctor`.")
@click.option("--unit", default="4K", show_default=True, help="4K, 16K or 64K.")
@click.option("--threshold", default="256K", show_default=True,
              help="Smaller arrays stay with NumPy's own allocator.")
@click.option("--codec", default="auto", show_default=True, help="lz4, zstd, zlib, auto, raw, ...")
@click.option("--cold-codec", default="auto", show_default=True,
              help="What stays cold is packed once more with it. auto: zstd behind the filters of "
                   "--codec. none: it is left as it is.")
@click.option("--swap-directory", help="Where the swap file lives. Default: for temporary files.")
@click.option("--overcommit", is_flag=True,
              help="Allow more arrays than surely fit: for data that is known to compress.")
@click.option("--report/--no-report", default=True, show_default=True,
              help="What happened, on stderr, when the program ends.")
@click.option("--json", "json_file", metavar="FILE", type=click.Path(dir_okay=False),
              help="Write the same as JSON to this file.")
@click.argument("program", nargs=-1, type=click.UNPROCESSED,
                metavar="SCRIPT | -m MODULE | -c CODE [ARGS]...")
def command(
    memory_max: str, swap_max: str, delivery: str, unit: str, threshold: str, codec: str,
    cold_codec: str, swap_directory: str | None, overcommit: bool, report: bool, json_file: str | None,
    program: tuple[str, ...],
) -> Callable[[], None]:
    """Run a Python program, unchanged, with more memory for its NumPy arrays.

    Arrays of all its threads live in a Memory: their cold parts are compressed, and go to a swap
    file when that is not enough. The program's arguments, input, output and exit code are its own.
    Processes that it forks keep their arrays; programs that it starts have no Memory.
    """
    what = _program(program)
    settings = Settings(
        memory_max, swap_max, unit, delivery, swap_directory, codec,
        None if cold_codec == "none" else cold_codec, overcommit, threshold,
    )
    if json_file and not os.path.isdir(os.path.dirname(json_file) or "."):
        raise UsageError(f"--json {json_file}: there is no such directory")
    run = prepare(what)
    whole = WholeProgram(settings)
    whole.arm()
    if report or json_file:
        # The first to be registered is the last to be called: after all of the program.
        atexit.register(_at_exit, whole, what, report, json_file, time.monotonic(), os.getpid())
    # Outside of click, which has its own mind about SystemExit and KeyboardInterrupt.
    return lambda: execute(run, whole.advice)


def _at_exit(
    whole: WholeProgram, what: Program, report: bool, json_file: str | None, start_s: float, pid: int
) -> None:
    if os.getpid() != pid:
        return  # a forked child that came to its end
    from coldmem.cli import run_report

    found: dict[str, Any] | None = whole.stats()
    seconds = time.monotonic() - start_s
    if report:
        run_report.show(found, seconds)
    if json_file:
        run_report.write(json_file, what, found, seconds)
