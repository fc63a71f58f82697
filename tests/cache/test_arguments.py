"""Arguments that are wrong: a UsageError says what to give, before anything is done."""

import asyncio
import datetime
import decimal
import fractions
import os

import numpy as np
import pytest
from cache_data import noise

from coldmem import Cache
from coldmem.errors import SwapFileError, UsageError


@pytest.mark.parametrize(
    "options",
    [
        {"memory_max": 1000},
        {"memory_max": "many"},
        {"memory_max": -1},
        {"disk_max": "x"},
        {"codec": "nope"},
        {"policy": "best"},
        {"on_evict": 5},
        {"path": "/tmp/a", "directory": "/tmp/b"},
        {"ttl": "soon"},
        {"ttl": -1},
        {"ttl": float("nan")},
        {"disk_max": 0},
        {"disk_max": 10},
    ],
)
def test_bad_arguments(options):
    with pytest.raises(UsageError):
        Cache(**({"memory_max": "8MiB"} | options))


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"memory_max": 1.5e6}, "bytes"), ({"memory_max": None}, "bytes"), ({"disk_max": 1.5}, "bytes"),
        ({"directory": 5}, "path of a folder"), ({"path": 5}, "path of a folder"),
        ({"path": ""}, "leave path= out"), ({"directory": ""}, "leave directory= out"),
        ({"ttl": "3"}, "seconds"), ({"ttl": True}, "seconds"), ({"ttl": []}, "seconds"),
        ({"codec": 5}, "give a name"), ({"codec": None}, "give a name"),
        ({"serializer": "pickle"}, "dumps and loads"), ({"policy": 5}, "s3fifo"),
        ({"policy": None}, "s3fifo"), ({"on_evict": 5}, "callable"),
        ({"lossless": "no"}, "True or False"), ({"lossless": None}, "True or False"),
    ],
)
def test_arguments_of_a_wrong_type(options, says):
    with pytest.raises(UsageError, match=says):
        Cache(**({"memory_max": "8MiB"} | options))


@pytest.mark.parametrize(
    "ttl", ["3", b"3", True, [], datetime.timedelta(seconds=3), float("nan"), 0, -1, 2j])
def test_a_ttl_of_a_wrong_type(cache, ttl):
    """Every method that takes one says so before anything is done."""
    with pytest.raises(UsageError, match="seconds"):
        cache.set("k", b"1", ttl=ttl)
    with pytest.raises(UsageError, match="seconds"):
        cache.set_many({"k": b"1"}, ttl=ttl)
    with pytest.raises(UsageError, match="seconds"):
        cache.get_or_load("k", lambda: pytest.fail("loaded"), ttl=ttl)
    with pytest.raises(UsageError, match="seconds"):
        asyncio.run(cache.get_or_load_async("k", lambda: pytest.fail("loaded"), ttl=ttl))
    with pytest.raises(UsageError, match="seconds"):
        cache.memoize(ttl=ttl)
    assert "k" not in cache


@pytest.mark.parametrize("ttl", [3, 2.5, np.int64(3), np.float32(2.5), decimal.Decimal(3),
                                 fractions.Fraction(7, 2), float("inf"), 1e300, 1 << 40])
def test_a_ttl_of_any_numeric_type(cache, ttl):
    cache.set("k", b"1", ttl=ttl)
    left = cache.remaining_ttl("k")
    assert left is None if ttl > 1e9 else 0 < left < 4


def test_what_is_called_can_be_called(cache):
    with pytest.raises(UsageError, match="callable"):
        cache.get_or_load("k", 5)
    with pytest.raises(UsageError, match="callable"):
        cache.memoize(key="k")
    with pytest.raises(UsageError, match="True or False"):
        cache.memoize(typed=1)


@pytest.mark.parametrize("name", ["path", "directory"])
def test_a_folder_is_made_and_its_parent_is_not(tmp_path, name):
    with pytest.raises(SwapFileError, match=f"there is no {tmp_path}/no; make that first"):
        Cache("2MiB", **{name: tmp_path / "no" / "c"})
    assert not (tmp_path / "no").exists()
    for given in (tmp_path / "c", os.fsencode(tmp_path / "bytes"), f"{tmp_path}/text/"):
        for _ in range(2):
            with Cache("2MiB", **{name: given}) as cache:
                cache["a"] = noise(100_000)
                assert cache.evict(1 << 20)
                assert cache["a"] == noise(100_000)
    assert (tmp_path / "text").stat().st_mode & 0o777 == 0o700
    (tmp_path / "file").write_bytes(b"x")
    with pytest.raises(SwapFileError, match="not a directory"):
        Cache("2MiB", **{name: tmp_path / "file"})


@pytest.mark.parametrize("ttl", [0, -1, -0.5, float("nan"), "x", float("-inf")])
def test_a_bad_ttl(cache, ttl):
    cache["k"] = b"old"
    with pytest.raises(UsageError):
        cache.set("k", b"new", ttl=ttl)
    assert cache["k"] == b"old"
