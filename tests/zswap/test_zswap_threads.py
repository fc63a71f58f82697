"""Threads that verify what they load, with shrinker, writeback and compaction running."""

import threading
import time

import pytest
from unit_data import UNIT, noise, text

from coldmem.errors import ClosedError, MemoryLimitError, SlotNotFoundError
from coldmem.testing.faults import Fault, FaultPlan
from coldmem.testing.zswap_stress import ZswapStress
from coldmem.zswap import Zswap

ARMS = {
    "handle": {"locking": "handle"},
    "handle_magazine": {"locking": "handle", "magazines": True},
    "class": {"locking": "class"},
    "pool": {"locking": "pool"},
    "pools32": {"pools": 32, "locking": "pool"},
}


def run(stress, seconds, threads=6, beside=()):
    """Workers for `seconds`, with each of `beside` called over and over in a thread of its own."""
    results, errors = [], []
    stop = threading.Event()

    def work(seed):
        results.append(stress.worker(seed))

    def again(job):
        try:
            while not stop.is_set():
                job()
        except BaseException as error:
            errors.append(error)

    crew = [threading.Thread(target=work, args=(seed,)) for seed in range(threads)]
    crew += [threading.Thread(target=again, args=(job,)) for job in beside]
    for thread in crew:
        thread.start()
    time.sleep(seconds)
    stop.set()
    stress.stop_all()
    for thread in crew:
        thread.join()
    assert not errors, errors
    return [sum(column) for column in zip(*results, strict=True)]


@pytest.mark.tsan
@pytest.mark.parametrize("unit", [4096, 65536])
@pytest.mark.parametrize("arm", ARMS)
def test_contents_with_writeback_and_compaction(arm, unit, stress_seconds):
    with Zswap(max_pool=unit * 300, swap=unit * 4000, unit_bytes=unit, shards=16,
               **ARMS[arm]) as z:
        groups = [z.group("a"), z.group("b", memory_max=unit * 80)]
        stress = ZswapStress(z, 1000, groups)
        done, bad, refused, stored, loaded = run(stress, stress_seconds, beside=[z.compact])
        assert bad == 0
        assert done > 0
        c = z.counters()
        assert c["zswpout"] == stored
        assert c["zswpin"] + c["swpin_disk"] == loaded
        assert stress.missing() == 0
        assert c["zswpwb"] > 0, "nothing was ever written back"
        assert c["swpin_disk"] > 0
        assert c["checksum_fail"] == c["decompress_fail"] == c["read_fail"] == 0
        assert refused == sum(n for name, n in c.items() if name.startswith("reject"))
        assert z.stats()["pool_peak_bytes"] <= unit * 300
        assert z.stats()["disk_bytes"] == z.swap.used_bytes
        z.check_valid("full")
        z.swap.check_valid()


@pytest.mark.tsan
@pytest.mark.parametrize("rule", ["referenced", "protected"])
def test_contents_while_everything_else_changes(rule, stress_seconds):
    """Codec, groups, limits, checks, proactive writeback: all at once."""
    with Zswap(max_pool="1M", swap="16M", shards=4, shrinker=rule, cold_codec="zstd") as z:
        names = iter(range(10**9))
        stay = z.group("stay", zswap_max="256K")
        stress = ZswapStress(z, 800, [stay])

        def change_codec():
            z.set_codec(("lz4", "zstd", "raw", "zlib")[next(names) % 4])

        def change_groups():
            g = z.group(f"g{next(names)}", parent=stay)
            for slot in range(10_000, 10_040):
                z.store(slot, text(slot % 5), g)
            g.remove()

        def change_limits():
            stay.zswap_max = (next(names) % 5) * 64 * 1024
            stay.zswap_writeback = next(names) % 3 != 0

        def look():
            z.stats(), z.counters(), z.lock_stats(), len(z)
            z.check_valid("full")

        done, bad, *_ = run(
            stress, stress_seconds,
            beside=[change_codec, change_groups_safely(change_groups), change_limits, look,
                    lambda: z.shrink("256K", gentle=True), lambda: z.recompress(True)],
        )
        assert bad == 0
        assert done > 0
        assert stress.missing() == 0
        assert z.counters()["recompressed"] > 0
        z.check_valid("full")


def change_groups_safely(job):
    def wrapped():
        try:
            job()
        except MemoryLimitError:
            pass
    return wrapped


@pytest.mark.tsan
def test_contents_with_a_failing_disk(stress_seconds):
    with Zswap(max_pool="1M", swap="16M", shards=4) as z:
        stress = ZswapStress(z, 800)
        plan = FaultPlan([
            Fault("write", "error", probability=0.2), Fault("write", "short", probability=0.2),
            Fault("read", "short", probability=0.2), Fault("read", "interrupt", probability=0.2),
            Fault("write", "delay", probability=0.1, argument=3),
        ])
        with plan.installed(z.swap):
            done, bad, *_ = run(stress, stress_seconds)
            assert bad == 0
            assert done > 0
            assert stress.missing() == 0
        assert z.counters()["write_errors"] > 0
        z.check_valid("full")
        z.swap.check_valid()


@pytest.mark.tsan
@pytest.mark.parametrize("arm", ARMS)
def test_close_while_others_are_inside(arm, run_threads):
    for round_ in range(5):
        z = Zswap(max_pool="1M", swap="16M", **ARMS[arm])
        stress = ZswapStress(z, 800)

        def use(z=z):
            out = bytearray(UNIT)
            for slot in range(10**9):
                try:
                    z.store(slot % 500, noise(slot % 7))
                    z.load((slot + 1) % 500, out)
                    z.stats()
                except SlotNotFoundError:
                    pass
                except ClosedError:
                    return

        def close(z=z, wait=0.01 * round_):
            time.sleep(wait)
            z.close()

        run_threads(use, use, lambda s=stress: s.worker(1), lambda s=stress: s.worker(2),
                    close, close)
        assert z.closed


@pytest.mark.tsan
def test_more_threads_than_contexts(run_threads):
    """A hundred threads in calls at once, where 64 can be inside."""
    class Slow:
        name = "slow"

        def compress(self, data):
            time.sleep(0.01)
            return bytes(data[:64])

        def decompress(self, data, size):
            return bytes(data) * (size // 64)

    unit = bytes(range(64)) * 64
    with Zswap(max_pool="16M", codec=Slow()) as z:
        run_threads(*(lambda t=t: z.store(t, unit) for t in range(100)))
        assert len(z) == 100
        z.check_valid("full")


@pytest.mark.tsan
def test_one_of_many_exclusive_loads_gets_the_unit(run_threads):
    with Zswap(max_pool="4M", swap="4M", shrinker_thread=False) as z:
        for slot in range(300):
            z.store(slot, (text, noise)[slot % 2](slot))
        z.shrink("200K")

        def take():
            out = bytearray(UNIT)
            got = []
            for slot in range(300):
                try:
                    z.load(slot, out, exclusive=True)
                except SlotNotFoundError:
                    continue
                assert out == (text, noise)[slot % 2](slot)
                got.append(slot)
            return got

        results = run_threads(*[take] * 6)
        assert sorted(slot for got in results for slot in got) == list(range(300))
        assert len(z) == 0
        z.check_valid("full")


def test_a_zswap_that_is_dropped_ends_its_thread():
    before = threading.active_count()
    for _ in range(20):
        z = Zswap(max_pool="1M", swap="1M")
        z.group("g")
        z.store(1, text(1))
        del z
    deadline = time.monotonic() + 20
    while threading.active_count() > before and time.monotonic() < deadline:
        time.sleep(0.01)
    assert threading.active_count() == before
