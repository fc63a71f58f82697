"""Limits: the pool's, with its hysteresis, and those of groups."""

import pytest
from unit_data import UNIT, noise, same, sized, text

from coldmem.errors import MemoryLimitError, UsageError
from coldmem.zswap import Zswap

META = 80


def get(z, slot):
    out = bytearray(z.unit_bytes)
    z.load(slot, out)
    return bytes(out)


def fill_until_refused(z, start=0, make=noise, group=None):
    slot = start
    try:
        while True:
            z.store(slot, make(slot), group)
            slot += 1
    except MemoryLimitError:
        return slot


# -- the pool --------------------------------------------------------------------------------------
@pytest.mark.parametrize("locking", ["handle", "class", "pool"])
def test_the_pool_never_passes_its_limit(locking):
    with Zswap(max_pool="256K", on_full="reject", shrinker_thread=False, locking=locking) as z:
        end = fill_until_refused(z)
        assert 0 < end <= 64
        assert z.stats()["pool_peak_bytes"] <= 256 << 10
        c = z.counters()
        assert (c["pool_limit_hit"], c["reject_reclaim_fail"]) == (1, 1)
        assert z.stats()["full"]


def test_hysteresis():
    """Full at max_pool; open again at the accept threshold, not before."""
    with Zswap(max_pool="1M", accept_threshold=0.5, on_full="reject", shrinker_thread=False) as z:
        end = fill_until_refused(z)
        slot = 0
        while z.used_bytes > 512 << 10:
            with pytest.raises(MemoryLimitError):  # although there is room by now
                z.store(10**6, noise(1))
            assert z.stats()["full"]
            z.invalidate(slot)
            slot += 1
        z.store(10**6, noise(1))
        assert not z.stats()["full"]
        assert slot >= end // 2 - 1
        assert z.counters()["reject_reclaim_fail"] == slot + 1
        assert z.counters()["pool_limit_hit"] == 1
        z.check_valid("full")


def test_no_hysteresis_at_a_threshold_of_one():
    with Zswap(max_pool="1M", accept_threshold=1.0, on_full="reject", shrinker_thread=False) as z:
        end = fill_until_refused(z)
        z.invalidate(0)
        z.store(end, noise(end))
        with pytest.raises(MemoryLimitError):
            z.store(end + 1, noise(end + 1))


def test_reject_mode_opens_when_the_shrinker_has_made_room():
    with Zswap(max_pool="1M", on_full="reject", swap="16M") as z:
        stored = set()
        refused = 0
        for slot in range(3000):
            try:
                z.store(slot, noise(slot))
                stored.add(slot)
            except MemoryLimitError:
                refused += 1
        c = z.counters()
        assert c["reject_reclaim_fail"] == refused
        assert c["direct_reclaims"] == 0
        for slot in stored:
            assert get(z, slot) == noise(slot)
        assert len(z) == len(stored)
        z.check_valid("full")


def test_writeback_mode_refuses_nothing_while_there_is_disk():
    with Zswap(max_pool="512K", swap="32M") as z:
        for slot in range(2000):
            z.store(slot, text(slot) if slot % 2 else noise(slot))
        for slot in range(2000):
            assert get(z, slot) == (text(slot) if slot % 2 else noise(slot))
        c = z.counters()
        assert c["written_back_pages"] > 1000
        assert sum(n for name, n in c.items() if name.startswith("reject")) == 0
        assert z.stats()["pool_peak_bytes"] <= 512 << 10
        z.check_valid("full")


# -- groups ----------------------------------------------------------------------------------------
def test_group_counts_as_memory_stat():
    with Zswap(max_pool="16M", swap="16M", shrinker_thread=False) as z:
        g = z.group("g")
        z.store(1, text(1), g)
        z.store(2, noise(2), "g")
        z.store(3, same(3), g)
        z.store(4, text(4))
        get(z, 1)
        s = g.stats()
        compressed = s["zswap"] - UNIT
        assert 0 < compressed < UNIT
        assert s["zswapped"] == 3 * UNIT
        assert s["zswap_incomp"] == UNIT
        assert (s["zswpin"], s["zswpout"], s["zswpwb"]) == (1, 3, 0)
        assert s["memory"] == s["zswap"] + 3 * META
        assert g.shrink("1M") == s["zswap"]
        s = g.stats()
        assert (s["zswpwb"], s["zswap"], s["zswapped"]) == (2, 0, UNIT)
        assert s["swapped"] == 2 * UNIT
        assert s["swap"] == z.swap.used_bytes
        assert s["memory"] == 3 * META
        get(z, 2)
        assert g.stats()["swpin_disk"] == 1
        assert z.stats()["groups"][""]["zswpout"] == 4
        z.check_valid("full")
        for slot in range(1, 5):
            z.invalidate(slot)
        assert g.stats()["memory"] == 0
        assert g.stats()["swap"] == 0


def test_limits_hold_along_the_parents():
    with Zswap(max_pool="16M", shrinker_thread=False) as z:
        top = z.group("top", zswap_max=20 * UNIT)
        a = z.group("a", parent=top)
        b = z.group("b", parent="top", zswap_max=5 * UNIT)
        assert fill_until_refused(z, 0, noise, b) == 5
        assert fill_until_refused(z, 100, noise, a) == 115
        assert b.stats()["reject_limit"] == 1
        assert top.stats()["reject_limit"] == 1
        assert a.stats()["reject_limit"] == 0
        assert top.stats()["zswap"] == 20 * UNIT
        z.store(200, noise(200))  # the rest of the world is not concerned
        assert z.counters()["reject_group_limit"] == 2
        z.invalidate(0)
        z.store(300, noise(300), a)
        z.check_valid("full")


def test_memory_max_counts_metadata_and_hot():
    with Zswap(max_pool="16M", shrinker_thread=False) as z:
        g = z.group("g", memory_max=100 * META)
        assert fill_until_refused(z, 0, same, g) == 100
        z.invalidate(0)
        g.charge(META)
        with pytest.raises(MemoryLimitError):
            z.store(0, same(0), g)
        with pytest.raises(MemoryLimitError):
            g.charge(1)
        assert g.stats()["hot"] == META
        with pytest.raises(UsageError):
            g.uncharge(META + 1)
        g.uncharge(META)
        z.store(0, same(0), g)
        z.check_valid("full")


def test_a_group_at_its_limit_writes_back_its_own_units():
    """Kernel selftest test_no_invasive_cgroup_shrink: others' units are left alone."""
    with Zswap(max_pool="16M", swap="16M") as z:
        other = z.group("other")
        for slot in range(1000, 1100):
            z.store(slot, noise(slot), other)
        g = z.group("g", zswap_max="128K")
        for slot in range(500):
            z.store(slot, noise(slot), g)
            assert g.stats()["zswap"] <= 128 << 10
        assert g.stats()["zswpwb"] >= 500 - 32
        assert other.stats()["zswpwb"] == 0
        assert all(get(z, slot) == noise(slot) for slot in range(500))
        z.check_valid("full")


def test_zswap_max_of_zero_keeps_a_group_out():
    """Kernel selftest test_swapin_nozswap."""
    with Zswap(max_pool="16M", swap="16M") as z:
        g = z.group("g", zswap_max=0)
        with pytest.raises(MemoryLimitError):
            z.store(1, text(1), g)
        assert g.stats()["zswpout"] == 0
        g.zswap_max = "max"
        assert g.zswap_max is None
        z.store(1, text(1), g)


def test_writeback_off_for_a_group():
    """Kernel selftests: writeback enabled and disabled; hierarchical."""
    with Zswap(max_pool="16M", swap="16M") as z:
        top = z.group("top", zswap_writeback=False)
        g = z.group("g", parent=top, zswap_max=10 * UNIT)
        assert fill_until_refused(z, 0, noise, g) == 10
        assert g.shrink("1M") == 0
        assert g.freeable() == 0
        assert z.shrink("1M") == 0
        top.zswap_writeback = True
        assert top.zswap_writeback
        z.store(10, noise(10), g)
        assert g.stats()["zswpwb"] > 0


def test_the_pool_does_not_take_units_whose_writeback_is_off():
    with Zswap(max_pool="256K", swap="16M") as z:
        keep = z.group("keep", zswap_writeback=False)
        for slot in range(20):
            z.store(slot, noise(slot), keep)
        for slot in range(100, 400):
            z.store(slot, noise(slot))
        assert keep.stats()["zswpwb"] == 0
        assert keep.stats()["zswap"] == 20 * UNIT
        # With nothing else left to write back, the pool is full for good.
        end = fill_until_refused(z, 20, noise, keep)
        assert end <= 64
        assert z.counters()["reject_reclaim_fail"] == 1
        z.check_valid("full")


def test_swap_max_of_a_group():
    with Zswap(max_pool="16M", swap="16M", shrinker_thread=False) as z:
        g = z.group("g", zswap_max=10 * UNIT, swap_max=20 * UNIT)
        end = fill_until_refused(z, 0, noise, g)
        assert end == 30
        assert g.stats()["swap"] == 20 * UNIT
        assert g.stats()["writeback_fail"] > 0
        assert all(get(z, slot) == noise(slot) for slot in range(30))
        z.check_valid("full")


def test_lowering_memory_max_writes_back_at_once():
    with Zswap(max_pool="16M", swap="16M", shrinker_thread=False) as z:
        g = z.group("g")
        for slot in range(200):
            z.store(slot, noise(slot), g)
        g.memory_max = "64K"
        assert g.stats()["memory"] <= 64 << 10
        assert all(get(z, slot) == noise(slot) for slot in range(200))
        z.check_valid("full")


def test_removed_groups_hand_their_units_to_the_parent():
    with Zswap(max_pool="16M", swap="16M", shrinker_thread=False) as z:
        top = z.group("top")
        g = z.group("g", parent=top)
        assert g.parent.name == "top"
        for slot in range(60):
            z.store(slot, (text, noise, same)[slot % 3](slot), g)
        g.shrink(10 * UNIT)
        before = top.stats()
        with pytest.raises(UsageError, match="below"):
            top.remove()
        g.remove()
        assert top.stats() == before
        with pytest.raises(UsageError, match="removed"):
            g.stats()
        with pytest.raises(UsageError):
            z.store(1, text(1), g)
        z.check_valid("full")
        assert all(
            get(z, slot) == (text, noise, same)[slot % 3](slot) for slot in range(60)
        )
        top.remove()
        z.check_valid("full")
        assert z.stats()["groups"].keys() == {""}
        assert z.stats()["groups"][""]["zswpout"] == 60
        assert z.invalidate_many(range(60)) == 60
        again = z.group("again")
        assert again.stats()["zswpout"] == 0
        z.check_valid("full")


def test_group_arguments():
    with Zswap(max_pool="1M") as z, Zswap(max_pool="1M") as other:
        g = z.group("g", memory_max="1M", swap_max="2M")
        assert (g.memory_max, g.swap_max, g.zswap_max) == (1 << 20, 2 << 20, None)
        assert z.group("g").memory_max == 1 << 20
        z.group("h")
        for wrong in (lambda: z.group(""), lambda: z.group(7), lambda: z.group("i", parent="no"),
                      lambda: z.group("g", parent="h"), lambda: z.group("j", memory_max="much"),
                      lambda: other.store(1, text(1), g)):
            with pytest.raises(UsageError):
                wrong()


def test_many_groups():
    with Zswap(max_pool="16M", shards=4) as z:
        groups = [z.group(f"g{i}") for i in range(1023)]
        with pytest.raises(UsageError, match="1023"):
            z.group("one more")
        for i, g in enumerate(groups):
            z.store(i, sized(i, 0.2), g)
        groups[5].remove()
        z.invalidate(5)
        z.store(5, text(5), z.group("one more"))
        z.check_valid("full")
