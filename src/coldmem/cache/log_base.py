"""State of the log, and its steps: placing records, writing them, deleting segments.

Owns: `LogBase` owns the segments, the heads and every counter.
Guarantees: a batch is placed whole or not at all; on an error its files are cut back. A segment of a
persistent log is deleted only after (1) everything that was appended is durable, and (2) the deaths
of records in other segments are written down and durable. By (2) no older record of a key can come
back when its newest record, or its tombstone, goes with the segment; so tombstones need not be
copied. Deletions are made durable before the next segment is deleted.
Locks: `_lock` guards everything but `_reads` and `_read_bytes`, which `_count_lock` guards; nothing is
taken inside either. Methods whose names end in `_locked` need `_lock` held. Dead records wait in
`_dead`, a queue, where the lock is busy; whoever takes the lock next settles them.
"""

from __future__ import annotations

import errno
import os
import struct
import threading
from array import array
from bisect import bisect_right
from collections import deque
from collections.abc import Iterable, Sequence
from contextlib import suppress
from typing import TYPE_CHECKING

from coldmem.cache.log_folder import Folder, check_directory, open_segment_file
from coldmem.cache.log_record import (
    HEAD,
    HEAD_BYTES,
    KEY_MAX,
    MAGIC,
    META_MAX,
    SUM,
    Kind,
    deaths_at,
    pack_deaths,
    simplify,
)
from coldmem.cache.log_run import GATHER_BYTES, PADDING, Run
from coldmem.cache.segment import Files, Location, Segment, write_all
from coldmem.errors import ClosedError, MemoryLimitError, SwapFileError, UsageError
from coldmem.linux.file import open_unnamed
from coldmem.units import format_bytes
from coldmem.zswap.checksum import checksum_of
from coldmem.zswap.swapdir import default_directory, reason

if TYPE_CHECKING:
    from typing_extensions import Buffer

SEGMENTS_MAX = 1 << 24
SEGMENT_BYTES = 16 << 20
SEGMENT_BYTES_MIN = 4 << 10
SEGMENT_BYTES_MAX = 1 << 30
# Segments grow with the log, so that it holds this many descriptors or little more.
DESCRIPTORS = 128
PUNCH_BYTES = 64 << 10  # a dead record of at least this gives its disk space back at once
_DEATHS_IN_RECORD = 1 << 14
# What the system says when the disk takes no more.
FULL: frozenset[int | None] = frozenset({errno.ENOSPC, errno.EDQUOT})
# What a segment takes in memory beside its arrays: the object, the arrays' heads, its place in the
# table (sys.getsizeof of each, rounded up).
_SEGMENT_MEMORY = 768

# kind, sequence number, key, meta, parts of the payload
Entry = tuple[int, int, bytes, bytes, "Sequence[Buffer]"]


class LogBase:
    """See `coldmem.cache.log.Log`, whose parameters these are."""

    def __init__(self, directory: str | os.PathLike[str] | None, *, disk_max: int | None,
                 persistent: bool, segment_bytes: int = SEGMENT_BYTES, io: Files = os) -> None:
        if disk_max is not None and disk_max < 2 * SEGMENT_BYTES_MIN:
            raise UsageError(f"disk_max {disk_max} is too little: give {2 * SEGMENT_BYTES_MIN} bytes"
                             " or more")
        if not SEGMENT_BYTES_MIN <= segment_bytes <= SEGMENT_BYTES_MAX:
            raise UsageError(f"segment_bytes {segment_bytes} is not between {SEGMENT_BYTES_MIN} and"
                             f" {SEGMENT_BYTES_MAX}")
        if persistent and directory is None:
            raise UsageError("a persistent log needs a folder: give path=")
        if disk_max is not None:
            segment_bytes = max(SEGMENT_BYTES_MIN, min(segment_bytes, disk_max // 8 & ~4095))
        self.directory = os.fspath(directory) if directory is not None else default_directory()
        if not persistent:
            check_directory(self.directory)
        self.disk_max = disk_max
        self.persistent = persistent
        self.closed = False
        self._pid = os.getpid()
        self._io = io
        self._segment_bytes = segment_bytes
        self._lock = threading.Lock()
        self._count_lock = threading.Lock()
        self._folder = Folder(self.directory, io) if persistent else None
        self._salt = self._folder.salt if self._folder else os.urandom(16)
        self._segments: dict[int, Segment] = {}
        self._heads: list[Segment | None] = [None, None]  # of what is appended; of what is moved
        self._dead: deque[Location] = deque()
        self._next_number = 0
        self._seq = 1  # of the next record
        self._folder_changes = 0  # files made and removed; and how many of these are durable
        self._folder_synced = 0
        self._records = 0
        self._live_bytes = 0
        self._used_bytes = 0
        self._written_bytes = 0
        self._writes = 0
        self._reads = 0
        self._read_bytes = 0
        self._damaged = 0
        self._notes = 0
        self._deaths = 0  # not yet written down
        self._gone = False  # of these, some must be by the next flush
        self._ready = self._folder is None or not self._folder.segments()

    # -- checks and sums ---------------------------------------------------------------------------
    def _check(self) -> None:
        if self.closed:
            raise ClosedError("the log was closed")
        if os.getpid() != self._pid:
            raise UsageError("the log belongs to the process that opened it; a child of fork may only"
                             " read: make a cache of its own there")
        if not self._ready:
            raise UsageError("call recover() first: the folder has records of an earlier time")

    def _settle_locked(self) -> None:
        """Account for what died while the lock was busy."""
        while self._dead:
            try:
                location = self._dead.popleft()
            except IndexError:  # another thread took the last
                return
            self._kill_locked(location)

    def free(self, location: Location, gone: bool = False) -> None:
        """The record at `location` is dead. Nothing happens when it is so already.

        With `gone`, it is certain after the next `flush`, without it only when something newer of its
        key is.
        """
        if os.getpid() != self._pid:
            return
        self._dead.append(location)
        if gone:
            self._gone = True  # after the append: who sees it here settles that, too
        self._settle()

    def note_deaths(self) -> None:
        """What died so far is certain after the next `flush`, as if it had been freed as gone."""
        self._gone = True

    def _settle(self) -> None:
        """Account for what died, unless that would have to wait."""
        if self._dead and self._lock.acquire(blocking=False):
            try:
                self._settle_locked()
            finally:
                self._lock.release()

    def _kill_locked(self, location: Location) -> None:
        segment = self._segments.get(location.segment)
        if segment is None or not segment.kill(location.offset, location.nbytes):
            return
        self._live_bytes -= location.nbytes
        if self.persistent:
            segment.deaths.append(location.offset)
            self._deaths += 1
            return
        if not segment.live_count and not segment.busy and (
                segment not in self._heads or 2 * segment.size >= self._segment_bytes):
            self._drop_locked(segment)
        elif location.nbytes >= PUNCH_BYTES and segment.fd >= 0:
            given = segment.punch(location.offset, location.offset + location.nbytes)
            segment.punched += given
            self._used_bytes -= given

    def _lose(self, segment: Segment, offset: int) -> None:
        """A record that lives but cannot be read: it counts as damaged, and dead."""
        with self._lock:
            self._settle_locked()
            if not segment.is_live(offset):
                return
            # Its length stands in its head only: what lies up to the next one is counted as its own.
            i = bisect_right(segment.offsets, offset)
            end = segment.offsets[i] & ~1 if i < len(segment.offsets) else segment.size
            lost = min(end - offset, segment.live_bytes)
            segment.kill(offset, lost)
            self._damaged += 1
            self._live_bytes -= lost
            if self.persistent:
                segment.deaths.append(offset)
                self._deaths += 1

    def _index_bytes(self) -> int:
        """Upper bound of the index file that a clean close writes."""
        if not self.persistent:
            return 0
        return 4 * self._records + 12 * self._notes + 64 * (len(self._segments) + 2)

    def _memory_bytes(self) -> int:
        # 4 bytes an offset; growing arrays are an eighth larger than what is in them.
        return 4608 + len(self._segments) * _SEGMENT_MEMORY + (
            self._records + self._deaths + 3 * self._notes) * 9 // 2

    # -- placing -----------------------------------------------------------------------------------
    def _new_segment_locked(self) -> Segment:
        if len(self._segments) >= SEGMENTS_MAX:
            raise SwapFileError(f"there are {SEGMENTS_MAX} segments in {self.directory}, as many as"
                                " there can be")
        number = self._next_number
        while number in self._segments:
            number = (number + 1) % SEGMENTS_MAX
        self._next_number = (number + 1) % SEGMENTS_MAX
        path = self._folder.segment_path(number) if self._folder else None
        segment = Segment(number, self._salt_of(number), self._seq, path)
        self._seq += 1
        return segment

    def _salt_of(self, number: int) -> int:
        """Seed of the checksums in segment `number`."""
        return checksum_of(self._salt, number)

    def _start_locked(self) -> Run:
        """A run that begins a new segment."""
        segment = self._new_segment_locked()
        run = Run(segment, True)
        head = HEAD.pack(MAGIC, Kind.START, 0, 1 << 24, 0, segment.birth,
                         checksum_of(b"", segment.birth))
        run.pieces += (SUM.pack(checksum_of(head, segment.salt)), head)
        run.end = HEAD_BYTES
        return run

    def _place_locked(self, entries: Iterable[Entry], cold: bool) -> tuple[list[Run], list[Location]]:
        """Where each entry goes, and the bytes; nothing is written or changed yet."""
        runs: list[Run] = []
        own_runs: list[Run] = []
        locations: list[Location] = []
        head_segment = self._heads[cold]
        limit = max(self._segment_bytes,
                    min(self._used_bytes // DESCRIPTORS & ~7, SEGMENT_BYTES_MAX))
        run = self._start_locked() if head_segment is None else Run(head_segment, False)
        runs.append(run)
        salt = run.segment.salt
        number = run.segment.number
        end = run.end
        pieces = run.pieces
        # Looked up once: the loop is what appending costs. An enum's members are slow to get at.
        new_location, pack, pack_sum, summed = Location._make, HEAD.pack, SUM.pack, checksum_of
        value = int(Kind.VALUE)
        for kind, seq, key, meta, parts in entries:
            key_bytes = len(key)
            meta_bytes = len(meta)
            if meta_bytes > META_MAX or key_bytes > KEY_MAX:
                raise UsageError(f"a key of {key_bytes} bytes, meta of {meta_bytes}: the most are"
                                 f" {KEY_MAX} and {META_MAX}")
            sizes: Sequence[int] = ()
            if len(parts) != 1:
                parts, sizes = simplify(parts)
            part = parts[0]
            if len(parts) == 1:
                payload_bytes = len(part) if type(part) is bytes else memoryview(part).nbytes
                head = pack(MAGIC, kind, meta_bytes, key_bytes | 0x1000000, payload_bytes, seq,
                            summed(part, seq)) + key + meta
            else:
                payload_bytes = sum(sizes)
                total = seq
                for part in parts:
                    total = summed(part, total)
                head = b"".join((
                    pack(MAGIC, kind, meta_bytes, key_bytes | len(parts) << 24, payload_bytes, seq,
                         total), struct.pack(f"<{len(sizes)}Q", *sizes), key, meta))
            exact = 8 + len(head) + payload_bytes
            nbytes = (exact + 7) & ~7
            if end + nbytes > limit and (end > HEAD_BYTES or nbytes + HEAD_BYTES > limit):
                run.end = end
                if nbytes + HEAD_BYTES > limit:
                    own = self._start_locked()
                    own.own = True
                    own.add(kind, head, parts, nbytes, exact)
                    own_runs.append(own)
                    locations.append(Location(own.segment.number, HEAD_BYTES, nbytes))
                    continue
                run = self._start_locked()
                runs.append(run)
                end, pieces = run.end, run.pieces
                salt, number = run.segment.salt, run.segment.number
            if payload_bytes >= GATHER_BYTES or kind != value:
                run.end = end
                run.add(kind, head, parts, nbytes, exact)
            else:  # the same, for the many
                pieces.append(pack_sum(summed(head, salt + end)))
                pieces.append(head)
                pieces += parts
                if nbytes != exact:
                    pieces.append(PADDING[nbytes - exact])
                run.offsets.append(end)
                run.live_bytes += nbytes
            locations.append(new_location((number, end, nbytes)))
            end += nbytes
        run.end = end
        return [one for one in runs if one.end > one.start] + own_runs, locations

    # -- writing -----------------------------------------------------------------------------------
    def _write_locked(self, entries: Iterable[Entry], cold: bool, limit: int | None) -> list[Location]:
        """Place and write `entries`, all or none; `limit` is what the log may then take on disk."""
        runs, locations = self._place_locked(entries, cold)
        more = sum(run.end - run.start for run in runs)
        if limit is not None and self._used_bytes + self._index_bytes() + more > limit:
            raise MemoryLimitError(
                f"no room for {format_bytes(more)} on disk: {format_bytes(self._used_bytes)} of"
                f" {format_bytes(limit)} in {self.directory} are used; remove entries, or raise"
                " disk_max")
        done: list[Run] = []
        try:
            for run in runs:
                done.append(run)
                segment = run.segment
                if segment.fd < 0:
                    segment.fd = (open_segment_file(segment.path, new=True) if segment.path
                                  else open_unnamed(self.directory))
                    self._folder_changes += 1
                run.gather()
                self._writes += write_all(self._io, segment.fd, run.buffers, run.end - run.start,
                                          run.start)
        except BaseException as error:
            for run in done:
                self._cut_back_locked(run)
            if isinstance(error, OSError):
                raise SwapFileError(f"cannot write to the cache's files in {self.directory}:"
                                    f" {reason(error)}", errno=error.errno) from error
            raise
        for run in runs:
            segment = run.segment
            if run.new:
                self._segments[segment.number] = segment
            segment.size = run.end
            segment.offsets.extend(run.offsets)
            for note in run.notes:
                segment.add_note(*note)
            self._notes += len(run.notes)
            segment.live_count += len(run.offsets)
            segment.live_bytes += run.live_bytes
            self._records += len(run.offsets)
            self._live_bytes += run.live_bytes
            if not run.own:
                self._heads[cold] = segment
        self._used_bytes += more
        self._written_bytes += more
        return locations

    def _cut_back_locked(self, run: Run) -> None:
        """Undo what a failed call may have written."""
        segment = run.segment
        if segment.fd < 0:
            return
        try:
            # Of a new one, too, which may stay open as long as the error that we are told of.
            os.ftruncate(segment.fd, 0 if run.new else run.start)
            if run.new and segment.path:
                os.unlink(segment.path)
        except OSError:
            if not run.new:  # what comes after its size is not the log's; nobody appends there again
                self._heads = [None if head is segment else head for head in self._heads]

    # -- deleting ----------------------------------------------------------------------------------
    def _drop_locked(self, segment: Segment) -> None:
        """Take the segment out of the log, and its file off the disk once nobody reads it."""
        if self._segments.pop(segment.number, None) is None:
            return
        segment.dropped = True
        self._heads = [None if head is segment else head for head in self._heads]
        self._used_bytes -= segment.disk_bytes
        self._live_bytes -= segment.live_bytes
        self._records -= len(segment.offsets)
        self._notes -= len(segment.notes)
        self._deaths -= len(segment.deaths)
        if segment.path:
            self._folder_changes += 1
            try:
                os.unlink(segment.path)
            except FileNotFoundError:
                pass
            except OSError:  # the directory refuses; the file's bytes can go all the same
                with suppress(OSError):
                    os.ftruncate(segment.fd, 0)

    def _death_entries_locked(self, leave_out: Segment | None,
                              again: Iterable[tuple[int, array[int]]] = ()) -> list[Entry]:
        """Records of what died since the last time, and of `again`: (segment, offsets)."""
        told = [(segment.number, segment.deaths) for segment in self._segments.values()
                if segment.deaths and segment is not leave_out]
        told += [(number, offsets) for number, offsets in again if number in self._segments]
        entries: list[Entry] = []
        for number, offsets in told:
            for first in range(0, len(offsets), _DEATHS_IN_RECORD):
                some = offsets[first:first + _DEATHS_IN_RECORD]
                entries.append((Kind.DEATHS, self._seq, b"", b"",
                                [pack_deaths(number, some)]))
                self._seq += 1
        return entries

    def _write_deaths_locked(self, leave_out: Segment | None,
                             again: Iterable[tuple[int, array[int]]] = ()) -> None:
        """Write down what died. Or SwapFileError, and nothing is changed.

        What replaces it must be durable by now: else a power cut may leave the note alone.
        """
        entries = self._death_entries_locked(leave_out, again)
        if entries:
            self._write_locked(entries, False, None)
        for segment in self._segments.values():
            if segment is not leave_out and segment.deaths:
                self._deaths -= len(segment.deaths)
                segment.deaths = array("I")

    def _unsynced_locked(self, leave_out: Iterable[Segment] = ()
                         ) -> tuple[list[tuple[Segment, int]], int]:
        """What `_sync` is to make durable; what is to be deleted need not be."""
        wanted = [segment for segment in self._segments.values() if segment not in leave_out]
        for segment in wanted:
            if segment.broken:
                raise SwapFileError(
                    f"data in {self.directory} could not be made durable before:"
                    f" {os.strerror(segment.broken)}; collect() moves it", errno=segment.broken)
        return ([(segment, segment.size) for segment in wanted if segment.synced < segment.size],
                self._folder_changes)

    def _sync(self, segments: list[tuple[Segment, int]], changes: int) -> None:
        """Make it durable; `_lock` may be held or not. Or SwapFileError."""
        try:
            for segment, size in segments:
                try:
                    self._io.fdatasync(segment.fd)
                except OSError as error:
                    # The system may forget now what it could not write: a second try proves nothing.
                    segment.broken = error.errno or 5
                    raise
                segment.synced = max(segment.synced, size)
            if self._folder and changes > self._folder_synced:
                self._folder.sync()
                self._folder_synced = max(self._folder_synced, changes)
        except OSError as error:
            raise SwapFileError(f"cannot make the cache's files in {self.directory} durable:"
                                f" {reason(error)}", errno=error.errno) from error

    def _reap_locked(self) -> int:
        """Delete persistent segments without a live record; bytes given back. Or SwapFileError."""
        dead = [segment for segment in self._segments.values() if not segment.live_count
                and not segment.busy and segment not in self._heads and (
                    segment.broken or 2 * self._needed_bytes(segment) <= segment.size)]
        if not dead:
            return 0
        before = self._used_bytes
        self._sync(*self._unsynced_locked(dead))
        # One alone may leave its own deaths out. Of several, one may survive a power cut that
        # another does not.
        self._write_deaths_locked(dead[0] if len(dead) == 1 else None, self._notes_of(dead))
        self._sync(*self._unsynced_locked(dead))
        for segment in dead:
            self._drop_locked(segment)
        return before - self._used_bytes

    def _needed_bytes(self, segment: Segment) -> int:
        """Bytes of what must be written again when the segment goes."""
        if not segment.notes:
            return segment.live_bytes
        return segment.live_bytes + sum(
            nbytes for target, nbytes in zip(segment.note_targets, segment.note_bytes, strict=True)
            if target in self._segments)

    def _notes_of(self, segments: Sequence[Segment]) -> list[tuple[int, array[int]]]:
        """Deaths that are written down in `segments`, of segments that stay. Or SwapFileError."""
        told = []
        try:
            for segment in segments:
                for seq, number, offsets in deaths_at(self._io, segment.fd, segment.salt,
                                                      segment.notes):
                    target = self._segments.get(number)
                    if target is not None and target.birth < seq and target not in segments:
                        told.append((number, offsets))
        except OSError as error:
            raise self._unreadable(error) from error
        return told

    def _unreadable(self, error: OSError) -> SwapFileError:
        return SwapFileError(f"cannot read the cache's files in {self.directory}: {reason(error)}",
                             errno=error.errno)
