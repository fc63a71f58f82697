"""The cache's disk tier: a log of checksummed records in segments.

Owns: a `Log` owns its files, and the folder of a persistent one until `close`.
Guarantees: `read` hands out what was appended under that location, or raises. A failed call leaves
nothing half done, and the log goes on. A persistent log opens again after a crash at any moment with
the newest flushed record of each key, or a newer one, and with no removed key, provided that

- a key that is to be gone is given to `remove`, or its record to `free` with `gone`. `free` alone only
  permits to forget a record: after a crash it may be back, unless something newer of the key is on disk;
- `free` of a key's older record is called before `append` of the next or `remove`, or right after.

Assumes: a disk that keeps what fdatasync has written; and that `collect` does not run between an
`append` and the moment at which `moved` knows its locations, else it takes the records for dead: hold
one lock over the two, and over `collect`.
Locks: one, and a leaf for two counters, see log_base.py. `read` does not take it. It is held while
`append` and `remove` write, but not while `flush` and `collect` wait for the disk or `collect` calls
back. `free` never waits for it.

fork: descriptors are closed on exec; a child may only read.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, NamedTuple

from coldmem.cache import log_collect, log_recover
from coldmem.cache.log_base import Entry, LogBase
from coldmem.cache.log_fill import fill
from coldmem.cache.log_record import (
    HEAD,
    HEAD_BYTES,
    KEY_MAX,
    MAGIC,
    MASK,
    SUM,
    Head,
    Kind,
    Window,
    payload_sum,
    read_head,
)
from coldmem.cache.segment import PAGE, Location, Segment, read_up_to
from coldmem.cache.space import Space
from coldmem.errors import ClosedError, CorruptDataError, SwapFileError
from coldmem.zswap.checksum import checksum_of
from coldmem.zswap.swapdir import reason

if TYPE_CHECKING:
    from typing_extensions import Buffer

_VALUE = int(Kind.VALUE)  # faster to get at than an enum's member

__all__ = ["Location", "Log", "Record"]


class Record(NamedTuple):
    """What was appended.

    Attributes
    ----------
    key, meta : bytes
        As given.
    payload : memoryview
        All parts, one after the other.
    """

    key: bytes
    meta: bytes
    payload: memoryview


class Log(LogBase):
    """Records on disk, appended, read by location, freed and collected.

    Parameters
    ----------
    directory : path or None
        Persistent: the folder. Otherwise: where files without a name are made; None for the swap file's
        default. Made if it is missing and its parent is not.
    disk_max : int or None
        Bytes that all files together may take. A part (one segment) is kept free for collecting.
    persistent : bool
        Whether the log is there again when the folder is opened again.
    segment_bytes : int
        Least size of a segment (less with a small `disk_max`); they grow with the log.
    io : object
        Moves the data: has `pwritev`, `pread` and `fdatasync` of `os`. For tests.

    Raises
    ------
    UsageError
        Arguments; the folder is in use, foreign, or of another format.
    SwapFileError
        The system refused.
    """

    # -- records -----------------------------------------------------------------------------------
    def append(self, records: Sequence[tuple[bytes, bytes, Sequence[Buffer]]]) -> list[Location]:
        """Write `records`: key, meta (255 bytes at most) and parts of the payload, each C-contiguous.

        All are written, or none. They are durable after `flush`.

        Returns
        -------
        list of Location
            In the same order.

        Raises
        ------
        MemoryLimitError
            They do not fit into `disk_max`, even without dead segments.
        SwapFileError
            The system refused to write.
        """
        if not records:
            return []
        with self._lock:
            self._check()
            self._settle_locked()
            seq = self._seq
            self._seq += len(records)
            return self._append_locked([(_VALUE, at, key, meta, parts)
                                        for at, (key, meta, parts) in enumerate(records, seq)])

    def remove(self, keys: Sequence[bytes]) -> None:
        """No record of `keys` so far comes back in a later opening; nothing else changes.

        Durable after `flush`. The log itself goes on; `free` the records, too. SwapFileError as in
        `Log.append`; `disk_max` does not stop it, since what follows makes room.
        """
        if not keys or not self.persistent:
            return
        with self._lock:
            self._check()
            self._settle_locked()
            seq = self._seq
            self._seq += len(keys)
            self._write_locked([(Kind.REMOVED, at, key, b"", ())
                                for at, key in enumerate(keys, seq)], False, None)

    def _append_locked(self, entries: list[Entry]) -> list[Location]:
        limit = None if self.disk_max is None else self.disk_max - self._segment_bytes
        if limit is not None and self.persistent and self._used_bytes + self._segment_bytes > limit:
            self._reap_locked()
        return self._write_locked(entries, False, limit)

    def read(self, location: Location) -> Record:
        """The record at `location`.

        Raises
        ------
        CorruptDataError
            What is there is not that record; or it was freed, or moved by `collect`, and its place
            given back: look the key up again.
        SwapFileError
            The system refused to read.
        ClosedError
            After `close`.
        """
        number, offset, nbytes = location
        segment = self._segment_at(number)
        try:
            data = self._io.pread(segment.fd, nbytes, offset)
            if len(data) < nbytes:
                data = read_up_to(self._io, segment.fd, nbytes, offset)
        except OSError as error:
            raise self._unreadable(error) from error
        with self._count_lock:
            self._reads += 1
            self._read_bytes += nbytes
        record = _unpack(data, segment.salt + offset)
        if record is None:
            raise self._not_written(location)
        return record

    def read_head(self, location: Location) -> Head:
        """What the record at `location` is, all but its payload; raises as `read`."""
        number, offset, nbytes = location
        segment = self._segment_at(number)
        try:
            head = read_head(Window(self._io, segment.fd, PAGE), offset, segment.salt)
        except OSError as error:
            raise self._unreadable(error) from error
        if head is None or head.kind != _VALUE or head.nbytes != nbytes:
            raise self._not_written(location)
        return head

    def read_payload(self, location: Location, head: Head,
                     rooms: Sequence[Space | bytes | bytearray]) -> None:
        """Read the payload of `read_head` into `rooms`, one after the other; raises as `read`.

        They are just made: bytes that somebody else has seen must not change.
        """
        number, offset, nbytes = location
        segment = self._segment_at(number)
        at = offset + head.payload_at
        try:
            source: int | bytes = segment.fd
            if self._io is not os:
                source = read_up_to(self._io, segment.fd, head.payload_bytes, at)
            found = fill(source, at, rooms, head.parts, head.seq)
        except OSError as error:
            raise self._unreadable(error) from error
        with self._count_lock:
            self._reads += 1
            self._read_bytes += nbytes
        if found != head.payload_sum:
            raise self._not_written(location)

    def _segment_at(self, number: int) -> Segment:
        segment = self._segments.get(number)
        if segment is None:
            if self.closed:
                raise ClosedError("the log was closed")
            raise CorruptDataError(f"segment {number} of the cache's files is not there any more")
        return segment

    def _not_written(self, location: Location) -> CorruptDataError:
        number, offset, nbytes = location
        return CorruptDataError(f"a record of {nbytes} bytes in {self.directory} (segment {number},"
                                f" offset {offset}) is not what was written")

    # -- the whole ---------------------------------------------------------------------------------
    def garbage(self) -> int:
        """Bytes on disk that are no live record."""
        self._settle()
        return self._used_bytes - self._live_bytes

    @property
    def live_bytes(self) -> int:
        """Bytes of live records."""
        self._settle()
        return self._live_bytes

    @property
    def segment_bytes(self) -> int:
        """Least size of a segment."""
        return self._segment_bytes

    @property
    def used_bytes(self) -> int:
        """Bytes that the segments take on disk."""
        self._settle()
        return self._used_bytes

    @property
    def metadata_bytes(self) -> int:
        """Bytes of memory that the log takes (computed)."""
        return self._memory_bytes()

    def collect(self, moved: Callable[[bytes, Location, Location], bool], want: int | None = None,
                full: bool = False) -> int:
        """Move live records out of the segments with most garbage and delete these.

        Parameters
        ----------
        moved : callable
            ``moved(key, old, new)`` is told of each record, without any lock of the log. `new` is
            shorter where the payload had parts. True: `new` is used from now on. False: nobody uses
            `old`; so what `append` has returned must be known by now. The log frees what is not used.
        want : int, optional
            Stop when so many bytes are given back. A segment is then worth it with 1/32 of garbage;
            without `want`, with 1/4.
        full : bool
            The file system takes no more: what it needs must be given back by what it does.

        Returns
        -------
        int
            Bytes given back, less those of the moved records.

        Raises
        ------
        SwapFileError
            The system refused to read or write; each record is still at its last place.
        """
        return log_collect.collect(self, moved, want, full)

    def recover(self) -> Iterator[tuple[Location, bytes, bytes]]:
        """Location, key and meta of each live record; first thing to call on a folder that was used.

        What a crash left is sorted out before this returns, so the iterator need not be used up.

        Raises
        ------
        SwapFileError
            The system refused to read.
        """
        return log_recover.recover(self)

    def flush(self) -> None:
        """All that was appended, removed and gone so far survives a power cut. Or SwapFileError."""
        with self._lock:
            self._check()
            if not self.persistent:
                return
            segments, changes = self._unsynced_locked()
        self._sync(segments, changes)
        if not self._gone:
            return
        with self._lock:
            self._check()
            self._settle_locked()
            self._sync(*self._unsynced_locked())  # what came since
            self._gone = False  # before what waits is settled: what comes after that sets it again
            self._settle_locked()
            try:
                self._write_deaths_locked(None)
            except BaseException:
                self._gone = True
                raise
            segments, changes = self._unsynced_locked()
        self._sync(segments, changes)

    def clear(self) -> None:
        """Forget every record. Or SwapFileError, and nothing is forgotten."""
        with self._lock:
            self._check()
            self._settle_locked()
            old = list(self._segments.values())
            heads = self._heads
            self._heads = [None, None]
            if self.persistent and old:
                try:
                    self._write_locked([(Kind.CLEARED, self._seq, b"", b"", ())], False, None)
                    self._seq += 1
                    self._sync(*self._unsynced_locked(old))
                except BaseException:
                    self._heads = heads
                    raise
            for segment in old:
                self._drop_locked(segment)

    def close(self) -> None:
        """Let go of everything; a persistent log first makes all durable and writes its index.

        When that goes wrong, everything is let go of all the same, SwapFileError is raised, and the
        next opening reads all records.
        """
        with self._lock:
            if self.closed:
                return
            try:
                if self._folder and self._ready and os.getpid() == self._pid:
                    self._settle_locked()
                    self._write_deaths_locked(None)
                    self._sync(*self._unsynced_locked())
                    log_recover.write_index(self)
            except SwapFileError:
                raise
            except OSError as error:
                raise SwapFileError(f"cannot write the index of the cache in {self.directory}:"
                                    f" {reason(error)}", errno=error.errno) from error
            finally:
                self.closed = True
                self._heads = [None, None]
                self._segments.clear()  # a file is closed when its last reader is done
                if self._folder:
                    self._folder.close(unlock=os.getpid() == self._pid)

    def stats(self) -> dict[str, int]:
        """Counters: bytes, system calls, and what there is."""
        self._settle()
        return {
            "written_bytes": self._written_bytes, "writes": self._writes,
            "read_bytes": self._read_bytes, "reads": self._reads,
            "segments": len(self._segments), "live_bytes": self._live_bytes,
            "used_bytes": self._used_bytes, "damaged": self._damaged,
        }


def _unpack(data: bytes, seed: int) -> Record | None:
    """The record that is `data`, of which the head was seeded so; None when it is damaged."""
    if len(data) < HEAD_BYTES:
        return None
    magic, kind, meta_bytes, key_bytes, payload_bytes, seq, body_sum = HEAD.unpack_from(data, 8)
    parts = key_bytes >> 24
    key_bytes &= KEY_MAX
    at = HEAD_BYTES if parts == 1 else HEAD_BYTES + 8 * parts
    meta_at = at + key_bytes
    payload_at = meta_at + meta_bytes
    end = payload_at + payload_bytes
    if magic != MAGIC or kind != _VALUE or (end + 7) & ~7 != len(data):
        return None
    view = memoryview(data)
    if checksum_of(view[8:payload_at], seed & MASK) != SUM.unpack_from(data)[0]:
        return None
    payload = view[payload_at:end]
    if parts == 1:
        good = checksum_of(payload, seq) == body_sum
    else:
        sizes = [SUM.unpack_from(data, HEAD_BYTES + 8 * i)[0] for i in range(parts)]
        good = payload_sum(payload, sizes, seq) == body_sum
    return Record(data[at:meta_at], data[meta_at:payload_at], payload) if good else None

