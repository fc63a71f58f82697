"""Writeback and the shrinker: what goes, in which order, and what happens when the disk fails."""

import errno
import time

import pytest
from unit_data import UNIT, noise, same, sized, text

from coldmem.errors import CorruptDataError, MemoryLimitError, SlotNotFoundError, SwapFileError
from coldmem.testing.faults import Fault, FaultPlan
from coldmem.zswap import Zswap


def get(z, slot, **how):
    out = bytearray(z.unit_bytes)
    z.load(slot, out, **how)
    return bytes(out)


def on_disk(z):
    """Which of the slots 0..999 a load has to read from disk."""
    found = []
    for slot in range(1000):
        if slot in z:
            before = z.counters()["swpin_disk"]
            get(z, slot)
            if z.counters()["swpin_disk"] > before:
                found.append(slot)
    return found


@pytest.fixture
def quiet():
    """One shard, no thread: everything happens when it is called, in one LRU."""
    with Zswap(max_pool="16M", swap="16M", shards=1, shrinker_thread=False) as z:
        yield z
        z.swap.install_faults([])
        z.check_valid("full")
        z.swap.check_valid()


def test_data_stays_compressed_on_disk(quiet):
    z = quiet
    for slot in range(50):
        z.store(slot, text(slot))
    stored = z.stats()["stored_bytes"]
    assert z.shrink("1M") == stored
    assert stored <= z.swap.used_bytes < stored + 50 * 256
    assert z.used_bytes == 0
    assert [get(z, slot) for slot in range(50)] == [text(slot) for slot in range(50)]
    c = z.counters()
    assert (c["zswpwb"], c["swpin_disk"], c["zswpin"]) == (50, 50, 0)


def test_batches_become_few_writes(quiet):
    z = quiet
    for slot in range(64 * 16):
        z.store(slot, sized(slot, 0.3))
    z.shrink("64M")
    assert z.counters()["zswpwb"] == 64 * 16
    assert z.swap.stats()["writes"] < 200


def test_raw_units_keep_their_place_in_the_lru(quiet):
    """LRU inversion: an incompressible unit goes when its turn comes, not before."""
    z = quiet
    for slot in range(10):
        z.store(slot, noise(slot) if slot % 2 else text(slot))
    sizes = {True: UNIT}
    size = z.stats()["stored_bytes"]
    assert z.shrink(1) > 0
    assert on_disk(z) == [0]
    assert z.shrink(1) == sizes[True]
    assert z.stats()["stored_bytes"] < size


def test_oldest_first_and_second_chance(quiet):
    z = quiet
    for slot in range(8):
        z.store(slot, noise(slot))
    z.shrink(1)  # clears all marks on its way, and takes the oldest
    get(z, 1)
    get(z, 3)
    for _ in range(3):
        z.shrink(1)
    c = z.counters()["swpin_disk"]
    assert c == 0
    # 1 and 3 were used, so 2, 4 and 5 went before them.
    assert on_disk(z) == [0, 2, 4, 5]


def test_protected_rule():
    with Zswap(max_pool="16M", swap="16M", shards=1, shrinker_thread=False,
               shrinker="protected") as z:
        for slot in range(100):
            z.store(slot, noise(slot))
        g = z.stats()["units_ram"]
        freed = z.shrink("16M", gentle=True)
        # Grows with each store, halved above a quarter: between an eighth and a quarter stays.
        kept = g - freed // UNIT
        assert 100 // 8 <= kept <= 100 // 4 + 1
        assert on_disk(z) == list(range(100 - kept))  # no marks: strictly the oldest
        z.check_valid("full")


def test_count_takes_swapins_off_and_scales_by_compression(quiet):
    z = quiet
    g = z.group("g")
    for slot in range(100):
        z.store(slot, noise(slot), g)
    assert g.freeable() == 100
    g.shrink(60 * UNIT)
    assert g.freeable() == 40
    for slot in on_disk(z)[:10]:  # all of them were loaded from disk once by on_disk, ten twice
        get(z, slot)
    assert g.freeable() == 0
    assert g.shrink("1M", gentle=True) == 0  # consumes what there is of the feedback
    assert g.freeable() == 40 - 30
    h = z.group("h")
    for slot in range(100, 200):
        z.store(slot, sized(slot, 0.24), h)
    assert 20 <= h.freeable() <= 30
    hook = z.shrinker()
    assert hook.count() == z.freeable() == g.freeable() + h.freeable()
    assert hook.count() - 2 <= hook.scan() <= hook.count() + 200
    assert h.stats()["zswpwb"] <= 30


def test_a_gentle_shrink_stops_where_units_are_in_use(quiet, run_threads):
    """The kernel stops at a page that is in the swap cache already: this is the warm region."""
    z = quiet
    for slot in range(300):
        z.store(slot, noise(slot))
    z.shrink(1)  # clears the marks

    before = z.swap.used_bytes

    def use():
        while z.swap.used_bytes == before:  # until the batch is on its way
            time.sleep(0.001)
        for slot in range(1, 40):
            get(z, slot)

    def shrink():
        with FaultPlan([Fault("write", "delay", at=1, argument=300)]).installed(z.swap):
            z.shrink("64M", gentle=True)

    run_threads(use, shrink)
    assert z.counters()["writeback_raced"] > 0
    assert z.counters()["zswpwb"] < 200


def test_shrinker_thread_brings_the_pool_under_the_threshold():
    with Zswap(max_pool="1M", swap="16M", on_full="reject", accept_threshold=0.5) as z:
        try:
            for slot in range(1000):
                z.store(slot, noise(slot))
        except MemoryLimitError:
            pass
        deadline = time.monotonic() + 20
        while z.used_bytes > 512 << 10 and time.monotonic() < deadline:
            time.sleep(0.001)
        assert z.used_bytes <= 512 << 10
        z.store(5000, noise(1))
        z.check_valid("full")


def test_exclusive_load_and_overwrite_give_disk_space_back(quiet):
    z = quiet
    for slot in range(20):
        z.store(slot, noise(slot))
    z.shrink("1M")
    assert z.swap.used_bytes == 20 * UNIT
    for slot in range(5):
        assert get(z, slot, exclusive=True) == noise(slot)
    z.store(5, text(5))
    z.store(6, same(6))
    z.invalidate(7)
    assert z.swap.used_bytes == 12 * UNIT
    assert len(z) == 14


def test_codec_of_a_unit_on_disk(quiet):
    z = quiet
    for i, name in enumerate(("lz4", "zstd", "zlib")):
        z.set_codec(name)
        z.store(i, text(i))
    z.shrink("1M")
    z.set_codec("lz4")
    assert [get(z, i) for i in range(3)] == [text(i) for i in range(3)]


# -- faults ----------------------------------------------------------------------------------------
@pytest.mark.parametrize("number", [errno.EIO, errno.ENOSPC])
def test_a_write_error_leaves_units_in_ram(quiet, number):
    z = quiet
    for slot in range(100):
        z.store(slot, noise(slot))
    with FaultPlan([Fault("write", "error", argument=number)]).installed(z.swap):
        assert z.shrink("1M") == 0
    c = z.counters()
    assert c["write_errors"] >= 1
    assert c["writeback_fail"] >= 1
    assert c["zswpwb"] == 0
    assert z.swap.used_bytes == 0
    assert [get(z, slot) for slot in range(100)] == [noise(slot) for slot in range(100)]
    assert z.counters()["swpin_disk"] == 0
    z.check_valid("full")
    assert z.shrink("1M") > 0  # and all is well once the disk is


def test_a_store_fails_only_when_there_is_no_room_at_all():
    with Zswap(max_pool="512K", swap="16M") as z:
        plan = FaultPlan([Fault("write", "error", argument=errno.EIO)])
        with plan.installed(z.swap):
            slot = 0
            with pytest.raises(MemoryLimitError):
                for slot in range(1000):
                    z.store(slot, noise(slot))
            assert slot >= 100
            assert slot not in z
            assert [get(z, k) for k in range(slot)] == [noise(k) for k in range(slot)]
        for k in range(slot, slot + 500):
            z.store(k, noise(k))
        assert [get(z, k) for k in range(slot + 500)] == [noise(k) for k in range(slot + 500)]
        z.check_valid("full")


def test_a_full_swap_file():
    with Zswap(max_pool="512K", swap="1M") as z:
        slot = 0
        with pytest.raises(MemoryLimitError, match="swap file"):
            for slot in range(10_000):
                z.store(slot, noise(slot))
        assert z.swap.used_bytes > 900 << 10
        assert slot > 300
        assert [get(z, k) for k in range(slot)] == [noise(k) for k in range(slot)]
        c = z.counters()
        assert c["reject_reclaim_fail"] == 1
        assert c["writeback_fail"] > 0
        assert c["write_errors"] == 0
        z.check_valid("full")
        z.invalidate_many(range(100))
        z.store(slot, noise(slot))
        assert get(z, slot) == noise(slot)


def test_a_read_error_concerns_its_slot_alone(quiet):
    z = quiet
    for slot in range(8):
        z.store(slot, noise(slot))
    z.shrink("1M")
    z.store(8, noise(8))
    out = bytearray(10 * UNIT)
    with FaultPlan([Fault("read", "error", at=3)]).installed(z.swap):
        with pytest.raises(SwapFileError) as error:
            z.load_many(range(10), out)
    assert error.value.slots == (2,)
    assert error.value.errno == errno.EIO
    assert [type(other) for other in error.value.others] == [SlotNotFoundError]
    assert error.value.others[0].slots == (9,)
    assert "nothing is stored under slot 9" in error.value.__notes__[0]
    for slot in (0, 1, 3, 4, 5, 6, 7, 8):
        assert out[slot * UNIT:(slot + 1) * UNIT] == noise(slot)
    c = z.counters()
    assert (c["read_fail"], c["swpin_disk"], c["zswpin"]) == (1, 7, 1)
    assert get(z, 2) == noise(2)  # it was kept


@pytest.mark.parametrize("fault", [
    Fault("read", "flip"), Fault("read", "torn"), Fault("read", "elsewhere", argument=4096),
    Fault("write", "lost"), Fault("write", "torn", argument=512),
], ids=lambda f: f"{f.operation}-{f.kind}")
@pytest.mark.parametrize("make", [text, noise])
def test_damaged_data_is_never_handed_out(quiet, fault, make):
    z = quiet
    for slot in range(20):
        z.store(slot, make(slot))
    if fault.operation == "write":
        with FaultPlan([fault]).installed(z.swap):
            z.shrink("1M")
        plan = FaultPlan([])
    else:
        z.shrink("1M")
        plan = FaultPlan([fault])
    bad = 0
    with plan.installed(z.swap):
        for slot in range(20):
            try:
                assert get(z, slot) == make(slot)
            except SwapFileError as error:  # CorruptDataError, or the end of the file
                assert error.slots == (slot,)
                bad += 1
    # A lost or torn write may end in time for some of the units of its batch.
    assert bad >= (1 if fault.kind == "torn" and fault.operation == "write" else 19)
    c = z.counters()
    assert c["checksum_fail"] + c["read_fail"] == bad
    assert c["swpin_disk"] == 20 - bad
    assert len(z) == 20


def test_an_exclusive_load_that_fails_keeps_the_unit(quiet):
    z = quiet
    z.store(1, noise(1))
    z.shrink("1M")
    with FaultPlan([Fault("read", "flip")]).installed(z.swap), pytest.raises(CorruptDataError):
        get(z, 1, exclusive=True)
    assert get(z, 1, exclusive=True) == noise(1)
    assert 1 not in z


@pytest.mark.parametrize("seed", range(20))
def test_random_faults_never_change_data(seed):
    plan = FaultPlan.random(seed, count=30, transfers=60)
    with Zswap(max_pool="512K", swap="4M", shards=4, shrinker_thread=False) as z:
        kept = set()
        with plan.installed(z.swap):
            for slot in range(600):
                try:
                    z.store(slot, noise(slot) if slot % 3 else text(slot))
                    kept.add(slot)
                except MemoryLimitError:
                    assert slot not in z
            for slot in kept:
                try:
                    assert get(z, slot) == (noise(slot) if slot % 3 else text(slot))
                except SwapFileError as error:
                    assert error.slots == (slot,)
        assert len(z) == len(kept)
        z.check_valid("full")
        z.swap.check_valid()
