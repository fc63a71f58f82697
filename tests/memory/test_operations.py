"""NumPy's public operations on managed arrays, compared with plain NumPy, under constant eviction."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from coldmem import Memory
from coldmem.errors import ClosedError

Make = Callable[..., Memory]
MIB = 1 << 20

RNG = np.random.default_rng(11)
FLOATS = RNG.normal(size=100_000).round(3)
INTS = RNG.integers(-1000, 1000, 100_000)
SQUARE = RNG.normal(size=(400, 400))
KEYS = RNG.integers(0, 100_000, 30_000)
RECORDS = np.zeros(50_000, [("id", "i4"), ("x", "f8"), ("name", "S8")])
RECORDS["id"] = INTS[:50_000]
RECORDS["x"] = FLOATS[:50_000]
RECORDS["name"] = (INTS[:50_000] % 97).astype("S8")

Operation = Callable[[np.ndarray, np.ndarray, np.ndarray, np.ndarray], Any]
OPERATIONS: dict[str, Operation] = {
    "add": lambda f, i, s, r: f + i,
    "power_sqrt_exp": lambda f, i, s, r: np.exp(np.sqrt(np.abs(f))) ** 1.5,
    "divmod": lambda f, i, s, r: np.divmod(i, 7),
    "compare_where": lambda f, i, s, r: np.where(f > i, f, i),
    "bitwise": lambda f, i, s, r: (i & 0xFF) ^ (i << 3),
    "in_place": lambda f, i, s, r: np.multiply(f, 3.0, out=f),
    "in_place_where": lambda f, i, s, r: np.add(f, 1.0, out=f, where=i > 0),
    "at": lambda f, i, s, r: (np.add.at(f, KEYS, 1.0), f)[1],
    "accumulate": lambda f, i, s, r: np.add.accumulate(f),
    "reduceat": lambda f, i, s, r: np.add.reduceat(f, [0, 5, 1000, 90_000]),
    "outer": lambda f, i, s, r: np.multiply.outer(f[:500], f[500:1000]),
    "sum_mean_std": lambda f, i, s, r: (f.sum(), f.mean(), f.std(), f.min(), f.argmax(), f.prod()),
    "percentile_median": lambda f, i, s, r: (np.percentile(f, [1, 50, 99]), np.median(i)),
    "cumsum_diff": lambda f, i, s, r: np.diff(np.cumsum(f)),
    "any_all_count": lambda f, i, s, r: (i.any(), i.all(), np.count_nonzero(i)),
    "sort": lambda f, i, s, r: (f.sort(), f)[1],
    "sort_stable": lambda f, i, s, r: np.sort(i, kind="stable"),
    "argsort": lambda f, i, s, r: np.argsort(f, kind="stable"),
    "lexsort": lambda f, i, s, r: np.lexsort((f, i)),
    "partition": lambda f, i, s, r: np.sort(np.partition(f, 1000)[:1000]),
    "searchsorted": lambda f, i, s, r: np.searchsorted(np.sort(f), f[:1000]),
    "unique": lambda f, i, s, r: np.unique(i, return_counts=True, return_inverse=True),
    "bincount_histogram": lambda f, i, s, r: (np.bincount(i + 1000), np.histogram(f, 50)),
    "isin_intersect": lambda f, i, s, r: (np.isin(i, [1, 2, 3]), np.intersect1d(i, i[:50])),
    "matmul": lambda f, i, s, r: s @ s.T,
    "dot_einsum": lambda f, i, s, r: (s.dot(s), np.einsum("ij,jk->k", s, s)),
    "tensordot_kron": lambda f, i, s, r: (np.tensordot(s, s, 1), np.kron(s[:20, :20], s[:20, :20])),
    "solve": lambda f, i, s, r: np.linalg.solve(s + 50 * np.eye(400), s[0]),
    "svd_qr_eigh": lambda f, i, s, r: (
        np.linalg.svd(s[:150, :150]), np.linalg.qr(s[:200]), np.linalg.eigh(s[:150, :150])),
    "inv_det_norm": lambda f, i, s, r: (np.linalg.inv(s), np.linalg.slogdet(s), np.linalg.norm(s)),
    "fft": lambda f, i, s, r: (np.fft.rfft(f), np.fft.ifft2(np.fft.fft2(s))),
    "convolve": lambda f, i, s, r: np.convolve(f, f[:16], "same"),
    "concatenate_stack": lambda f, i, s, r: (np.concatenate([f, f[::-1]]), np.stack([s, s], 1)),
    "split_roll_flip": lambda f, i, s, r: (np.array_split(f, 7), np.roll(f, 9999), np.flip(s)),
    "tile_repeat_pad": lambda f, i, s, r: (np.tile(s, 2), np.repeat(i[:9999], 3), np.pad(s, 5)),
    "fancy": lambda f, i, s, r: f[KEYS],
    "fancy_set": lambda f, i, s, r: (f.__setitem__(KEYS, 5.0), f)[1],
    "mask": lambda f, i, s, r: f[i > 500],
    "mask_set": lambda f, i, s, r: (f.__setitem__(i > 500, -1.0), f)[1],
    "take_put_choose": lambda f, i, s, r: (f.take(KEYS), np.put(f, KEYS, 2.0), f),
    "nonzero_argwhere": lambda f, i, s, r: (i.nonzero(), np.argwhere(s > 2)),
    "strides": lambda f, i, s, r: (f[::-3].copy(), s[::2, 1::3].copy(), s.T.copy(order="C")),
    "reshape_transpose": lambda f, i, s, r: f.reshape(10, 100, 100).transpose(2, 0, 1).ravel(),
    "windows": lambda f, i, s, r: np.lib.stride_tricks.sliding_window_view(f, 9)[::1000].sum(1),
    "astype_view": lambda f, i, s, r: (f.astype("f4"), i.view("u1")[::5], i.astype(str)[:2000]),
    "complex": lambda f, i, s, r: np.conj(f + 1j * i) * 2j,
    "dates": lambda f, i, s, r: i.astype("M8[s]") + np.timedelta64(5, "s"),
    "structured": lambda f, i, s, r: (r["x"] * 2, r[r["id"] > 0], np.sort(r, order=["id", "x"])),
    "structured_set": lambda f, i, s, r: (r.__setitem__("name", b"new"), r)[1],
    "strings": lambda f, i, s, r: (np.char.upper(r["name"][:5000]), np.unique(r["name"])),
    "nan": lambda f, i, s, r: (np.nanmean(np.where(i > 0, f, np.nan)), np.isnan(f).sum()),
    "clip_round": lambda f, i, s, r: np.round(np.clip(f, -1, 1), 1),
    "gradient_interp": lambda f, i, s, r: (np.gradient(f), np.interp(f[:9999], [-3, 0, 3], [0, 1, 5])),
    "meshgrid": lambda f, i, s, r: np.meshgrid(f[:300], f[300:600]),
    "apply_along": lambda f, i, s, r: np.apply_along_axis(np.ptp, 1, s),
    "vectorize": lambda f, i, s, r: np.vectorize(lambda x: x * 2)(i[:20_000]),
    "tobytes": lambda f, i, s, r: (f.tobytes(), bytes(i.data[:5000]), r.tolist()[:100]),
    "iterate": lambda f, i, s, r: (list(f[::1000]), [float(x) for x in np.nditer(s[:50].copy())]),
    "generator_out": lambda f, i, s, r: (
        np.random.default_rng(3).standard_normal(out=f), np.random.default_rng(4).random(out=f), f),
    "shuffle_choice": lambda f, i, s, r: (
        np.random.default_rng(5).shuffle(f), f, np.random.default_rng(5).choice(i, 1000)),
    "copyto_fill": lambda f, i, s, r: (np.copyto(f, i, casting="unsafe"), f, s.fill(3), s),
}


def same(got: Any, want: Any) -> None:
    """Equal to the last bit."""
    if isinstance(want, tuple | list):
        assert len(got) == len(want)
        for one, other in zip(got, want, strict=True):
            same(one, other)
    elif want is None:
        assert got is None
    elif isinstance(want, bytes):
        assert got == want
    else:
        one, other = np.asarray(got), np.asarray(want)
        assert one.dtype == other.dtype and one.shape == other.shape
        assert one.tobytes() == other.tobytes()


def linalg_may_differ(name: str) -> bool:
    """BLAS chooses its order of summation by alignment and threads: equal to rounding only."""
    return name in {"matmul", "dot_einsum", "tensordot_kron", "solve", "svd_qr_eigh", "inv_det_norm",
                    "convolve"}


def close(got: Any, want: Any) -> None:
    if isinstance(want, tuple | list):
        for one, other in zip(got, want, strict=True):
            close(one, other)
    else:
        assert np.allclose(got, want, rtol=1e-7, atol=1e-7)


@contextlib.contextmanager
def evicting(memory: Memory, arrays: list[np.ndarray]) -> Iterator[None]:
    """Everything goes out again and again, as long as the block runs."""
    stop = threading.Event()

    def body() -> None:
        while not stop.is_set():
            for array in arrays:
                memory.evict(array)
            stop.wait(0.02)

    thread = threading.Thread(target=body)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()


@pytest.mark.parametrize("name", OPERATIONS)
def test_operation(make_memory: Make, name: str) -> None:
    operation = OPERATIONS[name]
    with np.errstate(all="ignore"):
        want = operation(FLOATS.copy(), INTS.copy(), SQUARE.copy(), RECORDS.copy())
    memory = make_memory("8M", "192M", threshold="16K")
    arrays = [memory.array(x) for x in (FLOATS, INTS, SQUARE, RECORDS)]
    for array in arrays:
        memory.evict(array)
    with evicting(memory, arrays), memory, np.errstate(all="ignore"):
        got = operation(*arrays)
        (close if linalg_may_differ(name) else same)(got, want)
    memory.check_valid("full")
    assert memory.stats()["faults"] > 0
    arrays.clear()
    del got, array


def test_files(make_memory: Make, tmp_path: Path) -> None:
    memory = make_memory("8M", "96M")
    a, r = memory.array(FLOATS), memory.array(RECORDS)
    with contextlib.ExitStack() as stack:
        if memory.delivery == "sigbus":  # system calls on what is away: see test_system_calls.py
            stack.enter_context(memory.pinned(a))
        a.tofile(tmp_path / "raw")
        np.save(tmp_path / "a.npy", a)
    assert np.array_equal(np.fromfile(tmp_path / "raw"), FLOATS)
    with memory.pinned(r):
        np.savez_compressed(tmp_path / "all.npz", r=r)
    with np.load(tmp_path / "all.npz") as loaded:
        assert loaded["r"].tobytes() == RECORDS.tobytes()
    mapped = np.load(tmp_path / "a.npy", mmap_mode="r")
    memory.evict(a)
    a[:] = 0
    a[:] = mapped
    assert np.array_equal(a, FLOATS)
    with memory:
        from_text = np.array([float(x) for x in FLOATS[:50_000]])
        assert memory.owns(from_text)
    del a, r, from_text, mapped


def test_loading_a_file_inside_a_block(make_memory: Make, tmp_path: Path) -> None:
    """NumPy reads straight into the new array, whose pages were never touched: never short."""
    memory = make_memory("8M", "32M")
    want = np.concatenate([FLOATS] * 4)
    np.save(tmp_path / "a.npy", want)
    want.tofile(tmp_path / "raw")
    with memory:
        loaded = np.load(tmp_path / "a.npy")
        raw = np.fromfile(tmp_path / "raw")
        assert np.array_equal(loaded, want) and np.array_equal(raw, want)
    del loaded, raw


# -- with memory: -----------------------------------------------------------------------------------
def test_results_land_there(make_memory: Make) -> None:
    memory = make_memory("8M", "96M")
    with memory as same_memory:
        assert same_memory is memory
        for big in (np.zeros(100_000), np.ones(100_000) * 2, np.arange(100_000), np.empty(100_000),
                    np.concatenate([FLOATS, FLOATS]), FLOATS + 1, FLOATS.copy(), np.sort(FLOATS),
                    SQUARE @ SQUARE, FLOATS.astype("f4"), np.fft.rfft(FLOATS)):
            assert memory.owns(big)
        small = np.ones(100)
        assert not memory.owns(small)
        assert not np.zeros(100_000).any()
        grown = np.ones(100_000)
        grown.resize(300_000, refcheck=False)
        assert memory.owns(grown) and grown.sum() == 100_000
        grown.resize(10, refcheck=False)
        assert grown.sum() == 10
    outside = np.ones(100_000)
    assert not memory.owns(outside)
    assert memory.stats()["arrays"] == 1
    del big
    assert memory.stats()["arrays"] == 0, "freed after the block"


def test_threads_inherit(make_memory: Make) -> None:
    memory = make_memory("8M", "96M")
    seen: list[bool] = []

    def body() -> None:
        seen.append(memory.owns(np.ones(100_000)))

    with memory:
        threads = [threading.Thread(target=body) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        with ThreadPoolExecutor(3) as pool:
            for part in pool.map(lambda n: np.full(100_000, n), range(6)):
                assert memory.owns(part)
        timer = threading.Timer(0, body)
        timer.start()
        timer.join()
    assert seen == [True] * 5
    after = threading.Thread(target=body)
    after.start()
    after.join()
    assert seen[-1] is False
    del part, timer, threads, thread
    assert memory.stats()["arrays"] == 0


def test_a_pool_outlives_the_block_and_the_memory(make_memory: Make) -> None:
    memory = make_memory("8M", "32M")
    with memory:
        pool = ThreadPoolExecutor(1)
        assert memory.owns(pool.submit(np.ones, 100_000).result())
    memory.close()
    assert pool.submit(np.ones, 100_000).result().sum() == 100_000
    pool.shutdown()


def test_nested_blocks_and_exceptions(make_memory: Make) -> None:
    one, two = make_memory("8M", "32M"), make_memory("8M", "32M")
    with pytest.raises(KeyError), one:
        a = np.ones(100_000)
        with pytest.raises(ZeroDivisionError), two:
            b = np.ones(100_000)
            with one:
                c = np.ones(100_000)
            d = np.ones(100_000)
            raise ZeroDivisionError
        e = np.ones(100_000)
        raise KeyError
    assert one.owns(a) and two.owns(b) and one.owns(c) and two.owns(d) and one.owns(e)
    assert not one.owns(np.ones(100_000)) and not two.owns(np.ones(100_000))
    b[:] = a + c
    assert b.sum() == 200_000
    del a, b, c, d, e


def test_a_block_that_is_closed_inside(make_memory: Make) -> None:
    memory = make_memory("8M", "32M")
    with memory:
        small = np.ones(10)
        memory.close()
        big = np.ones(1_000_000)  # goes to NumPy's own allocator
        assert big.sum() == 1_000_000
    assert small.sum() == 10
    with pytest.raises(ClosedError), memory:
        pass


def test_refused_inside_a_block(make_memory: Make) -> None:
    """NumPy says MemoryError, and nothing is lost."""
    memory = make_memory("8M", "8M")
    with memory:
        kept = FLOATS.copy()
        with pytest.raises(MemoryError):
            np.ones(4_000_000)
        with pytest.raises(MemoryError):
            np.concatenate([kept] * 30)
        grown = np.ones(100_000)
        with pytest.raises(MemoryError):
            grown.resize(10_000_000, refcheck=False)
        assert grown.sum() == 100_000
        assert np.array_equal(kept, FLOATS)
        again = np.ones(100_000)
        assert memory.owns(again)
    memory.check_valid("full")
    del kept, grown, again
