"""Sets, deletes and evictions while a value is on its way to disk, and a crash after that."""

import contextlib
import errno
import os
import shutil
import signal
import subprocess
import sys
import threading
import time

import pytest
from cache_data import noise

from coldmem import Cache, MemoryLimitError

FULL = errno.ENOSPC


class Faulty:
    """The system calls; while `full`, no write is taken."""

    def __init__(self):
        self.full = False

    def pwritev(self, fd, buffers, offset):
        if self.full:
            raise OSError(FULL, os.strerror(FULL))
        return os.pwritev(fd, buffers, offset)

    pread = staticmethod(os.pread)
    fdatasync = staticmethod(os.fdatasync)


@contextlib.contextmanager
def meanwhile(cache, what, before=False):
    """`what` happens once, between the writing of records and the moment the cache hears of it."""
    log = cache._tier.log
    append = log.append
    left = [what]

    def doing(records):
        if before and left:
            left.pop()()
        places = append(records)
        if left:
            left.pop()()
        return places

    log.append = doing
    try:
        yield
    finally:
        del log.append
    assert not left, "nothing was written"


def collect(cache):
    """Every segment with garbage goes, as it would some time later."""
    with cache._tier.lock:
        cache._tier.log.collect(cache._tier._moved, want=1 << 40)


def killed(cache, folder, memory="16MiB", **options):
    """What is there after a kill at this moment."""
    copy = folder.with_name(folder.name + "-killed")
    shutil.rmtree(copy, ignore_errors=True)
    shutil.copytree(folder, copy)
    with Cache(memory, path=copy, **options) as found:
        found.check_valid()
        return dict(found)


def in_another_thread(what):
    thread = threading.Thread(target=what)
    thread.start()
    thread.join()


# -- a set while its key is written ----------------------------------------------------------------
@pytest.mark.parametrize("size", [3000, 100_000])
@pytest.mark.parametrize("before", [True, False])
@pytest.mark.parametrize("flushed", [True, False])
@pytest.mark.parametrize("how", ["flush", "evict"])
def test_a_set_while_the_key_is_written(tmp_path, size, before, flushed, how):
    """What was flushed, or is being flushed, is there until what replaced it is."""
    values = {n: noise(size, n) for n in range(4)}
    with Cache("16MiB", path=tmp_path / "c") as cache:
        if flushed:
            cache["key"] = values[0]
            cache.flush()
        cache["key"] = values[1]
        with meanwhile(cache, lambda: cache.set("key", values[2]), before):
            cache.flush() if how == "flush" else cache.evict(1 << 20)
        cache.check_valid()
        fine = {values[1], values[2]}
        if how == "evict":
            fine.add(values[0] if flushed else None)
        assert killed(cache, tmp_path / "c").get("key") in fine
        cache._tier.log._write_deaths_locked(None)
        assert killed(cache, tmp_path / "c").get("key") in fine
        collect(cache)
        assert killed(cache, tmp_path / "c").get("key") in fine
        cache["other"] = b"x"
        cache.check_valid()
        assert cache["key"] == values[2]
        cache.flush()
        collect(cache)
        assert killed(cache, tmp_path / "c") == {"key": values[2], "other": b"x"}
        assert cache.stats()["disk_live_bytes"] < 1.2 * size + 200
    with Cache("16MiB", path=tmp_path / "c") as cache:
        assert dict(cache) == {"key": values[2], "other": b"x"}


def test_a_set_after_the_key_went_while_it_is_written(tmp_path):
    """The key is evicted and set again; then its place in memory is another's."""
    with Cache("16MiB", path=tmp_path / "c") as cache:
        cache["key"] = noise(3000, 1)

        def change():
            assert cache._evict_from_ram(1)
            assert "key" not in cache
            cache["another"] = noise(3000, 2)
            cache["key"] = noise(3000, 3)

        with meanwhile(cache, change):
            cache.flush()
        cache.check_valid()
        found = killed(cache, tmp_path / "c")
        assert found.get("key") in (None, noise(3000, 1), noise(3000, 3))
        assert found.get("another") in (None, noise(3000, 2))
        cache.flush()
        assert killed(cache, tmp_path / "c") == {"key": noise(3000, 3), "another": noise(3000, 2)}
        cache.check_valid()


@pytest.mark.parametrize("how", ["del", "pop"])
def test_a_delete_does_not_take_what_was_flushed_after_it(tmp_path, how):
    """The note of a deletion comes before what is set, and flushed, after it."""
    with Cache("16MiB", path=tmp_path / "c") as cache:
        cache["key"] = noise(3000, 1)
        drop = cache._drop
        done = threading.Event()

        def set_and_flush():
            cache["key"] = noise(3000, 2)
            cache.flush()
            done.set()

        def and_then(*args):
            found = drop(*args)
            threads.append(threading.Thread(target=set_and_flush))
            threads[0].start()
            done.wait(0.5)  # it waits for us; if it did not, it would be through by now
            return found

        threads = []
        cache._drop = and_then
        if how == "del":
            del cache["key"]
        else:
            assert cache.pop("key") == noise(3000, 1)
        del cache._drop
        threads[0].join()
        assert killed(cache, tmp_path / "c") == {"key": noise(3000, 2)}


@pytest.mark.parametrize("size", [3000, 100_000])
def test_a_pop_takes_no_newer_value(size):
    """Also where the newer one has the address of the older one."""
    with Cache("16MiB") as cache:
        cache["key"] = noise(size, 1)
        get = cache.get

        def and_then(*args):
            value = get(*args)
            if value == noise(size, 1):
                cache["key"] = noise(size, 2)
                cache["key"] = noise(size, 3)
            return value

        cache.get = and_then
        assert cache.pop("key") == noise(size, 3)
        assert len(cache) == 0


# -- what is gone stays gone -----------------------------------------------------------------------
def replaced_and_gone(tmp_path, how, io):
    """A key of which an old value is on disk and a newer one was in memory, and has gone."""
    heard = []
    cache = Cache("4MiB", path=tmp_path / "c", on_evict=lambda *row: heard.append(row))
    cache._tier.log._io = io
    cache["key"] = noise(3000, 1)
    cache["stays"] = b"s"
    cache.flush()
    if how == "evicted before":  # from disk, and then there was a newer one, that was never written
        cache.evict(1 << 20)
        while "key" in cache:
            assert cache._drop_oldest_on_disk(1)
        cache._drain()
        cache["stays"] = b"s"
    cache.set("key", noise(3000, 2), ttl=60 if how == "expired" else None)
    assert cache["key"] == noise(3000, 2)
    if how == "expired":
        cache._shift_clock(61)
        assert cache.get("key") is None
    else:
        io.full = True  # nothing can be written, so what leaves memory is gone
        while "key" in cache:
            assert cache.evict(100_000)
        io.full = False
    assert "key" not in cache
    assert "key" in [key for key, _ in heard]
    return cache


@pytest.mark.parametrize("how", ["evicted", "evicted before", "expired"])
@pytest.mark.parametrize("end", ["flush", "flush, collect", "close"])
def test_what_is_gone_does_not_come_back_older(tmp_path, how, end):
    cache = replaced_and_gone(tmp_path, how, Faulty())
    with cache:
        if end != "close":
            cache.flush()
            if end == "flush, collect":
                collect(cache)
            assert "key" not in killed(cache, tmp_path / "c")
    with Cache("4MiB", path=tmp_path / "c") as cache:
        assert "key" not in cache


def test_a_flush_that_cannot_note_what_is_gone_says_so(tmp_path):
    """And does it as soon as the disk takes it."""
    io = Faulty()
    with replaced_and_gone(tmp_path, "expired", io) as cache:
        io.full = True
        with pytest.raises(OSError, match="full"):
            cache.flush()
        io.full = False
        cache.flush()
        assert "key" not in killed(cache, tmp_path / "c")
        written = cache._tier.log.stats()["written_bytes"]
        cache.flush()
        assert cache._tier.log.stats()["written_bytes"] == written  # once is enough


def test_gone_while_it_is_written(tmp_path):
    """Evicted between the writing of its record and the moment at which the cache hears of that."""
    with Cache("4MiB", path=tmp_path / "c") as cache:
        cache["key"] = noise(3000, 1)

        def change():
            assert cache._evict_from_ram(1)
            cache["key"] = noise(3000, 2)
            assert cache._evict_from_ram(1)

        with meanwhile(cache, change):
            cache.flush()
        assert "key" not in cache
        cache.flush()
        assert "key" not in killed(cache, tmp_path / "c")
        cache.check_valid()


# -- what others do meanwhile ----------------------------------------------------------------------
def test_on_evict_may_wait_for_a_thread_that_uses_the_cache(tmp_path):
    """It is called with no lock held, also where the disk is full."""
    stuck = []

    def hear(key, reason):
        if len(stuck) < 5:
            thread = threading.Thread(target=cache.flush, daemon=True)
            thread.start()
            thread.join(10)
            stuck.append(thread.is_alive())

    with Cache("1MiB", path=tmp_path / "c", disk_max="2MiB", on_evict=hear) as cache:
        for n in range(1200):
            cache[n] = noise(4000, n)
        assert stuck
        assert not any(stuck)


class Unpicklable:
    def __reduce__(self):
        raise TypeError("no")


@pytest.mark.parametrize("lossless", [False, True])
def test_keys_that_cannot_go_to_disk(tmp_path, lossless):
    """They stay in memory as long as there is room, and are in nobody's way."""
    keys = [Unpicklable() for _ in range(400)]
    with Cache("1MiB", path=tmp_path / "c", lossless=lossless) as cache:
        kept = set()
        for n, key in enumerate(keys):
            try:
                cache[key] = noise(3000, n)
                kept.add(key)
            except MemoryLimitError:
                assert lossless
        assert 100 < len(cache) < 400
        if lossless:
            assert kept == set(cache)
        for n in range(300):
            try:
                cache[n] = noise(3000, n)
            except MemoryLimitError:
                assert lossless
            else:
                assert cache[n] == noise(3000, n)
        cache.check_valid()
    with Cache("1MiB", path=tmp_path / "c", lossless=lossless) as cache:
        assert set(cache) <= set(range(300))


def test_opened_with_less_memory_than_its_keys_need(tmp_path):
    """Some keys find no room, and what lay there is garbage; nobody collects before all are known."""
    heard = []
    with Cache("64MiB", path=tmp_path / "c") as cache:
        for n in range(30_000):
            cache[n] = noise(400, n)
    with pytest.raises(MemoryLimitError, match="memory_max"):
        Cache("1MiB", path=tmp_path / "c", lossless=True)
    with Cache("64MiB", path=tmp_path / "c", lossless=True) as cache:
        assert len(cache) == 30_000
    with Cache("1MiB", path=tmp_path / "c", on_evict=lambda key, _: heard.append(key)) as cache:
        assert 3000 < len(cache) < 30_000
        for n in cache:
            assert cache.get(n) in (None, noise(400, n))  # what comes back to memory drives others out
        assert cache.stats()["corrupt"] == 0
        cache.check_valid()
        assert sorted([*heard, *cache]) == list(range(30_000))


# -- threads, and a kill ---------------------------------------------------------------------------
CHILD = """
import os, sys, threading
sys.path.insert(0, sys.argv[2])
from cache_data import noise
from coldmem import Cache, MemoryLimitError
cache = Cache("2MiB", path=sys.argv[1], disk_max="8MiB", lossless=True)
KEYS = 200
latest = [int(cache.get(n, b"0|").split(b"|")[0]) for n in range(KEYS)]
def work(first):
    turn = 0
    while True:
        turn += 1
        for n in range(first, KEYS, 2):
            try:
                cache[n] = b"%d|" % (latest[n] + 1) + noise(1000 + 700 * (n % 7), latest[n] + n)
            except MemoryLimitError:
                continue
            latest[n] += 1
        if turn % 3 == 0:
            cache.evict(200_000)
for first in range(2):
    threading.Thread(target=work, args=(first,), daemon=True).start()
while True:
    before = list(latest)
    try:
        cache.flush()
    except MemoryLimitError:
        continue
    os.write(1, (" ".join(map(str, before)) + "\\n").encode())
"""


def test_killed_while_threads_set_what_is_flushed(tmp_path):
    """Each key has the value that it had when a flush began that is over, or a newer one."""
    least = [0] * 200
    for turn in range(4):
        child = subprocess.Popen(
            [sys.executable, "-c", CHILD, tmp_path / "c", os.path.dirname(os.path.dirname(__file__))],
            stdout=subprocess.PIPE)
        try:
            for _ in range(3 + 5 * turn):
                line = child.stdout.readline()
                assert line.endswith(b"\n"), child.wait()
                least = [max(pair) for pair in zip(least, map(int, line.split()), strict=True)]
            time.sleep(0.05)
        finally:
            child.send_signal(signal.SIGKILL)
            rest = child.stdout.read().splitlines(keepends=True)
            child.stdout.close()
            child.wait()
        for line in rest:
            if line.endswith(b"\n"):
                least = [max(pair) for pair in zip(least, map(int, line.split()), strict=True)]
        with Cache("2MiB", path=tmp_path / "c", disk_max="8MiB", lossless=True) as cache:
            cache.check_valid()
            for n, version in enumerate(least):
                value = cache.get(n)
                if version or value is not None:
                    assert value is not None, (turn, n, version)
                    found = int(value.split(b"|")[0])
                    assert found >= version, (turn, n)
                    assert value == b"%d|" % found + noise(1000 + 700 * (n % 7), found - 1 + n)
    assert max(least) > 3
