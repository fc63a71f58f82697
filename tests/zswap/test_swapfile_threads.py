"""The swap file under threads: contents, counters, and punching beside allocation."""

import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from coldmem.testing.faults import Fault, FaultPlan
from coldmem.testing.swap_stress import churn, hammer
from coldmem.zswap.swapfile import SwapFile

MIB = 1 << 20
THREADS = 8


class Beside:
    """A thread that calls `work` over and over until the with block ends."""

    def __init__(self, work):
        self.work = work
        self.stop = threading.Event()
        self.rounds = 0
        self.error = None
        self.thread = threading.Thread(target=self.run)

    def run(self):
        try:
            while not self.stop.is_set():
                self.work()
                self.rounds += 1
        except BaseException as error:
            self.error = error

    def __enter__(self):
        self.thread.start()
        return self

    def __exit__(self, *exc):
        self.stop.set()
        self.thread.join()
        assert self.error is None, self.error


@pytest.mark.tsan
@pytest.mark.parametrize(("size", "unit"), [("2M", 4096), ("24M", 4096), ("64M", 65536)])
def test_contents_survive_threads_with_punching_and_checks(size, unit):
    with SwapFile(size, unit_bytes=unit) as file:
        with Beside(file.trim), Beside(file.check_valid) as checker, ThreadPoolExecutor(
            THREADS
        ) as pool:
            tallies = list(pool.map(lambda s: hammer(file, s, 10_000, 200), range(THREADS)))
        total = {key: sum(tally[key] for tally in tallies) for key in tallies[0]}
        assert total["wrong"] == 0
        assert total["failed"] == 0
        assert checker.rounds > 0
        assert file.used_bytes == 0
        stats = file.stats()
        # Every toggle is a write or a read, but for those that found no room.
        assert stats["writes"] + stats["reads"] + total["full"] == total["operations"]
        assert stats["writes"] == stats["reads"]
        assert stats["written_bytes"] == stats["read_bytes"]
        assert stats["write_errors"] == stats["read_errors"] == 0
        file.check_valid()


@pytest.mark.tsan
def test_an_allocation_waits_for_the_region_that_is_being_punched():
    with SwapFile(MIB) as file:
        offsets = [file.alloc(4096) for _ in range(256)]

        def free_all():
            for offset in offsets:
                file.free(offset, 4096)  # the last one punches

        with FaultPlan([Fault("punch", "delay", argument=200)]).installed(file) as struck:
            freeing = threading.Thread(target=free_all)
            freeing.start()
            while struck.hits() == [0]:
                pass
            assert file.used_bytes == 0
            file.check_valid()
            offset = file.alloc(4096)  # the only region is busy: this must not fail
            assert file.stats()["punched_bytes"] == MIB
            freeing.join()
        file.check_valid()
        file.free(offset, 4096)


@pytest.mark.tsan
def test_close_waits_for_a_punch():
    file = SwapFile(MIB)
    offset = file.alloc(4096)
    with FaultPlan([Fault("punch", "delay", argument=200)]).installed(file) as struck:
        freeing = threading.Thread(target=file.free, args=(offset, 4096))
        freeing.start()
        while struck.hits() == [0]:
            pass
        file.close()
        freeing.join()


@pytest.mark.tsan
def test_there_is_always_room_beside_punching():
    # Units only, so nothing is fragmented, and just as much room as the threads can hold.
    with SwapFile(MIB) as file:
        together = threading.Barrier(THREADS)

        def work(_):
            together.wait()
            return churn(file, 32, 20_000)

        with ThreadPoolExecutor(THREADS) as pool:
            assert not any(pool.map(work, range(THREADS)))
        assert file.used_bytes == 0
        assert file.stats()["punched_bytes"] > 0
        file.check_valid()


@pytest.mark.tsan
def test_close_under_threads():
    for seed in range(10):
        file = SwapFile("8M")
        started = threading.Event()

        def work(seed=seed, file=file, started=started):
            started.set()
            return hammer(file, seed, 5000, 100)

        with ThreadPoolExecutor(4) as pool:
            jobs = [pool.submit(work) for _ in range(4)]
            started.wait()
            file.close()
            assert sum(job.result()["wrong"] for job in jobs) == 0
