"""What the record of a value says of it, and reading the value.

Owns: nothing. The format of a record's meta, and of the table before a value in chunks.
Guarantees: a value is given only if it is what was written. A large one that was stored as it is is read
straight to where it will stay; another one is decompressed from memory that goes back at once.
Locks: none.
"""

from __future__ import annotations

import struct
from array import array
from typing import TYPE_CHECKING

from coldmem.cache.space import Space
from coldmem.errors import CorruptDataError, InvalidSizeError

if TYPE_CHECKING:
    from coldmem.cache.cache import Cache
    from coldmem.cache.log import Location, Log

# kind, codec, table, checksum of what the codec is, length, wall time of expiry or 0
META = struct.Struct("<BBBxIQd")
_CHUNK_BYTES, _RAW = 1 << 16, 1 << 31  # as the engine has them
_RAW_LENGTH_MAX = 1 << 31
_LARGE_BYTES = 128 << 10  # of a record: its head is read before the rest


def read_value(
    cache: Cache, log: Log, place: Location, name: bytes | None, keep: bool
) -> tuple[int, bytes | bytearray | Space, memoryview | None]:
    """Kind and bytes of the value of `name` that lies at `place`, and its payload.

    Without `keep` there may be no payload: of a value that is stored as it is.

    Raises
    ------
    CorruptDataError
        Something else lies there, or it is damaged.
    SwapFileError
        The system refused to read.
    """
    if place.nbytes < _LARGE_BYTES:
        record = log.read(place)
        kind, codec, table, length = _meta(record.key, record.meta, name)
        return kind, cache._decode(record.payload, kind, codec, table, length), record.payload
    head = log.read_head(place)
    kind, codec, table, length = _meta(head.key, head.meta, name)
    table_bytes = 4 * max(-(-length // _CHUNK_BYTES), 1) if table else 0
    # No chunk is longer than it was: so none is shorter, and each is as it was.
    if table and not keep and head.payload_bytes == table_bytes + length:
        front = Space(table_bytes)
        out = Space(length) if kind else bytes(length)
        log.read_payload(place, head, [front, out])
        if memoryview(front) != raw_table(length):
            raise CorruptDataError("the table of a value on disk is not that of a value as it is")
        return kind, out, None
    room = Space(head.payload_bytes)
    log.read_payload(place, head, [room])
    payload = memoryview(room)
    return kind, cache._decode(payload, kind, codec, table, length), payload


def _meta(key: bytes, meta: bytes, name: bytes | None) -> tuple[int, int, bool, int]:
    if key != name or len(meta) != META.size:
        raise CorruptDataError("another record lies where a value should be")
    kind, codec, table, _, length, _ = META.unpack(meta)
    return kind, codec, bool(table), length


def raw_table(length: int) -> bytes:
    """The table of a value of `length` bytes of which no chunk is compressed; see `Recall._decode`."""
    if length > _RAW_LENGTH_MAX:
        raise InvalidSizeError(f"a value of {length} bytes: up to {_RAW_LENGTH_MAX} go to disk at once")
    full, rest = divmod(length, _CHUNK_BYTES)
    sizes = [_CHUNK_BYTES] * full + ([rest] if rest or not full else [])
    return array("I", [size | _RAW for size in sizes]).tobytes()
