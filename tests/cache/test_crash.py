"""A persistent cache that is killed at any moment: what was flushed is there."""

import itertools
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from cache_data import noise

from coldmem import Cache, ColdmemError, MemoryLimitError

CHILD = Path(__file__).with_name("crash_child.py")


def opened(folder, memory="16MiB", **options):
    return Cache(memory, path=folder, **options)


# -- a crash ---------------------------------------------------------------------------------------
def test_what_was_flushed_is_there_until_what_replaced_it_is(tmp_path):
    """New values in memory only, old ones on disk only: a crash must not find neither."""
    old = {n: noise(20_000, n) for n in range(300)}
    new = {n: noise(15_000, n + 1000) for n in range(300)}
    with opened(tmp_path / "c", "32MiB") as cache:
        cache.update(old)
        cache.flush()
        cache.update(new)
        cache.check_valid()
        shutil.copytree(tmp_path / "c", tmp_path / "copy")
        with opened(tmp_path / "copy") as copy:
            assert dict(copy) == old
        used = cache.stats()["disk_used_bytes"]
        cache.flush()
        cache.check_valid()
        assert cache.stats()["disk_used_bytes"] < used + 4_600_000  # and then the old ones go
        for turn in range(6):
            cache.update(old if turn % 2 else new)
            cache.flush()
        assert cache.stats()["disk_used_bytes"] < 4 * used
        assert dict(cache) == old
    with opened(tmp_path / "c") as cache:
        assert dict(cache) == old


def test_all_that_was_flushed_is_in_a_copy_taken_at_any_moment(tmp_path):
    """A copy of the folder is what a crash leaves: nothing that only the process knows."""
    pick = random.Random(1)
    model = {}
    with opened(tmp_path / "c", "1MiB") as cache:
        for turn in range(12):
            later = {}
            for n in range(40):
                key = pick.choice([pick.randrange(50), ("side", pick.randrange(5))])
                if pick.random() < 0.25:
                    cache.pop(key, None)
                    model.pop(key, None)
                else:
                    model[key] = cache[key] = noise(pick.choice([5, 2000, 70_000]), turn * 100 + n)
            cache.flush()
            for n in range(pick.choice([0, 30])):  # not flushed: either way is right
                key = pick.randrange(50)
                later.setdefault(key, [model.get(key)]).append(noise(1000, n))
                cache[key] = noise(1000, n)
                if n % 10 == 9:
                    cache.evict(200_000)
            shutil.copytree(tmp_path / "c", tmp_path / "copy")
            with opened(tmp_path / "copy") as copy:
                copy.check_valid()
                found = dict(copy)
            for key in found.keys() | model.keys() | later.keys():
                assert found.get(key) in later.get(key, [model.get(key)]), (turn, key)
            shutil.rmtree(tmp_path / "copy")
            for key, values in later.items():
                model[key] = values[-1]


def allowed(seed, durable, states, sys_path=str(CHILD.parent)):
    """For each key, what may be there after a crash that came after operation `durable` was told.

    Flushes come now and then: the crash came before the second next one was over.
    """
    sys.path.insert(0, sys_path)
    try:
        import crash_child
    finally:
        sys.path.remove(sys_path)
    possible = {key: list(values) for key, values in states.items()}
    flushes = 0
    for n, operation in enumerate(crash_child.plan(seed)):
        if operation[0] == "flush":
            flushes += n > durable
            if flushes == 2:
                return possible
            continue
        value = operation[2] if operation[0] == "set" else None
        if n <= durable:
            possible[operation[1]] = [value]
        else:
            possible.setdefault(operation[1], [None]).append(value)
    raise AssertionError


def test_killed_at_any_moment(tmp_path, stress_seconds):
    """SIGKILL, reopen, check all; again, on what the last crash left."""
    pick = random.Random()
    seed = pick.randrange(1 << 30)
    states = {}
    durables = []
    turns = max(6, int(4 * stress_seconds))
    for turn in itertools.count():
        if turn >= turns and max(durables) > 0:
            break
        assert turn < turns + 40, "no round gets as far as a flush"
        child = subprocess.Popen(
            [sys.executable, CHILD, tmp_path / "c", str(seed + turn)], stdout=subprocess.PIPE)
        assert child.stdout.read(1) == b"."
        time.sleep(pick.choice([0, 0.01, 0.1, 0.3]) * pick.random())
        child.send_signal(signal.SIGKILL)
        told = child.stdout.read().splitlines(keepends=True)
        child.stdout.close()
        assert child.wait() == -signal.SIGKILL, seed
        whole = [int(line) for line in told if line.endswith(b"\n")]
        durable = whole[-1] if whole else -1
        durables.append(durable)
        possible = allowed(seed + turn, durable, states)
        with opened(tmp_path / "c", "4MiB") as cache:
            cache.check_valid()
            found = dict(cache.items())
            for key in found.keys() | possible.keys():
                assert found.get(key) in possible.get(key, [None]), (seed, turn, durable, key)
            assert len(found) == len(cache)
            states = {key: [value] for key, value in found.items()}


def test_killed_while_it_closes_or_opens(tmp_path):
    code = f"""
import os, sys, threading
from coldmem import Cache
cache = Cache("1MiB", path={str(tmp_path / 'c')!r})
cache.update({{n: b"%d" % n * 3000 for n in range(300)}})
cache.flush()
cache.update({{n: b"%d" % n * 3000 for n in range(300, 500)}})
os.write(1, b".")
while True:
    cache.close()
    cache = Cache("1MiB", path={str(tmp_path / 'c')!r})
    cache[500] = os.urandom(50_000)
"""
    for delay in (0, 0.002, 0.005, 0.02, 0.1):
        child = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE)
        assert child.stdout.read(1) == b"."
        time.sleep(delay)
        child.kill()
        child.stdout.close()
        child.wait()
        with opened(tmp_path / "c") as cache:
            cache.check_valid()
            assert all(cache[n] == b"%d" % n * 3000 for n in range(300))
            assert all(cache.get(n) in (None, b"%d" % n * 3000) for n in range(300, 500))
            assert cache.get(500) is None or len(cache[500]) == 50_000


# -- limits and files ------------------------------------------------------------------------------
def test_a_closed_cache_is_no_larger_than_its_content(tmp_path):
    """What was replaced a hundred times does not stay on disk for ever."""
    with opened(tmp_path / "c", "2MiB") as cache:
        for turn in range(100):
            for n in range(50):
                cache[n] = noise(20_000, turn * 50 + n)
        assert cache.stats()["disk_used_bytes"] < 30 << 20
    used = sum(file.stat().st_blocks * 512 for file in (tmp_path / "c").rglob("*") if file.is_file())
    assert used < 40 << 20


def test_more_than_disk_max_stays_within_it(tmp_path):
    for turn in range(2):
        with opened(tmp_path / "c", "1MiB", disk_max="4MiB") as cache:
            for n in range(1500):
                cache[n] = noise(4000, n + turn)
            assert cache.stats()["disk_used_bytes"] <= 4 << 20
            assert len(cache) > 300
            assert all(cache.get(n) in (None, noise(4000, n + turn)) for n in range(1500))
        with opened(tmp_path / "c", "1MiB", disk_max="4MiB") as cache:
            for n in range(1500):
                assert cache.get(n) in (None, noise(4000, n + turn))


def test_flush_without_a_change_costs_no_write(tmp_path):
    with opened(tmp_path / "c") as cache:
        cache.update({n: noise(3000, n) for n in range(100)})
        cache.flush()
        written = cache.stats()["written_bytes"]
        cache.flush()
        assert cache.stats()["written_bytes"] == written
        cache[5] = b"x"
        cache.flush()
        assert cache.stats()["written_bytes"] - written < 10_000


def test_a_full_lossless_cache_can_be_closed_and_opened(tmp_path):
    model = {}
    with opened(tmp_path / "c", "1MiB", disk_max="2MiB", lossless=True) as cache:
        for n in range(900):
            try:
                cache[n] = noise(3000, n)
            except MemoryLimitError:
                break
            model[n] = noise(3000, n)
        assert n > 500
        assert dict(cache) == model
        for key in list(model)[::2]:
            del cache[key]
            del model[key]
    with opened(tmp_path / "c", "1MiB", disk_max="2MiB", lossless=True) as cache:
        assert dict(cache) == model


def test_a_folder_that_cannot_be_used(tmp_path):
    (tmp_path / "file").write_text("x")
    for where in (tmp_path / "file", tmp_path / "file" / "below", Path("/proc/nope")):
        with pytest.raises(ColdmemError) as caught:
            opened(where)
        assert str(where) in str(caught.value)
    other = tmp_path / "other"
    other.mkdir()
    (other / "precious.txt").write_text("mine")
    try:
        opened(other).close()
    except ColdmemError:
        pass
    assert (other / "precious.txt").read_text() == "mine"
