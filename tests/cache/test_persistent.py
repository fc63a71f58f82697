"""A cache that is closed, killed or damaged, and opened again."""

import contextlib
import json
import os
import random
import select
import shutil
import signal
import subprocess
import sys
import time

import cache_child
import numpy as np
import pytest
from cache_child import child_key, child_value
from cache_data import noise, text

from coldmem import Cache
from coldmem.errors import ColdmemError

MIB = 1 << 20


def crash(cache, folder, to):
    """The folder as a killed process leaves it: copied before the cache is closed."""
    shutil.copytree(folder, to)
    (to / "LOCK").unlink(missing_ok=True)
    cache.close()
    return to


# -- a clean close ---------------------------------------------------------------------------------
KEYS = ["plain", "", b"bytes", b"", 17, -1, -(1 << 63), 1 << 70, None, 2.5, ("user", 17),
        ("user", ("a", 1)), frozenset({1, 2}), "\ud800", "k" * 5000, "ключ"]


@pytest.mark.parametrize("memory", ["2MiB", "64MiB"])
def test_all_is_there_again(tmp_path, memory):
    values = [b"", b"x", text(900), noise(900), text(70_000), noise(300_000), None, {"a": [1, 2]},
              np.arange(40_000).reshape(200, 200), np.asfortranarray(np.eye(30)), text(4096)]
    want = {}
    with Cache(memory, path=tmp_path / "c") as cache:
        for number, key in enumerate(KEYS * 4):
            want[key] = cache[key] = values[(number * 7 + number // 16) % len(values)]
        for number in range(500):
            want["n", number] = cache["n", number] = text(3000, number)
        del cache["plain"], want["plain"]
        assert cache.pop(("n", 5)) == want.pop(("n", 5))
    for _ in range(2):
        with Cache(memory, path=tmp_path / "c") as cache:
            cache.check_valid()
            assert set(cache) == set(want)
            assert len(cache) == len(want)
            for key, value in want.items():
                found = cache[key]
                if isinstance(value, np.ndarray):
                    np.testing.assert_array_equal(found, value)
                    assert found.dtype == value.dtype
                    assert found.flags.f_contiguous == value.flags.f_contiguous
                else:
                    assert found == value and type(found) is type(value)
            cache.check_valid()
            assert cache.stats()["corrupt"] == 0


def test_lives_go_on(tmp_path):
    with Cache("4MiB", path=tmp_path / "c") as cache:
        cache.set("hour", b"1", ttl=3600)
        cache.set("soon", b"2", ttl=0.3)
        cache["always"] = b"3"
        cache.flush()
        left = cache.remaining_ttl("hour")
    time.sleep(0.35)
    with Cache("4MiB", path=tmp_path / "c") as cache:
        assert set(cache) == {"hour", "always"}
        assert "soon" not in cache
        assert left - 60 < cache.remaining_ttl("hour") <= left
        assert cache.remaining_ttl("always") is None
        assert cache.get("soon") is None


def test_an_overwrite_begins_a_new_life(tmp_path):
    with Cache("4MiB", path=tmp_path / "c") as cache:
        cache.set("key", b"old", ttl=0.05)
        cache.flush()
        cache["key"] = b"new"
    time.sleep(0.1)
    with Cache("4MiB", path=tmp_path / "c") as cache:
        assert cache["key"] == b"new"
        assert cache.remaining_ttl("key") is None


def test_what_is_learnt_is_there_again(tmp_path):
    def record(number):
        return json.dumps({"id": number, "name": f"user {number}", "mail": f"u{number}@example.org",
                           "tags": ["a", "b"], "active": number % 3 == 0}).encode()

    with Cache("16MiB", path=tmp_path / "c") as cache:
        deadline = time.monotonic() + 30
        number = 0
        while not cache.stats()["dictionaries"]:
            cache[number] = record(number)
            number += 1
            assert time.monotonic() < deadline, "no dictionary was trained"
        for more in range(number, number + 500):
            cache[more] = record(more)
    number += 500
    for _ in range(2):
        with Cache("16MiB", path=tmp_path / "c") as cache:
            assert cache.stats()["dictionaries"] >= 1
            assert len(cache) == number
            assert all(cache[n] == record(n) for n in range(number))
            cache["new"] = record(5)
            cache.clear()
            assert not list(cache)
            for n in range(number):
                cache[n] = record(n)


def test_another_codec_reads_what_the_first_wrote(tmp_path):
    for turn, codec in enumerate(["auto", "lz4", "zstd", "auto"]):
        with Cache("4MiB", path=tmp_path / "c", codec=codec) as cache:
            for number in range(50):
                for old in range(turn):
                    assert cache[old, number] == text(2000 + 100 * number, old)
                cache[turn, number] = text(2000 + 100 * number, turn)


def test_clear_is_for_good(tmp_path):
    with Cache("4MiB", path=tmp_path / "c") as cache:
        cache.update({n: text(500, n) for n in range(100)})
        cache.flush()
        cache.clear()
        cache["new"] = b"1"
        cache.flush()
        folder = crash(cache, tmp_path / "c", tmp_path / "d")
    with Cache("4MiB", path=folder) as cache:
        assert dict(cache) == {"new": b"1"}


def test_one_at_a_time(tmp_path):
    with Cache("4MiB", path=tmp_path / "c") as cache:
        cache["a"] = b"1"
        with pytest.raises(ColdmemError, match="use|open|lock"):
            Cache("4MiB", path=tmp_path / "c")
        code = (f"from coldmem import Cache\nfrom coldmem.errors import ColdmemError\n"
                f"try:\n    Cache('4MiB', path={os.fspath(tmp_path / 'c')!r})\n"
                f"except ColdmemError as error:\n    print('refused', error)\n")
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
        assert done.stdout.startswith("refused")
        assert cache["a"] == b"1"
        cache["b"] = b"2"
    with Cache("4MiB", path=tmp_path / "c") as cache:
        assert dict(cache) == {"a": b"1", "b": b"2"}


def test_a_fork_leaves_it_alone(tmp_path):
    with Cache("4MiB", path=tmp_path / "c") as cache:
        cache["a"] = b"1"
        child = os.fork()
        if not child:
            os._exit(0 if cache.closed else 1)
        assert os.waitpid(child, 0)[1] == 0
        cache["b"] = b"2"
    with Cache("4MiB", path=tmp_path / "c") as cache:
        assert dict(cache) == {"a": b"1", "b": b"2"}


# -- damage ----------------------------------------------------------------------------------------
@pytest.fixture(scope="module")
def written(tmp_path_factory):
    """A folder that was not closed cleanly, and what is in it."""
    folder = tmp_path_factory.mktemp("damage")
    want = {}
    cache = Cache("8MiB", path=folder / "c")
    for number in range(3000):
        key = [number, f"k{number}", (number, "t")][number % 3]
        value = b'{"id": %d, "name": "user %d", "value": %d}' % (number, number, number * 77)
        want[key] = cache[key] = value
    want["large"] = cache["large"] = text(300_000)
    want["noise"] = cache["noise"] = noise(100_000)
    want["array"] = cache["array"] = [1] * 3000
    deadline = time.monotonic() + 30
    while not cache.stats()["dictionaries"] and time.monotonic() < deadline:
        time.sleep(0.02)
    for number in range(3000, 3600):
        value = b'{"id": %d, "name": "user %d", "value": %d}' % (number, number, number * 77)
        want[number] = cache[number] = value
    cache.flush()
    return crash(cache, folder / "c", folder / "d"), want


@pytest.mark.parametrize("how", ["flip", "zero", "cut", "shift"])
def test_damage_never_gives_a_wrong_value(tmp_path, written, how):
    source, want = written
    dice = random.Random(how)
    for turn in range(5):
        folder = tmp_path / str(turn)
        shutil.copytree(source, folder)
        files = sorted(folder.glob("*.segment"), key=lambda p: -p.stat().st_size)
        spoilt = files[turn % len(files)]
        data = bytearray(spoilt.read_bytes())
        at = dice.randrange(64, len(data))
        if how == "flip":
            for _ in range(20):
                data[dice.randrange(64, len(data))] ^= 1 << dice.randrange(8)
        elif how == "zero":
            data[at : at + 4096] = bytes(len(data[at : at + 4096]))
        elif how == "cut":
            del data[at:]
        else:
            del data[at : at + 8]
        spoilt.write_bytes(data)
        heard = []
        with Cache("8MiB", path=folder, on_evict=lambda *row, heard=heard: heard.append(row)) as cache:
            found = {key: value for key in list(cache) if (value := cache.get(key)) is not None}
            assert found.items() <= want.items() if "array" not in found else all(
                want[key] == value for key, value in found.items())
            assert found, "a part was damaged, and all of it is gone"
            assert how in ("cut", "shift") or len(found) > 100  # a dictionary may be what is damaged
            assert {reason for _, reason in heard} <= {"corrupt"}
            cache.check_valid()
            again = {n: text(200, n) for n in range(500)}
            cache.update(again)
            found.update(again)
        with Cache("8MiB", path=folder) as cache:
            assert dict(cache) == found
            cache.check_valid()


def test_a_damaged_dictionary(tmp_path, written):
    """What needs it is gone, all else is there; its number means nothing else to old records later."""
    source, want = written
    folder = tmp_path / "c"
    shutil.copytree(source, folder)
    (segment,) = folder.glob("*.segment")
    data = bytearray(segment.read_bytes())
    magic = data.find(b"\x37\xa4\x30\xec")  # of a zstd dictionary
    assert magic > 0
    data[magic + 500] ^= 0xFF
    segment.write_bytes(data)
    for turn in range(3):
        with Cache("8MiB", path=folder) as cache:
            for key in list(cache):
                value = cache.get(key)
                assert value is None or value == want[key]
            assert cache["noise"] == want["noise"]
            assert cache["large"] == want["large"]
            for number in range(3000, 3600):
                want_now = want[number]
                assert cache.setdefault(number, want_now) == want_now
            for number in range(1500):  # a dictionary may be made of these, and get the number
                cache[f"new {number}"] = want[f"new {number}"] = text(300, number)
            cache.flush()
            folder = crash(cache, folder, tmp_path / f"d{turn}")
    for number in range(1500):
        want.pop(f"new {number}")


# -- a crash ---------------------------------------------------------------------------------------
def test_killed_at_any_moment(tmp_path):
    """A child sets, deletes, evicts, flushes, and says what it will do and did; then SIGKILL."""
    dice = random.Random(5)
    could = {number: {0} for number in range(600)}  # turns that its value may be of; 0: it is not there
    turn = flushes = 0
    kill = 0
    while kill < 6 or flushes < 6:
        assert kill < 60, "it hardly ever gets as far as a flush"
        child = subprocess.Popen(
            [sys.executable, cache_child.__file__, tmp_path / "c", str(kill), str(turn)],
            stdout=subprocess.PIPE)
        try:
            assert select.select([child.stdout], [], [], 60)[0], "it did nothing"
            with contextlib.suppress(subprocess.TimeoutExpired):
                child.wait(dice.uniform(0.02, 0.3))
            assert child.poll() is None, "it ended by itself"
        finally:
            child.send_signal(signal.SIGKILL)
            said = child.stdout.read().decode()
            child.wait()
            child.stdout.close()
        last = {}
        for line in said.splitlines(keepends=True):
            if not line.endswith("\n"):
                break
            word, *pairs = line.split()
            if word == "did":
                flushes += 1
                could.update({number: {when} for number, when in last.items()})
                last = {}
            for number, when in (map(int, pair.split(":")) for pair in pairs):
                could[number] = could[number] | {when}
                last[number] = when
                turn = max(turn, when)
        with Cache("4MiB", path=tmp_path / "c", lossless=True) as cache:
            cache.check_valid()
            for number, turns in could.items():
                value = cache.get(child_key(number))
                if value is None:
                    assert 0 in turns, (number, turns)
                    could[number] = {0}
                    continue
                when = int(value.split(b'"turn": ')[1].split(b",")[0])
                assert when in turns, (number, when, turns)
                assert value == child_value(number, when)
                could[number] = {when}
            assert len(cache) == sum(turns != {0} for turns in could.values())
            cache.check_valid()
            assert cache.stats()["corrupt"] == 0
        turn += 1
        kill += 1
