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
from typing import Any

from distributed.protocol.serialize import deserialize, serialize
from distributed.utils import ensure_memoryview

_ALIGN = 64
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
