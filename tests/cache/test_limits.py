"""Limits: bytes, lifetimes, what goes first, who hears of it, and what a lossless cache refuses."""

import collections
import contextlib
import gc
import os

import pytest
from cache_data import KINDS, make_cache, noise, pass_time, text

from coldmem import Cache, MemoryLimitError
from coldmem.errors import UsageError

MB = 1 << 20


def within(cache):
    """The limits hold; the numbers of stats() agree with each other."""
    s = cache.stats()
    assert s["memory_used_bytes"] <= s["memory_max_bytes"]
    if s["disk_max_bytes"]:
        assert s["disk_used_bytes"] <= s["disk_max_bytes"]
    assert s["entries"] == len(cache) == s["ram_entries"] + s["disk_entries"]
    assert s["metadata_bytes"] + s["hot_bytes"] <= s["memory_used_bytes"]
    assert s["stored_bytes"] <= s["memory_used_bytes"]
    return s


# -- lifetimes -------------------------------------------------------------------------------------
@pytest.mark.parametrize("kind", KINDS)
def test_a_value_lives_as_long_as_it_should(new_cache, kind):
    cache = new_cache(kind, ttl=100)
    cache["default"] = b"1"
    cache.set("short", [2], ttl=10)
    cache.set("long", b"3", ttl=1000)
    cache.set("ever", b"4", ttl=1e9)
    cache.set(("side", 1), b"5", ttl=10)
    assert 90 < cache.remaining_ttl("default") <= 100
    assert 9 < cache.remaining_ttl("short") <= 10.1
    assert len(cache) == 5
    pass_time(cache, 9)
    assert cache["short"] == [2]
    pass_time(cache, 2)
    for key in ("short", ("side", 1)):
        assert key not in cache
        assert cache.get(key) is None
        with pytest.raises(KeyError):
            cache.remaining_ttl(key)
        assert key not in list(cache)
        assert cache.pop(key, "gone") == "gone"
        with pytest.raises(KeyError):
            cache[key]
    assert cache["default"] == b"1"
    pass_time(cache, 100)
    assert cache.get_many(["default", "long", "ever"]) == {"long": b"3", "ever": b"4"}
    pass_time(cache, 1000)
    assert dict(cache) == {"ever": b"4"}
    cache.expire()
    assert cache.stats()["expirations"] == 4


def test_a_set_begins_a_new_life(cache):
    cache.set("k", b"1", ttl=10)
    pass_time(cache, 8)
    cache.set("k", b"2", ttl=10)
    pass_time(cache, 8)
    assert cache["k"] == b"2"
    cache["k"] = b"3"  # without a ttl
    assert cache.remaining_ttl("k") is None
    pass_time(cache, 1000)
    assert cache["k"] == b"3"


def test_parts_of_a_second_count(tmp_path):
    with Cache("4MiB", path=tmp_path / "c") as cache:
        for n in range(10):
            cache.set(n, b"x", ttl=3600 + n / 10)
        assert cache.remaining_ttl(9) - cache.remaining_ttl(0) > 0.5
    with Cache("4MiB", path=tmp_path / "c") as cache:
        assert cache.remaining_ttl(9) - cache.remaining_ttl(0) > 0.5


def test_a_get_does_not_prolong_a_life(cache):
    cache.set("k", b"1", ttl=10)
    pass_time(cache, 8)
    assert cache["k"] == b"1"
    assert cache.remaining_ttl("k") < 3
    pass_time(cache, 3)
    assert "k" not in cache


def test_setdefault_and_load_after_a_life(new_cache):
    cache = new_cache(ttl=10)
    cache["a"] = cache["b"] = cache["c"] = b"old"
    pass_time(cache, 11)
    assert cache.setdefault("a", b"new") == b"new"
    assert cache.get_or_load("b", lambda: b"new") == b"new"
    cache.set("c", b"new")
    assert dict(cache) == {"a": b"new", "b": b"new", "c": b"new"}
    assert all(9 < cache.remaining_ttl(key) <= 10.1 for key in "abc")


@pytest.mark.parametrize("kind", KINDS)
def test_expire(new_cache, kind):
    heard = []
    cache = new_cache(kind, on_evict=lambda key, reason: heard.append((key, reason)))
    for n in range(300):
        cache.set(n, text(500, n), ttl=10 if n % 3 else None)
    cache.set(("side",), b"x", ttl=10)
    assert cache.expire() == 0
    assert len(cache) == 301
    pass_time(cache, 11)
    assert cache.expire() == 201
    assert cache.expire() == 0
    assert len(cache) == 100
    assert set(cache) == set(range(0, 300, 3))
    assert sorted(map(str, heard)) == sorted(
        map(str, [(n, "expired") for n in range(300) if n % 3] + [(("side",), "expired")]))
    assert cache.stats()["expirations"] == 201


def test_a_short_life_by_the_real_clock(new_cache):
    import time

    cache = new_cache()
    cache.set("k", b"x", ttl=0.05)
    time.sleep(0.12)
    assert "k" not in cache
    assert cache.expire() in (0, 1)
    assert len(cache) == 0


# -- bytes -----------------------------------------------------------------------------------------
@pytest.mark.parametrize("policy", ["s3fifo", "lru"])
@pytest.mark.parametrize("size", [10, 1000, 5000, 70_000, 900_000])
def test_memory_never_passes_its_limit(new_cache, policy, size):
    heard = collections.Counter()
    cache = new_cache("ram", memory="4MiB", policy=policy, on_evict=lambda *row: heard.update([row]))
    n = max(60, 12 * MB // size) if size > 100 else 60_000
    for i in range(n):
        cache[i] = noise(size, i)
        if i % (n // 50 + 1) == 0:
            within(cache)
    s = within(cache)
    assert s["evictions"] > 0
    assert s["evictions"] == sum(heard.values()) == n - len(cache)
    assert set(heard.values()) == {1}  # each key once
    assert {reason for _, reason in heard} == {"memory"}
    left = set(cache)
    assert left | {key for key, _ in heard} == set(range(n))
    assert not left & {key for key, _ in heard}
    for i in left:
        assert cache[i] == noise(size, i)
    # The limit is used, too.
    assert s["memory_used_bytes"] > 0.6 * s["memory_max_bytes"]


def test_all_that_belongs_to_a_cache_counts(new_cache):
    """What the process really holds, against what the cache says: keys and index included."""
    def resident():
        gc.collect()
        with open("/proc/self/statm") as file:
            return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")

    texts = [text(300, n) for n in range(997)]
    cache = new_cache("ram", memory="48MiB")
    before = resident()
    for n in range(120_000):
        cache[f"some key of a usual length {n}"] = texts[n % 997]
    s = within(cache)
    grown = resident() - before
    assert grown < s["memory_max_bytes"] * 1.15 + 8 * MB


def test_keys_of_the_side_table_count(new_cache):
    cache = new_cache("ram", memory="4MiB")
    for n in range(40_000):
        cache[("a tuple", n)] = b"x"
    s = within(cache)
    assert s["evictions"] > 10_000
    assert s["metadata_bytes"] > 100 * len(cache)


@pytest.mark.parametrize("kind", ["ram", "lru"])
def test_a_value_that_can_never_fit(new_cache, kind):
    heard = []
    cache = new_cache(kind, memory="4MiB", on_evict=lambda *row: heard.append(row))
    cache["small"] = b"x"
    cache["k"] = b"old"
    with pytest.raises(MemoryLimitError, match="memory_max"):
        cache["k"] = noise(5 * MB)
    assert cache.get("k") in (b"old", None)
    assert len(cache) == 2 - len(heard)
    within(cache)
    cache["k"] = bytes(5 * MB)  # compresses to next to nothing
    assert cache["k"] == bytes(5 * MB)


def test_evict(new_cache):
    cache = new_cache("ram", memory="16MiB")
    for n in range(2000):
        cache[n] = noise(4000, n)
    before = cache.stats()["memory_used_bytes"]
    gone = cache.evict("2MiB")
    assert gone >= 1.5 * MB
    assert cache.stats()["memory_used_bytes"] <= before - 1 * MB
    assert 300 < 2000 - len(cache) < 800
    assert cache.evict(0) == 0
    cache.evict("1GiB")
    assert len(cache) == 0
    assert cache.evict(1000) == 0


def test_evict_moves_to_disk(new_cache):
    cache = new_cache("disk", memory="16MiB")
    for n in range(1000):
        cache[n] = noise(4000, n)
    assert cache.stats()["disk_entries"] == 0
    assert cache.evict("1MiB") > 0
    s = within(cache)
    assert s["disk_entries"] >= 200
    assert s["writebacks"] >= 200
    assert s["disk_used_bytes"] >= 200 * 4000
    assert len(cache) == 1000
    assert all(cache[n] == noise(4000, n) for n in range(1000))
    assert cache.stats()["hits_disk"] >= 200


# -- what goes first -------------------------------------------------------------------------------
def test_lru_drops_what_was_used_longest_ago(new_cache):
    order = []
    cache = new_cache("lru", memory="2MiB", on_evict=lambda key, reason: order.append(key))
    n = 0
    while not order:
        cache[n] = noise(3000, n)
        n += 1
    gone = len(order)
    assert order == list(range(gone))
    first = gone  # the oldest that is left
    cache[first]
    first + 1 in cache  # looking is no use  # noqa: B015
    cache.remaining_ttl(first + 1)
    list(cache)
    order.clear()
    cache[first + 2] = noise(3000, first + 2)
    while len(order) < 5:
        cache[n] = noise(3000, n)
        n += 1
    assert order[0] == first + 1
    assert first not in order
    assert first + 2 not in order


def test_s3fifo_keeps_what_is_used_through_a_scan(new_cache):
    cache = new_cache("ram", memory="4MiB")
    hot = range(300)
    for n in hot:
        cache["hot", n] = noise(3000, n)
    for _ in range(3):
        for n in hot:
            assert cache["hot", n]
    for n in range(4000):
        cache["scan", n] = noise(3000, n)
    kept = sum(("hot", n) in cache for n in hot)
    assert kept > 250


# -- who hears of it -------------------------------------------------------------------------------
def test_who_is_told_only_of_what_the_cache_does(new_cache):
    heard = []
    cache = new_cache(on_evict=lambda *row: heard.append(row))
    cache.update(a=b"1", b=b"2", c=b"3")
    cache[("t",)] = b"4"
    cache["a"] = b"5"
    del cache["a"]
    cache.pop("b")
    cache.clear()
    assert heard == []


def test_disk_that_is_full_drops_and_tells(new_cache):
    heard = collections.Counter()
    cache = new_cache("disk", memory="2MiB", disk_max="3MiB", on_evict=lambda *row: heard.update([row]))
    for n in range(3000):
        cache[n] = noise(4000, n)
        if n % 100 == 0:
            within(cache)
    s = within(cache)
    left = set(cache)
    assert s["evictions"] > 1000
    assert s["disk_entries"] > 200
    assert {reason for _, reason in heard} <= {"disk", "memory"}
    assert ("disk" in {reason for _, reason in heard})
    assert set(heard.values()) == {1}
    assert {key for key, _ in heard} == set(range(3000)) - left
    for n in left:  # what comes back to memory may drive others out
        assert cache.get(n) in (None, noise(4000, n))


def test_on_evict_may_use_the_cache(new_cache):
    """It is called with no lock held: it may read, write and delete."""
    heard = []

    def hear(key, reason):
        heard.append(key)
        assert key not in cache or len(heard) > 1
        cache.get(key)
        cache["last"] = key
        cache.pop(0, None)

    cache = new_cache("ram", memory="2MiB", on_evict=hear)
    for n in range(1, 1500):
        cache[n] = noise(3000, n)
    assert len(heard) > 500
    assert cache["last"] in heard
    within(cache)


def test_an_on_evict_that_raises_leaves_the_cache_in_order(new_cache):
    def hear(key, reason):
        raise RuntimeError("no")

    cache = new_cache("ram", memory="2MiB", on_evict=hear)
    raised = 0
    for n in range(1500):
        try:
            cache[n] = noise(3000, n)
        except RuntimeError:
            raised += 1
        within(cache)
    cache.check_valid()
    for n in cache:
        assert cache[n] == noise(3000, n)


# -- lossless --------------------------------------------------------------------------------------
@pytest.mark.parametrize("disk", [None, "3MiB"])
def test_a_lossless_cache_refuses_and_loses_nothing(tmp_path, disk):
    heard = []
    options = {"directory": tmp_path, "disk_max": disk} if disk else {}
    with Cache("2MiB", lossless=True, on_evict=lambda *row: heard.append(row), **options) as cache:
        model, refused = {}, 0
        for n in range(2500):
            key = n % 1500
            try:
                cache[key] = noise(4000, n)
            except MemoryLimitError:
                refused += 1
            else:
                model[key] = noise(4000, n)
            if n % 50 == 0:
                within(cache)
        assert refused > 500
        assert len(model) > (700 if disk else 300)
        assert dict(cache) == model  # what was refused has left the old value in its place
        assert heard == []
        assert cache.stats()["evictions"] == 0
        for key in list(model)[::2]:
            del cache[key]
            del model[key]
        for n in range(50):
            cache["new", n] = model["new", n] = noise(4000, n)
        assert dict(cache) == model
        with pytest.raises(MemoryLimitError) as caught:
            cache["large"] = noise(9 * MB)
        assert "large" not in cache
        assert "memory_max=2.0 MiB" in str(caught.value)
        assert ("disk_max=3.0 MiB" if disk else "(disk_max=)") in str(caught.value)
        cache.check_valid()


def test_many_that_do_not_all_fit(tmp_path):
    with Cache("2MiB", lossless=True) as cache:
        with pytest.raises(MemoryLimitError):
            cache.set_many((n, noise(4000, n)) for n in range(2000))
        for n in range(len(cache)):
            assert cache[n] == noise(4000, n)


# -- a policy of one's own -------------------------------------------------------------------------
class Newest:
    """Drops the newest: no built-in policy does."""

    def __init__(self):
        self.order = {}
        self.hits = 0

    def added(self, key, nbytes):
        assert nbytes >= 0
        self.order.pop(key, None)
        self.order[key] = nbytes

    def hit(self, key):
        self.hits += 1

    def removed(self, key):
        self.order.pop(key, None)

    def victim(self):
        if not self.order:
            raise LookupError
        return next(reversed(self.order))


def test_a_policy_of_ones_own():
    policy, heard = Newest(), []
    with Cache("2MiB", policy=policy, on_evict=lambda *row: heard.append(row)) as cache:
        for n in range(1500):
            cache[n] = noise(3000, n)
            within(cache)
        assert 0 in cache
        assert 300 in cache
        assert 900 not in cache
        assert set(policy.order) == set(cache)
        assert sorted(key for key, _ in heard) == [n for n in range(1500) if n not in cache]
        assert cache[0] == noise(3000, 0)
        assert policy.hits == 1
        del cache[0]
        assert 0 not in policy.order


@pytest.mark.parametrize("options", [{"disk_max": "8MiB"}, {"lossless": True}])
def test_a_policy_where_it_cannot_choose(options):
    """Refused at once, or never asked: not ignored in silence while it evicts something else."""
    try:
        cache = Cache("2MiB", policy=Newest(), **options)
    except UsageError:
        return
    with cache:
        with contextlib.suppress(MemoryLimitError):
            for n in range(2000):
                cache[n] = noise(3000, n)
        assert list(range(len(cache))) == sorted(cache)


def test_two_caches_do_not_meet(tmp_path):
    with make_cache("disk", tmp_path, "2MiB") as one, make_cache("disk", tmp_path, "2MiB") as two:
        for n in range(1000):
            one[n] = noise(3000, n)
            two[n] = noise(3000, -n)
        assert all(one[n] == noise(3000, n) and two[n] == noise(3000, -n) for n in range(1000))
