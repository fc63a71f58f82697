"""pandas and scikit-learn inside ``with memory:``, compared with the same without it."""

from __future__ import annotations

import io
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from coldmem import Memory

Make = Callable[..., Memory]

RNG = np.random.default_rng(21)
N = 60_000
KEYS = RNG.integers(0, 500, N)
X, Y = RNG.normal(size=N).round(3), RNG.normal(size=N).round(3)
POINTS = RNG.normal(size=(6000, 12)) + RNG.integers(0, 4, 6000)[:, None] * 5


def frame(pd: Any) -> Any:
    return pd.DataFrame({"key": KEYS.copy(), "x": X.copy(), "y": Y.copy()})


PANDAS: dict[str, Callable[[Any], Any]] = {
    "groupby": lambda pd: frame(pd).groupby("key").agg({"x": ["mean", "std", "max"], "y": "sum"}),
    "merge": lambda pd: frame(pd).merge(
        pd.DataFrame({"key": np.arange(500), "z": np.arange(500) * 1.5}), on="key"),
    "sort_values": lambda pd: frame(pd).sort_values(["key", "x"], kind="stable"),
    "rolling": lambda pd: frame(pd)["x"].rolling(100).mean(),
    "concat": lambda pd: pd.concat([frame(pd), frame(pd)], ignore_index=True),
    "pivot": lambda pd: frame(pd).pivot_table("x", "key", aggfunc="median"),
    "arithmetic": lambda pd: (frame(pd) * 2).assign(z=lambda d: d.x / (d.y + 10)).cumsum(),
    "query_fillna": lambda pd: frame(pd).where(lambda d: d.x > 0).fillna(0).query(
        "x > 1"),
    "read_csv": lambda pd: pd.read_csv(io.StringIO(CSV)),
}
CSV = "a,b,c\n" + "".join(f"{i},{i * 0.5},{i % 7}\n" for i in range(50_000))


@pytest.mark.parametrize("name", PANDAS)
def test_pandas(make_memory: Make, name: str) -> None:
    pd = pytest.importorskip("pandas", reason="pandas is not installed: the 'test' extra has it")
    want = PANDAS[name](pd)
    memory = make_memory("8M", "128M", threshold="16K")
    with memory:
        got = PANDAS[name](pd)
        assert memory.stats()["faults"] > 0
        (pd.testing.assert_series_equal if want.ndim == 1 else pd.testing.assert_frame_equal)(
            got, want, check_exact=True
        )
    memory.check_valid("full")
    del got


def kmeans() -> Any:
    from sklearn.cluster import KMeans

    model = KMeans(4, n_init=2, random_state=1).fit(POINTS.copy())
    return model.labels_, model.cluster_centers_


def pca() -> Any:
    from sklearn.decomposition import PCA

    return (PCA(3, svd_solver="full").fit(POINTS.copy()).explained_variance_ratio_,)


def forest() -> Any:
    from sklearn.ensemble import RandomForestRegressor

    x = POINTS.copy()
    model = RandomForestRegressor(5, max_depth=6, random_state=1, n_jobs=2).fit(x, x[:, 0] * x[:, 1])
    return (model.predict(x),)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.parametrize("job", [kmeans, pca, forest])
def test_scikit_learn(make_memory: Make, job: Callable[[], Any]) -> None:
    pytest.importorskip("sklearn", reason="scikit-learn is not installed: the 'test' extra has it")
    want = job()
    memory = make_memory("8M", "128M", threshold="16K")
    with memory:
        got = job()
        assert memory.stats()["faults"] > 0
    for one, other in zip(got, want, strict=True):
        assert np.allclose(one, other, rtol=1e-9, atol=1e-9)
    memory.check_valid("full")
    del got, one
