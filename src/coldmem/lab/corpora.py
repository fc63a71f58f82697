"""Data of the machine that this runs on, by kind, for the demo and the benchmarks.

Owns: nothing; each call returns a fresh array of exactly the bytes asked for.
Guarantees: the same bytes on each call on one machine (files in a fixed order, seeded arrays), no
network, nothing written. Files that cannot be read are left out.
Assumes: a Python installation with its standard library. Where a machine has fewer bytes of a kind
than asked for, they are repeated from the start; units are compressed one by one, so that changes
no ratio.

Files come in the order of a checksum of their path, not by name: the first few megabytes are then
a fair sample of all of them instead of one directory.
"""

from __future__ import annotations

import os
import sys
import sysconfig
import zlib
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import numpy.typing as npt

from coldmem.errors import EnvironmentFailure, UsageError

Bytes = npt.NDArray[np.uint8]

TEXT_SUFFIXES = frozenset({".py", ".txt", ".rst", ".md", ".json", ".h", ".toml", ".csv", ".pyi"})
FILE_BYTES_MAX = 4 << 20  # of one file, so that no single library becomes the corpus
_LIBRARY_DIRS = ("/usr/lib", "/usr/lib64", "/usr/local/lib")
_DEPTH_MAX = 2  # of system library directories: /usr/lib/<triplet>/libx.so


def _walk(top: str, depth_max: int = 99) -> Iterator[str]:
    """Paths of the files under `top`; directories of installed packages are not entered."""
    for folder, names, files in os.walk(top):
        if folder[len(top) :].count(os.sep) >= depth_max:
            names.clear()
        names[:] = [n for n in names if n not in ("__pycache__", "site-packages", "dist-packages")]
        yield from (os.path.join(folder, name) for name in files)


def _in_fair_order(paths: Iterator[str]) -> Iterator[str]:
    yield from sorted(set(paths), key=lambda path: (zlib.crc32(path.encode()), path))


def _text_files() -> Iterator[str]:
    def texts(top: str) -> Iterator[str]:
        return (path for path in _walk(top) if os.path.splitext(path)[1] in TEXT_SUFFIXES)

    yield from _in_fair_order(texts(sysconfig.get_path("stdlib")))
    yield from _in_fair_order(texts(sysconfig.get_path("purelib")))


def python_files() -> Iterator[tuple[str, str]]:
    """(path, dotted name) of Python's source files: the standard library, then installed packages.

    Each of the two in the order of a checksum of their path, as everything here; no tests.
    """
    seen: set[str] = set()
    for top in (sysconfig.get_path("stdlib"), sysconfig.get_path("purelib")):
        for path in _in_fair_order(p for p in _walk(top) if p.endswith(".py")):
            name = path[len(top) + 1 : -len(".py")].replace(os.sep, ".")
            if path not in seen and not {"test", "tests"} & set(name.split(".")):
                seen.add(path)
                yield path, name


def _elf_files() -> Iterator[str]:
    def libraries() -> Iterator[str]:
        for top in (sysconfig.get_path("platstdlib"), os.path.dirname(np.__file__)):
            yield from (path for path in _walk(top) if ".so" in path)
        for top in _LIBRARY_DIRS:
            yield from (path for path in _walk(top, _DEPTH_MAX) if ".so" in path)

    yield os.path.realpath(sys.executable)
    yield from _in_fair_order(libraries())


def _read(paths: Iterator[str], size_bytes: int, magic: bytes, kind: str) -> Bytes:
    out = np.empty(size_bytes, np.uint8)
    end = 0
    for path in paths:
        if end == size_bytes:
            break
        try:
            if os.path.islink(path):
                continue
            with open(path, "rb") as file:
                data = file.read(min(FILE_BYTES_MAX, size_bytes - end))
        except OSError:
            continue
        if data.startswith(magic):
            out[end : end + len(data)] = np.frombuffer(data, np.uint8)
            end += len(data)
    if end == 0:
        raise EnvironmentFailure(f"no readable {kind} files of this Python installation were found")
    return out if end == size_bytes else np.resize(out[:end], size_bytes)


def _text(size_bytes: int) -> Bytes:
    return _read(_text_files(), size_bytes, b"", "text")


def _elf(size_bytes: int) -> Bytes:
    return _read(_elf_files(), size_bytes, b"\x7fELF", "ELF")


# -- arrays made on the spot -----------------------------------------------------------------------
# Each maker returns one block of about BLOCK_BYTES; several differ in shape and in what they hold,
# as the arrays of one program do. Block i is seeded with (kind, i).
BLOCK_BYTES = 1 << 20
Maker = Callable[[np.random.Generator, int], npt.NDArray[Any]]


def _walk_f8(rng: np.random.Generator, n: int) -> npt.NDArray[Any]:
    return np.cumsum(rng.normal(size=n))  # a random walk: full mantissas


def _prices_f8(rng: np.random.Generator, n: int) -> npt.NDArray[Any]:
    return np.round(100 + np.cumsum(rng.normal(scale=0.05, size=n)), 2)  # two decimals


def _table_f8(rng: np.random.Generator, n: int) -> npt.NDArray[Any]:
    table = np.round(rng.normal(20, 5, size=(n // 8, 8)), 1)  # a measured table, 8 columns
    table[rng.random(table.shape) < 0.05] = np.nan
    return table


def _field_f8(rng: np.random.Generator, n: int) -> npt.NDArray[Any]:
    side = int(n**0.5)
    x = np.linspace(0, 6, side)
    return np.outer(np.sin(x), np.cos(x + rng.random())) * 3  # a smooth field, two dimensions


def _image_f4(rng: np.random.Generator, n: int) -> npt.NDArray[Any]:
    side = int(n**0.5)
    x = np.linspace(0, 9, side)
    image = np.outer(np.sin(x), np.sin(x)) * 100 + 128
    return np.floor(image + rng.normal(size=(side, side))).astype(np.float32)


def _noise_f4(rng: np.random.Generator, n: int) -> npt.NDArray[Any]:
    return rng.normal(scale=0.02, size=n).astype(np.float32)  # like trained weights


def _times_i8(rng: np.random.Generator, n: int) -> npt.NDArray[Any]:
    return 1_700_000_000_000 + np.cumsum(rng.integers(1, 50, size=n))  # time stamps in ms


def _ids_i8(rng: np.random.Generator, n: int) -> npt.NDArray[Any]:
    return rng.zipf(1.3, size=n).clip(max=1 << 20).astype(np.int64)  # a few keys very often


def _counts_i8(rng: np.random.Generator, n: int) -> npt.NDArray[Any]:
    return rng.poisson(3, size=(n // 16, 16)).astype(np.int64)


def _index_i4(rng: np.random.Generator, n: int) -> npt.NDArray[Any]:
    rows = np.sort(rng.integers(0, 1 << 22, size=(n // 64, 64)), axis=1)  # columns of sparse rows
    return rows.astype(np.int32)


def _sound_i2(rng: np.random.Generator, n: int) -> npt.NDArray[Any]:
    t = np.arange(n) / 44_100
    wave = np.sin(2 * np.pi * rng.integers(100, 900) * t) * 8000
    return (wave + rng.normal(scale=60, size=n)).astype(np.int16)


def _mask_u1(rng: np.random.Generator, n: int) -> npt.NDArray[Any]:
    return np.repeat(rng.random(n // 32 + 1) < 0.3, 32)[:n]


_MAKERS: dict[str, tuple[type[np.generic], tuple[Maker, ...]]] = {
    "float64": (np.float64, (_walk_f8, _prices_f8, _table_f8, _field_f8)),
    "float32": (np.float32, (_image_f4, _noise_f4)),
    "int64": (np.int64, (_times_i8, _ids_i8, _counts_i8)),
    "int32": (np.int32, (_index_i4,)),
    "int16": (np.int16, (_sound_i2,)),
    "bool": (np.bool_, (_mask_u1,)),
}


def _arrays(kind: str, size_bytes: int) -> Bytes:
    dtype, makers = _MAKERS[kind]
    out = np.empty(size_bytes, np.uint8)
    end = block = 0
    while end < size_bytes:
        rng = np.random.default_rng([zlib.crc32(kind.encode()), block])
        made = makers[block % len(makers)](rng, BLOCK_BYTES // np.dtype(dtype).itemsize)
        data = np.ascontiguousarray(made).reshape(-1).view(np.uint8)[: size_bytes - end]
        out[end : end + data.size] = data
        end += data.size
        block += 1
    return out


def dtype_of(kind: str) -> np.dtype[Any]:
    """Of the arrays of `kind`, one of `NUMERIC`."""
    return np.dtype(_MAKERS[kind][0])


def _zeros(size_bytes: int) -> Bytes:
    return np.zeros(size_bytes, np.uint8)


def _random(size_bytes: int) -> Bytes:
    return np.frombuffer(np.random.default_rng(4242).bytes(size_bytes), np.uint8)


#: Every kind, in the order in which tables show them, with a few words about it.
KINDS: dict[str, str] = {
    "text": "text files of the Python installation",
    "elf": "shared libraries and programs",
    "float64": "NumPy: walks, prices, a table with gaps, a smooth field",
    "float32": "NumPy: an image, weights",
    "int64": "NumPy: time stamps, skewed keys, counts",
    "int32": "NumPy: columns of a sparse matrix",
    "int16": "NumPy: sound",
    "bool": "NumPy: a mask",
    "zeros": "memory that was never written",
    "random": "what nothing compresses",
}
NUMERIC = tuple(_MAKERS)


def make(kind: str, size_bytes: int) -> Bytes:
    """`size_bytes` bytes of `kind`.

    Parameters
    ----------
    kind : str
        A key of `KINDS`.
    size_bytes : int
        How much.

    Returns
    -------
    numpy.ndarray
        One-dimensional, dtype uint8.
    """
    if size_bytes <= 0:
        raise UsageError(f"a corpus of {size_bytes} bytes makes no sense")
    if kind in _MAKERS:
        return _arrays(kind, size_bytes)
    plain = {"text": _text, "elf": _elf, "zeros": _zeros, "random": _random}
    if kind not in plain:
        raise UsageError(f"no corpus is called {kind!r}; there are {', '.join(KINDS)}")
    return plain[kind](size_bytes)
