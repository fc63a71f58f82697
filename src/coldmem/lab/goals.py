"""The goals of the locking experiment, and what a run says about each.

Owns nothing. A goal compares two arms, cell by cell, by the median of the ratios within repeats; its
figure is the worst of its cells, so "met" means met at every number of threads that it names. Cells
that were not run leave it open.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from coldmem.lab.result import Row

MANY = (2, 8, 32)
ONE_POOL = ("pool", "class", "handle", "handle_magazine")


@dataclass(frozen=True, slots=True)
class Goal:
    """One line of the list."""

    text: str
    bound: float
    at_least: bool  # else at most
    threads: tuple[int, ...]
    ratio: Callable[[Rows, int], float | None]
    prototype: str


@dataclass(frozen=True, slots=True)
class Verdict:
    """A goal beside its measurement; `met` is None where nothing was measured."""

    goal: Goal
    by_threads: dict[int, float]
    met: bool | None

    @property
    def worst(self) -> float | None:
        if not self.by_threads:
            return None
        return (min if self.goal.at_least else max)(self.by_threads.values())


class Rows:
    """Rows of ``lab locks`` by workload, codec, threads and arm."""

    def __init__(self, rows: Sequence[Row]) -> None:
        self._by_key = {(r["workload"], r["codec"], r["threads"], r["arm"]): r for r in rows}

    def row(self, workload: str, codec: str, threads: int, arm: str) -> Row | None:
        """The row of one cell and arm, if it was run."""
        return self._by_key.get((workload, codec, threads, arm))

    def get(self, workload: str, codec: str, threads: int, arm: str, key: str) -> float | None:
        row = self._by_key.get((workload, codec, threads, arm))
        value = None if row is None else row.get(key)
        return float(value) if isinstance(value, (int, float)) else None


def paired_ratio(up: Row, down: Row) -> float | None:
    """Median over repeats of the ratio of two arms' speeds within one repeat."""
    tops, bottoms = up["mops_per_s_runs"], down["mops_per_s_runs"]
    assert isinstance(tops, list) and isinstance(bottoms, list)
    pairs = list(zip(tops, bottoms, strict=True))
    return statistics.median(a / b for a, b in pairs) if pairs else None


def _speed(
    workload: str, above: Sequence[str], below: str, codec: str = "none"
) -> Callable[[Rows, int], float | None]:
    def ratio(rows: Rows, threads: int) -> float | None:
        down = rows.row(workload, codec, threads, below)
        ups = [rows.row(workload, codec, threads, arm) for arm in above]
        found = [paired_ratio(up, down) for up in ups if up is not None and down is not None]
        known = [r for r in found if r is not None]
        return max(known) if len(known) == len(above) else None

    return ratio


def _latency(rows: Rows, threads: int) -> float | None:
    up = rows.get("compact", "none", threads, "handle", "load_p999_ns")
    down = rows.get("compact", "none", threads, "class", "load_p999_ns")
    return up / down if up is not None and down else None


GOALS = (
    Goal("alloc, 32 threads: class / pool", 3.0, True, (32,),
         _speed("alloc", ["class"], "pool"), "2.5 to 3.0"),
    Goal("alloc, 2 to 32 threads: class / 32 pools", 1.0, True, MANY,
         _speed("alloc", ["class"], "pools32"), "0.81 to 0.93"),
    Goal("alloc, 2 to 32 threads: handle / 32 pools", 1.2, True, MANY,
         _speed("alloc", ["handle"], "pools32"), "1.18"),
    Goal("alloc, 2 to 32 threads: handle, magazines / 32 pools", 2.0, True, MANY,
         _speed("alloc", ["handle_magazine"], "pools32"), "2.0 to 2.4"),
    Goal("alloc, 1 thread: class / pool", 0.98, True, (1,),
         _speed("alloc", ["class"], "pool"), "0.97"),
    Goal("alloc, 1 thread: handle / pool", 1.0, True, (1,),
         _speed("alloc", ["handle"], "pool"), "1.09"),
    Goal("compact, 2 to 32 threads: handle, magazines / 32 pools", 2.0, True, MANY,
         _speed("compact", ["handle_magazine"], "pools32"), "2 to 3"),
    Goal("compact, 2 to 32 threads: class / pool", 1.2, True, MANY,
         _speed("compact", ["class"], "pool"), "0.5 to 2"),
    Goal("zswap with lz4, 2 to 32 threads: best one-pool arm / 32 pools", 1.0, True, MANY,
         _speed("zswap", ONE_POOL, "pools32", "lz4"), "0.97 to 1.08"),
    Goal("read p99.9 with the compactor on: handle / class", 0.1, False, MANY,
         _latency, "0.03"),
)


def judge(rows: Sequence[Row]) -> list[Verdict]:
    """Every goal with what `rows` say about it."""
    found = Rows(rows)
    verdicts = []
    for goal in GOALS:
        measured = {t: goal.ratio(found, t) for t in goal.threads}
        known = {t: value for t, value in measured.items() if value is not None}
        met: bool | None = None
        if len(known) == len(measured):
            met = all(v >= goal.bound if goal.at_least else v <= goal.bound for v in known.values())
        verdicts.append(Verdict(goal, known, met))
    return verdicts
