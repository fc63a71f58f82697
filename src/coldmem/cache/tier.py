"""The disk tier of a cache: what leaves RAM goes to a log, and comes back when it is wanted.

Owns: the log, and the format of a record's key and meta.
Guarantees: a value leaves RAM after its record is written. A record whose checksum fails is never
handed out: its key is gone, and `on_evict` hears "corrupt"; a lossless cache raises instead. When
nothing can be written, a cache evicts; a lossless one raises, and everything is still there.
Locks: `lock`, one writer at a time; taken before any lock of the engine. Reads take none.
"""

from __future__ import annotations

import contextlib
import os
import pickle
import threading
import time
import zlib
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from coldmem.cache.core import MISSING
from coldmem.cache.disk_read import META, raw_table, read_value
from coldmem.cache.log import Location, Log
from coldmem.cache.log_base import FULL
from coldmem.codecs import Codec, get_codec
from coldmem.codecs.zstd_dict import ZstdDictCodec
from coldmem.errors import CorruptDataError, MemoryLimitError, SwapFileError
from coldmem.units import format_bytes

if TYPE_CHECKING:
    from typing_extensions import Buffer

    from coldmem.cache.cache import Cache

_KEY_OTHER = 4
_KEY_OWN = 5
_CODEC_NAME, _CODEC_DICTIONARY = 0, 1
_BATCH_BYTES = 256 << 10
_GARBAGE_SHARE = 4  # of the log: more garbage is collected
_BATCHES_UNABLE = 64  # of keys that cannot be written: after so many, no others are looked for
_Place = tuple[int, int, int]


class Tier:
    """See the module.

    Parameters
    ----------
    cache : Cache
    directory : path
        Of the log; see `Log`.
    disk_max : int or None
        Most bytes on disk.
    persistent : bool
        The log outlives the cache.
    """

    def __init__(self, cache: Cache, directory: str | os.PathLike[str], disk_max: int | None,
                 persistent: bool) -> None:
        self.cache = cache
        self.persistent = persistent
        self.disk_max = disk_max
        self.lock = threading.RLock()
        segment = 16 << 20
        if disk_max is not None:  # so that collecting has segments to choose from
            segment = max(min(segment, disk_max // 16), 64 << 10)
        self.log = Log(directory, disk_max=disk_max, persistent=persistent, segment_bytes=segment)
        self._metadata = 0
        self._garbage_next = 0  # so much garbage must there be before collecting is tried again
        # While there are records that no entry has yet, collecting would take them for dead.
        self._may_collect = not persistent
        self._writing = 0  # calls of `_write`; more than one: a finalizer has used the cache in it
        # By number, of what `save_codec` wrote. When a record of a dictionary is damaged its number is
        # given out again, and values of the old one must not be read with the new one.
        self._sums: dict[int, int] = {}
        self.writebacks = self.written = self.disk_reads = self.read = self.refused = self.corrupt = 0

    # -- keys and meta as the log has them -----------------------------------------------------------
    def _log_key(self, key: bytes) -> bytes | None:
        """A number of the side table means nothing to another process; the key itself does."""
        if key[0] != _KEY_OTHER or not self.persistent:
            return key
        value = self.cache._key_of_bytes(key)
        if value is MISSING:
            return None
        try:
            return bytes([_KEY_OTHER]) + pickle.dumps(value, protocol=5)
        except Exception:
            return None  # a key that cannot be pickled stays in RAM

    def _engine_key(self, key: bytes) -> bytes | None:
        if key[0] != _KEY_OTHER or not self.persistent:
            return key
        try:
            return self.cache._bytes_of_key(pickle.loads(key[1:]))
        except Exception:
            return None

    def _records(self, victims: Sequence[tuple[Any, ...]]) -> tuple[list[Any], list[Any], list[Any]]:
        good, bad, records = [], [], []
        now = time.time()
        for row in victims:
            key = self._log_key(row[3])
            if key is None:
                bad.append(row)
                continue
            kind, codec, table, length, left = row[4]
            meta = META.pack(kind, codec, table, self._sums.get(codec, 0), length,
                              0.0 if left is None else now + left)
            good.append(row)
            records.append((key, meta, row[5]))
        return good, bad, records

    # -- out -----------------------------------------------------------------------------------------
    def make_room(self, need: int) -> None:
        """Free about `need` bytes of RAM.

        Raises
        ------
        MemoryLimitError, SwapFileError
            A lossless cache has no room left, in RAM nor on disk; or the disk fails.
        """
        cache = self.cache
        if cache._compact() >= need:
            return
        try:
            with self.lock:
                if self._evict_locked(max(need, min(_BATCH_BYTES, cache.memory_max // 16))):
                    return
                # Memory may be full of keys of what lies on disk.
                if not cache.lossless and (cache._evict_from_ram(need)
                                           or cache._drop_oldest_on_disk(16 * need)):
                    cache._settle()
                    return
        except SwapFileError as error:
            if error.errno not in FULL:
                raise
            raise MemoryLimitError(f"{cache._memory_is_full()}, and so is the disk under"
                                   f" {self.log.directory}: free some of it, delete entries, or raise"
                                   " memory_max") from error
        except MemoryLimitError as error:
            used = format_bytes(self.log.used_bytes)
            raise MemoryLimitError(f"{cache._memory_is_full()}, and {used} of"
                                   f" disk_max={format_bytes(self.disk_max or 0)}, of which a part is"
                                   " kept free to work in: delete entries, or raise disk_max or"
                                   " memory_max") from error
        finally:
            if self._may_collect:  # else the cache is being opened: who made it hears of it later
                cache._drain()
        raise MemoryLimitError(f"{cache._memory_is_full()}, by what cannot go to disk, as keys and what"
                               " other threads are storing: raise memory_max, or delete entries")

    def evict(self, nbytes: int) -> int:
        """Move about `nbytes` from RAM to disk: bytes of RAM given up, 0 when nothing could go."""
        try:
            with self.lock:
                return self._evict_locked(nbytes)
        finally:
            if self._may_collect:
                self.cache._drain()

    def _evict_locked(self, nbytes: int) -> int:
        cache = self.cache
        before = cache._used()
        for _ in range(_BATCHES_UNABLE):
            victims, got = cache._victims(nbytes)
            if not victims:
                return int(got)
            try:
                written = self._write(victims, True)
            except (MemoryLimitError, SwapFileError):
                self.refused += len(victims)
                if cache.lossless:
                    raise
                break
            if written:
                self.writebacks += written
                return int(got)
            if not cache.lossless:  # keys that cannot be written
                break
        if cache.lossless or not cache._evict_from_ram(nbytes):
            return 0
        return max(before - cache._used(), 0)

    def _write(self, rows: Sequence[tuple[Any, ...]], leave: bool) -> int:
        """Write what the engine has given us, and tell it where it is: how many. `lock` is held.

        Nothing may be collected between writing and telling, nor a tombstone written since the giving.
        """
        cache = self.cache
        good = rows
        self._writing += 1
        try:
            try:
                good, bad, records = self._records(rows)  # pickles keys, which may run anything
                cache._abort(bad, True)
                places = self._append(records) if records else []
            except BaseException:
                cache._abort(good, False)
                raise
            lost = cache._commit(good, places, leave)
        finally:
            self._writing -= 1
        for place in lost:
            self.log.free(Location(*place), gone=True)
        self._account()
        return len(good)

    def put(self, key: bytes, parts: Sequence[Buffer], kind: int, codec: int, length: int,
            left: float | None, only_new: bool) -> bool:
        """Store what is not to be in memory: whether that was done. Or MemoryLimitError.

        `parts` are the payload of a record with a table, see `Recall._decode`; flat, of single bytes.
        """
        cache = self.cache
        nbytes = sum(memoryview(part).nbytes for part in parts)
        name = self._log_key(key)
        room = None if self.disk_max is None else self.disk_max - 2 * self.log.segment_bytes
        what = (f"a value of {format_bytes(length)}, {format_bytes(nbytes)} compressed, is too"
                f" large for memory_max={format_bytes(cache.memory_max)}, and")
        if name is None:
            raise MemoryLimitError(f"{what} its key cannot be written to disk: raise memory_max, or give"
                                   " it a key that can be pickled")
        if room is not None and nbytes > room:
            raise MemoryLimitError(f"{what} for disk_max={format_bytes(self.disk_max or 0)}, of which"
                                   f" {format_bytes(max(room, 0))} can hold it: raise one of the two, or"
                                   " split it")
        meta = META.pack(kind, codec, True, self._sums.get(codec, 0), length,
                          0.0 if left is None else time.time() + left)
        try:
            with self.lock:
                if only_new and cache._describe(key) is not None and cache._key_of_bytes(key) in cache:
                    return False
                (place,) = self._append([(name, meta, parts)])
                self._may_collect = False
                try:
                    # It finds no room only where no older value of the key is, that would be lost now.
                    done = cache._put_on_disk(key, place, kind, codec, True, length, left, only_new)
                except BaseException:
                    self.log.free(place, gone=True)
                    raise
                finally:
                    self._may_collect = True
                if not done:
                    self.log.free(place, gone=True)
                    if not only_new:
                        raise MemoryError("no memory for the key of a value")
                self.writebacks += 1
                self._account()
                return bool(done)
        except SwapFileError as error:
            if error.errno not in FULL:
                raise
            raise MemoryLimitError(f"{what} the disk under {self.log.directory} is full: free some of"
                                   " it, or raise memory_max") from error
        finally:
            cache._drain()

    def put_as_it_is(self, key: bytes, parts: Sequence[Buffer], kind: int, left: float | None) -> None:
        """`put` of a value that is not compressed."""
        length = sum(memoryview(part).nbytes for part in parts)
        self.put(key, [raw_table(length), *parts], kind, 0, length, left, False)

    def _append(self, records: list[Any]) -> list[Location]:
        """Write; where disk_max is in the way, drop what was used longest ago, or collect garbage."""
        size = sum(len(key) + 64 + sum(len(part) for part in parts) for key, _, parts in records)
        for attempt in range(8):
            try:
                places = self.log.append(records)
                self.written += sum(place.nbytes for place in places)
                return places
            except (MemoryLimitError, SwapFileError) as error:
                full = isinstance(error, SwapFileError)
                if attempt == 7 or (isinstance(error, SwapFileError) and error.errno not in FULL):
                    raise
                if not self._make_disk_room(size << attempt, full):
                    raise
        raise AssertionError

    def _make_disk_room(self, nbytes: int, full: bool) -> bool:
        """Free about `nbytes` on disk; `full`: it is the file system that has no room.

        False: a file system that is full stays so. What is persistent goes for no other's need.
        """
        log = self.log
        before = log.used_bytes
        if log.garbage() < nbytes and not self.cache.lossless and not (full and self.persistent):
            self.cache._drop_oldest_on_disk(nbytes)
            self.cache._settle()
        if log.garbage() and self._may_collect and self._writing < 2:
            try:
                log.collect(self._moved, want=nbytes, full=full)
            except SwapFileError:
                if not full:
                    raise
        return not full or log.used_bytes < before

    def _moved(self, key: bytes, old: Location, new: Location) -> bool:
        if key[0] == _KEY_OWN:
            return True
        known = self._engine_key(key)
        return known is not None and bool(self.cache._moved(known, old, new))

    def free_places(self, places: Sequence[_Place], gone: Sequence[_Place]) -> None:
        """These records are garbage now; of the keys of `gone` nothing newer is in the log."""
        for place in places:
            self.log.free(Location(*place))
        for place in gone:
            self.log.free(Location(*place), gone=True)
        log = self.log
        garbage = log.garbage()
        if (self._may_collect and garbage * _GARBAGE_SHARE > log.used_bytes + (4 << 20)
                and garbage >= self._garbage_next and not self._writing and self.lock.acquire(False)):
            try:
                log.collect(self._moved, want=garbage // 2)
                self._garbage_next = 0
            except (MemoryLimitError, SwapFileError):
                # There is no room to copy to. It is no loss, and needs not be tried at each turn.
                self._garbage_next = garbage + (log.used_bytes >> 4)
            finally:
                self.lock.release()

    def _account(self) -> None:
        now = self.log.metadata_bytes
        self.cache._charge(now - self._metadata)
        self._metadata = now

    # -- back ----------------------------------------------------------------------------------------
    def load(self, key: Any, place: _Place, stay: bool) -> Any:
        """The value of a key that lies at `place`; MISSING: no longer, look again. With `stay` it is not
        brought back to RAM.
        """
        cache = self.cache
        raw = cache._bytes_of_key(key)
        if raw is None:
            return MISSING
        name = self._log_key(raw)
        keep = not stay and place[2] <= cache.memory_max // 8
        tried = False
        identity = None
        while True:
            if tried:
                identity = cache._identity(key)
            row = cache._describe(raw)
            if row is None or row[5] != tuple(place):
                return MISSING  # it moved, or went, before or while we read
            try:
                kind, data, payload = read_value(cache, self.log, Location(*place), name, keep)
                if cache._describe(raw) != row:
                    return MISSING  # nor does what it was compressed with need to be what it was
                value = data if isinstance(data, bytes) else cache._load_value(kind, data)
                break
            except (CorruptDataError, SwapFileError, ValueError) as error:
                if not tried:  # everything may have been cleared, and the same place been used again
                    tried = True
                    continue
                if cache.lossless or (isinstance(error, SwapFileError)
                                      and not isinstance(error, CorruptDataError)):
                    raise
            self.corrupt += 1
            if identity is not None and cache._delete(key, identity):
                cache._evicted(key, "corrupt")
            return MISSING
        self.disk_reads += 1
        self.read += place[2]
        if payload is not None and keep:
            with contextlib.suppress(MemoryLimitError, SwapFileError):  # then it stays on disk
                cache._back_to_ram(raw, payload, place, self.persistent)
            cache._drain()
        return value

    # -- persistence ---------------------------------------------------------------------------------
    def flush(self) -> None:
        """Write what is in RAM only, and make it all durable."""
        cache = self.cache
        if self.persistent:
            for shard in range(cache._shards()):
                at = 1
                while at:
                    with self.lock:
                        at, copies = cache._dirty(shard, at)
                        self._write(copies, False)
        cache._drain()  # what has gone must be known to the log now
        self.log.flush()

    def save_codec(self, number: int, codec: Codec) -> None:
        """Say in the log what a number of a codec means, before the first record that needs it."""
        if not self.persistent:
            return
        key = bytes([_KEY_OWN, number])
        if isinstance(codec, ZstdDictCodec):
            meta, payload = bytes([_CODEC_DICTIONARY, codec.level]), codec.dictionary
        else:
            meta, payload = bytes([_CODEC_NAME]), codec.name.encode()
        self._sums[number] = zlib.crc32(payload)
        with self.lock:
            self.log.append([(key, meta, [payload])])

    def recover(self) -> dict[int, Codec]:
        """Take over what an earlier cache left: the codecs by number, entries as on disk."""
        cache = self.cache
        found = list(self.log.recover())
        codecs: dict[int, Codec] = {}
        for place, key, meta in found:
            if key[:1] == bytes([_KEY_OWN]):
                try:
                    data = bytes(self.log.read(place).payload)
                except CorruptDataError:
                    self.log.free(place)
                    continue
                self._sums[key[1]] = zlib.crc32(data)
                codecs[key[1]] = (ZstdDictCodec(data, meta[1]) if meta[0] == _CODEC_DICTIONARY
                                  else get_codec(data.decode()))
                cache._add_codec(codecs[key[1]], key[1])
        now = time.time()
        for place, key, meta in found:
            if key[:1] == bytes([_KEY_OWN]):
                continue
            kind, codec, table, what, length, expires = META.unpack(meta)
            usable = what == self._sums.get(codec, 0) and (codec == 0 or codec in codecs)
            usable = usable and (expires == 0 or expires > now)
            if usable and key[0] == _KEY_OTHER:
                usable = self._restore_other(key, place, kind, codec, table, length, expires, now)
            elif usable:
                usable = cache._put_on_disk(key, place, kind, codec, table, length,
                                        expires - now if expires else None)
            if not usable:
                self.log.free(place)
        self._may_collect = True
        self._account()
        return codecs

    def _restore_other(self, key: bytes, place: Location, kind: int, codec: int, table: int,
                       length: int, expires: float, now: float) -> bool:
        try:
            value = pickle.loads(key[1:])
            raw, number = self.cache._hold(value)
        except Exception:
            return False
        try:
            return bool(self.cache._put_on_disk(raw, place, kind, codec, table, length,
                                                expires - now if expires else None))
        finally:
            self.cache._release(number)

    def drop(self, key: Any, identity: tuple[int, int, int] | None = None) -> bool:
        """Drop a key, if its value is still that one, for good: whether it was there.

        In one step for whoever writes: what is set after it must not get a record before its tombstone,
        which would take it along after a crash.
        """
        cache = self.cache
        with self.lock:
            raw = cache._bytes_of_key(key)
            if raw is None:
                return False
            name = self._log_key(raw)  # a key of the side table is not known afterwards
            if not cache._drop(key, identity):
                return False
            if name is not None:
                try:
                    self.log.remove([name])
                except SwapFileError as error:
                    if error.errno not in FULL:
                        raise
                    cache._settle()  # so that its place is among what the next flush writes down
                    self.log.note_deaths()
        return True

    def clear(self) -> None:
        """Forget all records, but what the codecs are."""
        with self.lock:
            self.log.clear()

    def stats(self) -> dict[str, int]:
        """Counters of the disk tier."""
        return {
            "disk_used_bytes": self.log.used_bytes,
            "disk_max_bytes": self.disk_max or 0,
            "writebacks": self.writebacks,
            "written_bytes": self.written,
            "disk_reads": self.disk_reads,
            "read_bytes": self.read,
            "refused": self.refused,
            "corrupt": self.corrupt,
        }

    def close(self) -> None:
        """Close the log; the cache is closed before."""
        with self.lock:
            self.log.close()
