"""A forked child reads what was on disk when it was made, however the parent goes on."""

import contextlib
import ctypes
import os
import signal
import time

import pytest

from coldmem.errors import ColdmemError, SwapFileError
from coldmem.testing.swap_stress import hammer
from coldmem.zswap import Zswap
from coldmem.zswap.swapfile import SwapFile

UNITS = 600


def unit(slot: int, version: int) -> bytes:
    """Hardly compressible, and nobody else's."""
    import random

    return random.Random(slot * 1000 + version).randbytes(4096)


def c_fork() -> int:
    """As C code forks: Python hears nothing of it."""
    return int(ctypes.PyDLL(None).fork())


def in_child(job, fork=os.fork) -> tuple[int, int]:
    """Fork; the child's pid, and the pipe that lets it begin."""
    reading, writing = os.pipe()
    pid = fork()
    if pid == 0:
        code = 99
        try:
            os.close(writing)
            os.read(reading, 1)
            code = job()
        finally:
            os._exit(code)
    os.close(reading)
    return pid, writing


FORKS = pytest.mark.parametrize("fork", [os.fork, c_fork])


@FORKS
def test_room_is_not_reused_while_a_child_lives(fork):
    with Zswap(max_pool="1M", swap="8M", shrinker_thread=False) as zswap:
        for slot in range(UNITS):
            zswap.store(slot, unit(slot, 1))
        on_disk = zswap.stats()["units_disk"]
        assert on_disk > UNITS // 2
        out = bytearray(4096)

        def job() -> int:
            wrong = 0
            for slot in range(UNITS):
                try:
                    zswap.load(slot, out)
                except ColdmemError:
                    return 2
                wrong += bytes(out) != unit(slot, 1)
            return 1 if wrong else 0

        pid, begin = in_child(job, fork)
        # The parent replaces everything, twice: it needs new room each time.
        for version in (2, 3):
            for slot in range(UNITS):
                zswap.store(slot, unit(slot, version))
        held = zswap.swap.used_bytes
        os.write(begin, b"x")
        os.close(begin)
        assert os.waitpid(pid, 0)[1] == 0
        end = time.monotonic() + 30
        while zswap.swap.used_bytes >= held and time.monotonic() < end:
            time.sleep(0.02)
        assert zswap.swap.used_bytes < held, "what was held is free when the child has gone"
        zswap.swap.check_valid()
        zswap.check_valid("full")
        for slot in range(UNITS):
            zswap.load(slot, out)
            assert bytes(out) == unit(slot, 3)


@FORKS
def test_two_children_and_a_grandchild(fork):
    with Zswap(max_pool="1M", swap="8M", shrinker_thread=False) as zswap:
        for slot in range(UNITS):
            zswap.store(slot, unit(slot, 1))
        first, begin_first = in_child(lambda: 0, fork)
        out = bytearray(4096)

        def job() -> int:
            pid = fork()  # the grandchild goes on when its parent has ended
            if pid:
                return 0
            time.sleep(0.3)
            zswap.load(1, out)
            os._exit(0 if bytes(out) == unit(1, 1) else 1)

        second, begin_second = in_child(job, fork)
        for version in (2, 3):
            for slot in range(UNITS):
                zswap.store(slot, unit(slot, version))
        held = zswap.swap.used_bytes
        for pid, begin in ((first, begin_first), (second, begin_second)):
            os.write(begin, b"x")
            os.close(begin)
            assert os.waitpid(pid, 0)[1] == 0
        end = time.monotonic() + 30
        while zswap.swap.used_bytes >= held and time.monotonic() < end:
            time.sleep(0.02)
        assert zswap.swap.used_bytes < held
        zswap.swap.check_valid()


@pytest.mark.parametrize("close_first", [False, True])
def test_closing_with_a_child_alive(close_first):
    zswap = Zswap(max_pool="1M", swap="8M", shrinker_thread=False)
    for slot in range(UNITS):
        zswap.store(slot, unit(slot, 1))
    pid, begin = in_child(lambda: 0)
    zswap.invalidate_many(range(UNITS))
    if close_first:
        zswap.close()
    os.write(begin, b"x")
    os.close(begin)
    assert os.waitpid(pid, 0)[1] == 0
    zswap.close()


@FORKS
def test_a_child_cannot_spoil_the_parents_file(fork):
    with Zswap(max_pool="1M", swap="8M", shrinker_thread=False) as zswap:
        for slot in range(UNITS):
            zswap.store(slot, unit(slot, 1))
        written = zswap.swap.stats()["written_bytes"]

        def job() -> int:
            for version in (2, 3):
                for slot in range(UNITS):
                    with contextlib.suppress(ColdmemError):  # full: it may not write
                        zswap.store(slot, unit(slot, version))
            return 0 if zswap.swap.stats()["written_bytes"] == written else 1

        pid, begin = in_child(job, fork)
        os.write(begin, b"x")
        os.close(begin)
        assert os.waitpid(pid, 0)[1] == 0
        out = bytearray(4096)
        for slot in range(UNITS):
            zswap.load(slot, out)
            assert bytes(out) == unit(slot, 1)
        zswap.check_valid("full")


@FORKS
def test_room_that_is_needed_is_looked_for(fork):
    """Nobody waits for children: who finds the file full looks whether they live."""
    with SwapFile("4M") as file:
        held = [file.alloc(4096) for _ in range(1024)]
        pid, begin = in_child(lambda: 0, fork)
        for offset in held:
            file.free(offset, 4096)
        with pytest.raises(SwapFileError, match="no space"):
            file.alloc(4096)  # it lives
        os.write(begin, b"x")
        os.close(begin)
        assert os.waitpid(pid, 0)[1] == 0
        held = [file.alloc(4096) for _ in range(1024)]
        file.check_valid()


@FORKS
def test_no_descriptor_is_left(fork):
    def count() -> int:
        return len(os.listdir("/proc/self/fd"))

    with SwapFile("4M") as file:
        offset = file.alloc(4096)
        before = count()
        for _ in range(20):
            pid, begin = in_child(lambda: 0, fork)
            os.write(begin, b"x")
            os.close(begin)
            assert os.waitpid(pid, 0)[1] == 0
        assert count() <= before + 1, "one is known to have ended when the next is forked"
        assert file.used_bytes == 4096
        assert count() == before
        file.free(offset, 4096)
        assert file.used_bytes == 0
        pid, begin = in_child(lambda: 0, fork)
        assert count() == before + 1, "nothing is on disk: nothing to wait for"
        os.close(begin)
        os.waitpid(pid, 0)


@pytest.mark.tsan
def test_forks_while_threads_use_the_file(run_threads, stress_seconds):
    """A child finds the locks free, and what was in the file when it was made."""
    with SwapFile("16M") as file:
        mine = file.alloc(3000)
        file.write(mine, b"m" * 3000)
        end = time.monotonic() + stress_seconds

        def forker() -> None:
            while time.monotonic() < end:
                pid = os.fork()  # C code's leaves a child waiting for Python's lock where others want it
                if pid == 0:
                    code = 1
                    try:
                        signal.alarm(20)
                        assert file.read(mine, 3000) == b"m" * 3000
                        assert file.used_bytes > 0
                        code = 0
                    finally:
                        os._exit(code)
                assert os.waitpid(pid, 0)[1] == 0

        def user(seed: int) -> None:
            while time.monotonic() < end:
                tally = hammer(file, seed, 2000, 50)
                assert not tally["wrong"] and not tally["failed"]

        run_threads(forker, lambda: user(1), lambda: user(2))
        file.check_valid()
        assert file.used_bytes == file.charge(3000)
