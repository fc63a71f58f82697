"""When to train a dictionary for small values, on what, and whether to keep it.

Owns: copies of the samples while it collects them, and what it remembers of how well values compressed.
Guarantees: an adopted dictionary was at least 5 % better than the codec in use, on samples that it was
not trained on. Data that no dictionary helps is tried again after ever longer breaks. `train` may run in
a thread in the background while others call `sample` and `observe`; none of them waits for it.
Assumes: the caller trains, or puts that off, when samples are `due`, and gives `observe` what it stored
since.
Locks: one of its own, taken with nothing else; `sample` and `observe` never wait for it, but leave out
what they were given while another thread has it.
"""

from __future__ import annotations

import threading

from coldmem.codecs.codec import Codec
from coldmem.codecs.zstd_dict import ZstdDictCodec, train_dictionary
from coldmem.errors import CodecError, TrainingError, UsageError

KIB, MIB = 1 << 10, 1 << 20
VALUE_BYTES_MIN = 16  # nothing can be saved on less
HELD_OUT_EVERY = 5  # one sample in five judges the dictionary, the others make it
GAIN_MIN = 0.05  # what a new dictionary must save
DRIFT = 0.15  # how much worse than at training is drift
AVERAGE_STORES = 1000  # what the moving average remembers, in values of the usual size
RETRAIN_STORES = 65536  # values after which a better dictionary is looked for anyway
BREAK_STORES = 2048  # at least so many values between two trainings, doubled with each up to:
BREAKS_MAX = 3
REFUSALS_MAX = 8  # each refusal in a row doubles all distances, so often at most


def plan_for(memory_max: int) -> tuple[int, int, int]:
    """What dictionary a cache can afford.

    Parameters
    ----------
    memory_max : int
        Limit of the cache in bytes.

    Returns
    -------
    tuple of int
        Most bytes of a dictionary (0: better none), the level of zstd to use it with, and values to
        train it on. Measured with libzstd 1.5.4 on JSON of 1.1 KiB: 32 KiB at level 1 give a ratio of
        3.6 and take 105 KiB with libzstd's tables; 64 KiB at level 5 give 4.2 and take 873 KiB, 112 KiB
        at level 6 give 4.4 and take 921 KiB; these take 1.5 and 2 times as long to compress, and as
        long to decompress. 16 KiB take 89 KiB; sizes between 4 and 8 KiB take more, up to 178 KiB,
        since libzstd gives small dictionaries large tables.
    """
    if memory_max >= 64 * MIB:
        return 112 * KIB, 6, 600
    if memory_max >= 32 * MIB:
        return 64 * KIB, 5, 400
    if memory_max >= 4 * MIB:
        return 32 * KIB, 1, 200
    return (16 * KIB if memory_max >= MIB // 2 else 0), 1, 200


class Learner:
    """Says when to train a dictionary, trains it, and says no to one that does not pay.

    Parameters
    ----------
    level : int, optional
        Level of zstd.
    dictionary_bytes : int, optional
        Most bytes of a dictionary; see `plan_for`. 0: it never learns.
    samples : int, optional
        Values to train on, 16 to 1000; a fourth of that is collected beside them, as judges.
    value_bytes_max : int, optional
        Larger values are no samples. At 16 KiB a dictionary of 32 KiB saves 5 to 14 % beside zstd at
        level 1 (Python, C, JSON, HTML; 21 and 26 % of JSON and HTML of 4 KiB) and compresses a little
        slower.
    sample_bytes_max : int, optional
        Most bytes of all samples; 24 times `dictionary_bytes` if not given.

    Attributes
    ----------
    value_bytes_max : int
        As given.
    sampling : bool
        Whether `sample` wants values now.
    trainings, adoptions : int
        How often it has trained, and how often that gave a dictionary.
    """

    def __init__(
        self, *, level: int = 1, dictionary_bytes: int = 32 * KIB, samples: int = 200,
        value_bytes_max: int = 8 * KIB, sample_bytes_max: int | None = None,
    ) -> None:
        if not 16 <= samples <= 1000:
            raise UsageError(f"a dictionary is trained on 16 to 1000 samples, not {samples}")
        if dictionary_bytes and not 256 <= dictionary_bytes <= MIB:
            raise UsageError(
                f"a dictionary has 256 bytes to 1 MiB, or 0 for none, not {dictionary_bytes}"
            )
        if value_bytes_max < VALUE_BYTES_MIN:
            raise UsageError(f"values of at most {value_bytes_max} bytes are too small to learn from")
        self.value_bytes_max = value_bytes_max
        self.sampling = dictionary_bytes > 0
        self.trainings = 0
        self.adoptions = 0
        self._level = level
        self._dictionary_bytes = dictionary_bytes
        self._wanted = samples * HELD_OUT_EVERY // (HELD_OUT_EVERY - 1)
        self._room = sample_bytes_max or 24 * dictionary_bytes
        self._lock = threading.Lock()
        self._samples: list[bytes] = []
        self._bytes = 0
        # Since the last training; ratios are stored bytes per original byte, smaller is better.
        self._usual_bytes = 0  # mean of a sample; 0: never trained
        self._seen_bytes = 0
        self._average = 1.0
        self._baseline = 1.0
        self._settled = False  # whether the baseline was seen on what is stored, not on judges
        self._has_dictionary = False
        self._refusals = 0  # in a row
        self._training = False

    @property
    def due(self) -> bool:
        """Whether there are enough samples, and nobody trains: call `train`, or `put_off`."""
        return bool(self._samples) and not self.sampling and not self._training

    @property
    def sample_bytes(self) -> int:
        """Bytes of the samples held now, to be charged to the limit; 0 between collections."""
        return self._bytes

    def sample(self, value: bytes) -> bool:
        """Take `value` as a sample, if one of its size is wanted now.

        Returns
        -------
        bool
            True, once: there are enough, call `train`.
        """
        if not self.sampling or not VALUE_BYTES_MIN <= len(value) <= self.value_bytes_max:
            return False
        if not self._lock.acquire(blocking=False):
            return False
        try:
            if not self.sampling:
                return False
            self._samples.append(bytes(value))
            self._bytes += len(value)
            self.sampling = len(self._samples) < self._wanted and self._bytes < self._room
            return not self.sampling
        finally:
            self._lock.release()

    def observe(self, original_bytes: int, stored_bytes: int) -> bool:
        """Take note of values stored since the last call.

        Parameters
        ----------
        original_bytes, stored_bytes : int
            Sums over values of up to `value_bytes_max` that were stored with the newest dictionary, or
            with none while there is none.

        Returns
        -------
        bool
            True, once: the values have changed, or enough have come. From now on `sample` wants values
            again, and says when there are enough of them to train.
        """
        if original_bytes <= 0 or not self._usual_bytes or self.sampling:
            return False
        if not self._lock.acquire(blocking=False):
            return False
        try:
            if self.sampling or self._samples:  # collecting, or a training is due
                return False
            return self._note(original_bytes, stored_bytes / original_bytes)
        finally:
            self._lock.release()

    def _note(self, original_bytes: int, ratio: float) -> bool:
        stores = original_bytes / self._usual_bytes
        before = self._seen_bytes / self._usual_bytes
        # A true mean of the first AVERAGE_STORES values, a moving one from then on.
        weight = stores / min(before + stores, max(AVERAGE_STORES, stores))
        self._average += (ratio - self._average) * weight
        self._seen_bytes += original_bytes
        seen = before + stores
        if seen < AVERAGE_STORES:
            return False
        worse = self._average > self._baseline * (1 + DRIFT)
        changed = worse or (not self._has_dictionary and self._average < self._baseline * (1 - DRIFT))
        if not self._settled and not changed:
            # What is stored is more than the judges were, so it is the better measure.
            self._baseline, self._settled = self._average, True
        patience = 1 << min(self._refusals, REFUSALS_MAX)
        pause = (BREAK_STORES << min(self.trainings, BREAKS_MAX)) * patience
        if (changed and seen >= pause) or seen >= RETRAIN_STORES * patience:
            self._samples, self._bytes, self.sampling = [], 0, True
            return True
        return False

    def train(self, current: Codec) -> ZstdDictCodec | None:
        """Train a dictionary on the samples, and judge it by those that were kept out of that.

        Parameters
        ----------
        current : Codec
            What values are compressed with now.

        Returns
        -------
        ZstdDictCodec or None
            None when it is not at least 5 % better than `current`, when nothing comes of the samples,
            or when they are not complete yet.

        Raises
        ------
        MissingLibraryError
            When there is no libzstd that trains.
        """
        with self._lock:
            if self.sampling or self._training or not self._samples:
                return None
            self._training = True
            # They stay in place until the end: that keeps `observe` quiet meanwhile.
            samples = self._samples
        made: ZstdDictCodec | None = None
        judges = samples[::HELD_OUT_EVERY]
        new = 0
        old = judged = sum(map(len, judges))
        try:
            old = current.compressed_bytes(judges)
            made = self._make([s for i, s in enumerate(samples) if i % HELD_OUT_EVERY])
            if made is not None:
                new = made.compressed_bytes(judges)
                if new > old * (1 - GAIN_MIN):
                    made = None
        finally:
            with self._lock:
                original = sum(map(len, samples))
                self.trainings += 1
                self._usual_bytes = max(original // len(samples), 1)
                self._refusals = self._refusals + 1 if made is None else 0
                self._has_dictionary = self._has_dictionary or made is not None
                self.adoptions += made is not None
                # After a refusal what is there now is the measure of what comes.
                self._baseline = self._average = (old if made is None else new) / judged
                self._settled = False
                self._seen_bytes = 0
                self._samples, self._bytes = [], 0
                self._training = False
        return made

    def put_off(self) -> None:
        """There is no use for a dictionary now: look for one later, after twice as many values."""
        with self._lock:
            if not self.due:
                return
            self._usual_bytes = max(self._bytes // len(self._samples), 1)
            self._refusals += 1
            self._seen_bytes = 0
            self._samples, self._bytes = [], 0

    def _make(self, samples: list[bytes]) -> ZstdDictCodec | None:
        try:
            dictionary = train_dictionary(samples, self._dictionary_bytes, self._level)
            return ZstdDictCodec(dictionary, self._level)
        except (TrainingError, CodecError):
            return None


def stored_bytes(codec: Codec, value: bytes) -> int:
    """What `value` takes with `codec`: its own size where it does not get smaller."""
    packed = codec.compress(value)
    return len(value) if packed is None else len(packed)
