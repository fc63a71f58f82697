"""The regression traps of the kernel's history that concern zswap, one test each.

Each of these fails when the line that it is about is taken out; how, is said beside it.
"""

import threading
import time
from contextlib import contextmanager

import pytest
from unit_data import UNIT, noise, same, text

from coldmem.errors import CodecError, MemoryLimitError, SlotNotFoundError
from coldmem.testing.faults import Fault, FaultPlan
from coldmem.testing.zswap_stress import ZswapStress
from coldmem.zswap import Zswap


def get(z, slot, **how):
    out = bytearray(z.unit_bytes)
    z.load(slot, out, **how)
    return bytes(out)


@contextmanager
def during_writeback(z, nbytes="64M"):
    """The body runs while a batch of units is being written and no lock is held."""
    before = z.swap.used_bytes
    freed = []
    with FaultPlan([Fault("write", "delay", at=1, argument=500)]).installed(z.swap):
        thread = threading.Thread(target=lambda: freed.append(z.shrink(nbytes)))
        thread.start()
        while z.swap.used_bytes == before and thread.is_alive():
            time.sleep(0.001)
        assert thread.is_alive(), "the batch was written before the test got to work"
        yield freed
        assert thread.is_alive(), "the machine is too slow for this test"
        thread.join()


@pytest.fixture
def quiet():
    with Zswap(max_pool="16M", swap="16M", shards=1, shrinker_thread=False) as z:
        yield z
        z.check_valid("full")
        z.swap.check_valid()


# -- trap 1: a store that fails must remove the older unit of its slot --------------------------------
# Without the zswap_invalidate in zswap_store all of these load the old unit again.
def test_trap_1_full_pool():
    with Zswap(max_pool="64K", on_full="reject", shrinker_thread=False) as z:
        z.store(0, text(0))
        with pytest.raises(MemoryLimitError):
            for slot in range(1, 100):
                z.store(slot, noise(slot))
        assert get(z, 0) == text(0)
        with pytest.raises(MemoryLimitError):
            z.store(0, noise(0))
        with pytest.raises(SlotNotFoundError):
            get(z, 0)


def test_trap_1_group_limit():
    with Zswap(max_pool="1M", shrinker_thread=False) as z:
        g = z.group("g", memory_max=UNIT + 3 * 80)
        z.store(0, same(1), g)
        z.store(1, same(1), g)
        z.store(2, same(1), g)
        with pytest.raises(MemoryLimitError):
            z.store(1, noise(1), g)
        assert 1 not in z
        g.memory_max = 80
        with pytest.raises(MemoryLimitError):
            z.store(0, same(2), g)
        assert 0 not in z
        assert get(z, 2) == same(1)
        z.check_valid("full")


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_trap_1_codec_failure():
    class Broken:
        name = "broken"

        def compress(self, data):
            raise RuntimeError

        decompress = compress

    with Zswap(max_pool="1M") as z:
        z.store(0, text(0))
        z.set_codec(Broken())
        with pytest.raises(CodecError):
            z.store(0, text(1))
        assert 0 not in z


def test_trap_1_incompressible_refused_and_old_unit_on_disk(quiet):
    with Zswap(max_pool="1M", swap="1M", incompressible="reject", shrinker_thread=False) as z:
        z.store(0, text(0))
        z.shrink("1M")
        with pytest.raises(MemoryLimitError):
            z.store(0, noise(0))
        assert 0 not in z
        assert z.swap.used_bytes == 0


def test_trap_1_batch():
    with Zswap(max_pool="64K", on_full="reject", shrinker_thread=False) as z:
        z.store(30, text(30))  # never reached by the batch below, and still out of date
        with pytest.raises(MemoryLimitError):
            z.store_many(0, b"".join(noise(k) for k in range(40)))
        assert len(z) == 0


# -- trap 2: writeback rotates before it drops the lock, and compares identity after ------------------
# With `e.linked` and `refs == 2` taken out of item_finish the old version comes back from disk.
@pytest.mark.tsan
def test_trap_2_overwritten_during_writeback(quiet):
    z = quiet
    for slot in range(20):
        z.store(slot, noise(slot))
    with during_writeback(z):
        for slot in range(5):
            z.store(slot, noise(1000 + slot))
        z.store(5, same(5))
    assert [get(z, slot) for slot in range(5)] == [noise(1000 + slot) for slot in range(5)]
    assert get(z, 5) == same(5)
    assert [get(z, slot) for slot in range(6, 20)] == [noise(slot) for slot in range(6, 20)]
    assert z.stats()["disk_bytes"] == z.swap.used_bytes


@pytest.mark.tsan
def test_trap_2_removed_and_stored_again_during_writeback(quiet):
    """Entry numbers are reused at once: comparing them would not do without the reference."""
    z = quiet
    for slot in range(20):
        z.store(slot, noise(slot))
    with during_writeback(z):
        for slot in range(10):
            z.invalidate(slot)
        for slot in range(10):
            z.store(slot, noise(2000 + slot))
        assert get(z, 10, exclusive=True) == noise(10)
    assert [get(z, slot) for slot in range(10)] == [noise(2000 + slot) for slot in range(10)]
    assert 10 not in z


@pytest.mark.tsan
def test_trap_2_a_unit_that_is_read_meanwhile_stays(quiet):
    z = quiet
    for slot in range(20):
        z.store(slot, noise(slot))
    with during_writeback(z, UNIT):
        for slot in range(20):
            assert get(z, slot) == noise(slot)
    assert z.counters()["writeback_raced"] >= 1
    assert z.stats()["disk_bytes"] == z.swap.used_bytes


# Without the rotation in batch_gather the second shrink finds the marked unit at the tail for ever,
# or takes it again.
@pytest.mark.tsan
def test_trap_2_two_writebacks_take_different_units(quiet):
    z = quiet
    for slot in range(40):
        z.store(slot, noise(slot))
    z.shrink(1)  # the marks are cleared, one unit is gone
    with during_writeback(z, UNIT):
        before = z.counters()["zswpwb"]
        assert z.shrink(3 * UNIT) >= 3 * UNIT
        assert z.counters()["zswpwb"] >= before + 3
    c = z.counters()
    assert c["zswpwb"] == z.stats()["units_disk"]
    assert c["writeback_raced"] == 0


def test_trap_2_a_unit_that_cannot_be_written_does_not_block_the_others(quiet):
    z = quiet
    for slot in range(40):
        z.store(slot, noise(slot))
    z.shrink(1)
    with FaultPlan([Fault("write", "error", at=1)]).installed(z.swap):
        assert z.shrink(1) == 0
        assert z.shrink(1) > 0
    before = z.counters()["swpin_disk"]
    get(z, 1)  # the one that could not be written
    assert z.counters()["swpin_disk"] == before
    get(z, 2)
    assert z.counters()["swpin_disk"] == before + 1


# -- trap 4: lost updates in plain counters ------------------------------------------------------------
# With a plain `+= 1` on shared counters, outside the shard lock, the sums come out too small.
@pytest.mark.tsan
def test_trap_4_counters_are_exact_under_threads(run_threads):
    threads, rounds = 8, 300
    with Zswap(max_pool="32M", swap="32M", shards=2) as z:
        groups = [z.group(f"g{i}") for i in range(2)]

        def job(t):
            out = bytearray(UNIT)
            missing = 0
            data = [text(t), noise(t), same(t)]
            for i in range(rounds):
                slot = t * rounds + i
                z.store(slot, data[i % 3], groups[t % 2])
                z.load(slot, out)
                z.load(slot, out)
                if i % 4 == 0:
                    z.invalidate(slot)
                    try:
                        z.load(slot, out)
                    except SlotNotFoundError:
                        missing += 1
            return missing

        assert sum(run_threads(*(lambda t=t: job(t) for t in range(threads)))) == threads * 75
        c = z.counters()
        assert c["zswpout"] == threads * rounds
        assert c["zswpin"] + c["swpin_disk"] == 2 * threads * rounds
        assert c["stored_pages"] + c["disk_pages"] == threads * 225
        assert c["same_filled_pages"] == threads * 75
        for g in groups:
            assert g.stats()["zswpout"] == threads * rounds // 2
        z.check_valid("full")


@pytest.mark.tsan
@pytest.mark.parametrize("shards", [1, 64])
def test_trap_4_at_full_speed(run_threads, shards, stress_seconds):
    """Without the interpreter in between."""
    with Zswap(max_pool="8M", swap="32M", shards=shards) as z:
        stress = ZswapStress(z, 500, [z.group("g")])
        timer = threading.Timer(stress_seconds, stress.stop_all)
        timer.start()
        results = run_threads(*(lambda t=t: stress.worker(t) for t in range(6)))
        timer.join()
        _, bad, refused, stored, loaded = (sum(column) for column in zip(*results, strict=True))
        c = z.counters()
        assert bad == 0
        assert c["zswpout"] == stored
        assert c["zswpin"] + c["swpin_disk"] == loaded
        assert sum(n for name, n in c.items() if name.startswith("reject")) == refused
        z.check_valid("full")


@pytest.mark.tsan
def test_trap_4_rejections_are_counted_once_each(run_threads):
    with Zswap(max_pool="256K", on_full="reject", shrinker_thread=False) as z:
        g = z.group("g", zswap_max=0)

        def job(t):
            refused = 0
            for i in range(200):
                try:
                    z.store(t * 1000 + i, noise(i % 7), g if i % 2 else None)
                except MemoryLimitError:
                    refused += 1
            return refused

        refused = sum(run_threads(*(lambda t=t: job(t) for t in range(6))))
        c = z.counters()
        assert c["reject_group_limit"] == 600
        assert c["reject_group_limit"] + c["reject_reclaim_fail"] + c["reject_alloc_fail"] == refused
        assert c["zswpout"] == 1200 - refused


# -- trap 7: a group limit that is checked before compression and charged after it ---------------------
# With "check, then add" in charge_within, or charges made after compression, limits are passed.
@pytest.mark.tsan
def test_trap_7_a_group_limit_is_never_passed(run_threads):
    started = threading.Barrier(3)

    class Slow:
        """All that got past the limit meet here, so they are in flight at once."""

        name = "slow"

        def compress(self, data):
            try:
                started.wait(5)
            except threading.BrokenBarrierError:
                pass
            return bytes(data[: UNIT * 3 // 4])

        def decompress(self, data, size):
            return bytes(data) + bytes(size - len(data))

    with Zswap(max_pool="16M", shrinker_thread=False, codec=Slow()) as z:
        g = z.group("g", memory_max=3 * (UNIT + 80), zswap_max=3 * UNIT)
        peaks = []

        def job(slot):
            try:
                z.store(slot, text(slot), g)
            except MemoryLimitError:
                return 0
            peaks.append(g.stats()["memory"])
            return 1

        stored = sum(run_threads(*(lambda t=t: job(t) for t in range(8))))
        assert stored == 3
        assert max(peaks) <= 3 * (UNIT + 80)
        assert g.stats()["zswap"] == 3 * (UNIT * 3 // 4)
        z.check_valid("full")


@pytest.mark.tsan
def test_trap_7_at_full_speed(run_threads, stress_seconds):
    """Charges are watched without the interpreter, at every moment."""
    limits = {"memory_max": 40 * UNIT, "zswap_max": 38 * UNIT, "swap_max": 40 * UNIT}
    with Zswap(max_pool="16M", swap="64M", shards=4) as z:
        g = z.group("g", **limits)
        below = z.group("below", parent=g)
        stress = ZswapStress(z, 400, [g, below])
        timer = threading.Timer(stress_seconds, stress.stop_all)
        timer.start()
        *results, peaks = run_threads(
            *(lambda t=t: stress.worker(t) for t in range(6)), lambda: stress.watch(g)
        )
        timer.join()
        assert sum(result[1] for result in results) == 0
        for peak, limit in zip(peaks, limits.values(), strict=True):
            assert limit * 0.8 < peak <= limit
        assert g.stats()["reject_limit"] > 0
        z.check_valid("full")
