"""The programs of ``bench programs``: what somebody might run on more data than fits.

Owns nothing; data and results are the caller's. Guarantees: the same size and seed give the same data,
made block by block, as from a file. `Program.make` and `Program.work` are what runs in plain NumPy, in a
Memory and in the kernel's swap, without a change. `Program.work_in_files` is what has to be written
instead where arrays are files.
A result is exact (whole numbers below 2**53, or the same operations in the same order), or it is close:
sums of fractions, which threads add in any order.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]
Empty = Callable[[tuple[int, ...], str], Any]  # shape, type: an array to be filled by slices
BLOCK_BYTES = 1 << 20
FEATURES, WIDE = 16, 64
CLUSTERS = 8
SHOPS = 2000


@dataclass(frozen=True)
class Outcome:
    """What a program found: arrays that must be equal, and such that must be close."""

    exact: tuple[Any, ...] = ()
    close: tuple[Any, ...] = ()


def fill(array: Any, seed: int, block: Callable[[np.random.Generator, int], Array]) -> None:
    """Rows of `array`, a block at a time, each block with a generator of its own."""
    row_bytes = array.dtype.itemsize * int(np.prod(array.shape[1:]))
    step = max(BLOCK_BYTES // row_bytes, 1)
    for at in range(0, len(array), step):
        count = min(step, len(array) - at)
        array[at : at + count] = block(np.random.default_rng([seed, at]), count)


class Program:
    """One of them. `size_bytes` is about what is alive at its peak in plain NumPy.

    Attributes
    ----------
    name : str
    needs : str
        The module that it needs beside NumPy, or empty.
    """

    name = ""
    needs = ""

    def make(self, empty: Empty, size_bytes: int, seed: int) -> Any:
        """The data."""
        raise NotImplementedError

    def work(self, data: Any) -> Outcome:
        """The program proper, on arrays."""
        raise NotImplementedError

    def work_in_files(self, data: Any, empty: Empty) -> Outcome:
        """The same where each large array is a file; `empty` makes one."""
        return self.work(data)


class MatMul(Program):
    """Purchases by customer and product, times prices in cents by product and shop."""

    name = "matmul"

    def make(self, empty: Empty, size_bytes: int, seed: int) -> Any:
        side = max(int((size_bytes / 24) ** 0.5) // 8 * 8, 8)
        counts, cents = empty((side, side), "f8"), empty((side, side), "f8")
        fill(counts, seed, lambda rng, n: rng.poisson(2, (n, side)))
        fill(cents, seed + 1, lambda rng, n: 5000 + rng.integers(-9, 10, (n, side)).cumsum(axis=1))
        return counts, cents

    def work(self, data: Any) -> Outcome:
        a, b = data
        return Outcome(exact=(a @ b,))

    def work_in_files(self, data: Any, empty: Empty) -> Outcome:
        a, b = data
        return Outcome(exact=(np.matmul(a, b, out=empty((len(a), b.shape[1]), "f8")),))


class Sort(Program):
    """Amounts in cents, sorted into a new array."""

    name = "sort"

    def make(self, empty: Empty, size_bytes: int, seed: int) -> Any:
        amounts = empty((size_bytes // 16,), "i8")
        fill(amounts, seed, lambda rng, n: (100 * rng.lognormal(4, 1.2, n)).astype("i8"))
        return amounts

    def work(self, data: Any) -> Outcome:
        return Outcome(exact=(np.sort(data),))

    def work_in_files(self, data: Any, empty: Empty) -> Outcome:
        ordered = empty(data.shape, "i8")  # np.sort(data) would be in memory
        ordered[:] = data
        ordered.sort()
        return Outcome(exact=(ordered,))


class GroupBy(Program):
    """Sales by shop: totals, and each sale's share of its shop's total."""

    name = "groupby"
    needs = "pandas"
    ROW_BYTES = 50  # at the peak, as measured

    def make(self, empty: Empty, size_bytes: int, seed: int) -> Any:
        rows = (size_bytes // self.ROW_BYTES,)
        data = {"shop": empty(rows, "i4"), "cents": empty(rows, "i8"), "pieces": empty(rows, "i8")}
        fill(data["shop"], seed, lambda rng, n: rng.zipf(1.3, n) % SHOPS)
        fill(data["cents"], seed + 1, lambda rng, n: 99 + 50 * rng.poisson(20, n))
        fill(data["pieces"], seed + 2, lambda rng, n: rng.geometric(0.4, n))
        return data

    def work(self, data: Any) -> Outcome:
        import pandas as pd

        frame = pd.DataFrame(data, copy=False)
        totals = frame.groupby("shop").agg({"cents": ["sum", "mean", "max"], "pieces": ["sum", "max"]})
        frame["share"] = frame["cents"] / frame.groupby("shop")["cents"].transform("sum")
        parts = (totals[column].to_numpy() for column in totals.columns)
        return Outcome(exact=(totals.index.to_numpy(), *parts, frame["share"].to_numpy()))


def _readings(rng: np.random.Generator, n: int, width: int) -> Array:
    """Sensors that know eight states of a machine, in sixteenths."""
    states = np.random.default_rng(width).integers(-160, 160, (CLUSTERS, width))
    noise = rng.standard_normal((n, width)) * 24
    found: Array = np.rint(states[rng.integers(0, CLUSTERS, n)] + noise) / 16
    return found


class KMeans(Program):
    """Ten rounds of k-means over sensor readings; scikit-learn works on a centred copy."""

    name = "kmeans"
    needs = "sklearn"

    def make(self, empty: Empty, size_bytes: int, seed: int) -> Any:
        points = empty((size_bytes // (2 * 8 * FEATURES), FEATURES), "f8")
        fill(points, seed, lambda rng, n: _readings(rng, n, FEATURES))
        return points

    def work(self, data: Any) -> Outcome:
        return self._fit(data, copy=True)

    def work_in_files(self, data: Any, empty: Empty) -> Outcome:
        return self._fit(data, copy=False)  # the copy would be in memory

    def _fit(self, points: Any, copy: bool) -> Outcome:
        from sklearn.cluster import KMeans as Model

        # Eight groups of rows to begin with, so that no rounding decides which way it goes.
        model = Model(CLUSTERS, init=np.array(points[:CLUSTERS]), n_init=1, max_iter=10, tol=0.0,
                      algorithm="lloyd", copy_x=copy)
        model.fit(points)
        return Outcome(close=(model.cluster_centers_, model.inertia_))


class Pca(Program):
    """Eight components of 64 sensors, and all readings expressed in them."""

    name = "pca"
    needs = "sklearn"

    def make(self, empty: Empty, size_bytes: int, seed: int) -> Any:
        points = empty((size_bytes * 8 // 10 // (8 * WIDE), WIDE), "f8")
        fill(points, seed, lambda rng, n: _readings(rng, n, WIDE))
        return points

    def work(self, data: Any) -> Outcome:
        from sklearn.decomposition import PCA

        model = PCA(CLUSTERS, svd_solver="covariance_eigh").fit(data)
        return self.outcome(model.explained_variance_, model.transform(data))

    @staticmethod
    def outcome(variances: Array, scores: Any) -> Outcome:
        """Eigenvectors have any sign: of the scores only sizes are compared."""
        each = 1 << 16
        sizes = sum(np.square(scores[at : at + each]).sum(axis=0) for at in range(0, len(scores), each))
        return Outcome(close=(variances, sizes))


class Forest(Program):
    """Four trees, each from a tenth of the readings, and their predictions for all."""

    name = "forest"
    needs = "sklearn"

    def make(self, empty: Empty, size_bytes: int, seed: int) -> Any:
        rows = size_bytes * 6 // 10 // (4 * FEATURES + 8)
        points, wear = empty((rows, FEATURES), "f4"), empty((rows,), "f8")
        fill(points, seed, lambda rng, n: _readings(rng, n, FEATURES))
        step = BLOCK_BYTES // (8 * FEATURES)
        for at in range(0, rows, step):
            part = points[at : at + step]
            wear[at : at + step] = np.rint(part[:, 0] * part[:, 1] + 3 * part[:, 2])
        return points, wear

    def work(self, data: Any) -> Outcome:
        from sklearn.ensemble import RandomForestRegressor

        points, wear = data
        model = RandomForestRegressor(4, max_depth=4, max_samples=0.1, max_features=0.25,
                                      random_state=1, n_jobs=2)
        model.fit(points, wear)
        predicted = model.predict(points)
        trees = [part for tree in model.estimators_ for part in (tree.tree_.feature,
                                                                  tree.tree_.threshold)]
        return Outcome(exact=tuple(trees), close=(predicted.mean(), predicted.std()))


PROGRAMS: dict[str, Program] = {
    program.name: program
    for program in (MatMul(), Sort(), GroupBy(), KMeans(), Pca(), Forest())
}
