"""The goals of ``bench cache``, and what a run says about each.

Owns nothing, takes no locks. A figure of coldmem is compared with a peer's cell by cell: the median of
the ratios within one repeat. A goal's figure is that of its worst cell, so "met" means met in all that
was run; what was not run leaves it open.
"""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass

from coldmem.lab.cache_case import ENTRIES, GET, SCAN, ZIPF
from coldmem.lab.cache_peers import (
    CACHETOOLS_LZ4,
    COLDMEM,
    COLDMEM_LRU,
    DICT,
    DICT_ZSTD,
    DISKCACHE,
    REDIS,
)
from coldmem.lab.result import Row

#: Kind of value, bytes, threads.
Cell = tuple[str, int, int]
SPEED, HITS, SPACE = "ops_per_s", "hit_ratio", "bytes_per_entry"


@dataclass(frozen=True, slots=True)
class Goal:
    """One line of the list: coldmem's `figure` divided by that of `peer`, or of the best of all.

    Attributes
    ----------
    peer : str
        Empty: every peer that is not coldmem; the worst of the ratios counts.
    """

    text: str
    workload: str
    figure: str
    bound: float
    peer: str = ""


@dataclass(frozen=True, slots=True)
class Verdict:
    """A goal beside its measurement.

    Attributes
    ----------
    by_cell : dict
        The ratio in each cell that was run; where a goal has no one peer, the worst.
    against : dict
        The peer of that ratio.
    """

    goal: Goal
    by_cell: dict[Cell, float]
    against: dict[Cell, str]

    @property
    def worst(self) -> float | None:
        """Of all cells; None: nothing was measured."""
        return min(self.by_cell.values(), default=None)

    @property
    def met(self) -> bool | None:
        """None where nothing was measured."""
        return None if self.worst is None else self.worst >= self.goal.bound


GOALS = (
    Goal("gets per second: coldmem / diskcache", GET, SPEED, 10.0, DISKCACHE),
    Goal("gets per second: coldmem / Redis", GET, SPEED, 3.0, REDIS),
    Goal("gets per second: coldmem / cachetools + lz4", GET, SPEED, 1.5, CACHETOOLS_LZ4),
    Goal("entries in the same memory: coldmem / dict", ENTRIES, SPACE, 3.0, DICT),
    Goal("entries in the same memory: coldmem / dict of zstd", ENTRIES, SPACE, 1.5, DICT_ZSTD),
    Goal("hit ratio, Zipf: coldmem / every peer", ZIPF, HITS, 1.0),
    Goal("hit ratio, Zipf with scans: coldmem / every peer", SCAN, HITS, 1.0),
)


def cell_of(row: Row) -> Cell:
    """What a row is about, other than peer, workload and repeat."""
    return str(row["value_kind"]), int(str(row["value_bytes"])), int(str(row["threads"]))


def ratio(rows: Sequence[Row], workload: str, cell: Cell, figure: str, above: str, below: str
          ) -> float | None:
    """Median over repeats of one peer's figure divided by another's; None where both never ran.

    For `SPACE` it is the other way round: how many entries one has for each of the other's.
    """
    values: dict[str, dict[object, float]] = {above: {}, below: {}}
    for row in rows:
        value = row[figure]
        if row["workload"] == workload and cell_of(row) == cell and row["peer"] in values and (
                isinstance(value, int | float)):
            values[str(row["peer"])][row["repeat"]] = float(value)
    if figure == SPACE:
        above, below = below, above
    pairs = [(values[above][n], values[below][n]) for n in values[above] if n in values[below]]
    ratios = [up / down for up, down in pairs if down]
    return statistics.median(ratios) if ratios else None


def judge(rows: Sequence[Row]) -> list[Verdict]:
    """Every goal with what `rows` say about it."""
    peers = [p for p in dict.fromkeys(str(row["peer"]) for row in rows)
             if p not in (COLDMEM, COLDMEM_LRU)]
    verdicts = []
    for goal in GOALS:
        cells = dict.fromkeys(
            cell_of(row) for row in rows
            if row["workload"] == goal.workload and row["peer"] == COLDMEM)
        by_cell: dict[Cell, float] = {}
        against: dict[Cell, str] = {}
        for cell in cells:
            for peer in [goal.peer] if goal.peer else peers:
                found = ratio(rows, goal.workload, cell, goal.figure, COLDMEM, peer)
                if found is not None and found < by_cell.get(cell, float("inf")):
                    by_cell[cell], against[cell] = found, peer
        verdicts.append(Verdict(goal, by_cell, against))
    return verdicts
