"""The jobs of ``bench dask``: a join, a rechunk with a matrix product, and groupbys.

Owns: nothing; the data is made by the workers, the same for one seed in every run.
Guarantees: every column of the data takes part in the result, so that nothing is optimized away; of
    each job all data is held at one time. A result is numbers that do not hang on the order of tasks:
    integers exactly, floating point up to rounding.
Assumes: a client of a cluster whose workers can import this module. Locks: none.

Two kinds of data. `COMPRESSIBLE`: a table as a shop keeps it (rising times, prices in cents, small
quantities) and measurements with two decimals that wander. `RANDOM`: all bits of each number are random,
those of keys too; no codec gains anything on it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
import pandas as pd

COMPRESSIBLE, RANDOM = "compressible", "random"
DATA_KINDS = (COMPRESSIBLE, RANDOM)
ROW_BYTES = 64  # of a table: eight numbers of 8 bytes
COLUMNS = 256  # of the matrix
SHOPS = 997
_SPREAD = np.int64(-7046029254386353131)  # odd: multiplying by it maps 64-bit integers one to one
_HIGH = np.int64((1 << 62) - 1)

#: Sums and counts, which must be equal, and floating point numbers, which must be close.
Outcome = dict[str, list[int] | list[float]]


@dataclass(frozen=True, slots=True)
class Size:
    """How much data, and in how many pieces.

    Attributes
    ----------
    nbytes : int
        Of all data that is held at one time.
    parts : int
        Pieces that it is made in.
    """

    nbytes: int
    parts: int

    @property
    def rows(self) -> int:
        """Of a table of that size, in each piece."""
        return max(self.nbytes // ROW_BYTES // self.parts, 1)


@lru_cache(maxsize=8)
def _numbers(kind: str, rows: int, seed: int) -> dict[str, np.ndarray[Any, Any]]:
    """What the pieces are made of, once in a process: making them is not what is measured."""
    rng = np.random.default_rng(seed)
    if kind == RANDOM:
        return {"key": rng.integers(0, _HIGH, rows), "bits": rng.integers(0, _HIGH, rows)}
    return {
        "key": rng.integers(0, _HIGH, rows), "time": rng.integers(0, 40, rows).cumsum(),
        "cents": (rng.standard_normal(rows).cumsum() * 3).astype(np.int64) % 20_000,
        "small": rng.integers(0, 10, rows),
        "count": np.rint(rng.standard_normal(rows).cumsum() * 4),
    }


def _mixed(numbers: np.ndarray[Any, Any], *salt: int) -> np.ndarray[Any, Any]:
    """Other random numbers, 0 to 2**62, for each salt."""
    odd = np.random.default_rng(salt).integers(0, 1 << 61) * 2 + 1
    found: np.ndarray[Any, Any] = (numbers * np.int64(odd)) & _HIGH
    return found


def _keys(numbers: np.ndarray[Any, Any], kind: str) -> np.ndarray[Any, Any]:
    """Keys of articles; each stays different from all others."""
    return numbers if kind == COMPRESSIBLE else numbers * _SPREAD


def sales(part: int, *, rows: int, keys: int, kind: str, seed: int) -> pd.DataFrame:
    """A piece of the large table: `rows` sales of articles 0 to `keys`."""
    base = _numbers(kind, rows, seed)
    key = _keys(_mixed(base["key"], part) % keys, kind)
    if kind == RANDOM:
        bits = [_mixed(base["bits"], part, n) for n in range(7)]
        made = {"time": bits[0], "price": bits[1] / 2.0**62, "pieces": bits[2], "till": bits[3],
                "discount": bits[4] / 2.0**62, "store": bits[5], "clerk": bits[6]}
    else:
        small = base["small"]
        made = {"time": base["time"] + (1_700_000_000_000 + part * 3_600_000),
                "price": (base["cents"] + 37 * (part + 1)) / 100, "pieces": small + (1 + part % 3),
                "till": (base["time"] >> 6) % 12, "discount": (small + part % 5) / 100,
                "store": (base["time"] >> 8) % 300, "clerk": base["cents"] // 50 + part}
    return pd.DataFrame({"key": key, **made}, copy=False)


def articles(part: int, *, rows: int, kind: str, seed: int) -> pd.DataFrame:
    """A piece of the small table: one row for each of `rows` articles."""
    base = _numbers(kind, rows, seed)
    number = np.arange(part * rows, (part + 1) * rows)
    if kind == RANDOM:
        bits = [_mixed(base["bits"], part, 10 + n) for n in range(7)]
        made = {"weight": bits[0] / 2.0**62, "maker": bits[1], "stock": bits[2], "size": bits[3],
                "colour": bits[4], "shelf": bits[5], "cost": bits[6] / 2.0**62}
    else:
        small, cents = base["small"], base["cents"]
        made = {"weight": small / 10 + part % 5, "maker": cents // 64, "stock": small + part % 50,
                "size": cents % 40, "colour": small % 7, "shelf": number // 12, "cost": cents / 100}
    return pd.DataFrame({"key": _keys(number, kind), **made}, copy=False)


def _table(make: Callable[..., pd.DataFrame], parts: int, **options: Any) -> Any:
    import dask.dataframe as dd

    return dd.from_map(  # type: ignore[no-untyped-call]
        make, range(parts), meta=make(0, **options).iloc[:0], **options)


def _summed(frame: Any) -> Outcome:
    """The sums of a small frame's columns, which are int64 modulo 2**64 and float64."""
    whole: list[int] = []
    broken: list[float] = []
    for name in sorted(frame.columns):
        column = frame[name].to_numpy()
        if column.dtype.kind == "f":
            broken.append(float(column.sum()))
        else:
            whole.append(int(column.astype(np.int64).sum()))
    return {"equal": [*whole, len(frame)], "close": broken}


def _both(outcomes: list[Outcome]) -> Outcome:
    return {name: [x for outcome in outcomes for x in outcome[name]]
            for name in ("equal", "close")}


def join(size: Size, kind: str, seed: int) -> Outcome:
    """Sales joined with their articles by a shuffle, three quarters and a quarter of the data."""
    many, few = Size(size.nbytes * 3 // 4, size.parts), Size(size.nbytes // 4, max(size.parts // 3, 1))
    keys = few.rows * few.parts
    left = _table(sales, many.parts, rows=many.rows, keys=keys, kind=kind, seed=seed)
    right = _table(articles, few.parts, rows=few.rows, kind=kind, seed=seed)
    joined = left.merge(right, on="key", shuffle_method="tasks")
    return _summed(joined.map_partitions(_per_shop).groupby("shop").sum().compute())


def _per_shop(frame: pd.DataFrame) -> pd.DataFrame:
    """A piece of the joined table as sums, each of which has a part of every column in it."""
    worth = frame["price"] * frame["weight"] * (1 - frame["discount"]) - frame["cost"]
    marks = frame["time"] ^ frame["stock"] ^ frame["till"] ^ frame["size"]
    pieces = frame["pieces"] ^ frame["maker"] ^ frame["store"] ^ frame["colour"]
    return pd.DataFrame({
        "shop": frame["key"] % SHOPS, "worth": worth, "marks": marks, "sales": 1,
        "pieces": pieces ^ frame["clerk"] ^ frame["shelf"]}).groupby("shop").sum().reset_index()


def columns(block_info: Any = None, *, kind: str, seed: int) -> np.ndarray[Any, Any]:
    """Some columns of the matrix: what some counters showed, or random numbers from 0 to 1."""
    (rows, width), (_, at) = block_info[None]["chunk-shape"], block_info[None]["chunk-location"]
    base = _numbers(kind, rows, seed)
    if kind == RANDOM:
        made = np.stack([_mixed(base["bits"], at, n) for n in range(width)], axis=1) / 2.0**62
    else:
        made = base["count"][:, None] * (1 + np.arange(width) % 7) + (at * width + np.arange(width))
    return np.ascontiguousarray(made)


def rechunk(size: Size, kind: str, seed: int) -> Outcome:
    """A matrix of columns is shifted to begin at 0, cut into rows instead, and multiplied by itself."""
    import dask.array as da

    parts = next(n for n in range(min(size.parts, COLUMNS), 0, -1) if COLUMNS % n == 0)
    rows = size.nbytes // 8 // COLUMNS
    x: Any = da.map_blocks(  # type: ignore[no-untyped-call]
        columns, chunks=((rows,), (COLUMNS // parts,) * parts), dtype="f8", kind=kind, seed=seed,
        meta=np.empty((0, 0)))
    x = x - x.min(axis=0)
    by_rows = x.rechunk((-(-rows // size.parts), COLUMNS), method="tasks",
                        block_size_limit=size.nbytes // size.parts)
    product = (by_rows.T @ by_rows).compute() / rows
    return {"equal": list(product.shape),
            "close": [float(product.trace()), float(np.abs(product).sum())]}


def groupby(size: Size, kind: str, seed: int) -> Outcome:
    """A table is held by the workers, and three questions are asked of it, one after the other."""
    from distributed import wait

    table = _table(sales, size.parts, rows=size.rows, keys=100_000, kind=kind, seed=seed).persist()
    wait(table)  # type: ignore[no-untyped-call]
    table["shop"] = table["key"] % SHOPS
    by_shop = table.groupby("shop").agg(
        {"price": "sum", "pieces": "sum", "time": "max", "clerk": "max"}).compute()
    table["hour"] = table["time"] // 3_600_000 % 24
    by_hour = table.groupby("hour").agg(
        {"price": "max", "pieces": "min", "shop": "sum", "discount": "sum"}).compute()
    dear = table[table["price"] > table["price"].mean()]
    stores = dear.assign(store=dear["store"] % 300).groupby("store").agg(
        {"till": "sum", "time": "max"}).compute()
    return _both([_summed(by_shop), _summed(by_hour), _summed(stores)])


JOBS: dict[str, Callable[[Size, str, int], Outcome]] = {
    "join": join, "rechunk": rechunk, "groupby": groupby,
}
