"""The command ``coldmem``: finds the subcommand, and turns every way to end into an exit code.

0: done. 1: the command found a difference. 2: a wrong option or argument. 3 and more: `exit_code`
of the `ColdmemError`, whose message is printed as one line. 130: interrupted with Ctrl-C.
A subcommand is imported when it is named, so that ``--help`` does not wait for what it does not need.
"""

from __future__ import annotations

import importlib
import os
import sys
from collections.abc import Sequence

import click

from coldmem.errors import ColdmemError

INTERRUPTED = 130
STDOUT_FD = 1


class LazyGroup(click.Group):
    """A group whose commands are ``{name: (module, help)}``; the module has it as ``command``."""

    def __init__(self, name: str, commands: dict[str, tuple[str, str]], doc: str) -> None:
        super().__init__(name=name, help=doc)
        self._lazy = commands

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(self._lazy)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in self._lazy:
            return None
        module = importlib.import_module(self._lazy[cmd_name][0])
        command: click.Command = module.command
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl([(name, about) for name, (_, about) in self._lazy.items()])


lab = LazyGroup(
    "lab",
    {
        "locks": ("coldmem.cli.lab_locks", "32 pools, pool lock, class lock, handle: side by side"),
        "fragmentation": ("coldmem.cli.lab_fragmentation", "memory used per byte stored"),
        "scale": ("coldmem.cli.lab_scale", "the locks over 1 to 256 cores, simulated"),
        "build": ("coldmem.cli.lab_build", "a kernel build under a memory limit, swapping to coldmem"),
        "replay": ("coldmem.cli.lab_replay", "the swapping of a recorded build, engine alone"),
        "backends": ("coldmem.cli.lab_backends", "zsmalloc beside zbud and z3fold"),
    },
    "Experiments on the allocator.",
)
bench = LazyGroup(
    "bench",
    {
        "engine": ("coldmem.cli.bench_engine", "store, load, invalidate against the bare codec"),
        "codecs": ("coldmem.cli.bench_codecs", "codecs and filters: bytes and speed"),
        "cache": ("coldmem.cli.bench_cache", "coldmem.Cache beside other caches and Redis"),
        "dask": ("coldmem.cli.bench_dask", "a Dask cluster beside Dask's own spilling"),
        "nbd": ("coldmem.cli.bench_nbd", "the block device beside nbdkit and the kernel's zram"),
        "memory": ("coldmem.cli.bench_memory", "managed memory beside the kernel's zswap and zram"),
        "programs": ("coldmem.cli.bench_programs", "whole programs, and what else there is for them"),
    },
    "Measurements of one part each.",
)


class Root(LazyGroup):
    """``coldmem`` itself; its groups are here, its commands are imported when they are named."""

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        return {"lab": lab, "bench": bench}.get(cmd_name) or super().get_command(ctx, cmd_name)


cli = Root(
    "coldmem",
    {
        "run": ("coldmem.cli.run", "a whole program, unchanged, with more memory for its arrays"),
        "nbd": ("coldmem.cli.nbd", "the pool as a block device, for virtual machines and swap"),
        "doctor": ("coldmem.cli.doctor", "what this machine permits, and how to permit more"),
        "demo": ("coldmem.cli.demo", "NumPy on more data than the limit, checked; then locks in short"),
        "lab": ("", "experiments on the allocator"),
        "bench": ("", "measurements of one part each"),
    },
    "Compressed memory: zsmalloc, zswap and a swap file in user space.",
)


def _show_version(ctx: click.Context, param: click.Parameter, wanted: bool) -> None:
    if wanted:
        from coldmem.lab.machine import version

        click.echo(f"coldmem {version()}")
        ctx.exit()


cli.params.append(
    click.Option(
        ["--version"], is_flag=True, expose_value=False, is_eager=True, callback=_show_version,
        help="Show the version and exit.",
    )
)


def run(arguments: Sequence[str]) -> int:
    """Run ``coldmem *arguments``; the exit code."""
    try:
        found = cli.main(list(arguments), prog_name="coldmem", standalone_mode=False)
        sys.stdout.flush()
    except click.ClickException as error:
        error.show()
        return error.exit_code
    except (KeyboardInterrupt, click.Abort):
        print("coldmem: interrupted", file=sys.stderr)
        return INTERRUPTED
    except BrokenPipeError:
        # Whoever read our output is gone; nothing more can be said to them.
        os.dup2(os.open(os.devnull, os.O_WRONLY), STDOUT_FD)
        return 0
    except ColdmemError as error:
        print(f"coldmem: {error}", file=sys.stderr)
        return error.exit_code
    if callable(found):
        found()  # a program of the user's: what it raises is its own, and the interpreter's to show
    return found if isinstance(found, int) else 0


def main() -> None:
    """Entry point of the console script."""
    sys.exit(run(sys.argv[1:]))
