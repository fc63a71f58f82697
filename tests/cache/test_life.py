"""The life of a cache: loading into it, its end, what it leaves behind, arguments that it refuses."""

import gc

import pytest
from cache_data import KINDS, make_cache, noise

from coldmem import Cache
from coldmem.errors import ClosedError, UsageError


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
        lambda: cache["a"], lambda: cache.__setitem__("a", b"x"), lambda: cache.__delitem__("a"),
        lambda: "a" in cache, lambda: len(cache), lambda: list(cache), lambda: next(iterator),
        lambda: cache.get("a"),
        lambda: cache.pop("a", None), cache.popitem, lambda: cache.setdefault("a", 1), cache.clear,
        cache.stats,
        lambda: cache.update(a=1), lambda: cache.set("a", b"x", ttl=5), cache.expire,
        lambda: cache.evict(5),
        lambda: cache.get_or_load("a", lambda: 1), cache.flush, lambda: cache.remaining_ttl("a"),
        cache.check_valid,
        lambda: cache.get_many(["a"]), lambda: cache.set_many({"a": 1}),
        lambda: cache.delete_many(["a"]),
        lambda: list(cache.items()), cache.__enter__,
    ):
        with pytest.raises(ClosedError):
            act()
    assert "closed" in repr(cache)


@pytest.mark.parametrize("kind", KINDS)
def test_a_cache_that_is_dropped_leaves_nothing(tmp_path, kind):
    import os

    def files():
        found = [os.readlink(f"/proc/self/fd/{fd}") for fd in os.listdir("/proc/self/fd")
                 if os.path.islink(f"/proc/self/fd/{fd}")]
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


@pytest.mark.parametrize("options", [
    {"memory_max": 1000}, {"memory_max": "many"}, {"memory_max": -1}, {"disk_max": "x"},
    {"codec": "nope"},
    {"policy": "best"}, {"on_evict": 5}, {"path": "/tmp/a", "directory": "/tmp/b"}, {"ttl": "soon"},
    {"ttl": -1},
    {"ttl": float("nan")}, {"disk_max": 0}, {"disk_max": 10},
])
def test_bad_arguments(options):
    with pytest.raises(UsageError):
        Cache(**({"memory_max": "8MiB"} | options))


@pytest.mark.parametrize("ttl", [0, -1, -0.5, float("nan"), "x", float("-inf")])
def test_a_bad_ttl(cache, ttl):
    cache["k"] = b"old"
    with pytest.raises((UsageError, TypeError)):
        cache.set("k", b"new", ttl=ttl)
    assert cache["k"] == b"old"
