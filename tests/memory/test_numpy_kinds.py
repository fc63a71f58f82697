"""NumPy's kinds of data, files, buffers and random numbers in a Memory that is emptied all the time.

Compared with the same without a Memory, as in test_numpy_operations.py.
"""

from __future__ import annotations

import array as arrays
import copy
import ctypes
import hashlib
import io
import pickle
import struct
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from libraries import changed, compare, evicting, same
from numpy.lib import recfunctions

from coldmem import Memory

Make = Callable[..., Memory]
Operation = Callable[[Any], Any]

RNG = np.random.default_rng(12)
N = 60_000
INTS = RNG.integers(-1000, 1000, N)
FLOATS = RNG.normal(size=N).round(3)
RECORDS = np.zeros(N, [("id", "i4"), ("x", "f8"), ("name", "S8"), ("point", [("a", "i2"), ("b", "f4")])])
RECORDS["id"], RECORDS["x"], RECORDS["name"] = INTS, FLOATS, (INTS % 97).astype("S8")
RECORDS["point"]["a"] = INTS % 300
DATES = INTS.astype("M8[D]") + np.timedelta64(7000, "D")
DATES[::1000] = "NaT"
DATA: dict[str, np.ndarray] = {
    "f": FLOATS, "i": INTS, "r": RECORDS, "d": DATES, "c": FLOATS + 1j * INTS, "b": INTS % 3 == 0,
    "t": np.array([f" Row-{n % 997} " for n in range(20_000)]), "u": (INTS % 251).astype("u1"),
    "m": FLOATS[:40_000].reshape(200, 200).copy(),
}


def in_place(x: Any) -> Any:
    x.f += x.i
    x.f -= 0.5
    x.f *= 1.25
    x.f /= 3
    x.f //= 0.01
    x.f **= 2
    x.f %= 7
    x.i |= 5
    x.i &= 0xFFFF
    x.i ^= 0x55
    x.i <<= 3
    x.i >>= 1
    x.c *= x.c
    x.d += np.timedelta64(3, "D")
    x.m[::2] += x.m[1::2]
    x.m.T[5:9] -= 1
    return x.f, x.i, x.c, x.d, x.m


KINDS: dict[str, Operation] = {
    "in_place": in_place,
    "complex": lambda x: (np.conj(x.c) * 2j, np.abs(x.c), np.angle(x.c), x.c.real.copy(),
                          np.sort_complex(x.c), np.sort(x.c), x.c.sum(), np.isclose(x.c, x.c + 1e-12)),
    "complex_parts": lambda x: changed(x.c, x.c.imag.fill(2), x.c.real.__setitem__(slice(3), 9)),
    "bool": lambda x: (np.logical_xor(x.b, x.f > 0), ~x.b, np.packbits(x.b), x.b.cumsum(), x.b.argmax(),
                       np.unpackbits(np.packbits(x.b)), x.b | (x.i > 5), x.f[x.b], np.flatnonzero(x.b)),
    "dates": lambda x: (x.d + np.timedelta64(5, "D"), np.diff(x.d), x.d.astype("M8[M]"), np.isnat(x.d),
                        np.sort(x.d), np.unique(x.d), x.d > np.datetime64("1989-03-01"),
                        (x.d - x.d[1]) / np.timedelta64(1, "h"), x.d.astype("M8[ns]").view("i8")),
    "calendar": lambda x: (
        np.is_busday(x.d[1:999]), np.busday_count(x.d[1:999], np.datetime64("1990-01-01")),
        np.busday_offset(x.d[1:999], 3, roll="forward"), np.datetime_as_string(x.d[:5000])),
    "structured": lambda x: (
        x.r["x"] * 2, x.r[x.r["id"] > 0], np.sort(x.r[:20_000], order=["id", "x"]),
        np.argsort(x.r[:20_000], order="name", kind="stable"), x.r["point"]["b"].sum(),
        recfunctions.repack_fields(x.r[["id", "name"]]), x.r.tolist()[:100], x.r == x.r[::-1]),
    "structured_set": lambda x: changed(
        x.r, x.r.__setitem__("name", b"new"), x.r["point"].__setitem__(slice(9), (5, 2.5)),
        x.r.__setitem__(3, x.r[4])),
    "records": lambda x: (
        recfunctions.append_fields(x.r, "y", x.f, usemask=False), x.r.view(np.recarray).x * 2,
        recfunctions.structured_to_unstructured(x.r[["id", "x"]]), x.r.view("V26")[::7].copy(),
        recfunctions.drop_fields(x.r, "name")),
    "strings": lambda x: (
        np.char.upper(x.t), np.char.strip(x.t), np.char.add(x.t, "!"), np.char.find(x.t, "9"),
        np.char.replace(x.t, "Row", "Line"), np.unique(x.t), np.sort(x.t), x.t == " Row-5 ",
        np.char.startswith(x.t, " R"), np.char.str_len(x.t), np.char.partition(x.t[:99], "-")),
    "bytes": lambda x: (np.char.upper(x.r["name"]), np.unique(x.r["name"]), x.t.astype("S"),
                        np.char.decode(x.r["name"]), x.i.astype(str), x.i.astype("S").astype(int)),
    "objects": lambda x: (x.i[:9000].astype(object) * 2, np.array([1, "a", None] * 999, object)),
    "views": lambda x: (x.i.view("u1")[::5].copy(), x.f.view("i8") ^ 1, x.u.view("u4"), x.c.view("f8"),
                        x.i.byteswap(), x.i.astype(">i4") + 1, x.f.view("f8,f8")["f1"].copy()),
    "small_floats": lambda x: (x.f.astype("f2") * 2, x.f.astype("f4").sum(), np.frexp(x.f.astype("f4"))),
    "long_double": lambda x: (x.f.astype("g") / 3, np.cumsum(x.f, dtype="g"), x.c.astype("G") * 2),
    "small_ints": lambda x: (x.u + x.u, x.u * np.uint8(3), np.bincount(x.u), x.u.astype("i1").sum(),
                             np.bitwise_count(x.u) if hasattr(np, "bitwise_count") else None),
}
BUFFERS: dict[str, Operation] = {
    "bytes": lambda x: (x.f.tobytes(), bytes(x.i.data[:5000]), bytes(memoryview(x.r)[:5].cast("B")),
                        bytes(bytearray(x.m)), x.m.T.tobytes(), x.m[::2].tobytes("F")),
    "memoryview": lambda x: changed(
        x.f, memoryview(x.f).__setitem__(slice(0, 999), memoryview(x.f)[999:1998]),
        memoryview(x.m)[3, 5], memoryview(x.i).tolist()[:5000]),
    "hashes": lambda x: (hashlib.sha256(x.f).hexdigest(), zlib.crc32(x.r), zlib.adler32(x.u),
                         zlib.decompress(zlib.compress(x.i, 1)), hash(x.u.tobytes())),
    "struct": lambda x: (struct.unpack_from("<99q", x.i, 800), struct.iter_unpack("<2d", x.f).__next__(),
                         struct.pack_into("<d", x.f, 4096, 2.5), x.f),
    "array": lambda x: (arrays.array("d", x.f.tobytes()).tolist()[:5000],
                        int.from_bytes(x.u[:99], "big"),
                        b"".join([x.u.data, x.i.data]), x.u.data == x.u.tobytes()),
    "ctypes": lambda x: changed(
        x.f, ctypes.memmove(x.f.ctypes.data, x.f.ctypes.data + 160_000, 80_000) and None,
        sum(np.ctypeslib.as_ctypes(x.i)[:5000]), ctypes.string_at(x.u.ctypes.data, 30_000)),
    "dlpack": lambda x: (np.from_dlpack(x.f) * 2, np.from_dlpack(x.m).T.copy()),
    "frombuffer": lambda x: (np.frombuffer(x.f, "i8") ^ 3, np.frombuffer(x.r.data, RECORDS.dtype)[5],
                             np.ndarray((100, 50), "f8", x.f, 800, (1600, 16)) * 2),
    "copies": lambda x: (copy.deepcopy(x.f), copy.copy(x.m.T), x.r.copy(), np.array(x.d, copy=True)),
    "pickle": lambda x: [pickle.loads(pickle.dumps(a, protocol)) for a in (x.f, x.r, x.d, x.m.T, x.t)
                         for protocol in (2, 5)],
    "pickle_buffers": lambda x: (lambda out: pickle.loads(
        pickle.dumps(x.f, 5, buffer_callback=out.append), buffers=out) * 2)([]),
    "text": lambda x: (str(x.f), repr(x.r[:9]), np.array2string(x.m, threshold=50_000)),
}


def generator(seed: int) -> np.random.Generator:
    return np.random.default_rng(seed)


RANDOM: dict[str, Operation] = {
    "uniform": lambda x: changed(x.f, generator(1).random(out=x.f), generator(1).random(out=x.m)),
    "normal": lambda x: changed(x.f, generator(2).standard_normal(out=x.f)),
    "exponential": lambda x: changed(x.f, generator(3).standard_exponential(out=x.f)),
    "gamma": lambda x: changed(x.f, generator(4).standard_gamma(2.0, out=x.f)),
    "f4": lambda x: generator(5).random(out=np.zeros(N, "f4"), dtype="f4"),
    "shuffle": lambda x: changed(x.f, generator(6).shuffle(x.f), generator(7).shuffle(x.m, axis=1), x.m,
                                 generator(8).shuffle(x.r), x.r),
    "permuted": lambda x: (generator(9).permuted(x.m, axis=1), generator(9).permuted(x.i, out=x.i),
                           generator(9).permutation(x.f)),
    "choice": lambda x: (generator(10).choice(x.i, 9999), generator(10).choice(x.m, 99, axis=1),
                         generator(10).choice(x.i, 999, replace=False, p=np.full(N, 1 / N))),
    "made": lambda x: (generator(11).normal(x.f, 2), generator(11).integers(0, x.i + 1001),
                       generator(11).poisson(np.abs(x.f)), generator(11).bytes(200_000),
                       generator(11).multivariate_normal([0, 0], np.eye(2), 9999, method="eigh")),
    "legacy": lambda x: (np.random.RandomState(3).rand(300, 200),
                         np.random.RandomState(3).permutation(x.i)),
}


@pytest.mark.parametrize("name", KINDS)
def test_kind(make_memory: Make, name: str) -> None:
    compare(make_memory, DATA, KINDS[name])


@pytest.mark.parametrize("name", BUFFERS)
def test_buffer(make_memory: Make, name: str) -> None:
    compare(make_memory, DATA, BUFFERS[name])


@pytest.mark.parametrize("name", RANDOM)
def test_random_numbers(make_memory: Make, name: str) -> None:
    compare(make_memory, DATA, RANDOM[name])


# -- every ufunc, every type ------------------------------------------------------------------------
UFUNCS = sorted({u.__name__: u for u in vars(np).values() if isinstance(u, np.ufunc)}.items())
INPUTS = [np.abs(FLOATS[:20_000]) + 0.5, INTS[:20_000] % 50, DATA["c"][:20_000], DATA["b"][:20_000],
          FLOATS[:20_000].astype("f4"), DATA["u"][:20_000]]


def applied(ufunc: np.ufunc, inputs: list[np.ndarray]) -> list[Any]:
    """What the ufunc gives for each input that it takes, and its methods where it has them."""
    results: list[Any] = []
    for one in inputs:
        try:
            results.append(ufunc(*[one] * ufunc.nin))
            if ufunc.nin == 2 and ufunc.nout == 1 and ufunc.signature is None:
                results += [ufunc(one, one[::-1]), ufunc.accumulate(one), ufunc.reduce(one)]
        except (TypeError, ValueError) as error:
            results.append(type(error).__name__)
    return results


def test_all_ufuncs(make_memory: Make) -> None:
    assert len(UFUNCS) > 80
    memory = make_memory("8M", "192M", threshold="16K")
    tried = 0
    with evicting(memory) as out, np.errstate(all="ignore"):
        inputs = [memory.array(one) for one in INPUTS]
        for name, ufunc in UFUNCS:
            if ufunc.signature is not None:  # linear algebra: see test_numpy_operations.py
                continue
            want = applied(ufunc, INPUTS)
            with memory:
                for one in inputs:
                    memory.evict(one)
                got = applied(ufunc, inputs)
                try:
                    same(got, want)
                except AssertionError as error:
                    raise AssertionError(f"numpy.{name}: {error}") from error
            tried += sum(not isinstance(one, str) for one in want)
        assert tried > 400 and out.left() > 1000
        inputs.clear()
        del one, got


TYPES = [*"?bBhHiIqQefdgFDG", "S8", "U8", "M8[s]", "m8[ms]", ">i4", ">f8"]


@pytest.mark.filterwarnings("ignore:Casting complex values")
def test_astype_from_each_type_to_each(make_memory: Make) -> None:
    memory = make_memory("8M", "192M", threshold="4K")
    model = INTS[:6000] % 100
    tried = 0
    with evicting(memory) as out, np.errstate(all="ignore"):
        for source in TYPES:
            plain = model.astype(source)
            with memory:
                mine = memory.array(plain)
            for target in TYPES:
                try:
                    want = plain.astype(target)
                except (TypeError, ValueError, RuntimeError):
                    continue
                memory.evict(mine)
                with memory:
                    same(mine.astype(target), want)
                tried += 1
        assert tried > 350 and out.left() > 400
        del mine


# -- files ------------------------------------------------------------------------------------------
@pytest.mark.parametrize("name", DATA)
def test_files(make_memory: Make, tmp_path: Path, name: str) -> None:
    """Both deliveries write from what is away, and read into what was never touched."""
    want = DATA[name]
    memory = make_memory("8M", "192M", threshold="16K")
    raw, npy, npz = (tmp_path / part for part in ("raw", "a.npy", "all.npz"))
    with evicting(memory) as out, memory:
        mine = memory.array(want)
        for save in (
            lambda: mine.tofile(raw), lambda: np.save(npy, mine), lambda: np.savez(npz, a=mine, b=mine),
            lambda: np.savez_compressed(tmp_path / "small.npz", a=mine),
        ):
            memory.evict(mine)
            save()
        same(np.fromfile(raw, want.dtype).reshape(want.shape), want)
        same(np.load(npy), want)
        for file in (npz, tmp_path / "small.npz"):
            with np.load(file) as loaded:
                same(loaded["a"], want)
        stream = io.BytesIO()
        np.save(stream, mine)
        same(np.load(io.BytesIO(stream.getvalue())), want)
        mapped = np.load(npy, mmap_mode="c")
        mine[...] = mapped
        same(mine, want)
        written = np.memmap(tmp_path / "mapped", want.dtype, "w+", shape=want.shape)
        written[...] = mine
        same(np.asarray(written), want)
        assert out.left() > 50
        del mine, mapped, written, loaded
    memory.check_valid("full")


def test_text_files(make_memory: Make, tmp_path: Path) -> None:
    memory = make_memory("8M", "192M", threshold="16K")
    with evicting(memory) as out, memory:
        mine = memory.array(DATA["m"])
        memory.evict(mine)
        np.savetxt(tmp_path / "m.txt", mine, fmt="%.17g")
        same(np.loadtxt(tmp_path / "m.txt"), DATA["m"])
        same(np.genfromtxt(tmp_path / "m.txt", max_rows=50), DATA["m"][:50])
        same(np.fromstring(" ".join(map(str, INTS)), sep=" ", dtype="i8"), INTS)
        assert out.left() > 0
        del mine
