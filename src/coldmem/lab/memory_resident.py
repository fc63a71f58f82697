"""``bench memory --resident``: NumPy on arrays that fit the limit and stay in RAM, beside plain NumPy.

Owns: a Memory for each delivery while it runs, in this process. Guarantees: plain and managed arrays
hold the same data and take turns, operation by operation, who begins changes with each repeat; results
are equal to the last bit; what was measured had no unit out of RAM.
"""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from coldmem.errors import InternalError, UsageError
from coldmem.lab.memory_case import COLDMEM
from coldmem.lab.result import Result, Row, Spread, rounded
from coldmem.memory.memory import Memory

ARRAY_BYTES = 64 << 20
GOAL = 0.97  # of plain NumPy's speed
PLAIN = "numpy"
MEMORY_TIMES = 8  # the limit, in sizes of the array: far from reached
MATRIX_SHARE = 8  # a matrix has this part of the array's bytes, or a product would take seconds

Array = np.ndarray[Any, Any]
Report = Callable[[str], None]


@dataclass
class Side:
    """Arrays of one system, all of them touched."""

    data: Array
    work: Array
    matrix: Array
    product: Array

    @classmethod
    def of(cls, data: Array, empty: Callable[..., Array]) -> Side:
        """Copies of `data` in what `empty` gives."""
        n = math.isqrt(data.size // MATRIX_SHARE)
        made = cls(empty(data.shape), empty(data.shape), empty((n, n)), empty((n, n)))
        made.data[:] = made.work[:] = data
        made.matrix[:] = data[: n * n].reshape(n, n)
        made.product[:] = 0
        return made

    def prepare(self) -> None:
        """What `sort` sorts is in disorder again."""
        self.work[:] = self.data


def _sort(side: Side) -> Array:
    side.work.sort()
    return side.work


OPERATIONS: dict[str, Callable[[Side], Array]] = {
    "sum": lambda side: np.atleast_1d(side.data.sum()),
    "matmul": lambda side: np.matmul(side.matrix, side.matrix, out=side.product),
    "sort": _sort,
}


def _seconds(operation: Callable[[Side], Array], side: Side) -> tuple[float, Array]:
    side.prepare()
    start = time.perf_counter()
    found = operation(side)
    return time.perf_counter() - start, found


def run(
    deliveries: Sequence[str], repeats: int, array_bytes: int = ARRAY_BYTES,
    report: Report = lambda line: None,
) -> Result:
    """Every operation in turn on a plain array and on one in a Memory of each delivery.

    Raises
    ------
    UsageError
        Fewer than one repeat, or an array of less than 1 MiB.
    """
    if repeats < 1:
        raise UsageError("--repeats must be 1 or more")
    if array_bytes < 1 << 20:
        raise UsageError("--array must be 1M or more")
    data = np.random.default_rng(1).normal(size=array_bytes // 8)
    plain = Side.of(data, np.empty)
    memories = [Memory(max(MEMORY_TIMES * array_bytes, 64 << 20), 0, delivery=d) for d in deliveries]
    sides = [plain, *(Side.of(data, memory.empty) for memory in memories)]
    evicted = [memory.stats()["dropped"] for memory in memories]
    found: dict[str, list[list[float]]] = {name: [[] for _ in sides] for name in OPERATIONS}
    for repeat in range(-1, repeats):  # the first warms up
        for name, operation in OPERATIONS.items():
            report(f"{name}, repeat {max(repeat, 0) + 1}/{repeats}")
            _turn(name, operation, sides, repeat, found[name])
    if evicted != [memory.stats()["dropped"] for memory in memories]:
        raise InternalError("a resident array was taken out of RAM")
    names = [(PLAIN, "none"), *((COLDMEM, memory.delivery) for memory in memories)]
    rows = [
        _row(system, delivery, name, times, found[name][0])
        for name in OPERATIONS
        for (system, delivery), times in zip(names, found[name], strict=True)
    ]
    sides.clear()
    for memory in memories:  # after an error it closes itself, when the traceback lets the arrays go
        memory.close()
    settings: Row = {"array_bytes": array_bytes, "repeats": repeats, "goal": GOAL}
    return Result("bench_memory_resident", settings, rows)


def _turn(
    name: str, operation: Callable[[Side], Array], sides: Sequence[Side], repeat: int,
    times: list[list[float]],
) -> None:
    """Each side once; they must agree."""
    order = list(range(len(sides)))
    first = repeat % len(order)
    want: Array | None = None
    for i in order[first:] + order[:first]:
        seconds, got = _seconds(operation, sides[i])
        if want is None:
            want = np.array(got)
        elif got.tobytes() != want.tobytes():
            raise InternalError(f"{name}: a managed array gave another result than a plain one")
        if repeat >= 0:
            times[i].append(seconds)


def _row(
    system: str, delivery: str, name: str, times: Sequence[float], plain: Sequence[float]
) -> Row:
    spread = Spread.of([1e3 * seconds for seconds in times])
    ratio = statistics.median(b / a for a, b in zip(times, plain, strict=True))
    return {
        "system": system, "workload": name, "delivery": delivery, "ms": rounded(spread.median),
        "ms_min": rounded(spread.low), "ms_max": rounded(spread.high),
        "speed_to_plain": rounded(ratio), "repeats": spread.n,
    }
