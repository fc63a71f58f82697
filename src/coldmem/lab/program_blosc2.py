"""The programs of ``bench programs`` with blosc2's arrays, where that library can do them.

Owns nothing. Guarantees: a program that is not in `WORK` is in `CANNOT`, with the reason. Everything
is at the library's defaults: codec, filters, chunks and threads.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from coldmem.lab.program_jobs import CLUSTERS, Outcome, Pca


def empty(shape: tuple[int, ...], kind: str) -> Any:
    """A compressed array to be filled by slices."""
    import blosc2

    return blosc2.empty(shape, np.dtype(kind))


def _matmul(data: Any) -> Outcome:
    import blosc2

    return Outcome(exact=(blosc2.matmul(*data),))


def _pca(points: Any) -> Outcome:
    """What scikit-learn does, by the same covariance."""
    import blosc2

    n = len(points)
    mean = np.asarray(blosc2.mean(points, axis=0)[:])
    gram = blosc2.matmul(blosc2.matrix_transpose(points), points)[:]
    variances, vectors = np.linalg.eigh((gram - n * np.outer(mean, mean)) / (n - 1))
    kept = np.ascontiguousarray(vectors[:, : -CLUSTERS - 1 : -1])
    scores = (blosc2.matmul(points, blosc2.asarray(kept)) - mean @ kept).compute()
    return Pca.outcome(variances[: -CLUSTERS - 1 : -1], scores)


WORK: dict[str, Callable[[Any], Outcome]] = {"matmul": _matmul, "pca": _pca}
CANNOT = {
    "sort": "blosc2 sorts structured arrays only, and decompresses them for it",
    "groupby": "blosc2's tables know no share of a group's total (transform)",
    "kmeans": "scikit-learn takes no blosc2 arrays",
    "forest": "scikit-learn takes no blosc2 arrays",
}
