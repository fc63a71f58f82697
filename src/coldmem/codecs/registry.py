"""Names to codecs.

Owns: the table of codecs that users registered.
Guarantees: a name always gives the same format, so that data written under a name can be read under
it; each call of `get_codec` with a name makes a new object (`auto` has its own memory in each).
Locks: the GIL.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any, Protocol

from coldmem.codecs.codec import Codec
from coldmem.codecs.deflate import PythonZlib, ZlibCodec
from coldmem.codecs.filters import FilterCodec
from coldmem.codecs.lz4 import Lz4Codec
from coldmem.codecs.picker import AutoCodec
from coldmem.codecs.python_codec import PythonCodec
from coldmem.codecs.raw import RawCodec
from coldmem.codecs.zstd import ZstdCodec
from coldmem.errors import MissingLibraryError, UnknownCodecError, UsageError

_FILTER = re.compile(r"(delta|bitshuffle)([1-9][0-9]*)")
_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_.-]*")
_NUMBER = re.compile(r"-?[0-9]{1,9}")


class CodecLike(Protocol):
    """What `get_codec` accepts beside names and codecs; see `PythonCodec`."""

    name: str

    def compress(self, data: memoryview) -> Any:
        """`data` compressed, as any buffer; None: incompressible."""

    def decompress(self, data: memoryview, size: int) -> Any:
        """The `size` bytes that `data` was made from, as any buffer."""


def _zlib(level: int = 6) -> Codec:
    try:
        return ZlibCodec(level)
    except MissingLibraryError:
        return PythonCodec(PythonZlib(level))


# Codecs that take a number after a colon.
_NUMBERED: dict[str, Callable[..., Codec]] = {"lz4": Lz4Codec, "zstd": ZstdCodec, "zlib": _zlib}
_PLAIN: dict[str, Callable[[], Codec]] = {
    "raw": RawCodec,
    "auto": lambda: AutoCodec(Lz4Codec()),
}
_REGISTERED: dict[str, Callable[[], Codec | CodecLike]] = {}


def _known_names() -> list[str]:
    filtered = [
        f"{prefix}+lz4"
        for width in (8, 4, 2, 1)
        for prefix in (f"bitshuffle{width}", f"delta{width}+bitshuffle{width}")
    ]
    return [*_NUMBERED, *_PLAIN, "auto+zstd", *filtered, *_REGISTERED]


def available_codecs() -> list[str]:
    """Names that `get_codec` takes on this machine, the likeliest forms of them.

    Any codec may stand behind a filter or behind ``auto+``, and a number may follow lz4 (the
    acceleration), zstd and zlib (the level): ``"bitshuffle4+zstd:3"``, ``"lz4:8"``.
    """
    usable = []
    for name in _known_names():
        try:
            get_codec(name)
        except MissingLibraryError:
            continue
        usable.append(name)
    return usable


def register_codec(name: str, factory: Callable[[], Codec | CodecLike]) -> None:
    """Make a codec of your own known by name.

    Parameters
    ----------
    name : str
        Letters, digits, and ``_.-``; not a name of a built-in codec.
    factory : callable
        Called without arguments for a new codec; see `PythonCodec` for what it must return.
    """
    if not _NAME.fullmatch(name) or _FILTER.fullmatch(name):
        raise UsageError(f"{name!r} cannot be a codec's name: use letters, digits, _ . and -")
    if name in _NUMBERED or name in _PLAIN:
        raise UsageError(f"{name!r} is a built-in codec")
    _REGISTERED[name] = factory


def _unknown(name: str, why: str = "") -> UnknownCodecError:
    names = _known_names()
    import difflib  # for a misspelt name only

    close = difflib.get_close_matches(name.lower(), names, n=3)
    hint = f" Did you mean {' or '.join(close)}?" if close else ""
    return UnknownCodecError(
        f"there is no codec {name!r}{': ' + why if why else '.'}{hint} Known: {', '.join(names)}"
    )


def _base(whole: str, part: str) -> Codec:
    name, colon, number = part.partition(":")
    if colon:
        if name not in _NUMBERED:
            raise _unknown(whole)
        if not _NUMBER.fullmatch(number):
            raise _unknown(whole, f"{number!r} is not a whole number.")
        return _NUMBERED[name](int(number))
    if name in _NUMBERED:
        return _NUMBERED[name]()
    if name in _PLAIN:
        return _PLAIN[name]()
    if name in _REGISTERED:
        return _wrapped(_REGISTERED[name](), name)
    raise _unknown(whole)


def _wrapped(codec: Codec | CodecLike, name: str | None = None) -> Codec:
    return codec if isinstance(codec, Codec) else PythonCodec(codec, name)


def get_codec(codec: str | Codec | CodecLike) -> Codec:
    """The codec of this name.

    Parameters
    ----------
    codec : str, Codec, or an object with name, compress and decompress
        A name: ``lz4``, ``lz4:N``, ``zstd``, ``zstd:N``, ``zlib``, ``zlib:N``, ``raw``, ``auto``, a
        registered one, or one of these behind ``bitshuffleW+``, ``deltaW+bitshuffleW+`` (W bytes per
        item: 8, 4, 2, 1) or ``auto+``. A codec is returned as it is.

    Raises
    ------
    UnknownCodecError
        When there is no such codec; the message has the names there are.
    MissingLibraryError
        When its library is not installed; the message has the package.
    """
    if isinstance(codec, Codec):
        return codec
    if not isinstance(codec, str):
        if hasattr(codec, "compress") and hasattr(codec, "decompress"):
            return _wrapped(codec)
        raise UnknownCodecError(
            f"{codec!r} is not a codec: give a name, a Codec, or an object with name, compress and "
            "decompress"
        )
    *filters, last = codec.split("+")
    made = _base(codec, last)
    while filters:
        name = filters.pop()
        if name == "auto":
            made = AutoCodec(made)
            continue
        match = _FILTER.fullmatch(name)
        if match is None:
            raise _unknown(codec)
        if match[1] == "delta":
            raise _unknown(codec, f"{name} must stand before bitshuffle{match[2]}.")
        if int(match[2]) not in (1, 2, 4, 8):
            raise _unknown(codec, "item widths are 1, 2, 4 and 8.")
        before = _FILTER.fullmatch(filters[-1]) if filters else None
        with_delta = before is not None and before[1] == "delta" and before[2] == match[2]
        if with_delta:
            filters.pop()
        made = FilterCodec(made, int(match[2]), with_delta)
    return made
