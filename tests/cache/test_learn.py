"""When a dictionary is trained, which are kept, and that the learner leaves hopeless data alone."""

from __future__ import annotations

import random
import threading

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from coldmem.cache.learn import (
    BREAK_STORES,
    RETRAIN_STORES,
    Learner,
    plan_for,
    stored_bytes,
)
from coldmem.codecs import Codec, get_codec
from coldmem.codecs.zstd_dict import ZstdDictCodec
from coldmem.errors import UsageError

ZSTD = get_codec("zstd")


def record(kind: int, i: int) -> bytes:
    """Values of a kind share long strings, which those of another kind do not have."""
    shared, own = random.Random(f"kind{kind}"), random.Random(f"{kind}.{i}")
    fields = ["".join(shared.choices("abcdefghijklmnop", k=24)) for _ in range(12)]
    return ", ".join(f"{f}: {own.randrange(10**6)}" for f in fields).encode()


def noise(i: int) -> bytes:
    return random.Random(i).randbytes(400)


def fill(learner: Learner, make: object, start: int = 0) -> int:
    """Give samples until it has enough; how many it took."""
    for i in range(start, start + 5000):
        if learner.sample(make(i)):  # type: ignore[operator]
            return i - start + 1
    raise AssertionError("it never has enough")


def trained(learner: Learner, make: object, current: Codec, start: int = 0) -> ZstdDictCodec | None:
    fill(learner, make, start)
    return learner.train(current)


def stores_until_due(
    learner: Learner, codec: Codec, make: object, most: int, step: int = 128, start: int = 10**6
) -> int | None:
    """How many stores it observes before it wants samples; None: not within `most`."""
    values = [make(start + i) for i in range(step)]  # type: ignore[operator]
    original = sum(map(len, values))
    stored = sum(stored_bytes(codec, v) for v in values)
    for n in range(step, most + step, step):
        if learner.observe(original, stored):
            return n
    return None


def test_learns_and_is_better() -> None:
    learner = Learner(dictionary_bytes=8192)
    assert learner.sampling and learner.sample_bytes == 0
    assert fill(learner, lambda i: record(1, i)) == 250
    assert learner.sample_bytes == sum(len(record(1, i)) for i in range(250))
    assert not learner.sampling and not learner.sample(record(1, 0))
    codec = learner.train(ZSTD)
    assert codec is not None and (learner.trainings, learner.adoptions) == (1, 1)
    assert learner.sample_bytes == 0
    fresh = [record(1, i) for i in range(5000, 5100)]
    assert sum(stored_bytes(codec, v) for v in fresh) < 0.6 * sum(stored_bytes(ZSTD, v) for v in fresh)


def test_train_without_samples_is_nothing() -> None:
    learner = Learner()
    assert learner.train(ZSTD) is None
    learner.sample(record(1, 1))
    assert learner.train(ZSTD) is None
    assert learner.trainings == 0 and learner.sampling and learner.sample_bytes


def test_only_values_of_its_size_and_no_more_bytes() -> None:
    learner = Learner(dictionary_bytes=4096, value_bytes_max=1000, sample_bytes_max=5000)
    assert not learner.sample(b"x" * 1001) and not learner.sample(b"x" * 15)
    assert learner.sample_bytes == 0
    assert [learner.sample(b"x" * 1000) for _ in range(5)] == [False] * 4 + [True]
    assert learner.sample_bytes == 5000


def test_drift_is_seen_and_learnt() -> None:
    learner = Learner(dictionary_bytes=8192)
    first = trained(learner, lambda i: record(1, i), ZSTD)
    assert first is not None
    assert stores_until_due(learner, first, lambda i: record(1, i), 20000) is None
    took = stores_until_due(learner, first, lambda i: record(2, i), 4000)
    assert took is not None and took <= 1000
    assert learner.sampling
    second = trained(learner, lambda i: record(2, i), first)
    assert second is not None and second.dictionary != first.dictionary
    value = record(2, 77777)
    assert stored_bytes(second, value) < 0.7 * stored_bytes(first, value)


def test_drift_soon_after_training_waits_for_the_break() -> None:
    learner = Learner(dictionary_bytes=8192)
    codec = trained(learner, lambda i: record(1, i), ZSTD)
    assert codec is not None
    took = stores_until_due(learner, codec, lambda i: record(2, i), 20000)
    assert took is not None and 2 * BREAK_STORES - 300 <= took <= 2 * BREAK_STORES + 600


def test_small_changes_are_no_drift() -> None:
    learner = Learner(dictionary_bytes=8192)
    codec = trained(learner, lambda i: record(1, i), ZSTD)
    assert codec is not None
    values = [record(1, i) for i in range(10**6, 10**6 + 100)]
    original, stored = sum(map(len, values)), sum(stored_bytes(codec, v) for v in values)
    for worse, drifts in ((1.0, False), (1.1, False), (1.3, True)):
        due = any(learner.observe(original, round(stored * worse)) for _ in range(100))
        assert due == drifts, worse


def test_what_is_stored_is_the_measure_and_not_the_judges() -> None:
    learner = Learner(dictionary_bytes=8192)
    codec = trained(learner, lambda i: record(1, i), ZSTD)
    assert codec is not None
    values = [record(1, i) for i in range(10**6, 10**6 + 100)]
    original, stored = sum(map(len, values)), sum(stored_bytes(codec, v) for v in values)
    for worse in (1.12, 1.22):  # each less than 15 % above the one before
        assert not any(learner.observe(original, round(stored * worse)) for _ in range(100))


def test_a_few_odd_values_are_no_drift() -> None:
    learner = Learner(dictionary_bytes=8192)
    codec = trained(learner, lambda i: record(1, i), ZSTD)
    assert codec is not None
    for _ in range(10):
        assert stores_until_due(learner, codec, lambda i: record(1, i), 2000, 20) is None
        assert not learner.observe(20 * len(record(1, 0)), 20 * len(record(1, 0)))


def test_two_cannot_train_at_once() -> None:
    class Twice(Learner):
        def _make(self, samples: list[bytes]) -> ZstdDictCodec | None:
            assert self.train(ZSTD) is None
            return super()._make(samples)

    learner = Twice(dictionary_bytes=8192)
    assert trained(learner, lambda i: record(1, i), ZSTD) is not None
    assert learner.trainings == 1


def test_looks_again_after_many_stores() -> None:
    learner = Learner(dictionary_bytes=8192)
    codec = trained(learner, lambda i: record(1, i), ZSTD)
    assert codec is not None
    took = stores_until_due(learner, codec, lambda i: record(1, i), 2 * RETRAIN_STORES)
    assert took is not None and abs(took / RETRAIN_STORES - 1) < 0.1
    # The same data: a new dictionary is no better, and is refused.
    assert trained(learner, lambda i: record(1, i), codec, 10**5) is None
    assert (learner.trainings, learner.adoptions) == (2, 1)


def test_hopeless_data_is_tried_ever_more_seldom() -> None:
    learner = Learner(dictionary_bytes=8192)
    assert trained(learner, noise, ZSTD) is None
    gaps = []
    for turn in range(3):
        gap = stores_until_due(learner, ZSTD, noise, 17 * RETRAIN_STORES, 1024)
        assert gap is not None
        gaps.append(gap / RETRAIN_STORES)
        assert trained(learner, noise, ZSTD, 1000 * turn) is None
    assert gaps == pytest.approx([2, 4, 8], rel=0.05)
    assert learner.adoptions == 0


def test_data_that_become_compressible_are_seen() -> None:
    learner = Learner(dictionary_bytes=8192)
    assert trained(learner, noise, ZSTD) is None
    took = stores_until_due(learner, ZSTD, lambda i: record(1, i), RETRAIN_STORES)
    assert took is not None and took <= 5 * BREAK_STORES
    assert trained(learner, lambda i: record(1, i), ZSTD) is not None
    # An adoption ends the long breaks.
    took = stores_until_due(learner, ZSTD, noise, RETRAIN_STORES)
    assert took is not None and took <= 9 * BREAK_STORES


def test_equal_values_are_refused_without_a_fuss() -> None:
    learner = Learner()
    assert trained(learner, lambda _: b"x" * 20, ZSTD) is None
    assert learner.trainings == 1 and not learner.sampling


def test_a_dictionary_that_saves_too_little_is_refused() -> None:
    class Nearly(Learner):
        def _make(self, samples: list[bytes]) -> ZstdDictCodec | None:
            made.append(super()._make(samples))
            return made[0]

    made: list[ZstdDictCodec | None] = []
    learner = Nearly(dictionary_bytes=8192)
    assert trained(learner, lambda i: record(1, i), ZSTD) is made[0] is not None
    assert stores_until_due(learner, ZSTD, lambda i: record(1, i), RETRAIN_STORES) is not None
    assert trained(learner, lambda i: record(1, i), made[0]) is None  # the same one saves nothing
    assert len(made) == 2


def test_judges_are_not_trained_on() -> None:
    class Spy(Learner):
        def _make(self, samples: list[bytes]) -> ZstdDictCodec | None:
            seen.extend(samples)
            return None

    seen: list[bytes] = []
    learner = Spy()
    taken = [record(1, i) for i in range(250)]
    fill(learner, taken.__getitem__)
    learner.train(ZSTD)
    assert len(seen) == 200 and set(seen) < set(taken)


def test_a_failing_codec_leaves_it_usable() -> None:
    learner = Learner(dictionary_bytes=8192)
    fill(learner, lambda i: record(1, i))
    with pytest.raises(UsageError, match="base class"):
        learner.train(Codec())
    assert not learner.sampling and learner.sample_bytes == 0
    assert stores_until_due(learner, ZSTD, lambda i: record(1, i), 5 * BREAK_STORES) is not None
    assert trained(learner, lambda i: record(1, i), ZSTD) is not None


def test_it_can_be_turned_off() -> None:
    learner = Learner(dictionary_bytes=0)
    assert not learner.sampling
    assert not any(learner.sample(record(1, i)) for i in range(1000))
    assert learner.sample_bytes == 0 and learner.train(ZSTD) is None
    assert not learner.observe(10**9, 10**9)


@pytest.mark.parametrize(
    "wrong", [{"samples": 15}, {"samples": 1001}, {"dictionary_bytes": 100}, {"value_bytes_max": 5}]
)
def test_arguments(wrong: dict[str, int]) -> None:
    with pytest.raises(UsageError):
        Learner(**wrong)  # type: ignore[arg-type]


def test_dictionaries_fit_small_caches() -> None:
    values = [record(1, i) for i in range(300)]
    plans = [plan_for(1 << shift) for shift in range(10, 40)]
    assert plans == sorted(plans) and plans[0][0] == 0
    for shift in range(19, 27):
        nbytes, level, _ = plan_for(1 << shift)
        assert nbytes
        codec = ZstdDictCodec((b"".join(values) * 2)[:nbytes], level)
        assert codec.dictionary_bytes < (1 << shift) / 5


@settings(max_examples=50, deadline=None)
@given(st.lists(st.tuples(st.integers(-5, 10**7), st.integers(0, 10**7)), max_size=300))
def test_any_totals(totals: list[tuple[int, int]]) -> None:
    learner = Learner(dictionary_bytes=1024, samples=16)
    trained(learner, noise, ZSTD)
    due = [learner.observe(original, stored) for original, stored in totals]
    assert sum(due) <= 1 and learner.sampling == any(due)


@pytest.mark.tsan
def test_threads_train_once_each_time(stress_seconds: float) -> None:
    learner = Learner(dictionary_bytes=4096, samples=40)
    values = [record(1, i) for i in range(500)]
    due: list[bool] = []
    made: list[ZstdDictCodec | None] = []

    def work(number: int) -> None:
        for i in range(int(3000 * stress_seconds)):
            learner.observe(10**6 if i % 50 == 0 else 400, 300 if i % 2 else 100)
            if learner.sample(values[(number * 100 + i) % 500]):
                due.append(True)
                made.append(learner.train(ZSTD))

    threads = [threading.Thread(target=work, args=(n,)) for n in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert learner.trainings == len(due) == len(made) >= 1
    assert learner.adoptions == sum(m is not None for m in made)
