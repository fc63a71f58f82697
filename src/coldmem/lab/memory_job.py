"""The main job: NumPy, and pandas where it is installed, on several times more data than the limit.

Prices of 64 papers over a long time, in cents, from which a table of returns, their covariance, sums by
month and a sorted list of volumes are made: whole-array calls on real ``numpy.ndarray``s that live in
one `Memory`. Every result is then computed again block by block in plain NumPy and compared. All
of it is whole numbers below 2**53, so that any order of adding gives the same bytes.

Owns: the Memory, until `MemoryJob.run` returns. The job runs in the calling thread.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from importlib import import_module
from typing import Any

import numpy as np
import numpy.typing as npt

from coldmem.errors import UsageError
from coldmem.memory.memory import Memory
from coldmem.units import format_bytes

PAPERS = 64
BLOCK_ROWS = 8192  # 4 MiB of int64
MONTHS = 120
VOLUME_MAX = 1 << 20
TIMES_THE_LIMIT = 4  # arrays that are alive at the same time, at least
STEPS = 11
SWAP_TIMES = 24
LIMIT_MIN = 16 << 20

Array = npt.NDArray[Any]


@dataclass(frozen=True)
class MemoryPlan:
    """What to run."""

    memory_max_bytes: int = 128 << 20
    delivery: str = "auto"
    unit_bytes: int = 4096
    swap_directory: str | None = None
    spoil: bool = False  # change one number of the table before it is checked: we must notice

    def check(self) -> None:
        """Raise `UsageError` for what cannot be run."""
        if self.memory_max_bytes < LIMIT_MIN:
            raise UsageError(f"--memory-max: at least {format_bytes(LIMIT_MIN)} for this job")

    @property
    def blocks(self) -> int:
        """Of prices, and of returns: half of what is alive each."""
        return -(-TIMES_THE_LIMIT * self.memory_max_bytes // (2 * BLOCK_ROWS * PAPERS * 8))


@dataclass
class Step:
    """One call of the job, or its check."""

    name: str
    bytes_touched: int
    seconds: float
    stats: dict[str, Any]  # of the Memory, when it was done
    differences: list[str] = field(default_factory=list)


@dataclass
class JobOutcome:
    """What was found."""

    steps: list[Step]
    array_bytes_peak: int
    stats: dict[str, Any]

    @property
    def differences(self) -> list[str]:
        """Of all steps."""
        return [line for step in self.steps for line in step.differences]


class MemoryJob:
    """One run. `step`, `steps` and `memory` may be looked at from another thread while it runs."""

    def __init__(self, plan: MemoryPlan) -> None:
        plan.check()
        self.plan = plan
        self.memory = Memory(
            plan.memory_max_bytes, SWAP_TIMES * plan.memory_max_bytes, delivery=plan.delivery,
            unit_bytes=plan.unit_bytes, directory=plan.swap_directory,
        )
        self.step = "starting"
        self.steps: list[Step] = []  # that are done
        self._peak_bytes = 0

    def run(self) -> JobOutcome:
        """All steps; the Memory is closed at the end, or left to the collector after an error."""
        self._work()
        outcome = JobOutcome(self.steps, self._peak_bytes, self.memory.stats())
        self.memory.close()
        return outcome

    def _do(self, name: str, nbytes: int, call: Callable[[], Any]) -> Any:
        """A step whose results, and what NumPy needs on the way, live in the Memory."""
        with self.memory:
            return self._timed(name, nbytes, call)

    def _timed(self, name: str, nbytes: int, call: Callable[[], Any]) -> Any:
        self.step = name
        start_s = time.monotonic()
        found = call()
        seconds = time.monotonic() - start_s
        stats = self.memory.stats()
        self._peak_bytes = max(self._peak_bytes, stats["array_bytes"])
        self.steps.append(Step(name, nbytes, seconds, stats))
        return found

    def _check(self, name: str, nbytes: int, differences: Callable[[], Iterator[str]]) -> None:
        found = self._timed(f"check: {name}", nbytes, lambda: list(differences()))
        self.steps[-1].differences = found

    def _work(self) -> None:
        rows = self.plan.blocks * BLOCK_ROWS
        prices = self.memory.zeros((rows, PAPERS), np.int64)
        size = prices.nbytes
        self._timed("make prices", size, lambda: _fill(prices))
        returns = self._do("differences", 2 * size, lambda: np.diff(prices, axis=0))
        totals = self._do("sums", size, lambda: prices.sum(axis=0))
        covariance = self._do("covariance", size, lambda: _covariance(returns))
        months = self._do("months", size, lambda: _by_month(prices, _months(rows)))
        volumes = self.memory.zeros(rows * PAPERS, np.int32)
        self._timed("volumes", volumes.nbytes, lambda: _fill_volumes(volumes))
        self._do("sort", volumes.nbytes, volumes.sort)
        if self.plan.spoil:
            prices[rows // 3, PAPERS // 2] += 1
        self._check("sums, covariance, months", size, lambda: _compare_small(
            rows, totals, covariance, months))
        self._check("sorted volumes", volumes.nbytes, lambda: _compare_sorted(volumes))
        self._check("differences", size, lambda: _compare_blocks(
            "returns", returns, lambda first, end: np.diff(_prices(first, end + 1), axis=0)))
        self._check("prices", size, lambda: _compare_blocks("prices", prices, _prices))


# -- the data, any part of which can be made again --------------------------------------------------
def _block(number: int) -> Array:
    """A walk that begins anew in each block."""
    rng = np.random.default_rng(number)
    walk = np.cumsum(rng.integers(-999, 1000, (BLOCK_ROWS, PAPERS)), axis=0)
    walk += 10_000 + 100 * np.arange(PAPERS)
    return walk


def _prices(first: int, end: int) -> Array:
    """Rows first..end-1."""
    numbers = range(first // BLOCK_ROWS, -(-end // BLOCK_ROWS))
    whole = np.concatenate([_block(n) for n in numbers])
    return whole[first - numbers[0] * BLOCK_ROWS :][: end - first]


def _fill(prices: Array) -> None:
    for at in range(0, len(prices), BLOCK_ROWS):
        prices[at : at + BLOCK_ROWS] = _block(at // BLOCK_ROWS)


def _months(rows: int) -> Array:
    return (np.arange(rows) * MONTHS // rows).astype(np.int32)


def _volume_blocks(count: int) -> Iterator[tuple[int, Array]]:
    step = BLOCK_ROWS * PAPERS
    for at in range(0, count, step):
        rng = np.random.default_rng(1_000_000 + at // step)
        yield at, rng.integers(0, VOLUME_MAX, min(step, count - at), np.int32)


def _fill_volumes(volumes: Array) -> None:
    for at, block in _volume_blocks(len(volumes)):
        volumes[at : at + len(block)] = block


# -- the steps that are more than a call -------------------------------------------------------------
def _covariance(returns: Array) -> Array:
    numbers = returns.astype(np.float64)
    return numbers.T @ numbers


def _by_month(prices: Array, months: Array) -> Array:
    """Sums of the first paper's prices, by month: pandas where there is one."""
    first = np.ascontiguousarray(prices[:, 0])
    try:
        pd = import_module("pandas")
    except ImportError:
        return np.bincount(months, first, MONTHS).astype(np.int64)
    frame = pd.DataFrame({"month": months, "cents": first}, copy=False)
    return np.asarray(frame.groupby("month")["cents"].sum())


# -- the same, block by block -------------------------------------------------------------------------
def _compare_small(rows: int, totals: Array, covariance: Array, months: Array) -> Iterator[str]:
    want_totals = np.zeros(PAPERS, np.int64)
    want_covariance = np.zeros((PAPERS, PAPERS))
    want_months = np.zeros(MONTHS, np.int64)
    month = _months(rows)
    last: Array | None = None
    for at in range(0, rows, BLOCK_ROWS):
        block = _block(at // BLOCK_ROWS)
        want_totals += block.sum(axis=0)
        np.add.at(want_months, month[at : at + BLOCK_ROWS], block[:, 0])
        moves = np.diff(block if last is None else np.vstack([last, block]), axis=0)
        want_covariance += moves.astype(np.float64).T @ moves.astype(np.float64)
        last = block[-1]
    for name, found, want in (("sums", totals, want_totals), ("months", months, want_months),
                              ("covariance", covariance, want_covariance)):
        if not np.array_equal(found, want):
            yield f"{name}: {int((found != want).sum())} of {want.size} numbers"


def _compare_blocks(
    name: str, found: Array, make: Callable[[int, int], Array]
) -> Iterator[str]:
    for first in range(0, len(found), BLOCK_ROWS):
        end = min(first + BLOCK_ROWS, len(found))
        wrong = np.argwhere(found[first:end] != make(first, end))
        if len(wrong):
            row, column = wrong[0]
            yield f"{name}: {len(wrong)} numbers from row {first + row}, column {column}"


def _compare_sorted(volumes: Array) -> Iterator[str]:
    counts = np.zeros(VOLUME_MAX, np.int64)
    for _, block in _volume_blocks(len(volumes)):
        counts += np.bincount(block, minlength=VOLUME_MAX)
    ends = np.cumsum(counts)
    for at in range(0, len(volumes), 1 << 20):
        have = volumes[at : at + (1 << 20)]
        want = np.searchsorted(ends, np.arange(at, at + len(have)), side="right")
        wrong = np.flatnonzero(have != want)
        if len(wrong):
            yield f"sorted volumes: {len(wrong)} numbers from place {at + wrong[0]}"
