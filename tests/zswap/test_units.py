"""Store, load and invalidate: what one thread sees."""

import array
import subprocess
import sys

import numpy as np
import pytest
from unit_data import UNIT, noise, same, sized, text

from coldmem.errors import (
    ClosedError,
    CodecError,
    InvalidSizeError,
    MemoryLimitError,
    SlotNotFoundError,
    UnknownCodecError,
    UsageError,
)
from coldmem.zswap import SwapFile, Zswap

ARMS = {
    "handle": {}, "class": {"locking": "class"}, "pool": {"locking": "pool"},
    "magazines": {"magazines": True}, "pools32": {"pools": 32, "locking": "pool"},
}


@pytest.fixture
def z():
    with Zswap(max_pool="16M") as made:
        yield made
        made.check_valid("full")


def get(z, slot, **how):
    out = bytearray(z.unit_bytes)
    z.load(slot, out, **how)
    return bytes(out)


@pytest.mark.parametrize("unit", [4096, 16384, 65536])
@pytest.mark.parametrize("arm", ARMS)
def test_every_kind_of_unit_comes_back(arm, unit):
    units = [make(i, unit) for i in range(20) for make in (text, noise, same)]
    with Zswap(unit_bytes=unit, max_pool="32M", **ARMS[arm]) as z:
        for slot, data in enumerate(units):
            z.store(slot, data)
        assert [get(z, slot) for slot in range(60)] == units
        c = z.counters()
        assert (c["stored_pages"], c["same_filled_pages"], c["stored_incompressible_pages"]) == (
            60, 20, 20)
        assert (c["zswpout"], c["zswpin"]) == (60, 60)
        assert z.stats()["codecs"] == {"lz4": 20, "none": 20}
        z.check_valid("full")
        assert all(z.invalidate(slot) for slot in range(60))
        assert len(z) == 0
        z.check_valid("full")


def test_any_slot_of_64_bits(z):
    slots = [0, 1, 2**32, 2**63, 2**64 - 1, *(2**k + 1 for k in range(1, 63))]
    for slot in slots:
        z.store(slot, text(slot))
    for slot in slots:
        assert slot in z
        assert get(z, slot) == text(slot)
    for slot in (-1, 2**64, 1.5, "1", None):
        for call in (lambda: z.store(slot, text(0)), lambda: z.load(slot, bytearray(UNIT)),
                     lambda: z.invalidate(slot), lambda: z.contains(slot)):
            with pytest.raises(UsageError, match="slot"):
                call()
        assert slot not in z


def test_overwrite_replaces_in_every_combination(z):
    kinds = [text, noise, same, lambda k: sized(k, 0.1)]
    for a in kinds:
        for b in kinds:
            z.store(7, a(1))
            z.store(7, b(2))
            assert get(z, 7) == b(2)
            assert len(z) == 1
            z.check_valid("full")


def test_exclusive_load_takes_the_unit(z):
    for data in (text(1), noise(1), same(1)):
        z.store(1, data)
        assert get(z, 1, exclusive=True) == data
        assert 1 not in z
        with pytest.raises(SlotNotFoundError) as error:
            get(z, 1)
        assert error.value.slots == (1,)
    assert z.counters()["stored_pages"] == 0


def test_same_filled_units_take_no_object(z):
    words = [0, 1, 2**64 - 1, 0x0101010101010101, 0xDEADBEEF]
    for slot, word in enumerate(words):
        z.store(slot, same(word))
    assert z.used_bytes == 0
    assert [get(z, slot) for slot in range(5)] == [same(word) for word in words]


def test_nearly_same_filled_is_not_taken_for_it(z):
    for at in range(0, UNIT, 8):  # one word differs, wherever it is
        data = bytearray(UNIT)
        data[at] = 1
        z.store(at, data)
        assert get(z, at) == data
    assert z.counters()["same_filled_pages"] == 0


def test_same_filled_is_not_limited_by_the_pool():
    with Zswap(max_pool="64K", on_full="reject", shrinker_thread=False) as z:
        slot = 0
        with pytest.raises(MemoryLimitError):
            for slot in range(100):
                z.store(slot, noise(slot))
        assert slot not in z
        for k in range(1000):
            z.store(1000 + k, same(k))
        assert z.counters()["same_filled_pages"] == 1000
        z.check_valid("full")


def test_incompressible_is_kept_raw_or_refused():
    with Zswap(max_pool="1M") as z:
        z.store(1, noise(1))
        assert z.counters()["stored_incompressible_pages"] == 1
        assert z.stats()["groups"][""]["zswap_incomp"] == UNIT
    with Zswap(max_pool="1M", incompressible="reject") as z:
        z.store(1, text(1))
        with pytest.raises(MemoryLimitError, match="incompressible"):
            z.store(1, noise(1))
        assert 1 not in z
        assert z.counters()["reject_compress_poor"] == 1


@pytest.mark.parametrize("slots", [
    5, range(5, 25), range(24, 4, -1), range(5, 45, 2), list(range(5, 25)),
    np.arange(5, 25, dtype=np.uint64), array.array("Q", range(5, 25)),
], ids=str)
def test_batches(z, slots):
    named = list(range(5, 25)) if isinstance(slots, int) else [int(slot) for slot in slots]
    data = b"".join(text(slot) if slot % 3 else same(slot) for slot in named)
    z.store_many(slots, data)
    for i, slot in enumerate(named):
        assert get(z, slot) == data[i * UNIT:(i + 1) * UNIT]
    out = bytearray(len(data))
    z.load_many(slots, out)
    assert out == data
    assert z.invalidate_many(slots, 20 if isinstance(slots, int) else None) == 20
    assert len(z) == 0


def test_buffers_of_any_type(z):
    numbers = np.arange(512, dtype=np.float64)
    z.store(1, numbers)
    back = np.empty((16, 32))
    z.load(1, back)
    assert (back.ravel() == numbers).all()
    z.store_many(10, np.arange(5 * 512, dtype=np.int64).reshape(5, 512))
    assert (np.frombuffer(get(z, 12), dtype=np.int64) == np.arange(1024, 1536)).all()


def test_load_many_loads_all_others(z):
    z.store(1, text(1))
    z.store(3, text(3))
    out = bytearray(4 * UNIT)
    with pytest.raises(SlotNotFoundError) as error:
        z.load_many(range(4), out)
    assert error.value.slots == (0, 2)
    assert out[UNIT:2 * UNIT] == text(1)
    assert out[3 * UNIT:] == text(3)
    with pytest.raises(SlotNotFoundError):
        z.load_many(range(4), out, exclusive=True)
    assert len(z) == 0


def test_store_many_is_all_or_nothing():
    with Zswap(max_pool="64K", on_full="reject", shrinker_thread=False) as z:
        z.store(2, text(2))
        z.store(50, text(50))
        batch = b"".join(noise(k) for k in range(40))
        with pytest.raises(MemoryLimitError, match="none of the 40"):
            z.store_many(0, batch)
        assert [slot for slot in range(60) if slot in z] == [50]
        z.check_valid("full")


def test_wrong_arguments(z):
    for size in (0, 1, UNIT - 1, UNIT + 1, 2 * UNIT):
        with pytest.raises(InvalidSizeError):
            z.store(1, bytes(size))
        with pytest.raises(InvalidSizeError):
            z.load(1, bytearray(size))
    with pytest.raises(InvalidSizeError):
        z.store_many(range(3), bytes(2 * UNIT))
    with pytest.raises(InvalidSizeError):
        z.load_many([1, 2, 3], bytearray(2 * UNIT))
    with pytest.raises(UsageError):
        z.load(1, bytes(UNIT))  # not writable
    with pytest.raises(UsageError):
        z.store(1, np.zeros((64, 128))[:, ::2])  # not contiguous
    with pytest.raises(UsageError):
        z.store(1, "text")
    with pytest.raises(UsageError):
        z.store_many(np.arange(2, dtype=np.int32), bytes(2 * UNIT))
    with pytest.raises(UsageError):
        z.store_many([-1, 2], bytes(2 * UNIT))
    with pytest.raises(UsageError):
        z.store_many(2**64 - 1, bytes(2 * UNIT))
    with pytest.raises(UsageError):
        z.store_many(range(-1, 1), bytes(2 * UNIT))
    with pytest.raises(UsageError):
        z.invalidate_many(5)
    with pytest.raises(UsageError):
        z.store(1, bytes(UNIT), group="nobody")
    with pytest.raises(UnknownCodecError):
        z.set_codec("no such codec")
    assert z.codec == "lz4"
    assert len(z) == 0


@pytest.mark.parametrize("options", [
    {"unit_bytes": 8192}, {"accept_threshold": 1.5}, {"accept_threshold": -0.1}, {"shards": 3},
    {"shards": 0}, {"entries_max": 0}, {"pools": 0}, {"pools": 257}, {"max_pool": "1K"},
    {"max_pool": "x"}, {"on_full": "panic"}, {"shrinker": "6.10"}, {"incompressible": "drop"},
    {"locking": "none"}, {"codec": "none such"}, {"magazines": True, "locking": "class"},
    {"swap_directory": "/tmp"}, {"swap": -5},
], ids=str)
def test_wrong_options(options):
    with pytest.raises(UsageError):
        Zswap(**options)


def test_swap_file_must_fit():
    with SwapFile("1M", unit_bytes=16384) as file, pytest.raises(UsageError):
        Zswap(swap=file)
    with pytest.raises(ClosedError):
        Zswap(unit_bytes=16384, swap=file)


def test_exit_without_close_and_close_in_a_child():
    """The shrinker's thread holds up neither the end of the program nor a child."""
    program = """
import os, warnings
from coldmem.zswap import Zswap
warnings.simplefilter("ignore")
z = Zswap(max_pool="256K", swap="4M")
for slot in range(300):
    z.store(slot, os.urandom(4096))
child = os.fork()
if child == 0:
    out = bytearray(4096)
    z.load(299, out)
    z.store(1, bytes(4096))
    z.close()
    z.close()
    os._exit(7)
assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 7
z.store(1, bytes(4096))
print("fine")
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, timeout=60)
    assert done.stdout == b"fine\n", done.stderr.decode()
    assert done.returncode == 0


def test_everything_raises_once_closed():
    z = Zswap(max_pool="1M", swap="1M")
    g = z.group("g")
    z.store(1, text(1))
    z.close()
    z.close()
    assert z.closed
    calls = [
        lambda: z.store(1, text(1)), lambda: z.load(1, bytearray(UNIT)), lambda: z.invalidate(1),
        lambda: z.store_many(1, text(1)), lambda: z.load_many(1, bytearray(UNIT)),
        lambda: z.invalidate_many([1]), lambda: z.contains(1), lambda: len(z), z.stats, z.counters,
        z.lock_stats, lambda: z.group("h"), lambda: z.shrink(1), z.compact, z.check_valid,
        lambda: z.set_codec("zstd"), lambda: z.used_bytes, g.stats, g.remove, lambda: g.charge(1),
    ]
    for call in calls:
        with pytest.raises(ClosedError):
            call()
    assert "closed" in repr(z)


def test_a_swap_file_of_the_caller_outlives_the_zswap():
    with SwapFile("4M") as file:
        with Zswap(max_pool="256K", swap=file) as z:
            for slot in range(200):
                z.store(slot, noise(slot))
            assert file.used_bytes > 0
        assert not file.closed
        assert file.used_bytes == 0


def test_codec_change_keeps_old_units_readable(z):
    names = ["lz4", "zstd", "zlib", "raw", "zstd", "lz4"]
    for i, name in enumerate(names):
        z.set_codec(name)
        assert z.codec.startswith(name)
        z.store(i, text(i))
    assert [get(z, i) for i in range(6)] == [text(i) for i in range(6)]
    live = z.stats()["codecs"]
    assert live["none"] == 1
    assert sum(live.values()) == 6
    assert [count for name, count in live.items() if name.startswith("zstd")] == [2]
    for i in (1, 4):
        z.invalidate(i)
    assert not any(name.startswith("zstd") for name in z.stats()["codecs"])


def test_codecs_without_units_make_room_for_new_ones(z):
    class Plain:
        def __init__(self, key):
            self.key = key
            self.name = f"plain{key}"

        def compress(self, data):
            return b"%d" % self.key + bytes(data[:100])

        def decompress(self, data, size):
            assert bytes(data[:-100]) == b"%d" % self.key
            return bytes(data[-100:]) * (size // 100) + bytes(data[-100:])[:size % 100]

    pattern = (bytes(range(100)) * 41)[:UNIT]
    for key in range(40):
        z.set_codec(Plain(key))
        z.store(key, pattern)
        assert get(z, key, exclusive=True) == pattern
    for key in range(100, 114):
        z.set_codec(Plain(key))
        z.store(key, pattern)
    # Fourteen have units; the fifteenth may still come, the sixteenth not.
    z.set_codec(Plain(114))
    z.store(114, pattern)
    with pytest.raises(UsageError):
        z.set_codec(Plain(115))
    assert all(get(z, key) == pattern for key in range(100, 115))


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_a_codec_that_fails_is_reported(z):
    class Broken:
        name = "broken"
        working = True

        def compress(self, data):
            if not self.working:
                raise RuntimeError("out of order")
            return bytes(data[:8])

        def decompress(self, data, size):
            if not self.working:
                raise RuntimeError("out of order")
            return bytes(data) * (size // 8)

    codec = Broken()
    pattern = text(1)
    z.set_codec(codec)
    z.store(1, pattern)
    codec.working = False
    with pytest.raises(CodecError):
        get(z, 1)
    assert z.counters()["decompress_fail"] == 1
    assert z.counters()["zswpin"] == 0  # it counts what was handed out
    assert 1 in z
    with pytest.raises(CodecError):
        z.store(1, pattern)
    assert z.counters()["reject_compress_fail"] == 1
    assert 1 not in z


def test_entry_table_full():
    with Zswap(max_pool="4M", entries_max=10, shards=1) as z:
        for slot in range(10):
            z.store(slot, text(slot))
        with pytest.raises(MemoryLimitError, match="entries"):
            z.store(10, text(10))
        with pytest.raises(MemoryLimitError, match="entries"):
            z.store(11, same(1))
        assert z.counters()["reject_kmemcache_fail"] == 2
        z.store(3, text(33))  # in place
        z.invalidate(4)
        z.store(10, text(10))
        assert get(z, 10) == text(10)
        z.check_valid("full")


def test_many_slots_and_back():
    """The index grows, and shrinks again."""
    with Zswap(max_pool="64M", shards=4) as z:
        data = text(1)
        small = z.stats()["metadata_bytes"]
        z.store_many(range(0, 20_000 * 7, 7), data * 20_000)
        z.check_valid("full")
        large = z.stats()["metadata_bytes"]
        assert z.invalidate_many(range(0, 20_000 * 7, 7)) == 20_000
        z.check_valid("full")
        assert small < z.stats()["metadata_bytes"] < large  # entries stay, cells go
        assert z.used_bytes == 0
