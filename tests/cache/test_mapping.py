"""The mapping contract: every method, keys of all kinds, values of all sizes, on each kind of cache."""

import collections.abc
import gc

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from cache_data import KINDS, make_cache, noise, text

from coldmem.errors import ClosedError, MemoryLimitError, UsageError

SIZES = [0, 1, 100, 4095, 4096, 4097, 65535, 65536, 65537, 1 << 20, (20 << 20) + 3]


# -- one entry -------------------------------------------------------------------------------------
def test_it_is_a_mutable_mapping(cache):
    assert isinstance(cache, collections.abc.MutableMapping)
    assert len(cache) == 0
    assert list(cache) == []
    assert not cache
    cache["a"] = b"1"
    assert cache
    assert cache["a"] == b"1"
    assert len(cache) == 1
    assert "a" in cache
    cache["a"] = b"2"
    assert cache["a"] == b"2"
    assert len(cache) == 1
    del cache["a"]
    assert len(cache) == 0
    assert "a" not in cache


@pytest.mark.parametrize("key", ["a", b"a", 5, ("a", 1), None])
def test_a_missing_key(cache, key):
    cache["other"] = b"x"
    for act in (
        lambda: cache[key],
        lambda: cache.__delitem__(key),
        lambda: cache.pop(key),
        lambda: cache.remaining_ttl(key),
    ):
        with pytest.raises(KeyError) as caught:
            act()
        assert caught.value.args == (key,)
    assert cache.get(key) is None
    assert cache.get(key, 5) == 5
    assert cache.pop(key, 5) == 5
    assert cache.pop(key, None) is None
    assert key not in cache
    assert len(cache) == 1


def test_pop(cache):
    cache.update(a=b"1", b=[2])
    assert cache.pop("a") == b"1"
    assert "a" not in cache
    assert cache.pop("b", 7) == [2]
    assert len(cache) == 0


def test_peek_leaves_no_trace(cache):
    cache.update(a=b"1", b=[2])
    before = cache.stats()
    assert cache.peek("a") == b"1"
    assert cache.peek("b") == [2]
    assert cache.peek("c") is None
    assert cache.peek("c", 7) == 7
    after = cache.stats()
    assert all(after[name] == before[name] for name in ("hits", "misses", "ram_entries", "disk_entries"))


def test_peek_reads_what_is_on_disk_where_it_lies(tmp_path):
    with make_cache("disk", tmp_path) as cache:
        cache["a"] = data = noise(300_000)
        while cache.stats()["ram_entries"]:
            assert cache.evict("1MiB") >= 0
        for _ in range(2):
            assert cache.peek("a") == data
        stats = cache.stats()
        assert stats["disk_entries"] == 1 and stats["disk_reads"] == 2 and stats["hits"] == 0
        assert cache["a"] == data and cache.stats()["ram_entries"] == 1


@pytest.mark.parametrize("kind", ["disk", "persistent", "lossless"])
def test_set_on_disk(tmp_path, kind):
    with make_cache(kind, tmp_path) as cache:
        cache["there"] = b"older"
        values = {n: noise(n, seed=n) for n in (0, 1, 65535, 65536, 65537, 3_000_000)}
        values["there"] = {"a": np.arange(30_000)}
        for key, value in values.items():
            cache.set_on_disk(key, value)
        stats = cache.stats()
        assert stats["disk_entries"] == len(cache) == len(values) and stats["ram_entries"] == 0
        cache.check_valid()
        for _ in range(2):
            assert all(cache[n] == values[n] for n in values if n != "there")
            assert (cache["there"]["a"] == np.arange(30_000)).all()
        cache.check_valid()
    if kind == "persistent":
        with make_cache(kind, tmp_path) as cache:
            assert all(cache[n] == values[n] for n in values if n != "there")


@pytest.mark.parametrize("kind", ["disk", "persistent", "lossless"])
def test_what_was_set_on_disk_is_read_after_it_was_moved_there(tmp_path, kind):
    """Its record lies in one part then, and is shorter."""
    with make_cache(kind, tmp_path) as cache:
        for n in range(40):
            cache.set_on_disk(n, noise(40_000 + n, n))
        cache["ram"] = noise(40_000, 99)
        cache.flush()
        for n in range(0, 40, 2):
            del cache[n]
        for _ in range(2):
            with cache._tier.lock:
                cache._tier.log.collect(cache._tier._moved, want=1 << 40)
            cache.check_valid()
            stats = cache.stats()
            assert stats["disk_live_bytes"] <= cache._tier.log.live_bytes
            assert cache._tier.log.live_bytes - stats["disk_live_bytes"] < 200  # what the codecs are
            assert all(cache.peek(n) == noise(40_000 + n, n) for n in range(1, 40, 2))
        assert cache["ram"] == noise(40_000, 99)
        assert all(cache[n] == noise(40_000 + n, n) for n in range(1, 40, 2))
        cache.check_valid()
        assert cache.stats()["corrupt"] == 0


def test_set_on_disk_without_a_disk_or_with_no_room(tmp_path):
    with make_cache("ram", tmp_path) as cache, pytest.raises(UsageError, match="directory="):
        cache.set_on_disk("a", b"x")
    with make_cache("lossless", tmp_path, disk_max="4MiB") as cache:
        cache["a"] = b"x"
        with pytest.raises(MemoryLimitError):
            cache.set_on_disk("a", noise(8_000_000))
        assert cache["a"] == b"x" and len(cache) == 1


def test_popitem(cache):
    cache.update(a=b"1", b=[2], c=None)
    assert dict(cache.popitem() for _ in range(3)) == {"a": b"1", "b": [2], "c": None}
    with pytest.raises(KeyError):
        cache.popitem()


def test_setdefault(cache):
    assert cache.setdefault("a", [1]) == [1]
    assert cache.setdefault("a", [2]) == [1]
    assert cache.setdefault("b") is None
    assert "b" in cache
    assert cache.get("b", 5) is None


def test_update(cache):
    cache.update({"a": b"1", 2: b"2"})
    cache.update([("b", b"3"), (2, b"4")], c=b"5")
    cache.update(())
    assert dict(cache) == {"a": b"1", 2: b"4", "b": b"3", "c": b"5"}


def test_clear(cache):
    for n in range(500):
        cache[n] = text(300, n)
    cache[("a", 1)] = b"x"
    cache.clear()
    assert len(cache) == 0
    assert list(cache) == []
    assert ("a", 1) not in cache
    assert cache.stats()["original_bytes"] == 0
    cache[5] = b"again"
    assert dict(cache) == {5: b"again"}


def test_views(cache):
    model = {n: b"%d" % n for n in range(1000)} | {f"k{n}": [n] for n in range(100)}
    cache.update(model)
    assert sorted(map(str, cache)) == sorted(map(str, model))
    assert set(cache.keys()) == set(model)
    assert dict(cache.items()) == model
    assert sorted(map(str, cache.values())) == sorted(map(str, model.values()))
    assert 5 in cache.keys()  # noqa: SIM118
    assert (5, b"5") in cache.items()
    assert (5, b"6") not in cache.items()
    assert len(cache.keys()) == len(cache.items()) == len(cache.values()) == len(model)
    assert cache.keys() & {5, "x"} == {5}


def test_many(cache):
    cache.set_many({n: b"%d" % n for n in range(50)})
    cache.set_many(((n, [n]) for n in range(50, 60)), ttl=1000)
    assert cache.get_many([3, "no", 55, 3.0]) == {3: b"3", 55: [55]}
    assert cache.get_many([]) == {}
    assert cache.remaining_ttl(3) is None
    assert 0 < cache.remaining_ttl(55) <= 1000
    assert cache.delete_many([1, 2, "no", 1]) == 2
    assert len(cache) == 58


# -- values ----------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    "make", [text, noise, lambda n, seed: bytes(n)], ids=["text", "noise", "zeros"]
)
def test_values_of_all_sizes(cache, make):
    model = {}
    for i, n in enumerate(SIZES):
        cache[n] = model[n] = make(n, i)
    for _ in range(2):
        for n in SIZES:
            found = cache[n]
            assert type(found) is bytes
            assert found == model[n]
        if cache._tier is not None:
            cache.evict("64MiB")
    if cache.stats()["evictions"] == 0:
        assert cache.stats()["original_bytes"] == sum(SIZES)


@pytest.mark.parametrize("kind", KINDS)
def test_a_value_is_replaced_by_one_of_another_size(new_cache, kind):
    cache = new_cache(kind)
    sizes = [n for n in SIZES if n <= 1 << 20]
    for i, n in enumerate(sizes):
        for m in sizes:
            cache["k"] = text(n, i)
            if i % 2:
                cache.evict("64MiB")
                if kind in ("ram", "lru"):
                    assert "k" not in cache
            cache["k"] = noise(m, i)
            assert cache["k"] == noise(m, i)
            assert len(cache) == 1
    assert cache.stats()["original_bytes"] == sizes[-1]


@pytest.mark.parametrize(
    "value", [bytearray(b"abc"), memoryview(b"abc"), memoryview(b"aXbXcX")[::2]]
)
def test_bytes_like_values_come_back_as_bytes(cache, value):
    cache["k"] = value
    assert cache["k"] == b"abc"
    assert type(cache["k"]) is bytes


def test_a_value_is_as_it_was_when_it_was_set(cache):
    value, array, things = bytearray(b"abc"), np.zeros(10_000), [1]
    cache.update(value=value, array=array, things=things)
    value[0] = 0
    array[0] = 1
    things.append(2)
    cache["array"][0] = 5
    cache["things"].append(3)
    assert cache["value"] == b"abc"
    assert cache["array"][0] == 0
    assert cache["things"] == [1]


@pytest.mark.parametrize(
    "value",
    [None, True, 5, "text", (1, [2]), {"a": {1, 2}}, 1.5, ..., "x" * 300_000],
    ids=repr if False else lambda v: type(v).__name__,
)
def test_objects(cache, value):
    cache["k"] = value
    assert cache["k"] == value
    assert type(cache["k"]) is type(value)
    assert cache.get("k", "default") == value
    cache.evict("64MiB")
    assert cache.get("k", value) == value


def test_arrays_and_tables(cache):
    rng = np.random.default_rng(0)
    arrays = {
        "small": np.arange(5),
        "large": rng.random((500, 300)),
        "fortran": np.asfortranarray(rng.random((300, 500))),
        "strided": rng.random((300, 500))[::3, ::2],
        "empty": np.zeros((0, 3)),
        "scalar": np.array(5.0),
        "objects": np.array([None, "a", (1,)], object),
        "huge": np.arange(3_000_000),
    }
    frame = pd.DataFrame(
        {"a": np.arange(5000), "b": rng.random(5000), "c": ["x", None, "zz", "y"] * 1250}
    )
    table = pa.table({"n": pa.array(range(9000)), "t": pa.array(["a", None, "ccc"] * 3000)})
    cache.update(arrays, frame=frame, table=table)
    for _ in range(2):
        for name, array in arrays.items():
            found = cache[name]
            np.testing.assert_array_equal(found, array)
            assert found.dtype == array.dtype
            if array.size:
                found[...] = found[...]  # it can be written to
        pd.testing.assert_frame_equal(cache["frame"], frame)
        assert cache["table"].equals(table)
        if cache.evict("64MiB") and cache.stats()["evictions"]:
            return


def test_a_serializer(new_cache):
    import json

    cache = new_cache(serializer=json)
    cache["a"] = {"b": [1, None, "ä"]}
    cache["raw"] = b"\xff"
    assert cache["a"] == {"b": [1, None, "ä"]}
    assert cache["raw"] == b"\xff"
    with pytest.raises(UsageError, match="dumps"):
        cache["a"] = {1, 2}
    assert cache["a"] == {"b": [1, None, "ä"]}
    with pytest.raises(UsageError, match="serializer"):
        new_cache(serializer=5)


def test_a_value_that_cannot_be_kept_leaves_the_old_one(cache):
    cache["k"] = b"old"
    for value in (lambda: 1, (i for i in "a"), [memoryview(b"x")]):
        with pytest.raises(UsageError, match="pickled"):
            cache["k"] = value
        with pytest.raises(UsageError, match="pickled"):
            cache.setdefault("new", value)
    assert dict(cache) == {"k": b"old"}


# -- iteration under change ------------------------------------------------------------------------
def test_iteration_while_it_changes(cache):
    """What is there all the time is seen once; what comes and goes, at most once."""
    stay = {f"stay{n}" for n in range(2000)}
    for key in stay:
        cache[key] = b"x"
    for n in range(500):
        cache["go", n] = b"x"
    seen = []
    for i, key in enumerate(cache):
        seen.append(key)
        cache["new", i] = b"y"
        cache.pop(("go", i % 500), None)
        cache[f"stay{i % 2000}"] = b"z" * (i % 50)
        if i > 10_000:
            break
    counted = collections.Counter(seen)
    assert stay <= set(seen)
    assert all(counted[key] == 1 for key in stay)
    assert all(counted[key] == 1 for key in counted if key[0] == "go")


def test_iteration_while_all_goes(cache):
    cache.update({n: b"x" for n in range(1000)})
    for n, key in enumerate(cache):
        assert key in range(1000)
        if n == 10:
            cache.clear()
    assert n < 1000
    items = iter(cache.items())
    cache.update({n: b"x" for n in range(1000)})
    with pytest.raises(StopIteration):
        next(items)
        cache.clear()
        for _ in items:  # `items` looks each key up, which may be gone
            pass
        next(items)


def test_an_iterator_that_is_dropped_does_no_harm(cache):
    cache.update({n: b"x" for n in range(1000)})
    iterator = iter(cache)
    next(iterator)
    del iterator
    cache.clear()


# -- loading ---------------------------------------------------------------------------------------
def test_get_or_load(cache):
    calls = []

    def load():
        calls.append(1)
        return [5]

    assert cache.get_or_load("k", load, ttl=500) == [5]
    assert cache.get_or_load("k", load) == [5]
    assert cache["k"] == [5]
    assert 0 < cache.remaining_ttl("k") <= 500
    assert len(calls) == 1
    assert cache.get_or_load("none", lambda: None) is None
    assert cache.get_or_load("none", load) is None
    with pytest.raises(ZeroDivisionError):
        cache.get_or_load("bad", lambda: 1 // 0)
    assert "bad" not in cache
    with pytest.raises(UsageError, match="itself"):
        cache.get_or_load("again", lambda: cache.get_or_load("again", load))
    assert cache.get_or_load("outer", lambda: cache.get_or_load("inner", load)) == [5]


def test_memoize(cache):
    calls = []

    @cache.memoize(ttl=500)
    def f(x, y=0):
        calls.append((x, y))
        return x + y

    @cache.memoize()
    async def g(x):
        calls.append(x)
        return x * 2

    import asyncio

    assert f(1) == f(1) == 1
    assert f(1, y=2) == f(1, y=2) == 3
    assert asyncio.run(g(4)) == asyncio.run(g(4)) == 8
    assert calls == [(1, 0), (1, 2), 4]
    assert f.cache_key(1) in cache
    assert 0 < cache.remaining_ttl(f.cache_key(1)) <= 500
    assert f.invalidate(1)
    assert not f.invalidate(1)
    assert f(1) == 1
    assert len(calls) == 4


# -- the end ---------------------------------------------------------------------------------------
@pytest.mark.parametrize("kind", KINDS)
def test_closed(new_cache, kind):
    with new_cache(kind) as cache:
        cache["a"] = b"x"
        assert not cache.closed
        iterator = iter(cache)
    assert cache.closed
    cache.close()
    for act in (
        lambda: cache["a"],
        lambda: cache.__setitem__("a", b"x"),
        lambda: cache.__delitem__("a"),
        lambda: "a" in cache,
        lambda: len(cache),
        lambda: list(cache),
        lambda: next(iterator),
        lambda: cache.get("a"),
        lambda: cache.pop("a", None),
        cache.popitem,
        lambda: cache.setdefault("a", 1),
        cache.clear,
        cache.stats,
        lambda: cache.update(a=1),
        lambda: cache.set("a", b"x", ttl=5),
        cache.expire,
        lambda: cache.evict(5),
        lambda: cache.get_or_load("a", lambda: 1),
        cache.flush,
        lambda: cache.remaining_ttl("a"),
        cache.check_valid,
        lambda: cache.get_many(["a"]),
        lambda: cache.set_many({"a": 1}),
        lambda: cache.delete_many(["a"]),
        lambda: list(cache.items()),
        cache.__enter__,
    ):
        with pytest.raises(ClosedError):
            act()
    assert "closed" in repr(cache)


@pytest.mark.parametrize("kind", KINDS)
def test_a_cache_that_is_dropped_leaves_nothing(tmp_path, kind):
    import os

    def files():
        found = [
            os.readlink(f"/proc/self/fd/{fd}")
            for fd in os.listdir("/proc/self/fd")
            if os.path.islink(f"/proc/self/fd/{fd}")
        ]
        return [name for name in found if str(tmp_path) in name]

    cache = make_cache(kind, tmp_path)
    cache["a"] = noise(1 << 20)
    cache.evict("64MiB")
    assert bool(files()) == (kind in ("disk", "persistent", "lossless"))
    del cache
    gc.collect()
    assert files() == []
    if kind != "persistent":
        assert list(tmp_path.iterdir()) == []
