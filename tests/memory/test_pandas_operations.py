"""pandas inside ``with memory:`` while everything goes out all the time, compared with plain pandas.

Equal to the last bit, types and labels included.
"""

from __future__ import annotations

import io
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from libraries import evicting

from coldmem import Memory

pd = pytest.importorskip("pandas", reason="pandas is not installed: the 'test' extra has it")

Make = Callable[..., Memory]
RNG = np.random.default_rng(21)
N = 40_000
KEYS = RNG.integers(0, 500, N)
X, Y = RNG.normal(size=N).round(3), RNG.normal(size=N).round(3)
NAMES = np.array([f"paper {k % 40}" for k in KEYS])
TIMES = np.datetime64("2020-01-01") + RNG.integers(0, 90 * 86_400, N).astype("m8[s]")
CSV = "a,b,c,d\n" + "".join(f"{i},{i * 0.5},{i % 7},w{i % 9}\n" for i in range(N))


made: list[Callable[[], None]] = []  # what is called whenever a frame was made


def frame() -> Any:
    """Made anew: its columns are allocated wherever NumPy allocates now."""
    new = pd.DataFrame({"key": KEYS.copy(), "x": X.copy(), "y": Y.copy()})
    for call in made:
        call()
    return new


def timed() -> Any:
    return frame().assign(at=TIMES.copy()).sort_values("at", kind="stable").set_index("at")


def named() -> Any:
    return frame().assign(name=pd.Categorical(NAMES))


def holes() -> Any:
    return frame().where(lambda d: d.x > 0)


def small() -> Any:
    return pd.DataFrame({"key": np.arange(0, 600, 2), "z": np.arange(300) * 1.5})


def csv_again(**how: Any) -> Any:
    return pd.read_csv(io.StringIO(frame().head(9000).to_csv(**how)))


OPERATIONS: dict[str, Callable[[], Any]] = {
    # groups
    "groupby_agg": lambda: frame().groupby("key").agg({"x": ["mean", "std", "max"], "y": "sum"}),
    "groupby_many": lambda: frame().groupby("key")[["x", "y"]].agg(
        ["min", "median", "var", "first", "last", "count", "nunique"]),
    "groupby_transform": lambda: frame().groupby("key").transform("mean"),
    "groupby_apply": lambda: frame().groupby("key")[["x", "y"]].apply(lambda d: d.x.sum() / len(d)),
    "groupby_filter": lambda: frame().groupby("key").filter(lambda d: d.x.sum() > 0),
    "groupby_cumulative": lambda: frame().groupby("key")[["x", "y"]].cumsum(),
    "groupby_rank_shift": lambda: frame().head(15_000).groupby("key").x.rank().add(
        frame().groupby("key").y.shift(2), fill_value=0),
    "groupby_rolling": lambda: frame().groupby("key").x.rolling(5).mean(),
    "groupby_two_keys": lambda: named().groupby(["name", "key"], observed=True).x.sum().unstack(),
    "groupby_head_size": lambda: (lambda g: g.head(3).assign(n=g.size().sum()))(frame().groupby("key")),
    "groupby_quantile": lambda: frame().groupby("key").quantile([0.1, 0.9]),
    # two frames
    **{f"merge_{how}": (lambda how: lambda: frame().merge(small(), on="key", how=how))(how)
       for how in ("inner", "left", "outer", "right")},
    "merge_asof": lambda: pd.merge_asof(
        frame().sort_values("x", kind="stable"), small().assign(x=lambda d: d.z / 100), on="x"),
    "join_index": lambda: frame().join(small().set_index("key").add_suffix("2"), on="key", how="left"),
    "concat": lambda: pd.concat([frame(), frame()], ignore_index=True),
    "concat_columns": lambda: pd.concat([frame(), frame().add_suffix("2")], axis=1),
    "combine": lambda: holes().combine_first(frame()).add(frame()),
    "compare": lambda: frame().compare(frame().assign(x=lambda d: d.x.round(1))),
    # order and shape
    "sort_values": lambda: frame().sort_values(["key", "x"], kind="stable"),
    "sort_index": lambda: frame().sample(frac=1, random_state=3).sort_index(),
    "rank_nlargest": lambda: frame().head(15_000).rank().nlargest(999, "x"),
    "pivot_table": lambda: named().pivot_table(
        "x", "key", "name", aggfunc="sum", observed=True, margins=True),
    "pivot": lambda: frame().assign(n=lambda d: d.groupby("key").cumcount()).query(
        "n < 9", engine="python").pivot(index="key", columns="n", values="x"),
    "melt_stack": lambda: frame().melt(id_vars="key").set_index(
        "variable", append=True)["value"].unstack(),
    "crosstab": lambda: pd.crosstab(KEYS % 11, NAMES),
    "explode": lambda: pd.DataFrame({"a": [[1, 2, 3]] * 9000}).explode("a").astype({"a": "i8"}),
    "get_dummies": lambda: pd.get_dummies(named().head(20_000)),
    "transpose": lambda: frame().head(3000).T,
    "multiindex": lambda: frame().set_index(["key", "x"]).sort_index().loc[100:200],
    # windows and time
    "rolling": lambda: frame()[["x", "y"]].rolling(100).agg(["mean", "std", "max", "median"]),
    "rolling_corr": lambda: frame().x.rolling(50).corr(frame().y),
    "expanding": lambda: frame().x.expanding(5).mean(),
    "ewm": lambda: frame()[["x", "y"]].ewm(span=20).mean(),
    "resample": lambda: timed().resample("6h").agg({"x": "mean", "y": "sum", "key": "count"}),
    "resample_ohlc": lambda: timed().x.resample("1D").ohlc(),
    "time_rolling": lambda: timed().x.rolling("2D").sum(),
    "time_slices": lambda: timed().loc["2020-02"].tz_localize("UTC").tz_convert("Asia/Tokyo"),
    "time_parts": lambda: timed().index.to_series().dt.day.value_counts().sort_index(),
    "to_datetime": lambda: pd.to_datetime(pd.Series(TIMES.astype("i8")), unit="s").dt.floor("h"),
    "shift_diff": lambda: frame().diff(3).shift(-2).pct_change(fill_method=None),
    # values
    "arithmetic": lambda: (frame() * 2).assign(z=lambda d: d.x / (d.y + 10)).cumsum(),
    "fill": lambda: holes().ffill().bfill().fillna(0),
    "interpolate": lambda: holes().interpolate(),
    "dropna": lambda: holes().dropna(thresh=2).reset_index(drop=True),
    "query": lambda: frame().query("x > 1 and key < 99", engine="python"),
    "eval": lambda: frame().eval("z = x * y + key", engine="python"),
    "cut": lambda: pd.cut(frame().x, 12).value_counts().sort_index(),
    "qcut": lambda: frame().groupby(pd.qcut(X, 20), observed=True).y.mean(),
    "value_counts": lambda: frame()["key"].value_counts().sort_index(),
    "duplicates": lambda: frame().drop_duplicates("key", keep="last"),
    "categorical": lambda: named().name.cat.rename_categories(lambda c: c.upper()).value_counts(),
    "apply_rows": lambda: frame().head(2000).apply(lambda row: row.x * row.y, axis=1),
    "map": lambda: frame()["key"].map({k: k * 2.5 for k in range(400)}),
    "replace_clip": lambda: frame().replace({"key": {1: 1000}}).clip(-1, 300),
    "describe_corr": lambda: pd.concat([frame().describe(), frame().corr()]),
    "nullable": lambda: holes().astype({"key": "Int64", "x": "Float64"}).assign(
        s=lambda d: d.key + 1, b=lambda d: d.x > 1),
    "strings": lambda: pd.Series(NAMES).str.upper().str.replace("PAPER", "p").str.split(" ").str[1],
    "loc_set": lambda: (lambda d: (d.loc.__setitem__((d.x > 1, "y"), 7.5), d.iloc.__setitem__(
        (slice(9), 0), -1), d)[2])(frame()),
    "sparse": lambda: pd.Series(np.where(X > 1, X, 0)).astype(pd.SparseDtype("f8", 0)).cumsum(),
    # files
    "read_csv": lambda: pd.read_csv(io.StringIO(CSV)),
    "read_csv_python": lambda: pd.read_csv(io.StringIO(CSV[:200_000]), engine="python"),
    "read_csv_types": lambda: pd.read_csv(
        io.StringIO(CSV), dtype={"a": "i4", "c": "category"}, index_col=0),
    "to_csv": lambda: csv_again(index=False),
    "to_json": lambda: pd.read_json(
        io.StringIO(frame().head(5000).to_json(orient="split")), orient="split"),
}


def check(got: Any, want: Any) -> None:
    equal = pd.testing.assert_series_equal if want.ndim == 1 else pd.testing.assert_frame_equal
    equal(got, want, check_exact=True)


@pytest.mark.parametrize("name", OPERATIONS)
def test_operation(make_memory: Make, name: str) -> None:
    want = OPERATIONS[name]()
    memory = make_memory("8M", "128M", threshold="4K")
    with evicting(memory) as out, memory, pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys.modules[__name__], "made", [out.now])
        for _ in range(50):  # a short one may not meet the thread that evicts
            got = OPERATIONS[name]()
            check(got, want)
            out.now()
            check(got, want)  # its result, too, comes back from outside of RAM
            if memory.stats()["loads"] > 3:
                break
        assert out.left() > 3 and memory.stats()["loads"] > 3
        del got
    memory.check_valid("full")


@pytest.mark.parametrize("kind", ["pickle", "npy"])
def test_files(make_memory: Make, tmp_path: Path, kind: str) -> None:
    """Out of what is away, and back in: `to_pickle`, and columns as NumPy's files."""
    want = frame()
    memory = make_memory("8M", "128M", threshold="4K")
    with evicting(memory) as out, memory:
        mine = frame()
        out.now()  # the thread that evicts may not come to run meanwhile
        if kind == "pickle":
            mine.to_pickle(tmp_path / "frame")
            check(pd.read_pickle(tmp_path / "frame"), want)
        else:
            for name in want:
                np.save(tmp_path / name, mine[name].to_numpy())
            check(pd.DataFrame({name: np.load(tmp_path / f"{name}.npy") for name in want}), want)
        assert out.left() > 0
        del mine


def test_query_with_numexpr(make_memory: Make) -> None:
    """Its workers are threads in C that block all signals, SIGBUS too."""
    pytest.importorskip("numexpr", reason="numexpr is not installed: the 'test' extra has it")
    want = [frame().query("x > 1 and key < 99", engine="python"),
            frame().eval("x * y + key", engine="python")]
    memory = make_memory("8M", "128M", threshold="4K")
    with evicting(memory) as out, memory:
        for _ in range(20):
            mine = frame()
            out.now()
            check(mine.query("x > 1 and key < 99", engine="numexpr"), want[0])
            check(mine.eval("x * y + key", engine="numexpr"), want[1])
        assert out.left() > 0
        del mine
