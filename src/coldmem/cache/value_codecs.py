"""Which codec a value of a cache gets, and the dictionaries that are learnt from small values.

Owns: the learner, the thread that trains, and the numbers of dictionaries.
Guarantees: a dictionary stays while an entry needs it; there are eight at most. Training happens in a
thread of its own, one at a time, and never while a value waits for it.
Locks: `_lock`, for starting and stopping the thread.
"""

from __future__ import annotations

import contextlib
import threading
import time
from typing import TYPE_CHECKING

from coldmem.cache.learn import Learner, plan_for
from coldmem.codecs import Codec, get_codec
from coldmem.codecs.registry import CodecLike
from coldmem.codecs.zstd_dict import ZstdDictCodec
from coldmem.errors import MissingLibraryError, UsageError

if TYPE_CHECKING:
    from coldmem.cache.cache import Cache
    from coldmem.cache.tier import Tier

_DICTIONARIES_MOST = 8
_SMALL_BYTES = 4096
# One of so many small values may be a sample, before and after the first training.
_SAMPLE_OFTEN, _SAMPLE_SELDOM = 1, 64
_RETIRE_TRIES, _RETIRE_PAUSE = 50, 0.002


class ValueCodecs:
    """See the module.

    Parameters
    ----------
    cache : Cache
    tier : Tier or None
    codec : str or Codec
        As the user asked.
    """

    def __init__(self, cache: Cache, tier: Tier | None, codec: str | Codec | CodecLike) -> None:
        self._cache = cache
        self._tier = tier
        self._lock = threading.Lock()
        self._thread: threading.Thread | None = None
        self._stopped = False
        self._numbers: list[int] = []  # of dictionaries
        self._learner: Learner | None = None
        known = tier.recover() if tier is not None and tier.persistent else {}
        self._numbers += [n for n, there in known.items() if isinstance(there, ZstdDictCodec)]
        large = get_codec(codec)
        small = large
        if codec == "auto":
            try:
                small = get_codec("zstd")
                nbytes, level, samples = plan_for(cache.memory_max)
                self._learner = Learner(level=level, dictionary_bytes=nbytes, samples=samples)
            except MissingLibraryError:
                small = get_codec("lz4")
        cache.large_codec = self._number_of(large, known)
        cache.small_codec = cache.large_codec if small is large else self._number_of(small, known)
        cache.small_max = _SMALL_BYTES
        if self._learner is not None:
            cache.small_max = self._learner.value_bytes_max
            cache.sample_period = _SAMPLE_OFTEN
            if self._numbers:  # what an earlier cache learnt
                cache.small_codec = max(self._numbers)

    def _number_of(self, codec: Codec, known: dict[int, Codec]) -> int:
        for number, there in known.items():
            if there.name == codec.name and type(there) is type(codec):
                return number
        given = self._cache._add_codec(codec)
        if given is None:
            raise UsageError("this persistent cache has used all numbers for codecs: start a new folder")
        if self._tier is not None:
            self._tier.save_codec(given, codec)
        return given

    @property
    def dictionaries(self) -> int:
        """How many there are."""
        return len(self._numbers)

    def save(self) -> None:
        """Write to the log what the numbers in use mean, after it was cleared."""
        if self._tier is not None:
            cache = self._cache
            for number in {cache.large_codec, cache.small_codec, *self._numbers}:
                self._tier.save_codec(number, cache._codec_at(number))

    def learn(self, value: bytes, original: int, stored: int) -> None:
        """Hear of a small value, and of the bytes of all small values since the last call."""
        learner = self._learner
        if learner is None:
            return
        learner.observe(original, stored)
        learner.sample(value)
        # What these two answer is said once; the thread may be at its last training still.
        if learner.due and self._thread is None:
            with self._lock:
                if self._thread is None and not self._stopped:
                    self._thread = threading.Thread(
                        target=self._train, name="coldmem-dictionary", daemon=True)
                    self._thread.start()

    def _train(self) -> None:
        cache = self._cache
        try:
            assert self._learner is not None
            self._retire()
            if len(self._numbers) >= _DICTIONARIES_MOST:
                self._learner.put_off()  # an entry needs each of them; later one may be free
                return
            made = self._learner.train(cache._codec_at(cache.small_codec))
            number = None if made is None else cache._add_codec(made)
            if made is None or number is None:
                return
            cache._charge(made.dictionary_bytes)
            if self._tier is not None:
                self._tier.save_codec(number, made)
            self._numbers.append(number)
            cache.small_codec = number
            cache.sample_period = _SAMPLE_SELDOM
            self._reencode(number)
            self._retire()
        finally:
            self._thread = None

    def _reencode(self, number: int) -> None:
        """Give what was stored before, and what older dictionaries hold, the new one."""
        # A flush must find again what it has copied.
        lock = self._tier.lock if self._tier is not None else contextlib.nullcontext()
        for shard in range(self._cache._shards()):
            at = 1
            while at and not self._stopped:
                with lock:
                    at = self._cache._reencode(shard, at, number)

    def _retire(self) -> None:
        """Forget dictionaries that no entry needs; on disk, numbers are not used again."""
        cache = self._cache
        if self._tier is not None and self._tier.persistent:
            return
        for number in list(self._numbers):
            codec = cache._codec_at(number)
            assert isinstance(codec, ZstdDictCodec)
            for _ in range(_RETIRE_TRIES):
                if number == cache.small_codec or cache._codec_users(number) or self._stopped:
                    break
                if cache._retire_codec(number):
                    cache._charge(-codec.dictionary_bytes)
                    self._numbers.remove(number)
                    break
                # Somebody has working memory in hand: the one who started this thread, at first.
                time.sleep(_RETIRE_PAUSE)

    def stop(self) -> None:
        """Wait for a training, and begin no other."""
        with self._lock:
            self._stopped = True
            thread = self._thread
        if thread is not None and thread is not threading.current_thread():
            thread.join()
