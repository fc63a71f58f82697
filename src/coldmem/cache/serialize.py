"""Values as bytes, and back, without a copy of what is large in them.

Owns: nothing. `dump` gives parts that refer to the value; they are used before it changes.
Guarantees: `load` gives a value equal to the one that `dump` took, of the same type (bytes-like values
come back as bytes). Large buffers of a value (NumPy, Arrow, pandas) are parts as they are, not
copies, and what is loaded uses the memory of `data`: arrays are views of it, aligned as far as
`data` is (up to 64 bytes), writable if the original was.
Assumes: `data` of `load` is the parts of one `dump`, one after the other, and belongs to the value
from then on.
Locks: none.

Layout of KIND_ARRAY: the data, then what it is (see `_TAIL`). Of KIND_PICKLE: a pickle, which
begins with byte 0x80; or, with buffers apart from it, MARK, the number of buffers n (u32), the
length of the pickle (u64), n words (u64: length * 2, + 1 if read-only), the pickle, then the
buffers, each at a multiple of 64 bytes. All little-endian.
"""

from __future__ import annotations

import pickle
import struct
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, Protocol, TypeAlias

from coldmem.errors import UsageError

if TYPE_CHECKING:
    Buffer: TypeAlias = bytes | bytearray | memoryview  # what `dump` gives; `len` counts its bytes

KIND_BYTES = 0
KIND_PICKLE = 1
KIND_CUSTOM = 2
KIND_ARRAY = 4  # a NumPy array of numbers, without a pickle: that alone takes 3.5 us to load
KIND_TEXT = 3  # what a serializer gave as str: its `loads` wants str again (json)

# Behind the data of an array: lengths, then dtype.str, length of that, dimensions, order and writable.
_TAIL = struct.Struct("<BBBB")
_DTYPES: dict[str, Any] = {}
_MARK = b"\x00cm\x05"
_HEAD = struct.Struct("<4sIQ")
_ALIGN = 64
_ZEROS = bytes(_ALIGN)
# A smaller buffer is copied into the pickle: a part of its own would cost more than it saves.
_APART_BYTES = 1024


class Serializer(Protocol):
    """What ``serializer=`` takes: an object with `dumps` and `loads`.

    A module such as `json` or a pair ``(dumps, loads)`` of functions will do.
    """

    def dumps(self, value: Any, /) -> Any:
        """`value` as bytes, as several buffers, or as text."""

    def loads(self, data: Any, /) -> Any:
        """The value again; `data` is a memoryview, or str where `dumps` gave str."""


_Pair: TypeAlias = tuple[Callable[[Any], Any], Callable[[Any], Any]]


def check_serializer(serializer: Any) -> _Pair | None:
    """`serializer` in the form that `dump` and `load` are quickest with.

    Raises
    ------
    UsageError
        It has no `dumps` and `loads`.
    """
    if serializer is None:
        return None
    if isinstance(serializer, tuple):
        if len(serializer) == 2 and callable(serializer[0]) and callable(serializer[1]):
            return serializer
    else:
        dumps = getattr(serializer, "dumps", None)
        loads = getattr(serializer, "loads", None)
        if callable(dumps) and callable(loads):
            return dumps, loads
    raise UsageError(
        f"serializer={serializer!r}: give an object or a module with dumps and loads, or a pair "
        "(dumps, loads)"
    )


def dump(value: Any, serializer: Serializer | _Pair | None = None) -> tuple[int, list[Buffer]]:
    """`value` as a kind and the parts that, one after the other, are its bytes.

    Parameters
    ----------
    value : object
        Bytes, a bytearray or a memoryview; anything else that can be pickled, or that `serializer`
        takes.
    serializer : Serializer or (dumps, loads), optional
        Instead of pickle. Bytes-like values never go through it.

    Returns
    -------
    kind : int
        One of the KIND constants: `load` needs it.
    parts : list of bytes, bytearray or memoryview
        Flat, of single bytes. No part is a copy of a buffer of at least 1024 bytes.

    Raises
    ------
    UsageError
        The value cannot be pickled, or its serializer fails on it.
    """
    kind = type(value)
    if kind is bytes or kind is bytearray:
        return KIND_BYTES, [value]
    if kind is memoryview:
        return KIND_BYTES, [_flat(value)]
    if serializer is not None:
        return _dump_custom(value, serializer)
    if kind.__name__ == "ndarray" and (parts := _dump_array(value)) is not None:
        return KIND_ARRAY, parts
    buffers: list[memoryview] = []

    def apart(buffer: pickle.PickleBuffer) -> bool:
        """True keeps the buffer in the pickle."""
        try:
            raw = buffer.raw()
        except BufferError:  # not contiguous: the pickle gathers it, or says why not
            return True
        if raw.nbytes < _APART_BYTES:
            return True
        buffers.append(raw)
        return False

    try:
        pickled = pickle.dumps(value, 5, buffer_callback=apart)
    except MemoryError:
        raise
    except Exception as error:
        raise UsageError(
            f"a value of type {kind.__qualname__} cannot be pickled ({error}): keep what it is made "
            "of instead, or give the cache a serializer= that takes it"
        ) from error
    if not buffers:
        return KIND_PICKLE, [pickled]
    return KIND_PICKLE, _with_buffers(pickled, buffers)


def _dump_array(value: Any) -> list[Buffer] | None:
    """The parts of an array of numbers that lies in one piece; None: it is something else."""
    import numpy as np  # whoever has an array has imported it

    if type(value) is not np.ndarray or value.dtype.kind not in "biufcmM" or not value.size:
        return None
    flags = value.flags
    if not (flags.c_contiguous or flags.f_contiguous):
        return None
    flat = value.ravel(order="K").view(np.uint8)
    name = value.dtype.str.encode()
    tail = struct.pack(f"<{value.ndim}Q", *value.shape) + name + _TAIL.pack(
        len(name), value.ndim, not flags.c_contiguous, flags.writeable)
    return [flat.data, tail]


def _load_array(view: memoryview) -> Any:
    import numpy as np

    end = len(view) - _TAIL.size
    width, ndim, fortran, writable = _TAIL.unpack_from(view, end)
    end -= width
    name = str(view[end : end + width], "ascii")
    dtype = _DTYPES.get(name)
    if dtype is None:
        dtype = _DTYPES[name] = np.dtype(name)
    shape = struct.unpack_from(f"<{ndim}Q", view, end - 8 * ndim)
    array: Any = np.ndarray(shape, dtype, view, order="F" if fortran else "C")
    if not writable:
        array.flags.writeable = False
    return array


def _with_buffers(pickled: bytes, buffers: list[memoryview]) -> list[Buffer]:
    words = [raw.nbytes << 1 | raw.readonly for raw in buffers]
    head = _HEAD.pack(_MARK, len(words), len(pickled)) + struct.pack(f"<{len(words)}Q", *words)
    parts: list[Buffer] = [head, pickled]
    at = len(head) + len(pickled)
    for raw in buffers:
        if at % _ALIGN:
            parts.append(_ZEROS[at % _ALIGN:])
            at += _ALIGN - at % _ALIGN
        parts.append(raw)
        at += raw.nbytes
    return parts


def _flat(view: memoryview) -> Buffer:
    if not view.nbytes:
        return b""
    return view.cast("B") if view.c_contiguous else view.tobytes()


def _dump_custom(value: Any, serializer: Serializer | _Pair) -> tuple[int, list[Buffer]]:
    dumps = serializer[0] if isinstance(serializer, tuple) else serializer.dumps
    try:
        made = dumps(value)
    except MemoryError:
        raise
    except Exception as error:
        raise UsageError(
            f"the serializer's dumps failed on a value of type {type(value).__qualname__}: {error!r}"
        ) from error
    if isinstance(made, str):
        return KIND_TEXT, [made.encode("utf-8", "surrogatepass")]
    if type(made) is bytes:
        return KIND_CUSTOM, [made]
    try:
        pieces = made if isinstance(made, Sequence) and not _is_buffer(made) else [made]
        return KIND_CUSTOM, [_flat(memoryview(piece)) for piece in pieces]
    except TypeError:
        raise UsageError(
            f"the serializer's dumps gave {type(made).__qualname__}: it must give bytes, buffers in a "
            "list or a tuple, or str"
        ) from None


def _is_buffer(thing: Any) -> bool:
    try:
        memoryview(thing)
    except TypeError:
        return False
    return True


def load(
    kind: int, data: memoryview | bytearray | bytes, serializer: Serializer | _Pair | None = None
) -> Any:
    """The value that `dump` took.

    Parameters
    ----------
    kind : int
        What `dump` returned.
    data : memoryview, bytearray or bytes
        All its bytes. The value keeps and uses them: it is as writable as they are.
    serializer : Serializer or (dumps, loads), optional
        The one that `dump` was given.

    Raises
    ------
    UsageError
        The value cannot be made again: what it needs is not there, or another serializer wrote it.
    """
    if kind == KIND_BYTES:
        return bytes(data)  # no copy if it is bytes
    try:
        if kind == KIND_PICKLE:
            return _load_pickle(memoryview(data))
        if kind == KIND_ARRAY:
            return _load_array(memoryview(data))
        if serializer is not None:
            loads = serializer[1] if isinstance(serializer, tuple) else serializer.loads
            if kind == KIND_TEXT:
                return loads(str(data, "utf-8", "surrogatepass"))
            return loads(memoryview(data))
    except MemoryError:
        raise
    except Exception as error:
        what = "it cannot be unpickled" if kind == KIND_PICKLE else "the serializer's loads failed"
        raise UsageError(
            f"a value is stored, but {what} here: {error!r}. Import or define what it needs, or delete "
            "its key"
        ) from error
    raise UsageError(
        "a value was written with a serializer= and this cache has none: open it with the same one"
    )


def _load_pickle(view: memoryview) -> Any:
    if view[0] != _MARK[0]:
        return pickle.loads(view)
    mark, count, length = _HEAD.unpack_from(view)
    if mark != _MARK:
        raise ValueError("a layout that this version of coldmem does not know")
    at = _HEAD.size + 8 * count
    pickled = view[at : at + length]
    at += length
    buffers = []
    for word in struct.unpack_from(f"<{count}Q", view, _HEAD.size):
        at += -at % _ALIGN
        buffer = view[at : at + (word >> 1)]
        at += word >> 1
        buffers.append(buffer.toreadonly() if word & 1 else buffer)
    return pickle.loads(pickled, buffers=buffers)
