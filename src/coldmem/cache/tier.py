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
import struct
import threading
import time
import zlib
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from coldmem.cache.core import MISSING
from coldmem.cache.log import Location, Log
from coldmem.codecs import Codec, get_codec
from coldmem.codecs.zstd_dict import ZstdDictCodec
from coldmem.errors import CorruptDataError, MemoryLimitError, SwapFileError
from coldmem.units import format_bytes

if TYPE_CHECKING:
    from coldmem.cache.cache import Cache

# kind, codec, table, checksum of what the codec is, length, wall time of expiry or 0
_META = struct.Struct("<BBBxIQd")
_KEY_OTHER = 4
_KEY_OWN = 5
_CODEC_NAME, _CODEC_DICTIONARY = 0, 1
_BATCH_BYTES = 256 << 10
_GARBAGE_SHARE = 4  # of the log: more garbage is collected
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
            meta = _META.pack(kind, codec, table, self._sums.get(codec, 0), length,
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
        if self.evict(max(need, min(_BATCH_BYTES, cache.memory_max // 16))):
            return
        # Other threads may have everything in hand; when they are done there is room.
        with self.lock:
            if self.evict(need):
                return
        if not cache.lossless:
            if cache._evict_from_ram(need):
                return
            # Memory is full of keys of what lies on disk.
            with self.lock:
                if cache._drop_oldest_on_disk(16 * need):
                    cache._drain()
                    return
        raise MemoryLimitError(
            f"no room for {need} bytes within memory_max={format_bytes(cache.memory_max)}: "
            "raise memory_max, or set smaller values"
        )

    def evict(self, nbytes: int) -> int:
        """Move about `nbytes` from RAM to disk: bytes of RAM given up, 0 when nothing could go."""
        cache = self.cache
        before = cache._used()
        with self.lock:
            victims, got = cache._victims(nbytes)
            if not victims:
                return int(got)
            good, bad, records = self._records(victims)
            cache._abort(bad)
            try:
                places = self._append(records)
            except (MemoryLimitError, SwapFileError):
                self.refused += len(good)
                cache._abort(good)
                if cache.lossless:
                    raise
                return max(before - cache._used(), 0) if cache._evict_from_ram(nbytes) else 0
            except BaseException:
                cache._abort(good)
                raise
            for place in cache._commit(good, places):
                self.log.free(Location(*place))
            self.writebacks += len(good)
            self._account()
        cache._drain()
        return int(got)

    def _append(self, records: list[Any]) -> list[Location]:
        """Write; where disk_max is in the way, drop what was used longest ago, or collect garbage."""
        size = sum(len(key) + 64 + sum(len(part) for part in parts) for key, _, parts in records)
        for attempt in range(8):
            try:
                places = self.log.append(records)
                self.written += sum(place.nbytes for place in places)
                return places
            except MemoryLimitError:
                if attempt == 7:
                    raise
                self._make_disk_room(size << attempt)
        raise AssertionError

    def _make_disk_room(self, nbytes: int) -> None:
        log = self.log
        if log.garbage() < nbytes and not self.cache.lossless:
            self.cache._drop_oldest_on_disk(nbytes)
            self.cache._drain()
        if log.garbage():
            log.collect(self._moved, want=nbytes)

    def _moved(self, key: bytes, old: Location, new: Location) -> bool:
        if key[0] == _KEY_OWN:
            return True
        known = self._engine_key(key)
        return known is not None and bool(self.cache._moved(known, old, new))

    def free_places(self, places: Sequence[_Place]) -> None:
        """These records are garbage now."""
        for place in places:
            self.log.free(Location(*place))
        log = self.log
        if log.garbage() * _GARBAGE_SHARE > log.used_bytes + (4 << 20) and self.lock.acquire(False):
            try:
                log.collect(self._moved, want=log.garbage() // 2)
            except (MemoryLimitError, SwapFileError):
                pass  # there is no room to copy to; garbage is no loss
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
        tried = False
        while True:
            row = cache._describe(raw)
            if row is None or row[5] != tuple(place):
                return MISSING  # it moved, or went, before or while we read
            try:
                record = self.log.read(Location(*place))
                if record.key != name:
                    raise CorruptDataError("another record lies where a value should be")
                kind, codec, table, _, length, _ = _META.unpack(record.meta)
                data = cache._decode(record.payload, kind, codec, bool(table), length)
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
            if cache._drop(key):
                cache._evicted(key, "corrupt")
            return MISSING
        self.disk_reads += 1
        self.read += place[2]
        if not stay and record.payload.nbytes <= cache.memory_max // 8:
            with contextlib.suppress(MemoryLimitError, SwapFileError):  # then it stays on disk
                cache._back_to_ram(raw, record.payload, place, self.persistent)
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
                        good, bad, records = self._records(copies)
                        cache._placed(bad, [(0, 0, 0)] * len(bad), True)
                        try:
                            places = self._append(records) if records else []
                        except BaseException:
                            cache._placed(good, [(0, 0, 0)] * len(good), True)
                            raise
                        for place in cache._placed(good, places, False):
                            self.log.free(Location(*place))
                        self._account()
        self.log.flush()
        cache._drain()

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
            kind, codec, table, what, length, expires = _META.unpack(meta)
            usable = what == self._sums.get(codec, 0) and (codec == 0 or codec in codecs)
            usable = usable and (expires == 0 or expires > now)
            if usable and key[0] == _KEY_OTHER:
                usable = self._restore_other(key, place, kind, codec, table, length, expires, now)
            elif usable:
                usable = cache._restore(key, place, kind, codec, table, length,
                                        expires - now if expires else None)
            if not usable:
                self.log.free(place)
        self._account()
        return codecs

    def _restore_other(self, key: bytes, place: Location, kind: int, codec: int, table: int,
                       length: int, expires: float, now: float) -> bool:
        try:
            value = pickle.loads(key[1:])
            raw = cache_bytes(self.cache, value)
        except Exception:
            return False
        return bool(self.cache._restore(raw, place, kind, codec, table, length,
                                        expires - now if expires else None))

    def names(self, keys: Sequence[bytes]) -> list[bytes]:
        """What the log calls these keys of the engine; to be asked before they are deleted."""
        return [name for key in keys if (name := self._log_key(key)) is not None]

    def remove(self, names: Sequence[bytes]) -> None:
        """They were deleted: a later reopening must not find them."""
        with self.lock:
            self.log.remove(names)

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


def cache_bytes(cache: Cache, key: Any) -> bytes:
    """The bytes of a key, which gets a number in the side table if it needs one."""
    data = cache._bytes_of_key(key, True)
    assert data is not None
    return data
