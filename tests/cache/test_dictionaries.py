"""A cache learns on, and no dictionary goes while a value needs it."""

from __future__ import annotations

import itertools
import random
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from coldmem import Cache
from coldmem.cache import learn, value_codecs
from coldmem.cache.learn import Learner
from coldmem.codecs.zstd_dict import ZstdDictCodec


@pytest.fixture(autouse=True)
def learns_quickly(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(value_codecs, "plan_for", lambda memory_max: (4096, 1, 40))
    monkeypatch.setattr(value_codecs, "_SAMPLE_SELDOM", 1)
    monkeypatch.setattr(learn, "BREAK_STORES", 32)
    monkeypatch.setattr(learn, "AVERAGE_STORES", 32)


def record(kind: int, number: int) -> bytes:
    """Values of a kind share long strings, which those of another kind do not have."""
    shared = random.Random(f"kind{kind}")
    fields = ["".join(shared.choices("abcdefghijklmnop", k=24)) for _ in range(12)]
    return f"{kind} {number}: ".encode() + ", ".join(f"{f}: {number}" for f in fields).encode()


def learner_of(cache: Cache) -> Learner:
    learner = cache._codecs._learner
    assert learner is not None
    return learner


def store_until(cache: Cache, kind: int, condition: Callable[[], bool]) -> None:
    """Store values of a kind, as many as it takes within reason."""
    for number in itertools.count():
        if condition():
            return
        assert number < 30_000, "it has stopped to learn"
        cache[number % 200] = record(kind, number)


def quiet(cache: Cache) -> None:
    """The thread that trains has ended."""
    thread = cache._codecs._thread
    if thread is not None:
        thread.join(30)
        assert not thread.is_alive()


def test_a_training_that_falls_due_during_another_is_not_lost(monkeypatch: pytest.MonkeyPatch) -> None:
    """Passing over all entries of a large cache takes long; the next samples may be complete by then."""
    busy, go = threading.Event(), threading.Event()

    def reencode(number: int) -> None:
        busy.set()
        assert go.wait(30)

    with Cache("8MiB") as cache:
        learner = learner_of(cache)
        monkeypatch.setattr(cache._codecs, "_reencode", reencode)
        try:
            store_until(cache, 1, busy.is_set)
            store_until(cache, 2, lambda: learner.due)
            assert learner.trainings == 1
        finally:
            go.set()
        quiet(cache)
        store_until(cache, 2, lambda: learner.trainings == 2)


def test_a_cache_learns_on_when_a_dictionary_can_go_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(value_codecs, "_DICTIONARIES_MOST", 2)
    with Cache("8MiB") as cache:
        learner, codecs = learner_of(cache), cache._codecs
        monkeypatch.setattr(codecs, "_reencode", lambda number: None)  # so that both stay in use
        store_until(cache, 1, lambda: learner.adoptions == 1)
        quiet(cache)
        kept = {f"kept {number}": record(1, number) for number in range(9)}
        cache.update(kept)
        store_until(cache, 2, lambda: learner.adoptions == 2)
        quiet(cache)
        store_until(cache, 3, lambda: learner._refusals > 0)  # due, and there is no number for one
        quiet(cache)
        assert learner.adoptions == 2
        assert cache.stats()["dictionaries"] == 2
        cache.check_valid()
        assert {key: cache[key] for key in kept} == kept
        for key in kept:
            del cache[key]
        store_until(cache, 3, lambda: learner.adoptions == 3)
        quiet(cache)
        assert cache.stats()["dictionaries"] == 2


def test_a_dictionary_that_nothing_needs_goes() -> None:
    """Though the thread that trains begins while whoever started it has working memory in hand."""
    with Cache("8MiB") as cache:
        learner = learner_of(cache)
        for kind in range(1, 6):
            store_until(cache, kind, lambda kind=kind: learner.adoptions == kind)
            quiet(cache)
            for number in range(200):
                cache[number] = record(kind, number)
        assert cache.stats()["dictionaries"] <= 2  # each pass gives all values the new one
        cache.check_valid()
        assert cache[7] == record(5, 7)


TEXTS = [random.Random(seed).randbytes(2000).hex().encode() for seed in range(2)]


def codec_of(text: bytes) -> ZstdDictCodec:
    """Its frames say nothing about the dictionary: another one makes something else of them."""
    return ZstdDictCodec(text, 1)


def test_a_dictionary_stays_while_a_value_is_on_its_way(monkeypatch: pytest.MonkeyPatch) -> None:
    """Compressed, but not in the index yet: there is no room in that, and making some takes a while."""
    old, new = map(codec_of, TEXTS)
    with Cache("1MiB", codec="zstd", lossless=True) as cache:
        plain = cache.small_codec
        for number in range(255):  # the next needs a new block of entries
            cache[number] = bytes(range(15))
        number = cache._add_codec(old)
        assert number is not None
        cache.small_codec = number
        taken = cache.stats()["memory_max_bytes"] - cache._used() - 10_000
        cache._charge(taken)
        went = []

        def make_room(need: int) -> None:
            cache.small_codec = plain
            assert need > 10_000  # of entries: the value has its room
            went.append(cache._retire_codec(number))
            cache._add_codec(new, number) if went[-1] else None
            cache._charge(-taken)

        monkeypatch.setattr(cache, "_make_room", make_room)
        cache["k"] = TEXTS[0][100:600]
        assert went == [False]
        assert cache["k"] == TEXTS[0][100:600]
        del cache["k"]
        assert cache._codec_users(number) == 0 and cache._retire_codec(number)


def test_what_is_read_while_its_dictionary_goes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A reader has the record from disk; the key is deleted, and the number is another dictionary's."""
    old, new = map(codec_of, TEXTS)
    with Cache("1MiB", codec="zstd", directory=tmp_path) as cache:
        plain = cache.small_codec
        number = cache._add_codec(old)
        assert number is not None
        cache.small_codec = number
        cache["k"] = TEXTS[0][100:600]
        cache.small_codec = plain
        cache.evict("1MiB")
        assert cache.stats()["disk_entries"] == 1
        decode, found = cache._decode, []

        def late(*arguments: object) -> object:
            if "k" in cache:
                del cache["k"]
                assert cache._retire_codec(number)
                assert cache._add_codec(new, number) == number
            found.append(decode(*arguments))
            return found[-1]

        monkeypatch.setattr(cache, "_decode", late)
        assert cache.get("k") is None
        assert found and found[0] != TEXTS[0][100:600]
        assert cache.stats()["corrupt"] == 0


def test_putting_off_before_samples_are_due_does_nothing() -> None:
    learner = Learner(dictionary_bytes=4096, samples=40)
    learner.put_off()
    learner.sample(record(1, 1))
    learner.put_off()
    assert learner.sampling and learner.sample_bytes == len(record(1, 1))


def test_what_is_put_off_comes_again_later_each_time() -> None:
    learner = Learner(dictionary_bytes=4096, samples=40)
    waits = []
    for turn in range(3):
        for number in itertools.count():
            if learner.sample(record(turn, number)):
                break
        assert learner.due
        learner.put_off()
        assert not learner.due and learner.sample_bytes == 0
        nbytes = len(record(turn, 0))
        for stored in itertools.count(1):
            if learner.observe(nbytes, nbytes // 3):
                break
            assert stored < 1 << 20
        waits.append(stored)
    assert waits == sorted(waits) and waits[0] < waits[2]
