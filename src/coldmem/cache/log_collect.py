"""Collecting: live records of the emptiest segments are moved together, the segments deleted.

Owns: nothing; works on a `LogBase`. Guarantees: a segment goes only when each of its records has been
moved or has died, and, in a persistent log, when the moved ones and all deaths are durable; until
then the old record can be read. Locks: takes the log's lock in steps; reads, waits for the disk and
calls `moved` without it.
"""

from __future__ import annotations

import os
from collections.abc import Callable

from coldmem.cache.log_base import FULL, LogBase
from coldmem.cache.log_record import Head, Kind, Window, payload_sum, read_head
from coldmem.cache.segment import PAGE, Location, Segment
from coldmem.errors import MemoryLimitError, SwapFileError

Moved = Callable[[bytes, Location, Location], bool]
_Batch = list[tuple[int, Head, memoryview]]  # records: offset, head, payload
_STEP = 1 << 20  # bytes read, and records moved, in one go
_STEP_FULL = 64 << 10  # records moved in one go when the file system is full
_SPARE = 64 << 10  # what is to be left on it, for heads of segments and notes
_MOVED_MAX = 4096
# A segment is worth it when at least this share of it can be won, in 1/n of its bytes: unasked, and
# when room is wanted.
_SHARE = 4
_SHARE_WANTED = 32
_WON_MIN = 256  # more than what new segments begin with, so that each round wins something


def collect(log: LogBase, moved: Moved, want: int | None, full: bool = False) -> int:
    """See `Log.collect`."""
    given = 0
    if full and not log.persistent:
        given = _punch_all(log)
        if want is not None and given >= want:
            return given
    with log._lock:
        log._check()
        log._settle_locked()
        # All of these go together, after what was in them is durable elsewhere.
        broken = [segment for segment in log._segments.values() if segment.broken and not segment.busy]
        for segment in broken:
            _take_locked(log, segment)
    try:
        for segment in broken:
            given += _empty(log, segment, moved, False)
    except MemoryLimitError:
        return given
    finally:
        for segment in broken:
            segment.busy = False
    if log.persistent:
        with log._lock:
            given += log._reap_locked()
    while want is None or given < want:
        with log._lock:
            log._settle_locked()
            victim = _victim_locked(log, _SHARE if want is None else _SHARE_WANTED, full)
            if victim is None:
                break
            _take_locked(log, victim)
        try:
            won = _empty(log, victim, moved, full and not log.persistent)
            given += _delete(log, victim) + won
        except MemoryLimitError:
            break
        finally:
            victim.busy = False
    return given


def _take_locked(log: LogBase, segment: Segment) -> None:
    """Nobody else collects it or appends to it."""
    segment.busy = True
    log._heads = [None if head is segment else head for head in log._heads]


def _punch_all(log: LogBase) -> int:
    """Give back the pages on which nothing lives, without writing anything; bytes."""
    given = 0
    for segment in list(log._segments.values()):
        with log._lock:
            log._settle_locked()
            given += _punch_locked(log, segment)
    return given


def _punch_locked(log: LogBase, segment: Segment) -> int:
    given = 0 if segment.dropped else segment.punch_dead()
    log._used_bytes -= given
    return given


def _victim_locked(log: LogBase, share: int, full: bool) -> Segment | None:
    """The segment with the least live in it, whose live records find room elsewhere."""
    room = None if log.disk_max is None else log.disk_max - log._used_bytes - log._segment_bytes // 8
    if full and log.persistent:  # nothing is given back before all has been copied
        space = os.statvfs(log.directory)
        free = space.f_bavail * space.f_frsize - 4 * log._deaths - _SPARE
        room = free if room is None else min(room, free)
    best, best_share = None, 2.0
    for segment in log._segments.values():
        needed = log._needed_bytes(segment)
        won = segment.disk_bytes - needed
        if segment.busy or segment.broken or (room is not None and needed > max(room, 0)):
            continue
        if won * share < segment.disk_bytes or won <= _WON_MIN:
            continue
        live_share = needed / segment.disk_bytes
        if live_share < best_share:
            best, best_share = segment, live_share
    return best


def _empty(log: LogBase, victim: Segment, moved: Moved, stepwise: bool) -> int:
    """Move what lives; bytes won, which are fewer than none, since it lies elsewhere now.

    With `stepwise`, what was moved is given back after each step. Or SwapFileError, MemoryLimitError.
    """
    won = 0
    step, move = (_STEP_FULL, _move_and_punch) if stepwise else (_STEP, _move)
    window = Window(log._io, victim.fd, _STEP)
    batch: _Batch = []
    batch_bytes = 0
    try:
        for offset in victim.live_offsets():
            head = read_head(window, offset, victim.salt)
            payload = None
            if head is not None:
                payload = window.get(offset + head.payload_at, head.payload_bytes)
            if head is None or payload is None or len(payload) < head.payload_bytes or (
                    payload_sum(payload, head.parts, head.seq) != head.payload_sum):
                log._lose(victim, offset)
                continue
            batch.append((offset, head, payload))
            batch_bytes += head.nbytes
            if batch_bytes >= step or len(batch) >= _MOVED_MAX:
                won -= move(log, victim, batch, moved, log.disk_max)
                batch, batch_bytes = [], 0
        won -= move(log, victim, batch, moved, log.disk_max)
    except OSError as error:
        if isinstance(error, SwapFileError):
            raise
        raise log._unreadable(error) from error
    finally:
        if stepwise:
            with log._lock:
                log._settle_locked()
                won += _punch_locked(log, victim)  # counts what was given back before, too
    return won


def _delete(log: LogBase, victim: Segment) -> int:
    """Delete a segment without live records; bytes given back. Or SwapFileError."""
    with log._lock:
        log._settle_locked()
        if victim.dropped or victim.live_count:  # cleared meanwhile; or a bug: keep it then
            return 0
        unsynced, changes = log._unsynced_locked([victim])
    if log.persistent:
        log._sync(unsynced, changes)
        with log._lock:
            log._settle_locked()
            if victim.dropped:
                return 0
            log._sync(*log._unsynced_locked([victim]))  # what came since
            log._write_deaths_locked(victim, log._notes_of([victim]))
            unsynced, changes = log._unsynced_locked([victim])
        log._sync(unsynced, changes)
    with log._lock:
        given = 0 if victim.dropped else victim.disk_bytes
        log._drop_locked(victim)
        return given


def _move_and_punch(log: LogBase, victim: Segment, batch: _Batch, moved: Moved, _: int | None) -> int:
    """`_move`, and give back where they lay; with as little room as there is.

    disk_max is of no concern: what is given back here is counted at the end.
    """
    if not batch:
        return 0
    try:
        copied = _move(log, victim, batch, moved, None)
    except SwapFileError as error:
        if error.errno not in FULL or len(batch) < 2:
            raise
        half = len(batch) // 2
        return (_move_and_punch(log, victim, batch[:half], moved, None)
                + _move_and_punch(log, victim, batch[half:], moved, None))
    offset, head, _payload = batch[-1]
    victim.punch(batch[0][0] // PAGE * PAGE, offset + head.nbytes)  # all before it has moved or died
    return copied


def _move(log: LogBase, victim: Segment, batch: _Batch, moved: Moved, limit: int | None) -> int:
    """Write the records of `batch` anew and tell `moved`; the bytes that they take."""
    with log._lock:
        log._settle_locked()
        if victim.dropped or log.closed:
            return 0
        batch = [one for one in batch if victim.is_live(one[0])]
        if not batch:
            return 0
        new = log._write_locked(
            [(Kind.VALUE, head.seq, head.key, head.meta, [payload]) for _, head, payload in batch],
            True, limit)
    told = 0
    try:
        for (offset, head, _), location in zip(batch, new, strict=True):
            old = Location(victim.number, offset, head.nbytes)
            if not moved(head.key, old, location):
                log.free(location)
            told += 1
            log.free(old)
    finally:
        for location in new[told:]:  # `moved` raised: the old ones stay
            log.free(location)
    return sum(location.nbytes for location in new)
