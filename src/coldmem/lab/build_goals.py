"""What ``lab build`` must show, judged by its rows. Owns nothing, takes no locks."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass

from coldmem.lab.result import Row

ONE_POOL = ("class", "handle")
TO_POOLS32_MAX, TO_ZSWAP_MAX = 1.02, 1.15


@dataclass(frozen=True, slots=True)
class BuildGoal:
    """`measured` must not be above `bound`; None: not all arms of it have run."""

    text: str
    bound: float
    measured: float | None

    @property
    def met(self) -> bool | None:
        return None if self.measured is None else self.measured <= self.bound


def paired(rows: Sequence[Row], above: str, below: str, name: str) -> float | None:
    """Median over the repeats of the ratio of two arms' figures within one repeat."""
    def of(arm: str) -> dict[object, float]:
        return {
            row["repeat"]: float(str(row[name])) for row in rows
            if row["arm"] == arm and not row["failure"] and row.get(name) is not None
        }

    ups, downs = of(above), of(below)
    ratios = [ups[repeat] / downs[repeat] for repeat in ups.keys() & downs.keys() if downs[repeat]]
    return statistics.median(ratios) if ratios else None


def judge(rows: Sequence[Row]) -> list[BuildGoal]:
    """All goals."""
    bad = sum(bool(row["failure"] or row["killed"] or row["first_difference"]) for row in rows)
    found = [BuildGoal("builds that failed, were killed, or gave other objects", 0, float(bad))]
    for arm in ONE_POOL:
        for name, what in (("real_s", "real"), ("total_cpu_s", "CPU of all")):
            found.append(BuildGoal(
                f"{arm}: {what} / 32 pools", TO_POOLS32_MAX, paired(rows, arm, "pools32", name)
            ))
        found.append(BuildGoal(
            f"{arm}: memory of the pool / 32 pools", 1.0,
            paired(rows, arm, "pools32", "pool_peak_bytes"),
        ))
    for arm in ONE_POOL:
        found.append(BuildGoal(
            f"{arm}: real / the kernel's zswap", TO_ZSWAP_MAX, paired(rows, arm, "zswap", "real_s")
        ))
        found.append(BuildGoal(
            f"{arm}: cgroup and pool / the kernel's zswap", 1.0,
            paired(rows, arm, "zswap", "total_peak_bytes"),
        ))
    return found
