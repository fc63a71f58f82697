"""The goals of ``bench dask``, and what a run says about each.

Owns nothing, takes no locks. coldmem's time is divided by that of the quickest of Dask's own stores in
the same repeat; a goal's figure is the median over repeats of its worst cell.
"""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass

from coldmem.lab.dask_case import COLDMEM, SPILL, SPILL_LZ4
from coldmem.lab.dask_jobs import COMPRESSIBLE, RANDOM
from coldmem.lab.result import Row

#: Job, kind of data, disk.
Cell = tuple[str, str, str]
BOUNDS = {COMPRESSIBLE: 0.7, RANDOM: 1.05}
RIVALS = (SPILL, SPILL_LZ4)


@dataclass(frozen=True, slots=True)
class Verdict:
    """Of one cell: coldmem's time by the best rival's; None: one of them has no time."""

    cell: Cell
    bound: float
    ratio: float | None
    rivals_failed: bool
    killed_workers: int

    @property
    def met(self) -> bool | None:
        """None where nothing can be said. A job that only coldmem could end is won."""
        if self.killed_workers:
            return False
        if self.ratio is None:
            return True if self.rivals_failed else None
        return self.ratio <= self.bound


def cell_of(row: Row) -> Cell:
    """What a row is about, other than system and repeat."""
    return str(row["job"]), str(row["data_kind"]), str(row["disk"])


def judge(rows: Sequence[Row]) -> list[Verdict]:
    """Every cell that coldmem was run in."""
    verdicts = []
    for cell in dict.fromkeys(cell_of(row) for row in rows if row["system"] == COLDMEM):
        mine = [row for row in rows if cell_of(row) == cell and row["system"] == COLDMEM]
        others = [row for row in rows if cell_of(row) == cell and row["system"] in RIVALS]
        times = {row["repeat"]: _seconds(row) for row in mine}
        ratios = []
        for repeat, seconds in times.items():
            best = min((s for row in others if row["repeat"] == repeat
                        if (s := _seconds(row)) is not None), default=None)
            if seconds is not None and best is not None:
                ratios.append(seconds / best)
        done = all(seconds is not None for seconds in times.values())
        verdicts.append(Verdict(
            cell, BOUNDS[cell[1]], statistics.median(ratios) if ratios else None,
            done and bool(others) and all(_seconds(row) is None for row in others),
            sum(int(str(row["killed_workers"] or 0)) for row in mine)))
    return verdicts


def _seconds(row: Row) -> float | None:
    value = row["seconds"]
    return float(value) if isinstance(value, int | float) else None
