"""scikit-learn inside ``with memory:`` while everything goes out all the time, compared with it alone.

What adds up in a fixed order is equal to the last bit; what BLAS or several threads add up, to rounding.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from libraries import close, evicting, same

from coldmem import Memory

pytest.importorskip("sklearn", reason="scikit-learn is not installed: the 'test' extra has it")

Make = Callable[..., Memory]
RNG = np.random.default_rng(22)
POINTS = RNG.normal(size=(4000, 12)) + RNG.integers(0, 4, 4000)[:, None] * 5
TARGET = POINTS[:, 0] * POINTS[:, 1] + RNG.normal(size=4000)
LABELS = (TARGET > 20).astype(int)


def kmeans(x: Any, y: Any, labels: Any) -> Any:
    from sklearn.cluster import KMeans

    model = KMeans(4, n_init=2, random_state=1).fit(x)
    return model.labels_, model.cluster_centers_, model.transform(x)


def mini_batches(x: Any, y: Any, labels: Any) -> Any:
    from sklearn.cluster import MiniBatchKMeans

    return (MiniBatchKMeans(4, n_init=2, random_state=1, batch_size=500).fit(x).cluster_centers_,)


def pca(x: Any, y: Any, labels: Any) -> Any:
    from sklearn.decomposition import PCA

    model = PCA(3, svd_solver="full").fit(x)
    return model.explained_variance_ratio_, model.inverse_transform(model.transform(x))


def linear(x: Any, y: Any, labels: Any) -> Any:
    from sklearn.linear_model import LinearRegression, Ridge

    model = LinearRegression().fit(x, y)
    return model.coef_, model.predict(x), Ridge().fit(x, y).predict(x)


def logistic(x: Any, y: Any, labels: Any) -> Any:
    from sklearn.linear_model import LogisticRegression

    return (LogisticRegression(max_iter=50, tol=1e-3).fit(x / 20, labels).predict(x / 20),)


def neighbours(x: Any, y: Any, labels: Any) -> Any:
    from sklearn.neighbors import KNeighborsRegressor, NearestNeighbors

    near = [NearestNeighbors(n_neighbors=5, algorithm=how, n_jobs=2).fit(x).kneighbors(x[:900])
            for how in ("kd_tree", "ball_tree")]
    return (*near, KNeighborsRegressor(3, algorithm="kd_tree").fit(x, y).predict(x[::3]))


def brute_neighbours(x: Any, y: Any, labels: Any) -> Any:
    from sklearn.neighbors import NearestNeighbors

    return NearestNeighbors(n_neighbors=5, algorithm="brute").fit(x).kneighbors(x[:900])


def forest(x: Any, y: Any, labels: Any) -> Any:
    from sklearn.ensemble import RandomForestRegressor

    model = RandomForestRegressor(8, max_depth=7, random_state=1, n_jobs=2).fit(x, y)
    model.set_params(n_jobs=1)  # threads add up their trees in any order
    return model.predict(x), model.feature_importances_


def forest_of_classes(x: Any, y: Any, labels: Any) -> Any:
    from sklearn.ensemble import RandomForestClassifier

    model = RandomForestClassifier(8, random_state=1, n_jobs=2).fit(x, labels)
    return (model.set_params(n_jobs=1).predict_proba(x),)


def boosting(x: Any, y: Any, labels: Any) -> Any:
    from sklearn.ensemble import GradientBoostingRegressor

    return (GradientBoostingRegressor(n_estimators=15, random_state=1).fit(x, y).predict(x),)


def histograms(x: Any, y: Any, labels: Any) -> Any:
    from sklearn.ensemble import HistGradientBoostingRegressor

    return (HistGradientBoostingRegressor(max_iter=15, random_state=1).fit(x, y).predict(x),)


def scaler(x: Any, y: Any, labels: Any) -> Any:
    from sklearn.preprocessing import MinMaxScaler, QuantileTransformer, StandardScaler

    model = StandardScaler().fit(x)
    return (model.transform(x), model.inverse_transform(x), MinMaxScaler().fit_transform(x),
            QuantileTransformer(n_quantiles=100, random_state=1).fit_transform(x))


def split(x: Any, y: Any, labels: Any) -> Any:
    from sklearn.model_selection import KFold, train_test_split

    return (*train_test_split(x, y, labels, test_size=0.3, random_state=1, stratify=labels),
            *(x[test] for _, test in KFold(4, shuffle=True, random_state=1).split(x)))


def metrics(x: Any, y: Any, labels: Any) -> Any:
    from sklearn.metrics import confusion_matrix, mean_squared_error, roc_auc_score

    return mean_squared_error(y, x[:, 0]), roc_auc_score(labels, y), confusion_matrix(
        labels, x[:, 1] > 5)


def features(x: Any, y: Any, labels: Any) -> Any:
    from sklearn.preprocessing import KBinsDiscretizer, OneHotEncoder, PolynomialFeatures

    bins = KBinsDiscretizer(5, encode="ordinal", strategy="uniform").fit_transform(x)
    return (PolynomialFeatures(2).fit_transform(x[:1000]), bins,
            OneHotEncoder(sparse_output=False).fit_transform(bins[:, :3]))


def pipeline(x: Any, y: Any, labels: Any) -> Any:
    from sklearn.ensemble import ExtraTreesClassifier
    from sklearn.model_selection import cross_val_predict
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    model = make_pipeline(StandardScaler(), ExtraTreesClassifier(5, random_state=1))
    return (cross_val_predict(model, x, labels, cv=3),)


EXACT = [forest, forest_of_classes, boosting, histograms, scaler, split, metrics, features, pipeline,
         neighbours]
ROUNDED = [kmeans, mini_batches, pca, linear, logistic, brute_neighbours]


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")
@pytest.mark.parametrize("job", [*EXACT, *ROUNDED])
def test_scikit_learn(make_memory: Make, job: Callable[[Any, Any, Any], Any]) -> None:
    want = job(POINTS.copy(), TARGET.copy(), LABELS.copy())
    memory = make_memory("8M", "128M", threshold="16K")
    with evicting(memory) as out, memory:
        data = [memory.array(one) for one in (POINTS, TARGET, LABELS)]
        out.now()
        faults = memory.stats()["faults"]
        got = job(*data)
        (same if job in EXACT else close)(got, want)
        assert memory.stats()["faults"] > faults and out.left() > 50
    memory.check_valid("full")
