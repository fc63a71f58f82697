"""Options that several commands share.

``--threads 1 2 32`` takes several values: `SeveralValues` rewrites the arguments before click sees
them, so that each value has its own option name. ``--threads 1 --threads 2`` and ``--threads=1,2``
work as well. A command that uses it has no positional arguments, or has them before its options.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import click

from coldmem.errors import InvalidQuantityError
from coldmem.units import parse_bytes


class SeveralValues(click.Command):
    """A command whose options with ``multiple=True`` take several values in a row."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        names = {
            name: option
            for option in self.params
            if isinstance(option, click.Option) and option.multiple
            for name in option.opts
        }
        return super().parse_args(ctx, _spread(args, names))


def _spread(args: Sequence[str], names: dict[str, click.Option]) -> list[str]:
    out: list[str] = []
    current = ""  # the option whose values are being read
    waiting = False  # it has had no value yet
    for arg in args:
        name, equals, value = arg.partition("=")
        if name in names:
            if waiting:
                out.append(current)  # without a value: click says so
            current, waiting = name, not equals
            values = value.split(",") if equals else []
        elif arg.startswith("-") or not current:
            if waiting:
                out.append(current)
            current, waiting = "", False
            out.append(arg)
            continue
        else:
            values = arg.split(",")
        for one in values:
            out.append(f"{current}={one}")
            waiting = False
    if waiting:
        out.append(current)
    return out


class Size(click.ParamType):
    """"64M" and the like, as bytes."""

    name = "size"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> int:
        try:
            return parse_bytes(value)
        except InvalidQuantityError as error:
            self.fail(str(error), param, ctx)


SIZE = Size()

Decorator = Callable[[Callable[..., Any]], Callable[..., Any]]

json_option: Decorator = click.option(
    "--json", "as_json", is_flag=True, help="Print one JSON object; progress goes to stderr."
)
