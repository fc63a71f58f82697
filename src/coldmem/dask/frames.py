"""A value of Dask as buffers that lie one after the other, and back.

Owns: nothing; what `pack` gives refers to the value and is used before that changes.
Guarantees: `unpack` gives a value equal to the one that `pack` took and of its type. No large buffer is
    copied by either: what is unpacked uses the memory it came in, and is as writable as the original.
Assumes: `unpack` gets the parts of one `pack` end to end, in writable memory that belongs to the value
    from then on.
Locks: none.

Layout: length of the pickle (u64, little-endian), a pickle of (header, lengths of the frames), the
frames; each begins at a multiple of 64 bytes, so that arrays are aligned and the codec sees whole items.
`distributed.protocol.serialize_bytelist` would do the same in a layout without alignment, and cut frames
to the sizes that a network wants.
"""

from __future__ import annotations

import pickle
import struct
from functools import lru_cache
from typing import Any

from distributed.protocol.serialize import deserialize, serialize
from distributed.utils import ensure_memoryview

from coldmem.codecs import Codec, get_codec

_ALIGN = 64
_SAMPLED_BYTES_MIN = 256 << 10
_SAMPLES, _SAMPLE_BYTES = 4, 16 << 10
# Compressed size by original. Of uniform floating point numbers a bit shuffle squeezes out the
# exponents, which leaves 0.88: doing so took a quarter of the time of `bench dask`'s rechunk.
_WORTH = 0.8
_ZEROS = bytes(_ALIGN)
_LENGTH = struct.Struct("<Q")

Parts = list[bytes | memoryview]


def pack(value: object) -> Parts:
    """`value` as parts; raises whatever its serialization raises."""
    header, frames = serialize(value, on_error="raise")
    views = [ensure_memoryview(frame) for frame in frames]
    pickled = pickle.dumps((header, [view.nbytes for view in views]), 5)
    parts: Parts = [_LENGTH.pack(len(pickled)) + pickled]
    at = len(parts[0])
    for view in views:
        if at % _ALIGN:
            parts.append(_ZEROS[at % _ALIGN :])
            at += -at % _ALIGN
        if view.nbytes:
            parts.append(view)
            at += view.nbytes
    return parts


def unpack(data: bytes | bytearray | memoryview) -> Any:
    """The value whose parts are `data`."""
    view = memoryview(data)
    at = _LENGTH.size + _LENGTH.unpack_from(view)[0]
    header, lengths = pickle.loads(view[_LENGTH.size : at])
    frames = []
    for length in lengths:
        at += -at % _ALIGN
        frames.append(view[at : at + length])
        at += length
    return deserialize(header, frames)  # type: ignore[no-untyped-call]


def pays(parts: Parts) -> bool:
    """Whether it seems worth to compress a value, by samples of it; a small one always.

    LZ4 gains as little on all of a value as on pieces of it, with a bit shuffle or without: what neither
    makes smaller by a fifth is random or compressed already.
    """
    total = sum(map(len, parts))
    if total < _SAMPLED_BYTES_MIN:
        return True
    at = [total * (2 * n + 1) // (2 * _SAMPLES) & -8 for n in range(_SAMPLES)]
    samples = [bytes(_piece(parts, one)) for one in at]
    kept = min(codec.compressed_bytes(samples) for codec in _codecs())
    return kept < _WORTH * sum(map(len, samples))


def _piece(parts: Parts, at: int) -> bytes | memoryview:
    """A piece that begins so many bytes into all of `parts`, or ends where its part does."""
    for part in parts:
        if at < len(part):
            at = min(at, max(0, len(part) - _SAMPLE_BYTES))
            return part[at : at + _SAMPLE_BYTES]
        at -= len(part)
    return b""


@lru_cache(maxsize=1)
def _codecs() -> list[Codec]:
    return [get_codec("lz4"), get_codec("bitshuffle8+lz4")]
