"""Recompression: what it takes, what it leaves alone, and that nothing changes but the size."""

from unit_data import UNIT, noise, same, text

from coldmem.zswap import Zswap


def new(**options):
    return Zswap(**{"max_pool": "4M", "cold_codec": "zstd", "shrinker_thread": False} | options)


def see(z, units):
    out = bytearray(UNIT)
    for slot, data in units.items():
        z.load(slot, out)
        assert out == data
    z.check_valid("full")


def test_cold_is_what_was_not_used_between_two_passes():
    with new() as z:
        units = {slot: text(slot) for slot in range(100)}
        for slot, data in units.items():
            z.store(slot, data)
        before = z.stats()
        assert z.recompress() == 0  # all were stored just now
        out = bytearray(UNIT)
        for slot in range(40):
            z.load(slot, out)
        assert z.recompress() == 60
        assert z.recompress() == 40
        assert z.recompress() == 0
        after = z.stats()
        assert after["codecs"] == {"zstd": 100}
        assert after["stored_bytes"] < before["stored_bytes"] * 7 // 8
        assert after["units_ram"] == 100
        see(z, units)


def test_what_is_stored_anew_comes_in_its_fast_form():
    with new() as z:
        z.store(1, text(1))
        assert z.recompress(all=True) == 1
        z.store(1, text(2))
        assert z.stats()["codecs"] == {"lz4": 1}
        see(z, {1: text(2)})
        assert z.recompress(all=True) == 1


def test_what_gains_nothing_is_tried_once():
    with new() as z:
        units = {1: noise(1), 2: same(7), 3: text(3)}
        for slot, data in units.items():
            z.store(slot, data)
        assert z.recompress(all=True) == 1
        assert z.stats()["codecs"] == {"none": 1, "zstd": 1}
        assert z.recompress(all=True) == 0
        see(z, units)


def test_writeback_takes_recompressed_units_as_they_are():
    with new(swap="4M") as z:
        units = {slot: text(slot) for slot in range(200)}
        for slot, data in units.items():
            z.store(slot, data)
        z.recompress(all=True)
        while z.stats()["units_ram"]:
            assert z.shrink("1M") > 0
        assert z.stats()["codecs"] == {"zstd": 200}
        assert z.recompress(all=True) == 0  # what is on disk stays there as it is
        see(z, units)


def test_the_order_in_which_units_go_to_disk_stays():
    with new(swap="4M", shards=1) as z:
        for slot in range(64):
            z.store(slot, text(slot))
        z.shrink(1)  # takes every mark away
        z.recompress(all=True)
        written = []
        while len(written) < 30:
            before = {slot for slot in range(64) if z.stats()["units_disk"] >= 0 and slot in z}
            disk = z.stats()["units_disk"]
            z.shrink(1)
            assert z.stats()["units_disk"] > disk
            written += [None] * (z.stats()["units_disk"] - disk)
            assert before == {slot for slot in range(64) if slot in z}
        # The oldest are on disk now: reading them adds to disk loads, reading the newest does not.
        out = bytearray(UNIT)
        loads = z.counters()["swpin_disk"]
        for slot in range(56, 64):
            z.load(slot, out)
        assert z.counters()["swpin_disk"] == loads
        for slot in range(2, 8):
            z.load(slot, out)
        assert z.counters()["swpin_disk"] == loads + 6


def test_a_full_pool_is_no_reason_to_lose_anything():
    with new(max_pool="64K", on_full="reject") as z:
        units = {}
        for slot in range(100):
            try:
                z.store(slot, text(slot))
            except MemoryError:
                break
            units[slot] = text(slot)
        assert len(units) > 5
        z.recompress(all=True)
        z.compact()
        see(z, units)


def test_without_a_cold_codec_there_is_nothing_to_do():
    with Zswap(max_pool="1M") as z:
        z.store(1, text(1))
        assert z.recompress(all=True) == 0


def test_a_removed_group_takes_its_place_along():
    with new(shards=1) as z:
        group = z.group("a")
        units = {slot: text(slot) for slot in range(300)}
        for slot, data in units.items():
            z.store(slot, data, group)
        z.recompress()
        group.remove()
        assert z.recompress() == 300
        see(z, units)
