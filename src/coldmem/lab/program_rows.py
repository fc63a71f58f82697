"""Rows of ``bench programs``: medians, paired ratios, and whether results are the same.

Owns nothing, takes no locks. A ratio is the median of the ratios within each repeat in which both ran.
Results are compared repeat by repeat with those without a limit: bytes where they are exact, else up
to a relative difference of `CLOSE`.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from coldmem.lab.memory_case import COLDMEM
from coldmem.lab.program_case import NO_LIMIT
from coldmem.lab.result import Row, Spread, rounded

CLOSE = 1e-6
MEDIANS = ("make_s", "work_s", "user_s", "sys_s")
COUNTS = ("footprint_peak_bytes", "compressed_bytes", "swap_bytes", "faults")


@dataclass
class Attempt:
    """One repeat of a program in a system: what the child found, or why it did not."""

    found: dict[str, Any] | None = None
    failure: str = ""
    too_slow: bool = False
    killed: int = 0
    allowed_bytes: int | None = None


Attempts = Sequence[Attempt]


def rows_of(
    program: str, found: Mapping[str, Attempts], reasons: Mapping[str, str]
) -> list[Row]:
    """A row for each system.

    Parameters
    ----------
    program : str
    found : mapping
        The attempts of each system, repeat by repeat.
    reasons : mapping
        Why a system did not run this program.
    """
    rows = []
    for system, attempts in found.items():
        row: Row = {"program": program, "system": system}
        done = [a.found for a in attempts if a.found is not None]
        row |= _figures(done)
        reference = found.get(NO_LIMIT, ())
        row["ratio_to_no_limit"] = paired(attempts, reference, "seconds")
        row["work_ratio_to_no_limit"] = paired(attempts, reference, "work_s")
        row["coldmem_ratio"] = paired(found.get(COLDMEM, ()), attempts, "seconds")
        row["coldmem_work_ratio"] = paired(found.get(COLDMEM, ()), attempts, "work_s")
        allowed = [a.allowed_bytes for a in attempts if a.allowed_bytes is not None]
        row["allowed_bytes"] = int(statistics.median(allowed)) if allowed else None
        own = [run["memory_max_bytes"] for run in done if "memory_max_bytes" in run]
        row["memory_max_bytes"] = int(statistics.median(own)) if own else None
        row["result"] = verdict(attempts, reference)
        row["result_hash"] = done[0]["exact"] if done else None
        row["repeats"] = len(done)
        row["killed_runs"] = sum(a.killed for a in attempts)
        row["disturbed_repeats"] = sum(bool(run["disturbed"]) for run in done)
        row["skipped"] = reasons.get(system)
        row["failed"] = next((a.failure for a in attempts if a.found is None), None)
        row["seconds_runs"] = [rounded(run["seconds"]) for run in done]
        row["counters"] = done[-1].get("counters", {}) if done else {}
        rows.append(row)
    return rows


def _figures(done: Sequence[dict[str, Any]]) -> Row:
    row: Row = {}
    spread = Spread.of([run["seconds"] for run in done]) if done else None
    row["seconds"] = None if spread is None else rounded(spread.median)
    row["seconds_min"] = None if spread is None else rounded(spread.low)
    row["seconds_max"] = None if spread is None else rounded(spread.high)
    for name in MEDIANS:
        row[name] = rounded(statistics.median(run[name] for run in done)) if done else None
    for name in COUNTS:
        row[name] = int(statistics.median(run[name] for run in done)) if done else None
    return row


def paired(up: Attempts, down: Attempts, figure: str) -> float | None:
    """Median over repeats of `figure` of `up` divided by that of `down`."""
    ratios = [
        a.found[figure] / b.found[figure]
        for a, b in zip(up, down, strict=False)
        if a.found is not None and b.found is not None and b.found[figure]
    ]
    return rounded(statistics.median(ratios)) if ratios else None


def verdict(attempts: Attempts, reference: Attempts) -> str | None:
    """"reference", "equal", "close" or "differs"; None where there is nothing to compare."""
    if attempts is reference:
        # It has to be the same each time, too.
        return "differs" if "differs" in _each(attempts, [*reference[:1]] * len(attempts)) else (
            "reference" if any(a.found is not None for a in attempts) else None)
    found = _each(attempts, reference)
    return next((word for word in ("differs", "close", "equal") if word in found), None)


def _each(attempts: Attempts, reference: Attempts) -> list[str]:
    return [
        _compare(a.found, b.found) for a, b in zip(attempts, reference, strict=False)
        if a.found is not None and b.found is not None
    ]


def _compare(found: dict[str, Any], want: dict[str, Any]) -> str:
    if found["exact"] != want["exact"] or len(found["close"]) != len(want["close"]):
        return "differs"
    near: Callable[[float, float], bool] = lambda a, b: math.isclose(a, b, rel_tol=CLOSE)  # noqa: E731
    if not all(map(near, found["close"], want["close"])):
        return "differs"
    return "close" if found["close"] else "equal"
