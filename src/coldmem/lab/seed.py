"""The figures of the patch that this project comes from; another machine and another job than ours.

Of "mm/zsmalloc: change back to per-size_class lock" (2024), as the patch reports them: ``make bzImage
-j32`` in tmpfs, memory.max of 1 GB, a swap file of 10 GB, zswap on.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class SeedRow:
    """One arm of the patch's table; seconds."""

    arm: str
    label: str
    real_s: float
    user_s: float
    sys_s: float


SEED = (
    SeedRow("pools32", "32 pools, pool lock", 138.18, 1241.38, 1452.73),
    SeedRow("pool", "1 pool, pool lock", 149.45, 1240.45, 1844.69),
    SeedRow("class", "1 pool, class lock", 138.23, 1242.37, 1469.71),
)
