"""Numbers as programs hold them, made with NumPy, the same in every run.

None of them is real data: read means over all of them, not single rows.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

Maker = Callable[[np.random.Generator, int], np.ndarray[Any, Any]]


def _walk(rng: np.random.Generator, n: int) -> np.ndarray[Any, Any]:
    return rng.standard_normal(n).cumsum()


def _field(rng: np.random.Generator, n: int) -> np.ndarray[Any, Any]:
    """A smooth surface with some noise, row by row, 512 wide."""
    rows = -(-n // 512)
    y, x = np.mgrid[0:rows, 0:512]
    smooth = np.sin(x / 37.0) * np.cos(y / 53.0) + 0.3 * np.sin((x + 2 * y) / 11.0)
    field: np.ndarray[Any, Any] = smooth + 0.002 * rng.standard_normal(smooth.shape)
    return field.ravel()[:n]


def _image(rng: np.random.Generator, n: int) -> np.ndarray[Any, Any]:
    """Grey values of a photograph: smooth areas, edges, a little sensor noise."""
    rows = -(-n // 1024)
    y, x = np.mgrid[0:rows, 0:1024]
    base = 110 + 60 * np.sin(x / 90.0) * np.cos(y / 70.0)
    base += 50 * (((x // 160) + (y // 120)) % 3 == 0)
    image: np.ndarray[Any, Any] = np.clip(base + 1.5 * rng.standard_normal(base.shape), 0, 255)
    return image.ravel()[:n]


# Name -> (type, maker of n items as any type).
CORPORA: dict[str, tuple[str, Maker]] = {
    "float64_random_walk": ("f8", _walk),
    "float64_normal": ("f8", lambda rng, n: rng.standard_normal(n)),
    "float64_uniform": ("f8", lambda rng, n: rng.random(n)),
    "float64_smooth_field": ("f8", _field),
    "float64_prices": ("f8", lambda rng, n: np.round(100 + _walk(rng, n) * 0.05, 2)),
    "float64_whole_numbers": ("f8", lambda rng, n: rng.integers(0, 5000, n)),
    "float64_linspace": ("f8", lambda rng, n: np.linspace(0, 1000, n)),
    "float64_sparse": ("f8", lambda rng, n: np.where(rng.random(n) < 0.05, rng.random(n), 0)),
    "float32_weights": ("f4", lambda rng, n: rng.standard_normal(n) * 0.02),
    "float32_smooth_field": ("f4", _field),
    "float32_sensor": ("f4", lambda rng, n: np.round(20 + _walk(rng, n) * 0.01, 1)),
    "float16_weights": ("f2", lambda rng, n: rng.standard_normal(n) * 0.02),
    "int64_sorted_ids": ("i8", lambda rng, n: rng.integers(1, 50, n).cumsum()),
    "int64_range": ("i8", lambda rng, n: np.arange(n)),
    "int64_small": ("i8", lambda rng, n: rng.integers(0, 1000, n)),
    "int64_shuffled_index": ("i8", lambda rng, n: rng.permutation(n)),
    "int64_counts": ("i8", lambda rng, n: rng.zipf(1.6, n) % 100000),
    "int64_timestamps_ns": (
        "i8", lambda rng, n: 1_700_000_000_000_000_000 + rng.exponential(1e6, n).cumsum(),
    ),
    "int64_timestamps_1s": ("i8", lambda rng, n: 1_700_000_000_000_000_000 + np.arange(n) * 10**9),
    "int32_categories": ("i4", lambda rng, n: rng.integers(0, 40, n)),
    "int32_random_walk": ("i4", lambda rng, n: rng.integers(-20, 21, n).cumsum()),
    "int32_offsets": ("i4", lambda rng, n: rng.poisson(12, n).cumsum()),
    "int32_random": ("i4", lambda rng, n: rng.integers(-(2**31), 2**31, n)),
    "int16_audio": (
        "i2", lambda rng, n: 8000 * np.sin(np.arange(n) / 17.0) + 200 * rng.standard_normal(n),
    ),
    "uint16_depth": ("u2", lambda rng, n: 2000 + 500 * _field(rng, n)),
    "uint8_image": ("u1", _image),
    "uint8_labels": ("u1", lambda rng, n: np.repeat(rng.integers(0, 12, n // 50 + 1), 50)[:n]),
    "bool_sparse": ("?", lambda rng, n: rng.random(n) < 0.03),
    "bool_even": ("?", lambda rng, n: rng.random(n) < 0.5),
    "complex128_spectrum": ("c16", lambda rng, n: np.fft.fft(_walk(rng, n))),
}


def make_corpus(name: str, size_bytes: int) -> bytes:
    """`size_bytes` of the corpus `name`."""
    kind, maker = CORPORA[name]
    dtype = np.dtype(kind)
    rng = np.random.default_rng(list(name.encode()))
    return maker(rng, size_bytes // dtype.itemsize).astype(dtype).tobytes()
