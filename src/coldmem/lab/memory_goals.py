"""The goals of ``bench memory``: coldmem against the better of the kernel's two systems, in one run.

Owns nothing. Speeds are compared repeat by repeat, and the median of these ratios counts; times and
ratios of compression by their medians. A goal is judged for each configuration of coldmem that was
run; what was not run leaves it open.
"""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass

from coldmem.lab.memory_case import COLDMEM
from coldmem.lab.result import Row

SPEED = "mb_per_s"
Key = tuple[str, int, str]  # delivery, unit_bytes, codec


@dataclass(frozen=True, slots=True)
class Goal:
    """One line of the list: `figure` of one row, divided by the kernel's."""

    text: str
    corpus: str
    workload: str
    bound: float
    figure: str = SPEED
    threads: int = 1

    @property
    def at_least(self) -> bool:
        """Else at most: times."""
        return not self.figure.endswith("_us")


@dataclass(frozen=True, slots=True)
class Verdict:
    """A goal beside what each configuration came to."""

    text: str
    bound: float
    at_least: bool
    by_config: dict[Key, float]

    def met(self, config: Key) -> bool | None:
        """None where it was not measured."""
        value = self.by_config.get(config)
        if value is None:
            return None
        return value >= self.bound if self.at_least else value <= self.bound


GOALS = (
    Goal("fill beyond the limit, tree", "tree", "fill", 3.0),
    Goal("sequential scan, tree", "tree", "sequential", 7.0),
    Goal("sequential scan, tree, 2 threads", "tree", "sequential", 5.0, threads=2),
    Goal("read-modify-write scan, tree", "tree", "rewrite", 3.5),
    Goal("random read, tree", "tree", "random", 2.0),
    Goal("random write, tree", "tree", "random_write", 2.0),
    Goal("random fault p50, tree", "tree", "random", 1.0, "fault_p50_us"),
    Goal("random fault p99, tree", "tree", "random", 0.05, "fault_p99_us"),
    Goal("hot set, tree", "tree", "hot_set", 2.0),
    Goal("fill beyond the limit, num", "num", "fill", 4.0),
    Goal("sequential scan, num", "num", "sequential", 7.0),
    Goal("random read, num", "num", "random", 2.0),
    Goal("original bytes per byte of pool, tree, at once", "tree", "fill", 1.15, "ratio"),
    Goal("the same after four idle seconds", "tree", "fill", 1.15, "ratio_idle"),
    Goal("original bytes per byte of pool, num, at once", "num", "fill", 1.6, "ratio"),
    Goal("the same after four idle seconds", "num", "fill", 1.6, "ratio_idle"),
)
EVERYWHERE = ("slowest of all workloads against the kernel", 1.0)
DELIVERY = ("slowest of all workloads against sigbus", 0.8)


def config_of(row: Row) -> Key:
    """Which configuration of coldmem a row is about."""
    return str(row["delivery"]), int(str(row["unit_bytes"])), str(row["codec"])


def _number(row: Row, figure: str) -> float | None:
    value = row.get(figure)
    return float(value) if isinstance(value, (int, float)) else None


def _cell(row: Row) -> tuple[object, ...]:
    return row["corpus"], row["workload"], row["threads"]


def compare(row: Row, other: Row, figure: str) -> float | None:
    """`figure` of `row` divided by that of `other`."""
    ups, downs = row["mb_per_s_runs"], other["mb_per_s_runs"]
    if figure == SPEED and isinstance(ups, list) and isinstance(downs, list):
        return float(statistics.median(a / b for a, b in zip(ups, downs, strict=True)))
    up, down = _number(row, figure), _number(other, figure)
    return up / down if up is not None and down else None


def against_kernel(rows: Sequence[Row], row: Row, figure: str) -> float | None:
    """`row` divided by the better kernel system of the same cell; None where none was run."""
    best: Row | None = None
    at_least = not figure.endswith("_us")
    for other in rows:
        value = _number(other, figure)
        if other["system"] == COLDMEM or _cell(other) != _cell(row) or value is None:
            continue
        known = None if best is None else _number(best, figure)
        if known is None or (value > known if at_least else value < known):
            best = other
    return None if best is None else compare(row, best, figure)


def judge(rows: Sequence[Row]) -> list[Verdict]:
    """Every goal with what each configuration came to."""
    mine = [row for row in rows if row["system"] == COLDMEM]
    verdicts = []
    for goal in GOALS:
        found = {}
        for row in mine:
            if _cell(row) == (goal.corpus, goal.workload, goal.threads):
                value = against_kernel(rows, row, goal.figure)
                if value is not None:
                    found[config_of(row)] = value
        verdicts.append(Verdict(goal.text, goal.bound, goal.at_least, found))
    return [*verdicts, _everywhere(rows, mine), _deliveries(mine)]


def _everywhere(rows: Sequence[Row], mine: Sequence[Row]) -> Verdict:
    worst: dict[Key, float] = {}
    for row in mine:
        value = against_kernel(rows, row, SPEED)
        if value is not None:
            worst[config_of(row)] = min(value, worst.get(config_of(row), value))
    return Verdict(*EVERYWHERE, True, worst)


def _deliveries(mine: Sequence[Row]) -> Verdict:
    """The handler against the signal, which serves itself in the thread that faults."""
    worst: dict[Key, float] = {}
    for row in mine:
        if row["delivery"] != "handler":
            continue
        for other in mine:
            same = (*config_of(row)[1:], *_cell(row)) == (*config_of(other)[1:], *_cell(other))
            if other["delivery"] == "sigbus" and same:
                value = compare(row, other, SPEED)
                if value is not None:
                    worst[config_of(row)] = min(value, worst.get(config_of(row), value))
    return Verdict(*DELIVERY, True, worst)
