"""Threads in one pool of zbud or z3fold: contents, counts, the limit, and who wins a double free."""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial

import pytest

from coldmem.errors import HandleBusyError, HandleError, MemoryLimitError
from coldmem.lab.alloc_work import PHASES, AllocWork
from coldmem.lab.arms import AnyPool, members
from coldmem.lab.backend import Backend
from coldmem.lab.backend_arms import ARMS, arm
from coldmem.lab.drive import drive
from coldmem.lab.gate import Gate

Run = Callable[..., Sequence[object]]
KINDS = ("zbud", "z3fold")
OTHERS = [name for name, what in ARMS.items() if what.backend != "zsmalloc"]
# Of about a third of a page, so that the middle of z3fold comes and goes; some fill a page nearly.
PAYLOADS = [random.Random(i).randbytes(16 + 97 * i) for i in range(1, 41)]
SMALL = [random.Random(i).randbytes(300 + 30 * i) for i in range(40)]


def _end_ns(work: AllocWork) -> int:
    return work.totals()["end_ns"]


@pytest.mark.tsan
@pytest.mark.parametrize("name", OTHERS)
def test_contents_under_threads_and_compaction(name: str, stress_seconds: float) -> None:
    pool = arm(name).open()
    gate = Gate()
    work = AllocWork(pool, PAYLOADS, gate, 6, 1200)
    jobs = [partial(work.run, i) for i in range(6)]
    with _checking(pool) as rounds:
        drive(gate, jobs, [work.compactor] * 2, partial(_end_ns, work), stress_seconds / 2)
    assert rounds[0] > 1
    totals = work.totals()
    assert totals["ops"] > 0 and totals["bad_reads"] == totals["failed"] == 0
    objects, _, _ = work.verify()
    stats = [p.stats() for p in members(pool)]
    assert sum(s.objects for s in stats) == objects
    moved = sum(s.objects_moved for s in stats)
    assert (moved > 0) == name.startswith("z3fold")
    work.clear()
    for p in members(pool):
        p.check_valid()
        assert p.stats().objects == 0
    assert pool.used_bytes == 0
    pool.close()


@pytest.mark.tsan
@pytest.mark.parametrize("kind", KINDS)
def test_objects_are_read_while_their_neighbours_come_and_go(kind: str, stress_seconds: float) -> None:
    """Half of the threads mostly read, so a middle object is often looked at when it is to move."""
    pool = Backend(kind)
    gate = Gate()
    work = AllocWork(pool, SMALL, gate, 6, 120)
    jobs = [partial(work.watch if i % 2 else work.run, i) for i in range(6)]
    drive(gate, jobs, [work.compactor], partial(_end_ns, work), stress_seconds)
    totals = work.totals()
    assert totals["ops"] > 0 and totals["bad_reads"] == totals["failed"] == 0
    work.verify()
    assert (pool.stats().objects_moved > 0) == (kind == "z3fold")
    work.clear()
    pool.check_valid()
    pool.close()


@contextmanager
def _checking(pool: AnyPool) -> Iterator[list[int]]:
    """All invariants, again and again beside the workers; how often."""
    stop = threading.Event()
    rounds = [0]
    errors: list[BaseException] = []

    def check() -> None:
        try:
            while not stop.is_set():
                pool.check_valid()
                rounds[0] += 1
                time.sleep(0.002)
        except BaseException as error:
            errors.append(error)

    thread = threading.Thread(target=check)
    thread.start()
    try:
        yield rounds
    finally:
        stop.set()
        thread.join()
    assert not errors, errors


@pytest.mark.tsan
@pytest.mark.parametrize("name", OTHERS)
def test_phases_do_everything_once(name: str) -> None:
    pool = arm(name).open()
    work = AllocWork(pool, PAYLOADS, Gate(), 4, 800)
    for phase, alive in zip(PHASES, (800, 800, 0), strict=True):
        gate = Gate()
        drive(gate, [partial(work.phase, phase, i, gate) for i in range(4)], [],
              partial(_end_ns, work), None)
        totals = work.totals()
        assert totals["ops"] == 800 and totals["bad_reads"] == totals["failed"] == 0
        assert sum(p.stats().objects for p in members(pool)) == alive
        assert work.verify()[0] == alive
    assert pool.used_bytes == 0
    pool.close()


@pytest.mark.tsan
@pytest.mark.parametrize("kind", KINDS)
def test_views_hold_objects_still_while_others_free(kind: str, run_threads: Run) -> None:
    """Readers look at objects for long; the neighbours of these objects come and go."""
    pool = Backend(kind, limit="4M")
    kept = {}
    noise = []
    for i in range(60):
        for j in range(3):
            content = bytes([i, j]) * 600
            handle = pool.store(content)
            if j == i % 3:
                kept[handle] = content
            else:
                noise.append(handle)

    def read() -> int:
        rng = random.Random(4)
        wrong = 0
        for _ in range(400):
            handle, content = rng.choice(list(kept.items()))
            with pool.view(handle) as seen:
                first = bytes(seen)
                time.sleep(0)
                wrong += (first != content) + (bytes(seen) != content)
        return wrong

    def disturb(mine: list[int]) -> int:
        rng = random.Random(len(mine))
        for _ in range(600):
            i = rng.randrange(len(mine))
            pool.free(mine[i])
            mine[i] = pool.store(b"x" * rng.randrange(1, 1300))
            if rng.random() < 0.1:
                pool.compact()
        return 0

    assert run_threads(read, read, partial(disturb, noise[::2]), partial(disturb, noise[1::2])) == (
        [0, 0, 0, 0])
    pool.check_valid()
    for handle, content in kept.items():
        assert pool.read(handle) == content
    pool.close()


@pytest.mark.tsan
@pytest.mark.parametrize("kind", KINDS)
def test_of_two_frees_one_wins(kind: str, run_threads: Run) -> None:
    """And a reader gets the whole content, or is told that it is gone."""
    pool = Backend(kind, limit="4M")
    contents = [bytes([i % 251]) * (300 + i) for i in range(600)]
    handles = [pool.store(content) for content in contents]

    def free_all() -> int:
        won = 0
        for handle in handles:
            while True:
                try:
                    pool.free(handle)
                    won += 1
                except HandleBusyError:
                    continue
                except HandleError:
                    pass
                break
        return won

    def read_all() -> int:
        for handle, content in zip(handles, contents, strict=True):
            try:
                assert pool.read(handle) == content
            except HandleError:
                pass
        return 0

    assert sum(run_threads(free_all, free_all, read_all, read_all)) == len(handles)  # type: ignore[arg-type]
    pool.check_valid()
    assert pool.used_bytes == 0 and pool.stats().objects == 0
    pool.close()


@pytest.mark.tsan
@pytest.mark.parametrize("kind", KINDS)
def test_the_limit_is_never_exceeded(kind: str, run_threads: Run) -> None:
    pool = Backend(kind, limit="256K")

    def fill(seed: int) -> int:
        rng = random.Random(seed)
        mine: list[int] = []
        full = 0
        for _ in range(1500):
            if mine and rng.random() < 0.4:
                pool.free(mine.pop(rng.randrange(len(mine))))
                continue
            try:
                mine.append(pool.store(bytes(rng.randrange(1, 3968))))
            except MemoryLimitError:
                full += 1
        for handle in mine:
            pool.free(handle)
        return full

    refused = run_threads(*(partial(fill, seed) for seed in range(4)))
    assert all(refused)
    stats = pool.stats()
    assert stats.peak_bytes <= 256 << 10 and stats.objects == stats.used_bytes == 0
    pool.check_valid()
    pool.close()
