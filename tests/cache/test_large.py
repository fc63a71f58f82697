"""Values larger than memory_max allows: with a disk tier they go straight there."""

import errno
import os
import shutil

import numpy as np
import pytest
from cache_data import noise, pass_time, text

from coldmem import Cache, MemoryLimitError

MB = 1 << 20


@pytest.fixture(params=["disk", "lossless", "persistent", "persistent lossless"])
def options(request, tmp_path):
    """Of a small cache with a large disk."""
    where = {"path": tmp_path / "c"} if "persistent" in request.param else {"directory": tmp_path}
    return {**where, "disk_max": "256MiB", "lossless": "lossless" in request.param}


VALUES = {
    "noise": noise(9 * MB), "text": text(30 * MB), "just over half": noise(MB + MB // 8),
    "zeros, of which the table alone is too large": bytes(200 * MB),
}


@pytest.mark.parametrize("what", VALUES)
def test_a_large_value(options, what):
    value = VALUES[what]
    with Cache("2MiB", **options) as cache:
        small = {n: noise(3000, n) for n in range(400)}
        cache.update(small)
        for key in ("large", ("of the side table", 1), 5):
            cache[key] = value
            cache.check_valid()
            s = cache.stats()
            assert s["memory_used_bytes"] <= s["memory_max_bytes"]
            assert cache[key] == value
            assert cache[key] == value
        assert {**small, 5: value}.items() <= {n: cache.get(n) for n in cache}.items()
        assert cache.setdefault("large", b"x") == value
        cache["large"] = b"small"
        assert cache["large"] == b"small"
        assert cache.setdefault("new", value) == value
        assert cache["new"] == value
        assert cache.pop("new") == value
        assert "new" not in cache
        cache.set(5, value, ttl=60)
        assert 59 < cache.remaining_ttl(5) <= 60.1
        pass_time(cache, 61)
        assert 5 not in cache
        assert cache.setdefault(5, value) == value
        cache.check_valid()
        assert cache.stats()["sets"] == 400 + 3 + 1 + 1 + 1 + 1
        model = dict(cache)
    if "path" in options:
        with Cache("2MiB", **options) as cache:
            assert dict(cache) == model
            cache.check_valid()


def test_a_large_array(options):
    value = {"a": np.random.default_rng(1).normal(size=(800, 1000)), "b": [1, 2]}
    with Cache("2MiB", **options) as cache:
        cache["array"] = value
        found = cache["array"]
        np.testing.assert_array_equal(found["a"], value["a"])
        found["a"][0] = 0
        assert cache["array"]["a"][0].all()


def test_large_values_are_there_after_a_kill(tmp_path):
    """And what was flushed is, until what replaced it is: straight to disk or not."""
    with Cache("2MiB", path=tmp_path / "c") as cache:
        cache["a"], cache["b"] = noise(3 * MB, 1), noise(5000, 2)
        cache.flush()
        cache["a"], cache["b"] = noise(5000, 3), noise(3 * MB, 4)
        del cache["b"]
        cache["c"] = noise(3 * MB, 5)
        shutil.copytree(tmp_path / "c", tmp_path / "killed")
    with Cache("2MiB", path=tmp_path / "killed") as cache:
        assert cache["a"] == noise(3 * MB, 1)
        assert cache.get("b") is None
        assert cache["c"] == noise(3 * MB, 5)


def test_it_replaces_many_times_and_what_it_replaced_goes(options):
    with Cache("2MiB", **(options | {"disk_max": "40MiB"})) as cache:
        for n in range(20):
            cache["large"] = noise(5 * MB, n)
            assert cache.stats()["disk_used_bytes"] <= 40 * MB
        assert cache["large"] == noise(5 * MB, 19)
        cache.check_valid()


def test_too_large_for_the_disk_as_well(options):
    """Refused at once: nothing is dropped for it."""
    heard = []
    with Cache("2MiB", **(options | {"disk_max": "8MiB"}),
               on_evict=lambda *row: heard.append(row)) as cache:
        model = {n: noise(3000, n) for n in range(600)}
        cache.update(model)
        model["key"] = cache["key"] = b"old"
        with pytest.raises(MemoryLimitError, match=r"memory_max=2\.0 MiB.*disk_max=8\.0 MiB"):
            cache["key"] = noise(9 * MB)
        assert dict(cache) == model
        assert heard == []
        cache.check_valid()


def test_a_disk_that_fails(options):
    class Failing:
        pread = staticmethod(os.pread)
        fdatasync = staticmethod(os.fdatasync)

        def pwritev(self, *_):
            raise OSError(errno.ENOSPC, "full")

    with Cache("2MiB", **options) as cache:
        cache["key"] = b"old"
        io, cache._tier.log._io = cache._tier.log._io, Failing()
        with pytest.raises(MemoryLimitError, match="full"):
            cache["key"] = noise(3 * MB)
        cache._tier.log._io = io
        assert cache["key"] == b"old"
        cache["key"] = noise(3 * MB)
        assert cache["key"] == noise(3 * MB)


def test_a_key_that_cannot_be_written(tmp_path):
    key = (lambda: 0,)
    with Cache("2MiB", path=tmp_path / "c") as cache:
        with pytest.raises(MemoryLimitError, match="key"):
            cache[key] = noise(3 * MB)
        cache[key] = b"small"
        assert cache[key] == b"small"


def test_without_a_disk_it_says_what_to_do():
    with Cache("2MiB") as cache:
        with pytest.raises(MemoryLimitError, match=r"half of memory_max=2\.0 MiB.*disk_max="):
            cache["key"] = noise(3 * MB)


@pytest.mark.parametrize("share", [3, 4])
def test_what_finds_no_room_beside_keys_goes_straight_to_disk(options, share):
    """Less than half of memory, and more than what keys of what lies on disk leave of it."""
    with Cache("2MiB", **(options | {"lossless": True}), codec="raw") as cache:
        keys = 0
        while cache.stats()["metadata_bytes"] < 1.4 * MB:
            cache.set_on_disk(f"a key of some length {keys:080}", b"x")
            keys += 1
        value = noise(2 * MB // share)
        cache["large"] = value
        cache.check_valid()
        assert cache["large"] == value and cache.stats()["disk_entries"] == keys + 1 == len(cache)
        assert cache.stats()["evictions"] == 0


def test_what_finds_no_room_anywhere_says_so_of_both(tmp_path):
    with Cache("2MiB", directory=tmp_path, disk_max="8MiB", codec="raw", lossless=True) as cache:
        with pytest.raises(MemoryLimitError, match="raise disk_max or memory_max"):
            for n in range(1000):
                cache[n] = noise(100_000, n)
        assert n == len(cache) > 60
        assert all(cache[k] == noise(100_000, k) for k in cache)
        cache.check_valid()
