"""The shrinker hook: how a memory controller asks a pool to give memory back.

As the kernel's shrinker: `count` says how much could be freed, without a lock; `scan` does the work and
says what it freed, or `STOP` when it freed nothing, so that the controller turns elsewhere.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

STOP: Final = -1


@dataclass(frozen=True, slots=True)
class Shrinker:
    """A named pair of callables.

    Attributes
    ----------
    name : str
        Which pool it is of.
    count : callable
        Units that `scan` could free now.
    """

    name: str
    count: Callable[[], int]
    _work: Callable[[], int]

    def scan(self) -> int:
        """Free what can be freed: units freed, or `STOP` when it was nothing."""
        return self._work() or STOP
