"""Opening a persistent log again: from the index of a clean close, or from the records themselves.

Owns: nothing; works on a `LogBase` that nobody uses yet. No locks of its own.
Guarantees: of each key the newest record counts, and none when that is a tombstone, is noted as dead,
or is damaged where its head can still be read. A record that the file's end cuts off was never
flushed and does not count. Damaged stretches are skipped; what follows them is found again. Deaths
that only this reading tells of are noted, so that the next collecting writes them down.
Assumes: two keys of the log do not share a 64-bit checksum (of n keys, chance n**2 / 2**65; one of the
two would be lost, neither would be wrong).
"""

from __future__ import annotations

import os
import struct
from array import array
from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from coldmem.cache.log_base import LogBase
from coldmem.cache.log_folder import open_segment_file
from coldmem.cache.log_record import HEAD_BYTES, Kind, Window, read_head, unpack_deaths, walk
from coldmem.cache.segment import Location, Segment
from coldmem.errors import SwapFileError
from coldmem.zswap.checksum import checksum_of

_INDEX_HEAD = struct.Struct("<8sIIQQ")  # magic, segments, next segment, sequence number, salt check
_INDEX_SEGMENT = struct.Struct("<IIIIQQQ")  # number, records, notes, 0, birth, size, live bytes
_INDEX_MAGIC = b"coldidx1"
_SUM = struct.Struct("<Q")
_STEP = 1 << 20
_STEP_SMALL = 4 << 10
# Above this mean size of a record, only heads are read, each by itself.
_APART_BYTES = 32 << 10
# How far sequence numbers jump after a crash: past those of records that were cut off.
_SEQ_JUMP = 1 << 20


def recover(log: LogBase) -> Iterator[tuple[Location, bytes, bytes]]:
    """See `Log.recover`."""
    with log._lock:
        if not log._ready and log._folder is not None:
            try:
                _open_segments(log)
                if not _read_index(log):
                    _scan(log)
                log._folder.remove("INDEX")
                log._folder.sync()
            except OSError as error:
                log._segments.clear()
                if isinstance(error, SwapFileError):
                    raise
                raise log._unreadable(error) from error
            _set_heads(log)
            log._notes = sum(len(segment.notes) for segment in log._segments.values())
            log._ready = True
        log._check()
        segments = sorted(log._segments.values(), key=lambda segment: segment.birth)
    return _heads(log, segments)


def _heads(log: LogBase, segments: list[Segment]) -> Iterator[tuple[Location, bytes, bytes]]:
    """Location, key and meta of each live record."""
    for segment in segments:
        if not segment.live_count:
            continue
        apart = segment.live_bytes > segment.live_count * _APART_BYTES
        window = Window(log._io, segment.fd, _STEP_SMALL if apart else _STEP)
        for offset in segment.live_offsets():
            try:
                head = read_head(window, offset, segment.salt)
            except OSError as error:
                raise log._unreadable(error) from error
            if head is not None:
                if segment.is_live(offset):
                    yield Location(segment.number, offset, head.nbytes), head.key, head.meta
                continue
            log._lose(segment, offset)


def _open_segments(log: LogBase) -> None:
    assert log._folder is not None
    log._used_bytes = 0
    for number in log._folder.segments():
        path = log._folder.segment_path(number)
        segment = Segment(number, log._salt_of(number), 0, path)
        segment.fd = open_segment_file(path, new=False)
        segment.size = segment.synced = os.fstat(segment.fd).st_size
        log._segments[number] = segment
        log._used_bytes += segment.size


# -- the index -------------------------------------------------------------------------------------
def write_index(log: LogBase) -> None:
    """Write where the live records are. All must be durable by now. Or OSError."""
    assert log._folder is not None
    parts = [_INDEX_HEAD.pack(_INDEX_MAGIC, len(log._segments), log._next_number, log._seq,
                              checksum_of(log._salt))]
    for segment in log._segments.values():
        live = segment.live_offsets()
        parts += (_INDEX_SEGMENT.pack(segment.number, len(live), len(segment.notes), 0, segment.birth,
                                      segment.size, segment.live_bytes),
                  live.tobytes(), segment.notes.tobytes(), segment.note_targets.tobytes(),
                  segment.note_bytes.tobytes())
    data = b"".join(parts)
    log._folder.write("INDEX", data + _SUM.pack(checksum_of(data)))


def _read_index(log: LogBase) -> bool:
    """Take over what the index says; False when there is none, or it does not fit the segments."""
    assert log._folder is not None
    try:
        data = log._folder.read("INDEX")
    except FileNotFoundError:
        return False
    end = len(data) - _SUM.size
    if end < _INDEX_HEAD.size or checksum_of(memoryview(data)[:end]) != _SUM.unpack_from(data, end)[0]:
        return False
    magic, count, next_number, seq, salt = _INDEX_HEAD.unpack_from(data)
    if magic != _INDEX_MAGIC or salt != checksum_of(log._salt) or count != len(log._segments):
        return False
    at = _INDEX_HEAD.size
    found = []
    for _ in range(count):
        number, live, notes, _zero, birth, size, live_bytes = _INDEX_SEGMENT.unpack_from(data, at)
        at += _INDEX_SEGMENT.size
        segment = log._segments.get(number)
        if segment is None or segment.size != size:
            return False
        columns = array("I", data[at:at + 4 * (live + 3 * notes)])
        at += 4 * len(columns)
        found.append((segment, birth, live_bytes, columns[:live], columns[live:]))
    for segment, birth, live_bytes, offsets, columns in found:
        segment.birth = birth
        _set_live(log, segment, offsets, live_bytes)
        third = len(columns) // 3
        segment.notes = columns[:third]
        segment.note_targets = columns[third:2 * third]
        segment.note_bytes = columns[2 * third:]
    log._next_number = next_number
    log._seq = seq
    return True


def _set_live(log: LogBase, segment: Segment, offsets: array[int], live_bytes: int) -> None:
    segment.offsets = offsets
    segment.live_count = len(offsets)
    segment.live_bytes = live_bytes
    log._records += len(offsets)
    log._live_bytes += live_bytes


# -- the records -----------------------------------------------------------------------------------
@dataclass
class _Seen:
    """The records of one segment, as the scan found them."""

    hashes: array[int] = field(default_factory=lambda: array("Q"))
    seqs: array[int] = field(default_factory=lambda: array("Q"))
    offsets: array[int] = field(default_factory=lambda: array("Q"))
    sizes: array[int] = field(default_factory=lambda: array("Q"))
    values: array[int] = field(default_factory=lambda: array("B"))  # 0: a tombstone, or damaged
    end: int = 0  # of the last record that is whole


def _scan(log: LogBase) -> None:
    """Read everything, keep the newest of each key."""
    seen: dict[int, _Seen] = {}
    deaths: list[tuple[int, int, array[int]]] = []
    seq_max = cleared = 0
    for segment in log._segments.values():
        here = seen[segment.number] = _Seen()
        for found in walk(log._io, segment.fd, segment.salt, _STEP):
            if found is None or found.cut:
                log._damaged += 1
                continue
            head = found.head
            here.end = found.offset + head.nbytes
            seq_max = max(seq_max, head.seq)
            if found.payload is None:
                log._damaged += 1
            if head.kind == Kind.START:
                segment.birth = head.seq
            elif head.kind == Kind.CLEARED:
                cleared = max(cleared, head.seq)
            elif head.kind == Kind.DEATHS:
                if found.payload is not None:
                    number, offsets = unpack_deaths(found.payload)
                    segment.add_note(found.offset, number, head.nbytes)
                    deaths.append((head.seq, number, offsets))
            else:
                here.hashes.append(checksum_of(head.key))
                here.seqs.append(head.seq)
                here.offsets.append(found.offset)
                here.sizes.append(head.nbytes)
                here.values.append(head.kind == Kind.VALUE and found.payload is not None)
    _choose(log, seen, deaths, cleared)
    log._seq = seq_max + _SEQ_JUMP
    log._next_number = (max(log._segments, default=-1) + 1) % (1 << 24)
    _cut_tail(log, seen)


def _choose(log: LogBase, seen: dict[int, _Seen], deaths: list[tuple[int, int, array[int]]],
            cleared: int) -> None:
    """Which of the records live."""
    told: dict[int, list[array[int]]] = {}
    for seq, number, offsets in deaths:
        target = log._segments.get(number)
        if target is not None and target.birth < seq:  # else it is of a segment that had the number
            told.setdefault(number, []).append(offsets)
    bounds = np.cumsum([0] + [len(here.seqs) for here in seen.values()])
    hashes = _joined([here.hashes for here in seen.values()])
    seqs = _joined([here.seqs for here in seen.values()])
    values = _joined([here.values for here in seen.values()]) != 0
    alive = values.copy()
    known: list[npt.NDArray[np.bool_]] = []
    for i, (number, here) in enumerate(seen.items()):
        dead = np.isin(_joined([here.offsets]), _joined(told.get(number, [])))
        known.append(dead)
        alive[bounds[i]:bounds[i + 1]] &= ~dead
    alive &= seqs >= cleared
    # The same record twice is the trace of a collecting that was cut short: either one will do.
    order = np.lexsort((alive, seqs, hashes))
    last = np.ones(len(order), bool)
    last[:-1] = hashes[order][1:] != hashes[order][:-1]
    newest = np.zeros(len(order), bool)
    newest[order[last]] = True
    alive &= newest
    for i, (number, here) in enumerate(seen.items()):
        segment = log._segments[number]
        lives = alive[bounds[i]:bounds[i + 1]]
        places = _joined([here.offsets])
        sizes = _joined([here.sizes])
        _set_live(log, segment, _as_offsets(places[lives]), int(sizes[lives].sum()))
        died = values[bounds[i]:bounds[i + 1]] & ~lives & ~known[i]
        segment.deaths = _as_offsets(places[died])
        log._deaths += len(segment.deaths)


def _joined(arrays: list[array[int]]) -> npt.NDArray[np.uint64]:
    return np.concatenate([np.zeros(0, np.uint64), *(np.asarray(one, np.uint64) for one in arrays)])


def _as_offsets(offsets: npt.NDArray[np.uint64]) -> array[int]:
    return array("I", offsets.astype(np.uint32).tobytes())


def _cut_tail(log: LogBase, seen: dict[int, _Seen]) -> None:
    """Cut off what was half written at the end of the youngest segment, so that it can go on."""
    if not log._segments:
        return
    segment = max(log._segments.values(), key=lambda one: one.birth)
    end = max(seen[segment.number].end, HEAD_BYTES)
    if segment.birth and segment.size > end:
        os.ftruncate(segment.fd, end)
        log._used_bytes -= segment.size - end
        segment.size = segment.synced = end


def _set_heads(log: LogBase) -> None:
    """The youngest segment goes on, if it has room."""
    if log._segments:
        segment = max(log._segments.values(), key=lambda one: one.birth)
        if segment.birth and segment.size < log._segment_bytes and segment.size % 8 == 0:
            log._heads[0] = segment
