"""A disk that is full or fails while values leave memory: nothing wrong, and what is done is said."""

import errno
import os
import random
import shutil
import subprocess
import sys

import pytest
from cache_data import noise, text

from coldmem import Cache, ColdmemError, MemoryLimitError, SwapFileError


@pytest.fixture
def small_disk(mount_disk):
    return mount_disk("4m")


def says_full(error):
    text = str(error)
    return getattr(error, "errno", None) == errno.ENOSPC or "full" in text or "no room" in text


def fill(cache, model, keys, size=4000, seed=0):
    """Set all keys; those that are refused keep what they had. How many were refused, and why."""
    refused = []
    for n in keys:
        try:
            cache[n] = noise(size, n + seed)
        except (MemoryLimitError, SwapFileError) as error:
            refused.append(error)
        else:
            model[n] = noise(size, n + seed)
    return refused


def test_a_full_disk_evicts(small_disk):
    """disk_max promises more than there is: what finds no place is evicted, and heard of."""
    heard = []
    with Cache("1MiB", directory=small_disk, disk_max="64MiB",
               on_evict=lambda *row: heard.append(row)) as cache:
        model = {}
        assert fill(cache, model, range(1500)) == []
        cache.check_valid()
        s = cache.stats()
        assert s["memory_used_bytes"] <= s["memory_max_bytes"]
        assert s["disk_used_bytes"] <= 4 << 20
        assert s["disk_entries"] > 100
        left = set(cache)
        assert sorted([*left, *(key for key, _ in heard)]) == list(range(1500))
        assert {reason for _, reason in heard} <= {"memory", "disk"}
        for n in left:
            assert cache.get(n) in (None, model[n])
        cache.clear()
        assert fill(cache, model, range(500)) == []
        assert len(cache) > 100
    assert list(small_disk.iterdir()) == []


def test_a_full_disk_refuses_where_nothing_may_be_lost(small_disk):
    with Cache("1MiB", directory=small_disk, disk_max="64MiB", lossless=True) as cache:
        model = {}
        refused = fill(cache, model, range(1500))
        assert len(refused) > 200
        assert all(isinstance(error, MemoryLimitError) and says_full(error) for error in refused)
        assert "of memory_max=1.0 MiB" in str(refused[0])
        assert "free some of it" in str(refused[0])
        assert len(model) > 800
        for _ in range(2):
            assert dict(cache) == model
            refused = fill(cache, model, range(300), seed=5000)  # replaced, or refused and as before
            assert dict(cache) == model
        cache.check_valid()
        for n in list(model)[:600]:
            del cache[n]
            del model[n]
        assert len(fill(cache, model, range(3000, 3100))) < 100  # there is room again
        assert dict(cache) == model
        cache.check_valid()


@pytest.mark.parametrize("size", [300, 4000, 60_000])
@pytest.mark.parametrize("lossless", [True, False])
def test_garbage_on_a_full_disk_is_collected(small_disk, size, lossless):
    """disk_max is far away. What was deleted here and there makes room, again and again."""
    pick = random.Random(size)
    some = 100_000 // size
    with Cache("2MiB", directory=small_disk, disk_max="64MiB", lossless=lossless, codec="raw") as cache:
        model = {}
        n = 0
        while n < 6_000_000 // size and not fill(cache, model, range(n, n + some), size):
            n += some
        disk = cache.stats()["disk_used_bytes"]
        assert 3 << 20 < disk <= 4 << 20
        for turn in range(1, 6):
            gone = pick.sample(sorted(set(cache)), len(cache) // 3)
            for key in gone:
                del cache[key]
                model.pop(key)
            wanted = len(gone) * 2 // 3
            refused = fill(cache, model, range(turn * 100_000, turn * 100_000 + wanted), size)
            assert refused == []
            cache.check_valid()
            if lossless:
                assert dict(cache) == model
            else:  # what was on disk may have gone for what is new, that is all
                for key in set(cache):
                    assert cache.get(key) in (None, model[key])
                assert len(cache) > 4000 or size > 300
        assert cache.stats()["corrupt"] == 0
        model = dict(cache) if lossless else {}
        for _ in range(3):  # replaced, each key several times
            refused = fill(cache, model, sorted(set(cache))[::2], size, seed=7)
            if lossless:
                assert len(refused) < len(model) // 4
                assert dict(cache) == model
        cache.check_valid()


def test_a_full_disk_under_a_persistent_cache_that_loses_nothing(small_disk, tmp_path_factory):
    """What is deleted is gone, what is refused is as before; there is room when the disk has some."""
    pick = random.Random(3)
    ballast = small_disk / "ballast"
    ballast.write_bytes(bytes(2 << 20))
    options = {"disk_max": "8MiB", "lossless": True, "codec": "raw"}
    with Cache("1MiB", path=small_disk / "c", **options) as cache:
        model = {}
        while not fill(cache, model, range(len(model), len(model) + 50)):
            pass
        for turn in range(1, 4):
            for key in pick.sample(sorted(model), len(model) // 3):
                del cache[key]
                del model[key]
            assert dict(cache) == model
            refused = fill(cache, model, range(turn * 1000, turn * 1000 + 100))
            assert all(isinstance(error, MemoryLimitError) and says_full(error) for error in refused)
            assert dict(cache) == model
            cache.check_valid()
        ballast.unlink()
        assert fill(cache, model, range(9000, 9100)) == []
        cache.flush()
        assert dict(cache) == model
        copy = shutil.copytree(small_disk / "c", tmp_path_factory.mktemp("killed") / "c")
        with Cache("1MiB", path=copy, **options) as killed:
            assert dict(killed) == model
    with Cache("1MiB", path=small_disk / "c", **options) as cache:
        assert dict(cache) == model


def test_a_full_disk_under_a_persistent_cache(small_disk):
    """flush says that it failed; what was flushed before is there after a crash and after a close."""
    folder = small_disk / "c"
    cache = Cache("16MiB", path=folder)
    model = {n: noise(4000, n) for n in range(200)}
    cache.update(model)
    cache.flush()
    more = {n: noise(4000, n) for n in range(200, 2200)}
    cache.update(more)
    with pytest.raises((SwapFileError, MemoryLimitError)) as caught:
        cache.flush()
    assert says_full(caught.value)
    assert dict(cache) == model | more
    cache.check_valid()
    with pytest.raises((SwapFileError, MemoryLimitError)):
        cache.close()
    assert cache.closed
    with Cache("16MiB", path=folder) as cache:
        found = dict(cache.items())
        assert found.items() >= model.items()
        assert found.items() <= (model | more).items()
        cache.clear()
        cache["new"] = text(3000)
    with Cache("16MiB", path=folder) as cache:
        assert dict(cache) == {"new": text(3000)}


def test_a_persistent_cache_recovers_when_there_is_room_again(small_disk):
    ballast = small_disk / "ballast"
    ballast.write_bytes(bytes(3 << 20))
    with Cache("16MiB", path=small_disk / "c") as cache:
        model = {n: noise(4000, n) for n in range(500)}
        cache.update(model)
        with pytest.raises((SwapFileError, MemoryLimitError)):
            cache.flush()
        ballast.unlink()
        cache.flush()
        assert dict(cache) == model
    with Cache("16MiB", path=small_disk / "c") as cache:
        assert dict(cache) == model


def test_no_room_to_begin_with(small_disk):
    (small_disk / "ballast").write_bytes(bytes((4 << 20) - 4096))
    with open(small_disk / "more", "wb") as file, pytest.raises(OSError):
        while True:
            os.write(file.fileno(), bytes(512))
    for options in ({"directory": small_disk, "disk_max": "8MiB"}, {"path": small_disk / "c"}):
        try:
            cache = Cache("1MiB", **options)
        except ColdmemError as error:
            assert says_full(error)
            continue
        with pytest.raises(ColdmemError) if "path" in options else cache:
            with cache:
                cache.update({n: noise(4000, n) for n in range(600)})
                assert all(cache.get(n) in (None, noise(4000, n)) for n in range(600))
                cache.check_valid()


def test_files_that_may_not_grow(tmp_path):
    """RLIMIT_FSIZE: a write fails in the middle (EFBIG), for whoever is not root, too."""
    code = f"""
import resource, signal, sys
sys.path.insert(0, {os.path.dirname(os.path.dirname(__file__))!r})
from cache_data import noise
from coldmem import Cache, MemoryLimitError, SwapFileError
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (1_300_000, 1_300_000))
for lossless in (False, True):
    model, heard, refused = {{}}, [], 0
    with Cache("1MiB", directory={str(tmp_path)!r}, disk_max="256MiB", lossless=lossless,
               on_evict=lambda key, reason: heard.append(key)) as cache:
        for n in range(1500):
            try:
                cache[n] = noise(4000, n)
                model[n] = noise(4000, n)
            except (MemoryLimitError, SwapFileError):
                refused += 1
        for n in model:
            value = cache.get(n)
            assert value == model[n] or (value is None and n in heard), n
        cache.check_valid()
        assert not (lossless and heard)
        print(lossless, len(cache) > 100)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=100)
    assert done.stdout == "False True\nTrue True\n", done.stderr
