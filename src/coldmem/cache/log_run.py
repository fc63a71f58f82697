"""The bytes of records that go to one segment in one go, gathered before anything is written.

Owns: a `Run` holds references to the payloads until it is written; small ones are copied. No locks: a
run belongs to the call that makes it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from coldmem.cache.log_record import MASK, SUM, Kind, unpack_deaths
from coldmem.cache.segment import Segment
from coldmem.zswap.checksum import checksum_of

if TYPE_CHECKING:
    from typing_extensions import Buffer

# A payload of at least this goes to the system from where it lies; a shorter one is gathered first,
# since a buffer of its own costs more than the copy.
GATHER_BYTES = 4 << 10
PADDING = [bytes(n) for n in range(8)]


class Run:
    """What is to be written to one segment in one go."""

    __slots__ = ("buffers", "end", "live_bytes", "new", "notes", "offsets", "own", "pieces", "segment",
                 "start")

    def __init__(self, segment: Segment, new: bool) -> None:
        self.segment = segment
        self.new = new
        self.own = False  # of one record, larger than segments are
        self.start = self.end = segment.size
        self.buffers: list[Buffer] = []
        self.pieces: list[Buffer] = []  # small ones, to be joined into one buffer
        self.offsets: list[int] = []
        self.notes: list[tuple[int, int, int]] = []  # offset, target, bytes
        self.live_bytes = 0

    def add(self, kind: int, head: bytes, parts: Sequence[Buffer], nbytes: int, exact: int) -> None:
        """A record of `nbytes`, without its padding `exact`, at the end."""
        seed = self.segment.salt + self.end & MASK
        self.pieces += (SUM.pack(checksum_of(head, seed)), head)
        if exact - 8 - len(head) >= GATHER_BYTES:
            self.gather()
            self.buffers += parts
        else:
            self.pieces += parts
        if nbytes != exact:
            self.pieces.append(PADDING[nbytes - exact])
        if kind == Kind.VALUE:
            self.offsets.append(self.end)
            self.live_bytes += nbytes
        elif kind == Kind.DEATHS:
            self.notes.append((self.end, unpack_deaths(memoryview(parts[0]))[0], nbytes))
        self.end += nbytes

    def gather(self) -> None:
        """Join the small pieces."""
        if self.pieces:
            self.buffers.append(b"".join(self.pieces))
            self.pieces.clear()
