"""One file of the log: its descriptor, which of its records are live, and whole transfers.

Owns: a `Segment` owns its descriptor and closes it when the last reference goes. So a reader that
holds the segment can go on reading after the log has deleted it.
Guarantees: `write_all` moves everything or raises OSError; `read_up_to` stops only at the end of the
file. Segments are changed under the lock of their log; the transfers take no lock.
Assumes: offsets of records are multiples of 8, so that the lowest bit of a noted offset is free.
"""

from __future__ import annotations

import os
from array import array
from bisect import bisect_left
from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple, Protocol

from coldmem.linux.file import punch

if TYPE_CHECKING:
    from typing_extensions import Buffer

IOV_MAX = 1024  # Linux's limit of buffers in a call
PAGE = 4 << 10


class Location(NamedTuple):
    """Where a record lies on disk.

    Attributes
    ----------
    segment : int
        Number of the segment, below 2**24.
    offset : int
        Of the record's first byte in it, below 2**32.
    nbytes : int
        Of the whole record, header and padding included.
    """

    segment: int
    offset: int
    nbytes: int


class Files(Protocol):
    """The system calls that move data; `os` has them. Tests hand in something that fails."""

    def pwritev(self, fd: int, buffers: Sequence[Buffer], offset: int, /) -> int:
        """As `os.pwritev`."""

    def pread(self, fd: int, length: int, offset: int, /) -> bytes:
        """As `os.pread`."""

    def fdatasync(self, fd: int, /) -> None:
        """As `os.fdatasync`."""


def write_all(files: Files, fd: int, buffers: Sequence[Buffer], nbytes: int, offset: int) -> int:
    """Write `buffers`, `nbytes` in all, at `offset`; the number of system calls. Or OSError."""
    calls = 0
    left: list[Buffer] = list(buffers)
    while nbytes:
        moved = files.pwritev(fd, left[:IOV_MAX], offset)
        calls += 1
        if moved <= 0:
            raise OSError(5, "the system wrote nothing and gave no reason")
        nbytes -= moved
        offset += moved
        if not nbytes:
            break
        skipped = 0
        for buffer in left:
            size = memoryview(buffer).nbytes
            if moved < size:
                break
            moved -= size
            skipped += 1
        del left[:skipped]
        if moved:
            left[0] = memoryview(left[0]).cast("B")[moved:]
    return calls


def read_up_to(files: Files, fd: int, nbytes: int, offset: int) -> bytes:
    """`nbytes` from `offset`; fewer only where the file ends. Or OSError."""
    data = files.pread(fd, nbytes, offset)
    if len(data) == nbytes:
        return data
    parts = []
    while data:  # a call moves 2 GiB at most
        parts.append(data)
        nbytes -= len(data)
        offset += len(data)
        data = files.pread(fd, nbytes, offset) if nbytes else b""
    return b"".join(parts)


class Segment:
    """One file.

    Parameters
    ----------
    number : int
        Its place in a `Location`.
    salt : int
        Seeds the checksums of its records, so that those of another file fail in it.
    birth : int
        Sequence number at which it was made.
    path : str or None
        None for a file without a name.
    """

    __slots__ = ("birth", "broken", "busy", "deaths", "dropped", "fd", "live_bytes", "live_count",
                 "note_bytes", "note_targets", "notes", "number", "offsets", "path", "punched",
                 "punched_as", "salt", "size", "synced")

    def __init__(self, number: int, salt: int, birth: int, path: str | None) -> None:
        self.number = number
        self.salt = salt
        self.birth = birth
        self.path = path
        self.fd = -1
        self.size = 0  # bytes up to where the next record would go
        self.synced = 0  # of them, bytes that are durable
        self.punched = 0  # of them, bytes whose disk space was given back
        self.punched_as = (0, 0)  # what lived, and the size, when all that was dead was given back
        self.live_count = 0
        self.live_bytes = 0
        self.offsets = array("I")  # of records, rising; the lowest bit says that it is dead
        self.deaths = array("I")  # offsets of those that died since deaths were last written down
        self.notes = array("I")  # offsets of records that tell of deaths,
        self.note_targets = array("I")  # the segment of which each tells,
        self.note_bytes = array("I")  # and its bytes
        self.busy = False  # being collected: nobody else may delete it
        self.dropped = False  # no longer a part of the log
        self.broken = 0  # errno of a failed fdatasync: what is not synced may never be

    def __del__(self) -> None:
        if self.fd >= 0:
            os.close(self.fd)
            self.fd = -1

    def punch(self, first: int, end: int) -> int:
        """Give back the disk space of the whole pages between two offsets; bytes."""
        first = -(-first // PAGE) * PAGE
        end = end // PAGE * PAGE
        return end - first if end > first and punch(self.fd, first, end - first) else 0

    def punch_dead(self) -> int:
        """Give back, and count, the pages on which nothing lives: bytes since the last time.

        Not for a log that is persistent, which needs what dead records say of older ones.
        """
        if self.punched_as == (self.live_count, self.size):
            return 0
        self.punched_as = self.live_count, self.size
        before = self.punched
        punched = 0
        first = -1  # of dead records, one after the other
        for offset in self.offsets:
            if offset & 1:
                first = offset & ~1 if first < 0 else first
            elif first >= 0:
                punched += self.punch(first, offset)
                first = -1
        if first >= 0:
            punched += self.punch(first, self.size)
        # What was given back before is a part of it, unless the system refuses suddenly.
        self.punched = max(before, punched)
        return self.punched - before

    def add_note(self, offset: int, target: int, nbytes: int) -> None:
        """A record at `offset` tells of deaths in segment `target`."""
        self.notes.append(offset)
        self.note_targets.append(target)
        self.note_bytes.append(nbytes)

    @property
    def disk_bytes(self) -> int:
        """Bytes that it takes on disk."""
        return self.size - self.punched

    def kill(self, offset: int, nbytes: int) -> bool:
        """Note that the record is dead. False when it is not live here."""
        i = bisect_left(self.offsets, offset)
        if i == len(self.offsets) or self.offsets[i] != offset:
            return False
        self.offsets[i] = offset | 1
        self.live_count -= 1
        self.live_bytes -= nbytes
        return True

    def is_live(self, offset: int) -> bool:
        """Whether a live record begins at `offset`."""
        i = bisect_left(self.offsets, offset)
        return i < len(self.offsets) and self.offsets[i] == offset

    def live_offsets(self) -> array[int]:
        """Offsets of the live records, rising."""
        return array("I", [offset for offset in self.offsets if not offset & 1])
