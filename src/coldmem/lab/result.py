"""The one shape that every bench and lab command prints with ``--json``.

``{"name": …, "machine": {…}, "settings": {…}, "rows": [{…}]}``, keys in snake_case with their
units. Owns nothing, takes no locks.
"""

from __future__ import annotations

import json
import statistics
from collections.abc import Sequence
from dataclasses import dataclass, field

from coldmem.lab import machine

Row = dict[str, object]


@dataclass
class Result:
    """What a command measured."""

    name: str
    settings: dict[str, object]
    rows: list[Row] = field(default_factory=list)
    machine: dict[str, object] = field(default_factory=machine.facts)

    def to_json(self) -> str:
        """One JSON object as text."""
        content = {
            "name": self.name, "machine": self.machine,
            "settings": self.settings, "rows": self.rows,
        }
        return json.dumps(content, indent=1, allow_nan=False)


@dataclass(frozen=True)
class Spread:
    """Median, smallest and largest of repeated measurements."""

    median: float
    low: float
    high: float
    n: int

    @classmethod
    def of(cls, values: Sequence[float]) -> Spread:
        """Of `values`, which must not be empty."""
        return cls(statistics.median(values), min(values), max(values), len(values))


def rounded(value: float, digits: int = 4) -> float:
    """`value` to `digits` significant digits: more would claim a precision that is not there."""
    return float(f"{value:.{digits}g}")
