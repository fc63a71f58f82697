"""What tests of libraries share: everything in a Memory goes out all the time, results must be equal."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any

import numpy as np

from coldmem import Memory

MIB = 1 << 20
PINNED = 2 * MIB
SPAN = 256 * MIB


class Everything:
    """The addresses of all arrays of a Memory, as something that `Memory.evict` takes."""

    itemsize = 1

    def __init__(self, first: int) -> None:
        self.__array_interface__ = {"data": (first, False), "shape": (SPAN,), "strides": None}


class Evictor:
    """Sends everything out: `now` once, a thread every 2 ms until `stop`."""

    def __init__(self, memory: Memory, first: int) -> None:
        self._memory, self._everything = memory, Everything(first)
        self._stop = threading.Event()
        self._errors: list[BaseException] = []
        self._before = memory.stats()["dropped"]
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def _run(self) -> None:
        try:
            while not self._stop.wait(0.002):
                self.now()
        except BaseException as error:
            self._errors.append(error)

    def now(self) -> None:
        self._memory.evict(self._everything)

    def left(self) -> int:
        """How many units have left RAM since it was made."""
        return int(self._memory.stats()["dropped"] - self._before)

    def stop(self) -> None:
        self._stop.set()
        self._thread.join()
        assert not self._errors, self._errors


@contextlib.contextmanager
def evicting(memory: Memory) -> Iterator[Evictor]:
    """As long as the block runs everything goes out again and again, temporaries too.

    A part of the limit is pinned, so that little is left even between two rounds. The memory must
    be new.
    """
    first = memory.zeros(PINNED, np.uint8)
    with memory.pinned(first):
        evictor = Evictor(memory, first.ctypes.data)
        try:
            yield evictor
        finally:
            evictor.stop()


def same(got: Any, want: Any) -> None:
    """Equal to the last bit; in tuples, lists and dictionaries each."""
    if isinstance(want, dict):
        assert got.keys() == want.keys()
        for key in want:
            same(got[key], want[key])
    elif isinstance(want, tuple | list):
        assert type(got) is type(want) and len(got) == len(want)
        for one, other in zip(got, want, strict=True):
            same(one, other)
    elif want is None or isinstance(want, bytes | str | int | float | bool):
        assert type(got) is type(want) and (got == want or got != got)
    else:
        one, other = np.asarray(got), np.asarray(want)
        assert one.dtype == other.dtype and one.shape == other.shape
        if one.dtype.char in "gG":  # with padding, which may hold anything
            assert np.array_equal(one, other, equal_nan=True)
        elif one.dtype.hasobject:
            assert one.tolist() == other.tolist()
        else:
            assert one.tobytes() == other.tobytes()


def close(got: Any, want: Any) -> None:
    """Equal to rounding."""
    if isinstance(want, tuple | list):
        assert len(got) == len(want)
        for one, other in zip(got, want, strict=True):
            close(one, other)
    else:
        assert np.shape(got) == np.shape(want)
        assert np.allclose(got, want, rtol=1e-7, atol=1e-7, equal_nan=True)


def changed(array: np.ndarray, *results: Any) -> tuple[np.ndarray, ...]:
    """For calls that change an array and return nothing of interest."""
    return (array, *(r for r in results if r is not None))


def compare(
    make_memory: Callable[..., Memory], data: dict[str, np.ndarray], operation: Callable[[Any], Any],
    check: Callable[[Any, Any], None] = same,
) -> None:
    """The operation on plain copies of the arrays, and on such that are in a Memory and go out."""
    with np.errstate(all="ignore"):
        want = operation(SimpleNamespace(**{name: array.copy() for name, array in data.items()}))
    memory = make_memory("8M", "192M", threshold="16K")
    with evicting(memory) as out, memory, np.errstate(all="ignore"):
        x = SimpleNamespace(**{name: memory.array(array) for name, array in data.items()})
        out.now()
        faults = memory.stats()["faults"]
        got = operation(x)
        check(got, want)
        assert memory.stats()["faults"] > faults and out.left() > 0
    memory.check_valid("full")
