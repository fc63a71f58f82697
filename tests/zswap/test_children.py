"""A forked child reads what was on disk when it was made, however the parent goes on."""

import os
import time

import pytest

from coldmem.errors import ColdmemError
from coldmem.zswap import Zswap

UNITS = 600


def unit(slot: int, version: int) -> bytes:
    """Hardly compressible, and nobody else's."""
    import random

    return random.Random(slot * 1000 + version).randbytes(4096)


def in_child(job) -> tuple[int, int]:
    """Fork; the child's pid, and the pipe that lets it begin."""
    reading, writing = os.pipe()
    pid = os.fork()
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


def test_room_is_not_reused_while_a_child_lives():
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

        pid, begin = in_child(job)
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


def test_two_children_and_a_grandchild():
    with Zswap(max_pool="1M", swap="8M", shrinker_thread=False) as zswap:
        for slot in range(UNITS):
            zswap.store(slot, unit(slot, 1))
        first, begin_first = in_child(lambda: 0)
        out = bytearray(4096)

        def job() -> int:
            pid = os.fork()  # the grandchild goes on when its parent has ended
            if pid:
                return 0
            time.sleep(0.3)
            zswap.load(1, out)
            os._exit(0 if bytes(out) == unit(1, 1) else 1)

        second, begin_second = in_child(job)
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
