"""Arrays larger than the limit: contents, lifetime, what bad input gets."""

from __future__ import annotations

import ctypes
import gc
import io
import os
import time
from collections.abc import Callable

import numpy as np
import pytest

from coldmem import Memory
from coldmem.errors import ClosedError, MemoryLimitError, UsageError

Make = Callable[..., Memory]
MIB = 1 << 20


def mixed(nbytes: int, seed: int = 1) -> np.ndarray:
    """Half of it compresses well, half not at all."""
    rng = np.random.default_rng(seed)
    data = np.zeros(nbytes, np.uint8).reshape(-1, 4096)
    data[::2] = rng.integers(0, 256, (len(data[::2]), 4096), np.uint8)
    data[1::2, ::64] = rng.integers(0, 256, data[1::2, ::64].shape, np.uint8)
    return data.reshape(-1)


@pytest.mark.parametrize("unit", ["4K", "16K", "64K"])
def test_four_times_the_limit_comes_back_right(make_memory: Make, unit: str) -> None:
    memory = make_memory("16M", "64M", unit_bytes=unit)
    want = mixed(64 * MIB)
    a = memory.zeros(want.shape, want.dtype)
    a[:] = want
    stats = memory.stats()
    assert stats["hot_bytes"] < 16 * MIB
    assert stats["swap_bytes"] > 8 * MIB
    assert stats["footprint_peak_bytes"] <= stats["memory_max_bytes"]
    assert np.array_equal(a, want)
    order = np.random.default_rng(2).permutation(len(want) // 4096)
    for page in order[:3000]:
        at = page * 4096
        assert a[at + 7] == want[at + 7]
        a[at + 9] ^= 0x5A
        want[at + 9] ^= 0x5A
    assert np.array_equal(a, want)
    assert memory.stats()["footprint_peak_bytes"] <= stats["memory_max_bytes"]
    del a


def test_it_is_a_plain_array_of_zeros(make_memory: Make) -> None:
    memory = make_memory()
    a = memory.zeros((300, 500))
    assert type(a) is np.ndarray
    assert a.flags.writeable and a.flags.c_contiguous and a.flags.aligned
    assert a.dtype == np.float64 and a.shape == (300, 500) and not a.any()
    b = memory.zeros((3, 4), np.int16, order="F")
    assert b.flags.f_contiguous
    assert memory.zeros((0, 4)).shape == (0, 4)
    del a, b


@pytest.mark.parametrize("dtype", ["f8", "i4", "u1", "M8[ns]", "c16", "S5", "U3", "?", "f2"])
def test_constructors_as_numpy(make_memory: Make, dtype: str) -> None:
    memory = make_memory()
    model = np.arange(700).astype("i8").astype(dtype) if dtype[0] not in "SU?" else (
        np.array(["ab", "c", ""] * 300, dtype) if dtype[0] in "SU" else np.arange(700) % 3 == 0
    )
    a = memory.array(model)
    assert a.dtype == model.dtype and np.array_equal(a, model)
    assert memory.owns(a) and not memory.owns(model)
    z = memory.zeros_like(model)
    assert z.dtype == model.dtype and np.array_equal(z, np.zeros_like(model))
    f = memory.full_like(model, model[1])
    assert (f == model[1]).all()
    assert np.array_equal(memory.frombuffer(model.tobytes(), model.dtype), model)
    del a, z, f


def test_ones_full_and_strings(make_memory: Make) -> None:
    memory = make_memory()
    assert np.array_equal(memory.ones((5, 6)), np.ones((5, 6)))
    assert np.array_equal(memory.full(9, 2.5), np.full(9, 2.5))
    assert memory.full(9, 7).dtype == np.asarray(7).dtype
    assert np.array_equal(memory.empty(4), np.zeros(4))


def test_views_keep_the_memory_alive(make_memory: Make) -> None:
    memory = make_memory("16M", "32M")
    a = memory.array(np.arange(3 * MIB, dtype=np.float64))
    view = a[1000::1000]
    del a
    gc.collect()
    other = memory.zeros(2 * MIB)  # pushes the view's units out
    other[:] = 1
    assert np.array_equal(view, np.arange(1000, 3 * MIB, 1000, dtype=np.float64))
    assert memory.stats()["arrays"] == 2
    del view, other
    gc.collect()
    assert memory.stats()["arrays"] == 0


def rss_bytes() -> int:
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def test_freeing_gives_everything_back(make_memory: Make) -> None:
    memory = make_memory("40M", "96M")
    before = rss_bytes()
    a = memory.array(mixed(96 * MIB))
    full = memory.stats()
    assert full["hot_bytes"] + full["compressed_bytes"] > 24 * MIB and full["swap_bytes"] > 0
    del a
    gc.collect()
    for _ in range(1000):  # what a thread of ours had in hand goes a moment later
        empty = memory.stats()
        if empty["compressed_bytes"] == 0:
            break
        time.sleep(0.005)
    assert empty["hot_bytes"] == empty["clean_bytes"] == empty["swap_bytes"] == 0
    assert empty["compressed_bytes"] == empty["array_bytes"] == 0
    assert rss_bytes() - before < 16 * MIB
    again = memory.zeros(20 * MIB, np.uint8)  # the same addresses, and zeros again
    assert not again.any()
    del again


def test_zeros_cost_next_to_nothing(make_memory: Make) -> None:
    memory = make_memory("16M", "512M")
    a = memory.zeros((256 * MIB,), np.uint8)
    assert int(a[:: 4096].sum()) == 0
    assert memory.stats()["compressed_bytes"] == 0
    assert memory.stats()["footprint_peak_bytes"] <= 16 * MIB
    del a


def test_evict_prefetch_and_hints(make_memory: Make) -> None:
    memory = make_memory("32M", "32M")
    want = mixed(8 * MIB)
    a = memory.array(want)
    assert memory.evict(a) == 8 * MIB
    assert memory.stats()["hot_bytes"] == 0
    assert memory.prefetch(a) == 8 * MIB
    faults = memory.stats()["faults"]
    assert np.array_equal(a, want)
    assert memory.stats()["faults"] == faults, "all of it was there"
    for advice in ("sequential", "random", "normal"):
        memory.evict(a)
        memory.madvise(a, advice)
        assert np.array_equal(a, want)
    memory.evict(a)
    memory.madvise(a, "random")
    before = memory.stats()["readahead"]
    assert int(a[::4096].sum()) == int(want[::4096].sum())
    assert memory.stats()["readahead"] == before
    memory.madvise(a[4096 * 3 + 1 : 4096 * 6], "dontneed")
    want[4096 * 4 : 4096 * 6] = 0
    assert np.array_equal(a, want)
    del a


def test_pinned_stays(make_memory: Make) -> None:
    memory = make_memory("16M", "64M")
    want = mixed(40 * MIB)
    a = memory.array(want)
    part = a[4 * MIB : 8 * MIB]
    with memory.pinned(part) as same:
        assert same is part
        assert memory.stats()["pinned_bytes"] == 4 * MIB
        a[12 * MIB :] = 3  # everything else goes out
        assert memory.evict(part) == 0
        faults = memory.stats()["faults"]
        part ^= 0xFF
        assert memory.stats()["faults"] == faults
    assert memory.stats()["pinned_bytes"] == 0
    assert memory.evict(part) > 0
    assert np.array_equal(part, want[4 * MIB : 8 * MIB] ^ 0xFF)
    with pytest.raises(MemoryLimitError, match="three quarters"), memory.pinned(a):
        pass
    assert memory.stats()["pinned_bytes"] == 0
    del a, part, same


def test_what_may_not_fit_is_refused(make_memory: Make) -> None:
    memory = make_memory("16M", "16M")
    with pytest.raises(MemoryLimitError, match="memory_max") as info:
        memory.zeros(64 * MIB, np.uint8)
    assert isinstance(info.value, MemoryError)
    assert memory.stats()["array_bytes"] == 0
    generous = make_memory("16M", "16M", overcommit=True)
    a = generous.zeros(64 * MIB, np.uint8)
    a[::3] = 1  # compresses well
    assert int(a.sum()) == (64 * MIB + 2) // 3
    del a


def test_incompressible_data_fills_ram_and_disk_to_the_brim(make_memory: Make) -> None:
    memory = make_memory("16M", "16M")
    rng = np.random.default_rng(5)
    blocks = []
    with pytest.raises(MemoryLimitError):
        while True:
            block = memory.zeros(MIB, np.uint8)
            block[:] = rng.integers(0, 256, MIB, np.uint8)
            blocks.append((block, int(block.sum(dtype=np.int64))))
    assert len(blocks) >= 24
    for block, total in blocks:
        assert int(block.sum(dtype=np.int64)) == total
    stats = memory.stats()
    assert stats["overshoots"] == 0
    assert stats["footprint_peak_bytes"] <= stats["memory_max_bytes"]
    del block, blocks


def test_a_buffer_for_whatever_takes_one(make_memory: Make) -> None:
    """`allocate` without NumPy: each of them keeps the memory, and sees what the others write."""
    memory = make_memory("8M", "32M")
    room = memory.allocate(3 * MIB)
    data = mixed(3 * MIB).tobytes()
    assert io.BytesIO(data).readinto(room) == len(room) == 3 * MIB
    view = memoryview(room)
    assert (view.nbytes, view.format, view.readonly, view.contiguous) == (3 * MIB, "B", False, True)
    numbers = (ctypes.c_uint64 * (3 * MIB // 8)).from_buffer(room)
    array = np.frombuffer(room, np.uint8)
    assert array.flags.writeable and memory.owns(array) and memory.owns(view)
    del room
    assert memory.evict(numbers) > 0
    assert view == data and array.tobytes() == data
    numbers[1] = 0x4142434445464748
    memory.evict(view)
    assert bytes(view[8:16]) == b"HGFEDCBA" and array[8] == ord("H")
    assert memory.stats()["arrays"] == 1
    del view, array
    assert memory.stats()["arrays"] == 1 and numbers[1] == 0x4142434445464748
    del numbers
    assert memory.stats()["arrays"] == 0


def test_close(make_memory: Make) -> None:
    memory = make_memory()
    a = memory.ones(1000)
    with pytest.raises(UsageError, match="still alive"):
        memory.close()
    assert a.sum() == 1000
    del a
    gc.collect()
    memory.close()
    memory.close()
    with pytest.raises(ClosedError):
        memory.zeros(10)
    with pytest.raises(ClosedError):
        memory.stats()
    with pytest.raises(ClosedError), memory:
        pass


@pytest.mark.parametrize("bad", [
    {"memory_max": "1M"}, {"memory_max": "lots"}, {"unit_bytes": 8192}, {"delivery": "post"},
    {"codec": "none-such"}, {"memory_max": "-5"}, {"swap_max": "half"}, {"threshold": "x"},
])
def test_bad_arguments(bad: dict[str, str]) -> None:
    with pytest.raises((UsageError, ValueError)):
        Memory(**{"memory_max": "16M", "swap_max": 0, **bad})


def test_bad_arrays(make_memory: Make) -> None:
    memory = make_memory()
    with pytest.raises(UsageError, match="does not live"):
        memory.evict(np.zeros(5))
    with pytest.raises(UsageError, match="objects"):
        memory.zeros(5, object)
    with pytest.raises(UsageError, match="negative"):
        memory.zeros((5, -1))
    with pytest.raises(UsageError, match="order"):
        memory.zeros(5, order="K")
    with pytest.raises(UsageError, match="madvise"):
        memory.madvise(memory.zeros(5), "perhaps")


def test_without_a_cold_codec_nothing_is_dear_to_load(make_memory: Make) -> None:
    """Copies of what could not be compressed are kept like others."""
    memory = make_memory("32M", cold_codec=None)
    a = memory.array(np.random.default_rng(1).integers(0, 256, 4 << 20, np.uint8))
    memory.madvise(a, "random")
    assert memory.evict(a) == 4 << 20
    assert int(a[::4096].sum()) > 0
    memory.check_valid()  # a handler that has let us go on may still be counting
    assert memory.stats()["clean_bytes"] == 4 << 20
    del a
