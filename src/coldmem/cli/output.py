"""Where a command writes: tables or one JSON object on stdout, progress on stderr.

Owns nothing. On a terminal progress is one line that changes; elsewhere it is a line each.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

from rich.console import Console
from rich.table import Table

from coldmem.lab.result import Result

Report = Callable[[str], None]


def console() -> Console:
    """For tables. Not on a terminal: wide enough that no column is cut."""
    return Console(file=sys.stdout, width=None if sys.stdout.isatty() else 140, highlight=False)


@contextmanager
def progress() -> Iterator[Report]:
    """A function that shows a line of progress on stderr."""
    screen = Console(file=sys.stderr, highlight=False)
    if not screen.is_terminal:
        yield lambda line: print(line, file=sys.stderr, flush=True)
        return
    with screen.status("starting") as status:
        yield lambda line: status.update(line)


def print_json(result: Result) -> None:
    """The one object of a ``--json`` run."""
    print(result.to_json())


def table(title: str, columns: Sequence[str], left: int = 1) -> Table:
    """A table whose first `left` columns are text and whose others are numbers."""
    made = Table(title=title, title_justify="left", title_style="bold", box=None, pad_edge=False)
    for number, column in enumerate(columns):
        made.add_column(column, justify="left" if number < left else "right")
    return made


def number(value: object, digits: int = 3) -> str:
    """A figure for a table: three significant digits, no exponent; a dash where there is none."""
    if value is None:
        return "-"
    if isinstance(value, (int, float)):
        text = f"{value:.{digits}g}"
        return f"{float(text):,.0f}" if abs(value) >= 100 else text
    return str(value)


def percent(share: object) -> str:
    """0.123 as "12.3 %"."""
    return f"{100 * share:.1f} %" if isinstance(share, (int, float)) else "-"
