"""`replace`: a store that keeps the old unit when the new one cannot be stored."""

import threading

import pytest
from unit_data import UNIT, noise, same, sized, text

from coldmem.codecs import PythonCodec
from coldmem.errors import CodecError, InvalidSizeError, MemoryLimitError
from coldmem.testing.faults import Fault, FaultPlan
from coldmem.zswap import Zswap

META = 80


def get(z, slot):
    out = bytearray(z.unit_bytes)
    z.load(slot, out)
    return bytes(out)


def test_it_stores_like_any_store():
    with Zswap(max_pool="1M", swap="1M", shrinker_thread=False) as z:
        for new in (text(1), same(3), noise(4), same(0), text(2)):
            z.replace(0, new)
            assert get(z, 0) == new
        z.shrink("1M")
        z.replace(0, text(3))  # over one on disk
        assert get(z, 0) == text(3)
        assert z.swap.used_bytes == 0
        assert z.counters()["zswpout"] == 6
        with pytest.raises(InvalidSizeError):
            z.replace(0, b"short")
        z.check_valid("full")


@pytest.mark.parametrize("old", [text(0), same(9), None])
def test_a_full_pool_keeps_the_old_unit(old):
    with Zswap(max_pool="64K", on_full="reject", shrinker_thread=False) as z:
        if old is not None:
            z.store(0, old)
        with pytest.raises(MemoryLimitError):
            for slot in range(1, 100):
                z.store(slot, noise(slot))
        for _ in range(3):
            with pytest.raises(MemoryLimitError):
                z.replace(0, noise(0))
        if old is None:
            assert 0 not in z
        else:
            assert get(z, 0) == old
        assert z.counters()["reject_reclaim_fail"] == 4
        z.check_valid("full")


def test_a_full_swap_file_keeps_the_old_unit():
    with Zswap(max_pool="64K", swap="64K", shrinker_thread=False) as z:
        held = {}
        for slot in range(100):
            try:
                z.replace(slot, noise(slot))
                held[slot] = noise(slot)
            except MemoryLimitError:
                break
        assert len(held) >= 24
        failed = 0
        for slot in held:
            try:
                z.replace(slot, noise(slot + 1000))
                held[slot] = noise(slot + 1000)
            except MemoryLimitError:
                failed += 1
        assert failed
        assert {slot: get(z, slot) for slot in held} == held
        assert len(z) == len(held)
        z.check_valid("full")
        z.swap.check_valid()


def test_group_limits_keep_the_old_unit_and_its_charge():
    with Zswap(max_pool="1M", shrinker_thread=False) as z:
        g = z.group("g", memory_max=UNIT + 3 * META)
        z.store(0, text(0), g)
        z.store(1, same(1), g)
        charged = g.stats()["memory"]
        with pytest.raises(MemoryLimitError):
            z.replace(0, text(5), g)
        g.memory_max = META
        with pytest.raises(MemoryLimitError):
            z.replace(1, same(2), g)
        assert get(z, 0) == text(0)
        assert get(z, 1) == same(1)
        assert g.stats()["memory"] == charged
        assert g.stats()["reject_limit"] == 2
        z.check_valid("full")


class Moody:
    """Fails when it is told to."""

    name = "moody"
    fails = False

    def compress(self, data):
        if self.fails:
            raise ValueError("not today")
        return bytes(data[:1000])

    def decompress(self, data, size):
        return bytes(data) + bytes(size - len(data))


def test_a_failing_codec_keeps_the_old_unit(monkeypatch):
    monkeypatch.setattr("sys.unraisablehook", lambda report: None)
    moody = Moody()
    with Zswap(max_pool="1M", codec=PythonCodec(moody), shrinker_thread=False) as z:
        z.store(0, sized(0, 0.2))
        moody.fails = True
        with pytest.raises(CodecError):
            z.replace(0, sized(1, 0.2))
        assert get(z, 0) == sized(0, 0.2)
        with pytest.raises(CodecError):
            z.store(0, sized(1, 0.2))  # as ever: this one forgets it
        assert 0 not in z
        assert z.counters()["reject_compress_fail"] == 2
        z.check_valid("full")


def test_incompressible_units_that_are_refused_keep_the_old_one():
    with Zswap(max_pool="1M", incompressible="reject", shrinker_thread=False) as z:
        z.store(0, text(0))
        with pytest.raises(MemoryLimitError):
            z.replace(0, noise(0))
        assert get(z, 0) == text(0)


@pytest.mark.parametrize("new", [text(7), same(7)])
def test_a_full_table_keeps_the_old_unit(new):
    """With a reader on the old entry a replacement needs a second one, and there is none."""
    with Zswap(max_pool="1M", swap="1M", entries_max=4, shards=1, shrinker_thread=False) as z:
        for slot in range(4):
            z.store(slot, noise(slot))
        with pytest.raises(MemoryLimitError, match="table"):
            z.replace(99, text(99))
        z.shrink("1M")
        with FaultPlan([Fault("read", "delay", argument=400)]).installed(z.swap):
            reader = threading.Thread(target=get, args=(z, 0))
            reads = z.counters()["swpin_disk"]
            reader.start()
            while z.counters()["swpin_disk"] == reads and reader.is_alive():
                pass
            assert reader.is_alive()
            with pytest.raises(MemoryLimitError, match="table"):
                z.replace(0, new)
            assert 0 in z
            reader.join()
        assert get(z, 0) == noise(0)
        z.replace(0, new)
        assert get(z, 0) == new
        assert len(z) == 4
        z.check_valid("full")
        z.swap.check_valid()


@pytest.mark.tsan
def test_threads_lose_nothing_in_a_full_cache(run_threads, stress_seconds):
    """Each slot has one writer, and always holds what its last successful replacement was."""
    import time

    end = time.monotonic() + stress_seconds
    with Zswap(max_pool="64K", swap="64K", shards=2) as z:

        def work(me):
            held, failed, out, i = {}, 0, bytearray(UNIT), 0
            while time.monotonic() < end:
                i += 1
                slot = me * 100 + i % 10
                new = (noise, text, sized)[i % 3](i, *([0.5] if i % 3 == 2 else []))
                try:
                    z.replace(slot, new)
                    held[slot] = new
                except MemoryLimitError:
                    failed += 1
                if slot in held:
                    z.load(slot, out)
                    assert out == held[slot]
                if i % 7 == 0 and slot in held:
                    z.invalidate(slot)
                    del held[slot]
            for slot, content in held.items():
                z.load(slot, out)
                assert out == content
            return failed

        failed = run_threads(*(lambda me=me: work(me) for me in range(6)))
        assert sum(failed) > 0, "the cache was never full"
        z.check_valid("full")
        z.swap.check_valid()
