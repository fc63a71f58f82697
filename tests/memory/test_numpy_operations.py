"""NumPy's public operations on arrays that leave RAM all the time, compared with plain NumPy.

Each line gets arrays `x.f` and so on, which live in a Memory and were evicted, and allocates its results
and temporaries there. More of the same, by kind of data, is in test_numpy_kinds.py.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from libraries import changed, close, compare
from numpy.lib import stride_tricks

from coldmem import Memory

Make = Callable[..., Memory]

RNG = np.random.default_rng(11)
DATA: dict[str, np.ndarray] = {
    "f": RNG.normal(size=100_000).round(3),
    "i": RNG.integers(-1000, 1000, 100_000),
    "s": RNG.normal(size=(300, 300)),
    "g": RNG.normal(size=(30, 50, 40)).astype("f4"),
    "k": RNG.integers(0, 100_000, 30_000),
}

Operation = Callable[[Any], Any]
AXES: list[Any] = [None, 0, 1, -1, (0, 2)]


def reduce_by(*functions: Callable[..., Any]) -> Operation:
    """Each function by each axis, with and without keepdims."""
    return lambda x: [f(x.g, axis=axis, keepdims=keep)
                      for f in functions for axis in AXES for keep in (False, True)]


def each_axis(*functions: Callable[..., Any]) -> Operation:
    return lambda x: [f(x.g, axis=axis) for f in functions for axis in (0, 1, 2)]


ELEMENTS: dict[str, Operation] = {
    "add": lambda x: x.f + x.i,
    "power_sqrt_exp": lambda x: np.exp(np.sqrt(np.abs(x.f))) ** 1.5,
    "divmod": lambda x: np.divmod(x.i, 7),
    "compare_where": lambda x: np.where(x.f > x.i, x.f, x.i),
    "select_piecewise": lambda x: (
        np.select([x.i > 500, x.i > 0], [x.f, -x.f], 7.5),
        np.piecewise(x.f, [x.f < 0, x.f >= 1], [lambda v: -v, lambda v: v * 2, 1.0])),
    "bitwise": lambda x: (x.i & 0xFF) ^ (x.i << 3),
    "in_place": lambda x: np.multiply(x.f, 3.0, out=x.f),
    "in_place_where": lambda x: np.add(x.f, 1.0, out=x.f, where=x.i > 0),
    "overlapping": lambda x: changed(x.f, np.add(x.f[1:], x.f[:-1], out=x.f[1:])),
    "at": lambda x: changed(x.f, np.add.at(x.f, x.k, 1.0)),
    "accumulate": lambda x: (np.add.accumulate(x.f), np.maximum.accumulate(x.g, axis=1)),
    "reduceat": lambda x: np.add.reduceat(x.f, [0, 5, 1000, 90_000]),
    "outer": lambda x: np.multiply.outer(x.f[:500], x.f[500:1000]),
    "broadcast": lambda x: (x.g * x.g[:, :1] + x.g[0], np.broadcast_to(x.f[:40], x.g.shape) - x.g),
    "clip_round": lambda x: np.round(np.clip(x.f, -1, 1), 1),
    "nan_to_num": lambda x: np.nan_to_num(np.where(x.i > 0, x.f, np.nan), nan=5.0),
    "gradient_interp": lambda x: (
        np.gradient(x.f), np.gradient(x.g, axis=1), np.interp(x.f[:9999], [-3, 0, 3], [0, 1, 5])),
    "cumulative": lambda x: (np.cumsum(x.f), np.cumprod(x.g, axis=2), np.nancumsum(x.g, axis=0)),
    "diff": lambda x: (np.diff(x.f), np.diff(x.i, n=3), np.diff(x.g, axis=1), np.ediff1d(x.i)),
    "meshgrid": lambda x: np.meshgrid(x.f[:300], x.f[300:600]),
    "vectorize": lambda x: (
        np.vectorize(lambda v: v * 2)(x.i[:20_000]), np.frompyfunc(abs, 1, 1)(x.i[:9000])),
    "polynomials": lambda x: (np.polyval([1, 2, 3], x.f), np.polynomial.chebyshev.chebval(x.f, [1, 2])),
    "masked": lambda x: (
        np.ma.masked_less(x.f, 0).sum(), np.ma.masked_where(x.i > 0, x.f).filled(3),
        np.ma.median(np.ma.masked_greater(x.i, 5))),
    "angles": lambda x: (np.unwrap(x.f), np.deg2rad(x.f), np.hypot(x.f, x.i), np.sinc(x.f)),
    "bessel": lambda x: np.i0(x.f[:9000]),
}
REDUCTIONS: dict[str, Operation] = {
    "sums": reduce_by(np.sum, np.mean, np.std, np.var, np.prod),
    "extremes": reduce_by(np.min, np.max, np.ptp, np.any, np.all, np.count_nonzero),
    "nan_safe": reduce_by(np.nansum, np.nanmean, np.nanstd, np.nanmin, np.nanmax),
    "medians": reduce_by(np.median, lambda g, **how: np.percentile(g, [1, 50, 99], **how)),
    "quantile_methods": lambda x: [
        np.quantile(x.f, [0.1, 0.5], method=how) for how in ("linear", "lower", "nearest", "hazen")],
    "places": each_axis(np.argmin, np.argmax, np.nanargmax),
    "into_out": lambda x: (
        np.sum(x.g, axis=1, out=np.zeros((30, 40), "f4"), where=x.g > 0, initial=2),
        np.mean(x.g, axis=0, dtype="f8"), np.average(x.f, weights=np.abs(x.f))),
    "scalars": lambda x: (x.f.sum(), x.f.mean(), x.f.std(), x.f.min(), x.f.argmax(), x.i.prod()),
    "counts": lambda x: (np.bincount(x.i + 1000), np.bincount(x.k, minlength=150_000),
                         np.bincount(x.i + 1000, weights=x.f), np.count_nonzero(x.i)),
    "histograms": lambda x: (
        np.histogram(x.f, 50), np.histogram(x.f, [-1, 0, 2], weights=x.f, density=True),
        np.histogram2d(x.f, x.i, 20), np.histogramdd(x.g.reshape(-1, 3), 5)),
    "digitize": lambda x: np.digitize(x.f, np.linspace(-2, 2, 64)),
    "apply": lambda x: (np.apply_along_axis(np.ptp, 1, x.s), np.apply_over_axes(np.sum, x.g, [0, 2])),
}
ORDER: dict[str, Operation] = {
    "sort": lambda x: changed(x.f, x.f.sort()),
    "sort_kinds": lambda x: [np.sort(a, kind=kind) for a in (x.i, x.f)
                             for kind in ("quicksort", "heapsort", "stable")],
    "sort_axes": each_axis(np.sort, np.argsort, lambda g, axis: np.sort(g, axis, kind="stable")),
    "argsort": lambda x: np.argsort(x.f, kind="stable"),
    "lexsort": lambda x: np.lexsort((x.f[:30_000], x.i[:30_000])),
    "partition": lambda x: (np.sort(np.partition(x.f, 1000)[:1000]), np.partition(x.g, 7, axis=1)[:, 7],
                            x.f[np.argpartition(x.f, 500)[500]]),
    "searchsorted": lambda x: (
        np.searchsorted(np.sort(x.f), x.f[:1000]),
        np.searchsorted(np.sort(x.i), x.i[:9000], side="right"),
        np.searchsorted(x.f, x.f[:99], sorter=np.argsort(x.f, kind="stable"))),
    "unique": lambda x: np.unique(
        x.i, return_index=True, return_counts=True, return_inverse=True)[:4],
    "unique_axis": lambda x: np.unique(np.sign(x.g[:, :, :2]), axis=0),
    "sets": lambda x: (np.isin(x.i, [1, 2, 3]), np.intersect1d(x.i, x.i[:50]), np.union1d(x.i, x.k),
                       np.setdiff1d(x.k, x.i), np.setxor1d(x.i, x.k[:99])),
}
SHAPES: dict[str, Operation] = {
    "concatenate": lambda x: (np.concatenate([x.f, x.f[::-1]]), np.concatenate([x.g, x.g], axis=1),
                              np.concatenate([x.f, x.i], out=np.empty(200_000))),
    "stack": lambda x: (np.stack([x.s, x.s], 1), np.vstack([x.s, x.s[:2]]), np.hstack([x.s, x.s]),
                        np.dstack([x.s, x.s]), np.column_stack([x.f, x.i]), np.block([[x.s, x.s]])),
    "split": lambda x: (np.array_split(x.f, 7), np.split(x.g, [5, 11]), np.hsplit(x.g, 5),
                        np.dsplit(x.g, 4), np.vsplit(x.s, 3)),
    "pad": lambda x: [np.pad(x.s, 5, mode=mode)
                      for mode in ("constant", "reflect", "wrap", "edge", "mean", "linear_ramp")],
    "roll_flip": lambda x: (np.roll(x.f, 9999), np.roll(x.g, (3, 5), (0, 2)), np.flip(x.s),
                            np.rot90(x.s), np.fliplr(x.s), np.flip(x.g, 1)),
    "tile_repeat": lambda x: (np.tile(x.s, 2), np.repeat(x.i[:9999], 3), np.repeat(x.g, 2, axis=1),
                              np.resize(x.i, 150_000)),
    "insert_delete": lambda x: (np.insert(x.f, x.k[:99], 1.5), np.delete(x.f, x.k), np.append(x.f, x.i),
                                np.delete(x.g, 7, axis=2), np.trim_zeros(x.i)),
    "reshape_transpose": lambda x: (
        x.f.reshape(10, 100, 100).transpose(2, 0, 1).ravel(), np.moveaxis(x.g, 0, 2).copy(),
        np.swapaxes(x.g, 0, 1) * 2, x.g.T.sum(0), x.g[:, None].squeeze()),
    "fortran": lambda x: (
        np.asfortranarray(x.s), x.s.copy("F").sum(1), x.g.ravel("F"), x.f.reshape(100, -1, order="F"),
        np.zeros((200, 300), order="F") + x.s[:200], np.add(x.s, 1, order="F"), x.g.flatten("K")),
    "strides": lambda x: (x.f[::-3].copy(), x.s[::2, 1::3].copy(), x.s.T.copy(order="C"),
                          np.diagonal(x.s).copy(), np.triu(x.s), np.tril(x.s, -3), np.diag(x.f[:200])),
    "windows": lambda x: (
        stride_tricks.sliding_window_view(x.f, 9)[::1000].sum(1),
        stride_tricks.sliding_window_view(x.s, (4, 4))[::20, ::20].mean((2, 3)),
        stride_tricks.as_strided(x.f, (4990, 64), (160, 8)).sum(1)),
    "iterate": lambda x: (
        list(x.f[::1000]), [float(v) for v in np.nditer(x.s[:50].copy())], list(x.i.flat[::999]),
        [int(v.sum()) for v in np.nditer(x.i, flags=["external_loop", "buffered"], buffersize=999)],
        list(np.ndenumerate(x.g[:3, 0, 0]))),
    "copyto_fill": lambda x: changed(x.f, np.copyto(x.f, x.i, casting="unsafe"), x.s.fill(3), x.s),
    "grow": lambda x: (np.fromiter(x.i[:30_000], "i8"), np.array(x.i[:20_000].tolist()),
                       np.indices((60, 70)) * 2, np.fromfunction(lambda a, b: a * b, (200, 150))),
}
INDEXING: dict[str, Operation] = {
    "fancy": lambda x: (x.f[x.k], x.s[x.k[:99] % 300, 5], x.g[[3, 1], :, 1:3],
                        x.s[np.ix_([5, 2], [7, 9])]),
    "fancy_set": lambda x: changed(x.f, x.f.__setitem__(x.k, 5.0), x.s.__setitem__([3, 7], 1.0), x.s),
    "mask": lambda x: (x.f[x.i > 500], x.g[x.g > 1], x.s[x.s[0] > 0], x.s[:, x.s[1] > 1]),
    "mask_set": lambda x: changed(x.f, x.f.__setitem__(x.i > 500, -1.0)),
    "slices": lambda x: (x.g[..., 3], x.g[::-1, 5:9, ::2].copy(), x.g[None, 3], x.f[-1], x.f[5:3]),
    "slices_set": lambda x: changed(x.g, x.g.__setitem__((slice(None), 3), 1), x.f.__setitem__(
        slice(None, None, -2), 4), x.f),
    "take": lambda x: (x.f.take(x.k), np.take(x.g, [3, 1], axis=1), np.take(x.f, x.i, mode="wrap"),
                       np.take(x.f, x.k, out=np.empty(30_000), mode="clip")),
    "put": lambda x: changed(x.f, np.put(x.f, x.k, [2.0, 3.0]), np.putmask(x.i, x.i > 0, x.i * 2), x.i,
                             np.place(x.s, x.s > 1, [7.0]), x.s),
    "along_axis": lambda x: (
        np.take_along_axis(x.g, np.argsort(x.g, 1, kind="stable"), 1),
        changed(x.s, np.put_along_axis(x.s, np.argmax(x.s, 1)[:, None], 9.0, 1))),
    "choose": lambda x: (np.choose(x.i % 3, [x.f, x.i, 7]), np.compress(x.i > 0, x.f),
                         np.extract(x.f > 1, x.i), np.choose(x.k % 5, np.arange(5), mode="clip")),
    "nonzero": lambda x: (x.i.nonzero(), np.argwhere(x.s > 2), np.flatnonzero(x.f < 0)),
    "indices": lambda x: (np.unravel_index(x.k, (100, 1000)), np.ravel_multi_index(
        (x.k % 30, x.k % 50, x.k % 40), (30, 50, 40))),
    "fill_diagonal": lambda x: changed(x.s, np.fill_diagonal(x.s, 5)),
}
# BLAS chooses its order of summation by alignment and threads: equal to rounding only.
ROUNDED: dict[str, Operation] = {
    "matmul": lambda x: (x.s @ x.s.T, x.g @ x.g.transpose(0, 2, 1), np.matmul(x.s, x.s[0])),
    "dot": lambda x: (x.s.dot(x.s), np.vdot(x.f, x.f), np.inner(x.s, x.s[:9]), x.f.dot(x.f)),
    "einsum": lambda x: (np.einsum("ij,jk->k", x.s, x.s), np.einsum("aij,akj->aik", x.g, x.g),
                         np.einsum("ij,jk,kl->il", x.s, x.s, x.s, optimize=True)),
    "tensordot_kron": lambda x: (np.tensordot(x.s, x.s, 1), np.kron(x.s[:20, :20], x.s[:20, :20])),
    "products": lambda x: (np.linalg.multi_dot([x.s, x.s, x.s[0]]), np.linalg.matrix_power(x.s / 50, 5),
                           np.cross(x.g[..., :3], x.g[..., 3:6]), np.trace(x.s)),
    "solve": lambda x: (np.linalg.solve(x.s + 50 * np.eye(300), x.s[0]), np.linalg.lstsq(
        x.s[:, :50], x.s[:, 60], rcond=None)[0]),
    "svd_qr_eigh": lambda x: (
        np.linalg.svd(x.s[:150, :150]), np.linalg.qr(x.s[:200]),
        np.linalg.eigh(x.s[:150, :150] + x.s[:150, :150].T)),
    "inv_det_norm": lambda x: (np.linalg.inv(x.s), np.linalg.slogdet(x.s), np.linalg.norm(x.s),
                               np.linalg.pinv(x.s[:99]), np.linalg.cond(x.s[:99, :99])),
    "cholesky_eig": lambda x: (np.linalg.cholesky(x.s @ x.s.T + np.eye(300)),
                               np.sort(np.abs(np.linalg.eigvals(x.s[:100, :100])))),
    "stacked": lambda x: (np.linalg.inv(x.g[:, :9, :9]), np.linalg.det(x.g[:, :4, :4])),
    "convolve": lambda x: (np.convolve(x.f, x.f[:16], "same"), np.correlate(x.f, x.f[:32])),
    "correlations": lambda x: (np.corrcoef(x.s), np.cov(x.f, x.i), np.cov(x.s, rowvar=False)),
    "polyfit": lambda x: np.polyfit(np.linspace(0, 1, 100_000), x.f, 3),
}
FOURIER: dict[str, Operation] = {
    "fft": lambda x: (np.fft.fft(x.f), np.fft.rfft(x.f), np.fft.irfft(x.f), np.fft.hfft(x.f[:5000])),
    "fft_axes": lambda x: (np.fft.ifft2(np.fft.fft2(x.s[:100])), np.fft.rfftn(x.g[:9]),
                           np.fft.fft(x.g, axis=1)),
    "fft_odd": lambda x: (np.fft.fft(x.f[:9973]), np.fft.fftshift(x.g), np.fft.rfft(x.f, n=5003)),
}
EXACT = {**ELEMENTS, **REDUCTIONS, **ORDER, **SHAPES, **INDEXING, **FOURIER}


@pytest.mark.parametrize("name", EXACT)
def test_operation(make_memory: Make, name: str) -> None:
    compare(make_memory, DATA, EXACT[name])


@pytest.mark.parametrize("name", ROUNDED)
def test_operation_of_linear_algebra(make_memory: Make, name: str) -> None:
    compare(make_memory, DATA, ROUNDED[name], close)
