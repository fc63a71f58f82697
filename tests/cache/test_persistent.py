"""A cache that outlives its process: by a clean close, a crash at any moment, and in spite of damage."""

import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from cache_data import noise, pass_time, text

from coldmem import Cache, ColdmemError, MemoryLimitError

CHILD = Path(__file__).with_name("crash_child.py")
MANY = {
    "text": text(5000), b"bytes": noise(3000), 5: b"", -1: b"x", "": b"empty key", b"": b"e", ("t", 1): [1, 2],
    None: None, 1.5: "float", "\ud800": {"a": 1}, 1 << 80: noise(200_000), frozenset([1]): text(300_000, 1),
    "x" * 3000: b"long key", "large": noise(3 << 20), "same": bytes(100_000),
}


def opened(folder, memory="16MiB", **options):
    return Cache(memory, path=folder, **options)


# -- a clean end -----------------------------------------------------------------------------------
def test_it_reopens_with_its_content(tmp_path):
    model = dict(MANY)
    for n in range(600):
        model["json", n] = model[n + 100] = b'{"id": %d, "name": "user %d"}' % (n, n) * 5
    with opened(tmp_path / "c") as cache:
        cache.update(model)
    for turn in range(3):
        with opened(tmp_path / "c", "2MiB" if turn == 1 else "16MiB") as cache:
            cache.check_valid()
            assert len(cache) == len(model)
            assert set(cache) == set(model)
            assert cache.stats()["disk_entries"] == len(model)
            for key, value in model.items():
                assert cache[key] == value
                assert type(cache[key]) is type(value)
            cache["turn"] = model["turn"] = turn
            cache[5] = model[5] = b"%d" % turn
            del cache["json", turn]
            del model["json", turn]


def test_arrays_come_back(tmp_path):
    with opened(tmp_path / "c") as cache:
        cache["a"] = np.arange(100_000.0)
        cache["b"] = {"x": np.ones((3, 3), np.int8)}
    with opened(tmp_path / "c") as cache:
        np.testing.assert_array_equal(cache["a"], np.arange(100_000.0))
        np.testing.assert_array_equal(cache["b"]["x"], np.ones((3, 3)))


def test_a_closed_cache_is_no_larger_than_its_content(tmp_path):
    """What was replaced a hundred times does not stay on disk for ever."""
    with opened(tmp_path / "c", "2MiB") as cache:
        for turn in range(100):
            for n in range(50):
                cache[n] = noise(20_000, turn * 50 + n)
        assert cache.stats()["disk_used_bytes"] < 30 << 20
    used = sum(file.stat().st_blocks * 512 for file in (tmp_path / "c").rglob("*") if file.is_file())
    assert used < 40 << 20


def test_deleted_and_cleared_stays_so(tmp_path):
    with opened(tmp_path / "c") as cache:
        cache.update(MANY)
        cache.flush()
        del cache["text"], cache[None], cache["large"]
        assert cache.pop(("t", 1)) == [1, 2]
    with opened(tmp_path / "c") as cache:
        assert set(cache) == set(MANY) - {"text", None, "large", ("t", 1)}
        cache.clear()
    with opened(tmp_path / "c") as cache:
        assert len(cache) == 0
        cache["new"] = b"x"
    with opened(tmp_path / "c") as cache:
        assert dict(cache) == {"new": b"x"}


def test_lifetimes_go_on(tmp_path):
    with opened(tmp_path / "c") as cache:
        cache.set("long", b"1", ttl=1000)
        cache.set("short", b"2", ttl=0.2)
        cache.set("ever", b"3")
        cache.set(("side", 1), b"4", ttl=500)
    time.sleep(0.25)
    with opened(tmp_path / "c") as cache:
        assert set(cache) == {"long", "ever", ("side", 1)}
        assert 980 < cache.remaining_ttl("long") <= 1000
        assert 480 < cache.remaining_ttl(("side", 1)) <= 500
        assert cache.remaining_ttl("ever") is None
        assert len(cache) == 3
        pass_time(cache, 600)
        assert set(cache) == {"long", "ever"}


def test_a_dictionary_that_was_learnt_is_there_again(tmp_path):
    model = {n: b'{"user": %d, "email": "user%d@example.org", "roles": ["reader"], "active": true}' % (n, n * 7)
             for n in range(6000)}
    with opened(tmp_path / "c", "4MiB") as cache:
        cache.update(model)
        for _ in range(200):
            if cache.stats()["dictionaries"]:
                break
            time.sleep(0.02)
        assert cache.stats()["dictionaries"]
        for n in range(6000, 8000):
            cache[n] = model[n] = model[n - 6000][:-1] + b', "late": true}'
    for _ in range(2):
        with opened(tmp_path / "c", "4MiB") as cache:
            assert dict(cache) == model
            cache["more"] = model["more"] = model[5]


def test_another_codec_reads_what_the_first_wrote(tmp_path):
    model = {}
    for turn, codec in enumerate(["lz4", "zstd", "raw", "auto", "lz4"]):
        with opened(tmp_path / "c", codec=codec) as cache:
            assert dict(cache) == model
            for n in range(30):
                cache[codec, turn, n] = model[codec, turn, n] = text(3000, n)
    with opened(tmp_path / "c") as cache:
        assert dict(cache) == model


def test_more_than_disk_max_stays_within_it(tmp_path):
    for turn in range(3):
        with opened(tmp_path / "c", "1MiB", disk_max="4MiB") as cache:
            for n in range(1500):
                cache[n] = noise(4000, n + turn)
            assert cache.stats()["disk_used_bytes"] <= 4 << 20
            assert len(cache) > 300
            assert all(cache.get(n) in (None, noise(4000, n + turn)) for n in range(1500))
        with opened(tmp_path / "c", "1MiB", disk_max="4MiB") as cache:
            for n in range(1500):
                assert cache.get(n) in (None, noise(4000, n + turn))


# -- one at a time ---------------------------------------------------------------------------------
def test_a_second_opener_is_refused(tmp_path):
    with opened(tmp_path / "c") as cache:
        cache["a"] = b"1"
        with pytest.raises(ColdmemError, match=r"(?i)use|open|lock"):
            opened(tmp_path / "c")
        code = f"from coldmem import Cache; Cache('1MiB', path={str(tmp_path / 'c')!r})"
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
        assert done.returncode != 0
        assert "coldmem.errors" in done.stderr
        cache["b"] = b"2"
        cache.flush()
    with opened(tmp_path / "c") as cache:
        assert dict(cache) == {"a": b"1", "b": b"2"}


def test_a_child_finds_it_closed_and_does_no_harm(tmp_path):
    code = f"""
import os
from coldmem import Cache
from coldmem.errors import ClosedError
cache = Cache("1MiB", path={str(tmp_path / 'c')!r})
cache["a"] = b"1"
if os.fork() == 0:
    try:
        cache["a"]
    except ClosedError:
        cache.close()
        del cache
        os._exit(7)
    os._exit(1)
print(os.waitstatus_to_exitcode(os.wait()[1]))
cache["b"] = b"2"
cache.close()
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.stdout == "7\n", done.stderr
    with opened(tmp_path / "c") as cache:
        assert dict(cache) == {"a": b"1", "b": b"2"}


# -- a crash ---------------------------------------------------------------------------------------
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
    for turn in range(max(6, int(4 * stress_seconds))):
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
    assert max(durables) > 0, "no round got as far as a flush"


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


# -- damage ----------------------------------------------------------------------------------------
def damage_flip(data, pick):
    for _ in range(pick.choice([1, 5, 50])):
        data[pick.randrange(len(data))] ^= 1 << pick.randrange(8)


def damage_cut(data, pick):
    del data[pick.randrange(len(data)):]


def damage_zero(data, pick):
    at = pick.randrange(len(data))
    n = min(pick.choice([512, 4096, 100_000]), len(data) - at)
    data[at : at + n] = bytes(n)


def damage_swap(data, pick):
    """Blocks change places."""
    n = len(data) // 4096
    if n > 1:
        a, b = pick.sample(range(n), 2)
        one, two = data[a * 4096 : a * 4096 + 4096], data[b * 4096 : b * 4096 + 4096]
        data[a * 4096 : a * 4096 + 4096], data[b * 4096 : b * 4096 + 4096] = two, one


def damage_append(data, pick):
    data += pick.randbytes(pick.choice([10, 5000]))


@pytest.mark.parametrize("damage", [damage_flip, damage_cut, damage_zero, damage_swap, damage_append])
def test_damage_is_never_handed_out(tmp_path, damage):
    pick = random.Random(damage.__name__)
    model = {n: noise(3000, n) for n in range(100)} | {("s", n): [text(3000, n)] for n in range(20)}
    with opened(tmp_path / "c") as cache:
        cache.update(dict.fromkeys(model, b"older"))
        cache.flush()
        cache.update(model)
    kept = refused = 0
    for turn in range(8):
        shutil.rmtree(tmp_path / "copy", ignore_errors=True)
        shutil.copytree(tmp_path / "c", tmp_path / "copy")
        file = max((f for f in (tmp_path / "copy").rglob("*") if f.is_file()), key=lambda f: f.stat().st_size)
        data = bytearray(file.read_bytes())
        damage(data, pick)
        file.write_bytes(data)
        heard = []
        try:
            cache = opened(tmp_path / "copy", on_evict=lambda *row: heard.append(row))
        except ColdmemError as error:
            assert str(tmp_path / "copy") in str(error)
            refused += 1
            continue
        with cache:
            for key, value in model.items():
                found = cache.get(key)
                # An older record of the key may come back where the newer one is damaged.
                assert found in (None, value, b"older"), (turn, key)
                kept += found == value
            assert {reason for _, reason in heard} <= {"corrupt"}
            cache.check_valid()
            cache["new"] = b"x"
        with opened(tmp_path / "copy") as cache:
            assert cache["new"] == b"x"
            assert all(cache.get(key) in (None, value, b"older") for key, value in model.items())
    assert kept > 100 or refused


def test_a_lossless_cache_raises_for_damage(tmp_path):
    with opened(tmp_path / "c") as cache:
        cache["a"] = noise(3000)
    file = max((f for f in (tmp_path / "c").rglob("*") if f.is_file()), key=lambda f: f.stat().st_size)
    data = bytearray(file.read_bytes())
    at = data.index(noise(3000)[100:200])
    data[at] ^= 1
    file.write_bytes(data)
    try:
        cache = opened(tmp_path / "c", lossless=True)
    except ColdmemError:
        return
    with cache:
        with pytest.raises((ColdmemError, KeyError)) as caught:
            cache["a"]
        assert isinstance(caught.value, ColdmemError)
        assert "a" in cache


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


def test_files_are_for_their_owner_alone(tmp_path):
    with opened(tmp_path / "c") as cache:
        cache["a"] = b"secret"
    for file in [tmp_path / "c", *(tmp_path / "c").rglob("*")]:
        assert os.stat(file).st_mode & 0o077 == 0, file
