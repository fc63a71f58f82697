"""Which keys ``bench cache`` asks for: a Zipf distribution, alone or mixed with scans.

Owns nothing. The same seed gives the same sequence.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

EXPONENT = 0.99
SCAN_SHARE = 0.3
SCAN_RUN = (200, 2000)  # one-time keys in a row, from and to

Keys = npt.NDArray[np.int64]


def zipf(count: int, keys: int, seed: int) -> Keys:
    """`count` draws from 0 .. `keys` - 1: the key of rank r with a weight of r**-0.99.

    Which key has which rank is drawn as well, from a seed of its own: it is the same for all `seed`.
    """
    weights = np.arange(1, keys + 1, dtype=np.float64) ** -EXPONENT
    bounds = np.cumsum(weights)
    drawn = np.random.default_rng([1, seed]).random(count) * bounds[-1]
    ranks = np.minimum(np.searchsorted(bounds, drawn, side="right"), keys - 1)
    found: Keys = np.random.default_rng(2).permutation(keys)[ranks].astype(np.int64)
    return found


def scan_mixed(count: int, keys: int, seed: int) -> Keys:
    """The same, in which runs of new keys, from `keys` on, take a share of 0.3; none comes twice."""
    rng = np.random.default_rng([3, seed])
    drawn = zipf(count, keys, seed)
    parts: list[Keys] = []
    made = taken = new = 0
    while made < count:
        run = int(rng.integers(SCAN_RUN[0], SCAN_RUN[1] + 1))
        between = round(run * (1 - SCAN_SHARE) / SCAN_SHARE)
        parts += [drawn[taken : taken + between],
                  np.arange(keys + new, keys + new + run, dtype=np.int64)]
        taken, new, made = taken + between, new + run, made + between + run
    return np.concatenate(parts)[:count]
