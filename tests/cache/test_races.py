"""What another thread, a finalizer or a signal does in the midst of a call, where it matters."""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from cache_data import make_cache, noise

from coldmem import Cache, MemoryLimitError
from coldmem.cache.log import Log
from coldmem.errors import ClosedError

DISKS = ["disk", "persistent", "lossless"]


def in_another_thread(what: Callable[[], object]) -> None:
    thread = threading.Thread(target=what)
    thread.start()
    thread.join()


class Io:
    """The system calls; `hook` is called once, before the next fdatasync."""

    hook: Callable[[], object] | None = None
    pread = staticmethod(os.pread)
    pwritev = staticmethod(os.pwritev)

    def fdatasync(self, fd: int) -> None:
        hook, self.hook = self.hook, None
        if hook is not None:
            hook()
        os.fdatasync(fd)


def test_what_goes_while_a_flush_waits_for_the_disk_is_noted_by_the_next(tmp_path: Path) -> None:
    io = Io()
    log = Log(tmp_path / "log", disk_max=None, persistent=True, io=io)
    a, b, _ = log.append([(key, b"", [b"v" * 100]) for key in (b"a", b"b", b"c")])
    log.flush()
    log.free(a, gone=True)
    log.append([(b"d", b"", [b"x"])])

    def first() -> None:
        log.append([(b"e", b"", [b"x"])])  # so there is something to wait for once more
        io.hook = lambda: log.free(b, gone=True)  # now with the log's lock held

    io.hook = first
    log.flush()
    assert io.hook is None
    log.flush()
    shutil.copytree(tmp_path / "log", tmp_path / "killed")
    found = Log(tmp_path / "killed", disk_max=None, persistent=True)
    assert {key for _, key, _ in found.recover()} == {b"c", b"d", b"e"}
    found.close()
    log.close()


# -- keys that have a number -----------------------------------------------------------------------
@pytest.mark.parametrize("kind", DISKS)
@pytest.mark.parametrize("how", ["set_on_disk", "set"])
def test_a_key_that_goes_while_its_value_is_written(tmp_path: Path, kind: str, how: str) -> None:
    """The number that was given to it stays until it is no more needed."""
    with make_cache(kind, tmp_path, "2MiB", codec="raw") as cache:
        key, value = ("a", 1), noise(1_500_000)
        cache[key] = b"old"
        put = cache._tier.put

        def after(*args: Any) -> Any:
            in_another_thread(lambda: cache.pop(key))
            return put(*args)

        cache._tier.put = after
        (cache.set_on_disk if how == "set_on_disk" else cache.set)(key, value)
        assert list(cache) == [key] and cache.get(key) == value
        cache.check_valid()
        cache.pop(key)
        assert len(cache) == 0


def test_sets_that_fail_leave_no_number_behind(tmp_path: Path) -> None:
    with Cache("1MiB", lossless=True, codec="raw") as cache:
        with pytest.raises(MemoryLimitError):
            for n in range(1000):
                cache[n] = noise(3000, n)
        before = cache.stats()["metadata_bytes"]
        for n in range(100):
            with pytest.raises(MemoryLimitError):
                cache["key", n] = noise(20_000, n)
        assert cache.stats()["metadata_bytes"] < before + 2000
    with Cache("1MiB", directory=tmp_path, disk_max="4MiB") as cache:
        before = cache.stats()["metadata_bytes"]
        for n in range(100):
            with pytest.raises(MemoryLimitError):
                cache.set_on_disk(("key", n), bytes(6_000_000))
        assert cache.stats()["metadata_bytes"] < before + 2000


class Slow:
    """A key of which looking at the hash may let others run."""

    hook: Callable[[], object] | None = None

    def __init__(self, number: int) -> None:
        self.number = number

    def __hash__(self) -> int:
        hook, Slow.hook = Slow.hook, None
        if hook is not None:
            hook()
        return hash(self.number)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Slow) and other.number == self.number


@pytest.mark.parametrize("turn", range(16))
def test_a_key_that_is_set_while_its_number_is_given_up(turn: int) -> None:
    """Whenever it happens, what is there can be found."""
    left = [turn]

    def hook() -> None:
        if left[0] == 0:
            in_another_thread(lambda: cache.set(Slow(1), b"2"))
        else:
            Slow.hook = hook
        left[0] -= 1

    with Cache("4MiB") as cache:
        cache[Slow(1)] = b"1"
        Slow.hook = hook
        try:
            cache.pop(Slow(1))
        finally:
            Slow.hook = None
        assert len(cache) == len(list(cache))
        assert cache.get(Slow(1)) in ((b"2",) if len(cache) else (None,))
        cache.pop(Slow(1), None)
        assert len(cache) == 0


# -- on the way to disk ----------------------------------------------------------------------------
@contextlib.contextmanager
def after_writing(cache: Cache, what: Callable[[], object]) -> Iterator[None]:
    """`what` happens once, between the writing of records and the moment the cache hears of it."""
    assert cache._tier is not None
    append = cache._tier.log.append
    left = [what]

    def doing(records: Any) -> Any:
        places = append(records)
        if left:
            left.pop()()
        return places

    cache._tier.log.append = doing  # type: ignore[method-assign]
    yield
    assert not left


def test_a_finalizer_that_deletes_while_records_are_written(tmp_path: Path) -> None:
    """It runs in the thread that writes, so the lock is no hindrance; nothing may be collected then."""
    with Cache("16MiB", directory=tmp_path, codec="raw") as cache:
        cache.update({n: noise(50_000, n) for n in range(120)})
        while cache.stats()["ram_entries"]:
            cache.evict("16MiB")
        kept = {("k", n): noise(50_000, n) for n in range(120)}
        cache.update(kept)
        with after_writing(cache, lambda: cache.delete_many(range(119))):
            cache.evict("16MiB")
        cache.check_valid()
        assert all(cache.get(key) == value for key, value in kept.items())
        assert cache.stats()["corrupt"] == 0


class Key:
    stop = False

    def __reduce__(self) -> tuple[Any, ...]:
        if Key.stop:
            raise KeyboardInterrupt
        return Key, ()


@pytest.mark.parametrize("how", ["evict", "flush"])
def test_an_interrupt_while_keys_are_pickled_leaves_nothing_behind(tmp_path: Path, how: str) -> None:
    with Cache("4MiB", path=tmp_path / "c", codec="raw") as cache:
        cache[Key()] = noise(100_000, 1)
        cache["b"] = noise(100_000, 2)
        Key.stop = True
        try:
            with pytest.raises(KeyboardInterrupt):
                cache.flush() if how == "flush" else cache.evict("4MiB")
        finally:
            Key.stop = False
        cache.check_valid()
        while cache.stats()["ram_entries"] and cache.evict("4MiB"):
            pass
        numbers = cache.stats()
        assert numbers["ram_entries"] == 0 and numbers["pool_bytes"] < 50_000


def test_a_removal_that_finds_no_room_beside_a_flush(tmp_path: Path) -> None:
    """The flush is through with what it had heard; the next one knows of the removal."""
    class Full(Io):
        full = False

        def pwritev(self, fd: int, buffers: Any, offset: int) -> int:  # type: ignore[override]
            if self.full:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            return os.pwritev(fd, buffers, offset)

    io = Full()
    with Cache("4MiB", path=tmp_path / "c") as cache:
        cache["key"] = cache["stays"] = noise(3000)
        cache.flush()
        assert cache._tier is not None
        log = cache._tier.log
        log._io = io
        note = log.note_deaths

        def noted() -> None:
            note()
            io.full = False
            in_another_thread(log.flush)

        log.note_deaths = noted  # type: ignore[method-assign]
        io.full = True
        del cache["key"]
        assert not io.full
        cache.flush()
        shutil.copytree(tmp_path / "c", tmp_path / "killed")
        with Cache("4MiB", path=tmp_path / "killed") as found:
            assert set(found) == {"stays"}


@pytest.mark.parametrize("how", ["evict", "flush"])
def test_no_memory_while_victims_are_picked(tmp_path: Path, how: str) -> None:
    """Whichever allocation fails: what had left its queue is back, and nobody holds it."""
    testcapi = pytest.importorskip("_testcapi")
    for start in range(1, 60, 3):
        with Cache("64MiB", path=tmp_path / str(start), codec="raw") as cache:
            for n in range(12):
                cache[n] = noise(9000 if n % 2 else 3000, n)
            taken: list[Any] = []
            testcapi.set_nomemory(start, start + 1)
            try:
                if how == "evict":
                    taken += cache._victims(1 << 20)[0]
                else:
                    for shard in range(cache._shards()):
                        taken += cache._dirty(shard, 1)[1]
            except MemoryError:
                pass
            finally:
                testcapi.remove_mem_hooks()
            cache._abort(taken, False)
            cache.check_valid()
            while cache.evict("64MiB"):
                pass
            numbers = cache.stats()
            assert numbers["ram_entries"] == 0 and numbers["pool_bytes"] < 30_000, start


# -- at the end ------------------------------------------------------------------------------------
@pytest.mark.parametrize("what", ["get", "peek", "pop", "evict", "flush", "stats", "set", "set_on_disk"])
def test_a_call_that_meets_the_closing(tmp_path: Path, what: str) -> None:
    cache = Cache("4MiB", path=tmp_path / "c", codec="raw")
    for n in range(20):
        cache.set_on_disk(n, noise(100_000, n))
    calls: dict[str, Callable[[], object]] = {
        "get": lambda: cache.get(3), "peek": lambda: cache.peek(3), "pop": lambda: cache.pop(3),
        "evict": lambda: cache.evict(1000), "flush": cache.flush, "stats": cache.stats,
        "set": lambda: cache.set("big", noise(5_000_000)),
        "set_on_disk": lambda: cache.set_on_disk("y", b"1"),
    }
    flags = cache._set_flags
    errors: list[BaseException] = []

    def during(*args: Any) -> None:
        try:
            calls[what]()
        except BaseException as error:
            errors.append(error)
        flags(*args)

    cache._set_flags = during  # type: ignore[method-assign]
    cache.close()
    assert all(isinstance(error, ClosedError) for error in errors), errors


# -- what is told ----------------------------------------------------------------------------------
def test_on_evict_that_raises_hears_the_rest_later() -> None:
    told: list[Any] = []

    def hear(key: Any, reason: str) -> None:
        told.append(key)
        if len(told) == 3:
            raise ValueError("no")

    with Cache("1MiB", on_evict=hear) as cache:
        for n in range(20):
            cache.set(n, b"x", ttl=1)
        cache._shift_clock(5)
        with pytest.raises(ValueError, match="no"):
            cache.expire()
        cache.expire()
        assert told == sorted(told) == list(range(20))


def test_a_peek_counts_nothing(tmp_path: Path) -> None:
    """But what is read from disk."""
    with make_cache("disk", tmp_path, "16MiB") as cache:
        cache["hot"] = bytes(2000)
        for _ in range(40):
            cache["hot"]
        cache["large"] = noise(100_000)
        cache.set_on_disk("disk", noise(100_000))
        before = cache.stats()
        assert before["hits_hot"] > 0
        for _ in range(40):
            for key in ("hot", "large", "disk", "none"):
                cache.peek(key)
        after = cache.stats()
        assert {name for name in before if before[name] != after[name]} == {"disk_reads", "read_bytes"}
        assert cache["disk"] == noise(100_000) and cache.stats()["hits_disk"] == 1
