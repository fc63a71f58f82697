"""How a record lies on disk: written, checked, and found again in a damaged file.

Owns: nothing; pure functions of bytes. No locks.
Guarantees: a record is accepted only where it was written: the first checksum is seeded with the
segment's salt and the offset, and covers header, key, meta and the second checksum; that one is
seeded with the sequence number and covers the payload. So neither a stale block, nor a record that
was copied elsewhere, nor a value that looks like a record reads as right.

=========  =====  ==============================================================================
bytes      type   what
=========  =====  ==============================================================================
0 to 7     u64    checksum of the rest of the head
8, 9       u16    `MAGIC`
10         u8     kind
11         u8     bytes of meta
12 to 15   u32    bytes of the key; in the highest 8 bits, parts of the payload
16 to 23   u64    bytes of the payload
24 to 31   u64    sequence number
32 to 39   u64    checksum of the payload, one part after the other
40 to      u64    of each part its bytes, when there is more than one; then key, meta, payload
=========  =====  ==============================================================================

Little-endian. The record ends with zeros up to a multiple of 8; they are not checked.
"""

from __future__ import annotations

import struct
from array import array
from collections.abc import Iterable, Iterator, Sequence
from enum import IntEnum
from typing import TYPE_CHECKING, NamedTuple

from coldmem.cache.segment import Files, read_up_to
from coldmem.zswap.checksum import checksum_of

if TYPE_CHECKING:
    from typing_extensions import Buffer

MAGIC = 0xC01D
_MAGIC_BYTES = MAGIC.to_bytes(2, "little")
SUM = struct.Struct("<Q")
HEAD = struct.Struct("<HBBIQQQ")
HEAD_BYTES = SUM.size + HEAD.size
KEY_MAX = (1 << 24) - 1
META_MAX = 255
PARTS_MAX = 255
MASK = (1 << 64) - 1
# A payload of several parts that is shorter than this is joined: cheaper than to describe them.
JOIN_BYTES = 16 << 10


class Kind(IntEnum):
    """What a record is."""

    VALUE = 1
    REMOVED = 2  # a tombstone: no older record of the key counts
    DEATHS = 3  # payload: segment, count, offsets of dead records in it (u32 each)
    START = 4  # the first in a segment; its sequence number is the segment's birth
    CLEARED = 5  # no older record of any key counts


class Head(NamedTuple):
    """All of a record but its payload."""

    kind: int
    seq: int
    key: bytes
    meta: bytes
    nbytes: int  # of the whole record
    payload_at: int  # bytes from the record's beginning
    payload_bytes: int
    payload_sum: int
    parts: Sequence[int]  # bytes of each


def padded(nbytes: int) -> int:
    """`nbytes` up to the next multiple of 8."""
    return (nbytes + 7) & ~7


def payload_sum(payload: memoryview, parts: Sequence[int], seq: int) -> int:
    """Checksum of the payload, whose parts were summed one after the other."""
    if len(parts) == 1:
        return checksum_of(payload, seq)
    out = seq
    at = 0
    for nbytes in parts:
        out = checksum_of(payload[at:at + nbytes], out)
        at += nbytes
    return out


class Window:
    """Reads a file in steps of `step` bytes and hands out what is asked for.

    Parameters
    ----------
    files : Files
        To read with.
    fd : int
        The file.
    step : int
        Bytes of a read, unless more is asked for.
    """

    def __init__(self, files: Files, fd: int, step: int) -> None:
        self._files = files
        self._fd = fd
        self._step = step
        self._base = 0
        self._data = memoryview(b"")

    def get(self, offset: int, nbytes: int) -> memoryview:
        """`nbytes` from `offset`, fewer at the file's end. Or OSError."""
        at = offset - self._base
        if at < 0 or at + nbytes > len(self._data):
            data = read_up_to(self._files, self._fd, max(nbytes, self._step), offset)
            self._data = memoryview(data)
            self._base = offset
            at = 0
        return self._data[at:at + nbytes]

    def find(self, offset: int) -> int:
        """Where after `offset`, a multiple of 8, a record may begin; -1 when nowhere."""
        while True:
            block = bytes(self.get(offset + 16, self._step))  # the magic is 8 bytes into a record
            if len(block) < HEAD.size:
                return -1
            at = block.find(_MAGIC_BYTES)
            while at >= 0 and at % 8:
                at = block.find(_MAGIC_BYTES, at + 1)
            if at >= 0:
                return offset + 8 + at
            offset += len(block) & ~7


def read_head(window: Window, offset: int, salt: int) -> Head | None:
    """The head of the record at `offset`; None when there is none, or it is damaged."""
    data = window.get(offset, HEAD_BYTES)
    if len(data) < HEAD_BYTES:
        return None
    magic, kind, meta_bytes, key_bytes, payload_bytes, seq, body_sum = HEAD.unpack_from(data, 8)
    if magic != MAGIC:
        return None
    parts = key_bytes >> 24
    key_bytes &= KEY_MAX
    lengths_bytes = 8 * parts if parts > 1 else 0
    total = HEAD_BYTES + lengths_bytes + key_bytes + meta_bytes
    if total > HEAD_BYTES:
        data = window.get(offset, total)
        if len(data) < total:
            return None
    if checksum_of(data[8:], (salt + offset) & MASK) != SUM.unpack_from(data)[0]:
        return None
    lengths: Sequence[int] = (payload_bytes,)
    if parts > 1:
        lengths = struct.unpack_from(f"<{parts}Q", data, HEAD_BYTES)
    key_at = HEAD_BYTES + lengths_bytes
    return Head(kind, seq, bytes(data[key_at:key_at + key_bytes]), bytes(data[key_at + key_bytes:]),
                padded(total + payload_bytes), total, payload_bytes, body_sum, lengths)


class Found(NamedTuple):
    """What a walk through a segment comes upon."""

    offset: int
    head: Head
    payload: memoryview | None  # None: damaged, or cut off
    cut: bool  # the file ends inside it


def walk(files: Files, fd: int, salt: int, step: int) -> Iterator[Found | None]:
    """Every record of a file, in order; None for each stretch that cannot be read as records."""
    window = Window(files, fd, step)
    offset = 0
    lost = False
    while True:
        head = read_head(window, offset, salt)
        if head is None:
            if not lost and len(window.get(offset, 1)):
                lost = True
                yield None
            offset = window.find(offset)
            if offset < 0:
                return
            continue
        lost = False
        payload = window.get(offset + head.payload_at, head.nbytes - head.payload_at)
        if len(payload) < head.nbytes - head.payload_at:  # be it in the padding: it cannot be read whole
            yield Found(offset, head, None, True)
            return
        payload = payload[:head.payload_bytes]
        good = payload_sum(payload, head.parts, head.seq) == head.payload_sum
        yield Found(offset, head, payload if good else None, False)
        offset += head.nbytes


def simplify(parts: Sequence[Buffer]) -> tuple[list[Buffer], list[int]]:
    """Parts of a payload and the bytes of each; joined where that is cheaper, or they are many."""
    views = [memoryview(part) for part in parts]
    sizes = [view.nbytes for view in views]
    if len(views) == 1:
        return [*views], sizes
    if sum(sizes) < JOIN_BYTES or len(views) > PARTS_MAX:
        joined = b"".join(views)
        return [joined], [len(joined)]
    return [*views], sizes


# -- deaths ----------------------------------------------------------------------------------------
def pack_deaths(number: int, offsets: array[int]) -> bytes:
    """Payload of a record that tells of deaths in segment `number`."""
    return struct.pack(f"<II{len(offsets)}I", number, len(offsets), *offsets)


def unpack_deaths(payload: memoryview) -> tuple[int, array[int]]:
    """Segment and offsets of `pack_deaths`."""
    number, count = struct.unpack_from("<II", payload)
    return number, array("I", struct.unpack_from(f"<{count}I", payload, 8))


def deaths_at(files: Files, fd: int, salt: int, offsets: Iterable[int]
              ) -> Iterator[tuple[int, int, array[int]]]:
    """Sequence number, segment and offsets told by the records at `offsets`. Or OSError."""
    for offset in offsets:
        window = Window(files, fd, 4096)
        head = read_head(window, offset, salt)
        if head is None or head.kind != Kind.DEATHS:
            continue
        payload = window.get(offset + head.payload_at, head.payload_bytes)
        if len(payload) == head.payload_bytes and (
                payload_sum(payload, head.parts, head.seq) == head.payload_sum):
            yield head.seq, *unpack_deaths(payload)
