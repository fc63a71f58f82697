"""The locks keep threads apart, and their statistics are exact."""

import time
from functools import partial

import pytest

from coldmem.testing.lock_stress import MutexStress, RwStress

ROUNDS = 20_000


@pytest.mark.tsan
@pytest.mark.parametrize("threads", [1, 2, 8])
@pytest.mark.parametrize("hold", [0, 200])
def test_mutex_excludes_and_counts(run_threads, threads, hold):
    stress = MutexStress()
    run_threads(*[partial(stress.run, ROUNDS, hold)] * threads)
    assert stress.result() == (threads * ROUNDS, threads * ROUNDS, False)
    acquisitions, contended, wait_ns = stress.counts()
    assert acquisitions == threads * ROUNDS
    assert contended <= acquisitions
    assert (wait_ns > 0) == (contended > 0)
    if threads == 1:
        assert contended == 0


@pytest.mark.tsan
def test_mutex_trylock_counts_only_what_it_won(run_threads):
    stress = MutexStress()
    won = run_threads(*[partial(stress.run_trying, ROUNDS)] * 4, partial(stress.run, ROUNDS, 0))
    total = sum(won[:4]) + ROUNDS
    assert stress.result() == (total, total, False)
    assert stress.counts()[0] == total


@pytest.mark.tsan
def test_mutex_without_statistics_counts_nothing(run_threads):
    stress = MutexStress(counting=False)
    run_threads(*[partial(stress.run, ROUNDS, 50)] * 4)
    assert stress.result() == (4 * ROUNDS, 4 * ROUNDS, False)
    assert stress.counts() == (0, 0, 0)


@pytest.mark.tsan
@pytest.mark.parametrize(("readers", "writers"), [(1, 0), (0, 1), (8, 0), (4, 1), (1, 4), (4, 4)])
@pytest.mark.parametrize("hold", [0, 200])
def test_rwlock_excludes_and_counts(run_threads, readers, writers, hold):
    stress = RwStress()
    run_threads(
        *[partial(stress.read, ROUNDS, hold)] * readers,
        *[partial(stress.write, ROUNDS // 4, hold)] * writers,
    )
    written = writers * (ROUNDS // 4)
    assert stress.result() == (written, written, False)
    acquisitions, contended, wait_ns = stress.counts()
    assert acquisitions == written + readers * ROUNDS
    assert contended <= acquisitions
    assert (wait_ns > 0) == (contended > 0)
    if readers + writers == 1 or writers == 0:
        assert contended == 0


@pytest.mark.tsan
def test_rwlock_without_statistics_counts_nothing(run_threads):
    stress = RwStress(counting=False)
    run_threads(*[partial(stress.read, ROUNDS)] * 3, *[partial(stress.write, ROUNDS // 4)] * 2)
    assert stress.result()[2] is False
    assert stress.counts() == (0, 0, 0)


@pytest.mark.tsan
def test_rwlock_statistics_can_be_read_while_it_is_used(run_threads):
    stress = RwStress()
    seen: list[int] = []

    def watch() -> None:
        for _ in range(200):
            seen.append(stress.counts()[0])

    run_threads(partial(stress.read, ROUNDS), partial(stress.write, ROUNDS // 4), watch)
    assert seen == sorted(seen)
    assert stress.counts()[0] == ROUNDS + ROUNDS // 4


@pytest.mark.tsan
def test_locks_survive_a_long_stress(run_threads, stress_seconds):
    """Threads outnumber cores by far; a lost wake-up would leave one asleep for ever."""
    mutex, rw = MutexStress(), RwStress()
    end = time.monotonic() + stress_seconds
    rounds = 0
    while time.monotonic() < end:
        run_threads(
            *[partial(mutex.run, 500, 20)] * 16,
            *[partial(rw.read, 500, 20)] * 12,
            *[partial(rw.write, 500, 20)] * 4,
        )
        rounds += 1
        assert mutex.result() == (rounds * 8000, rounds * 8000, False)
        assert rw.result() == (rounds * 2000, rounds * 2000, False)


# -- canaries: the loops above would notice -------------------------------------------------------
def test_mutex_stress_notices_a_missing_lock(run_threads):
    stress = MutexStress(locked=False)
    run_threads(*[partial(stress.run, 20 * ROUNDS, 20)] * 4)
    assert stress.result()[2] is True


def test_rwlock_stress_notices_a_missing_lock(run_threads):
    stress = RwStress(locked=False)
    run_threads(
        *[partial(stress.read, 20 * ROUNDS, 20)] * 2, *[partial(stress.write, 20 * ROUNDS, 20)] * 2
    )
    assert stress.result()[2] is True
