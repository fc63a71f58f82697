"""The pool's API: what it gives, what it refuses, and that a refusal harms nothing."""

import gc
import os
import threading

import numpy as np
import pytest

from coldmem.errors import (
    ClosedError,
    DoubleFreeError,
    EnvironmentFailure,
    ForeignHandleError,
    HandleBusyError,
    InvalidSizeError,
    MemoryLimitError,
    StaleHandleError,
    UsageError,
)
from coldmem.zsmalloc import STOP, Pool, Pools, format_classes

ARMS = [("pool", 0), ("class", 0), ("handle", 0), ("handle", 7)]


@pytest.fixture(params=ARMS, ids=lambda a: f"{a[0]}-{a[1]}")
def pool(request):
    locking, magazines = request.param
    with Pool(locking=locking, magazines=magazines, limit="16M") as made:
        yield made
        made.check_valid("full")


def test_store_read_write_free(pool):
    handle = pool.store(b"x" * 100)
    assert pool.read(handle) == b"x" * 100
    assert pool.size_of(handle) == 100
    pool.write(handle, b"yz")
    assert pool.read(handle) == b"yz" + b"x" * 98
    out = np.zeros(120, dtype=np.uint8)
    assert pool.read_into(handle, out) == 100
    assert bytes(out[:3]) == b"yzx"
    pool.free(handle)
    assert pool.stats().objects == 0


@pytest.mark.parametrize("unit", [4096, 16384, 65536])
@pytest.mark.parametrize("chain", [1, 8, 16])
def test_every_size_keeps_its_bytes(unit, chain):
    rng = np.random.default_rng(1)
    with Pool(unit_bytes=unit, chain=chain) as pool:
        sizes = [1, 2, 7, 8, 9, 23, 24, 25, unit // 2, unit - 9, unit - 8, unit - 7, unit - 1, unit]
        sizes += [int(n) for n in rng.integers(1, unit + 1, 60)]
        data = [rng.integers(0, 256, n, dtype=np.uint8).tobytes() for n in sizes]
        handles = [pool.store(d) for d in data]
        assert [pool.read(h) for h in handles] == data
        for h in handles[::2]:
            pool.free(h)
        pool.compact()
        pool.check_valid("full")
        assert [pool.read(h) for h in handles[1::2]] == data[1::2]


def test_buffers_of_any_type_are_taken_without_a_copy_of_type(pool):
    array = np.arange(100, dtype=np.int64).reshape(10, 10)
    for source in (array, memoryview(array), bytearray(b"abc"), array.tobytes()):
        h = pool.store(source)
        assert pool.read(h) == memoryview(source).tobytes()
    with pytest.raises(UsageError, match="contiguous"):
        pool.store(array[:, ::2])
    with pytest.raises(UsageError, match="buffer"):
        pool.store("text")


@pytest.mark.parametrize("size", [0, -1, 4097, 1 << 40, "8", 1.5])
def test_bad_sizes_are_refused(pool, size):
    with pytest.raises(InvalidSizeError):
        pool.malloc(size)
    assert pool.stats().objects == 0


def test_empty_buffer_is_refused(pool):
    with pytest.raises(InvalidSizeError):
        pool.store(b"")


def test_double_free_stale_and_foreign_handles_leave_the_pool_unharmed(pool):
    kept = pool.store(b"kept")
    handle = pool.store(b"gone")
    pool.free(handle)
    with pytest.raises(DoubleFreeError):
        pool.free(handle)
    for use in (pool.read, pool.size_of, lambda h: pool.write(h, b"a")):
        with pytest.raises(StaleHandleError):
            use(handle)
    again = pool.store(b"here")  # reuses the handle's place with another generation
    assert again != handle
    with pytest.raises(StaleHandleError):
        pool.read(handle)
    with pytest.raises(StaleHandleError):
        pool.free(handle)
    with Pool() as other:
        stranger = other.store(b"other")
        for bad in (stranger, 0, 1, 1 << 63, (1 << 64) - 1):
            with pytest.raises(ForeignHandleError):
                pool.free(bad)
            with pytest.raises(ForeignHandleError):
                pool.read(bad)
    for bad in (-1, 1 << 64, None, "3"):
        with pytest.raises(ForeignHandleError):
            pool.read(bad)
    assert pool.read(kept) == b"kept"
    assert pool.read(again) == b"here"


def test_two_threads_free_one_handle_and_one_of_them_wins(pool):
    for _ in range(200):
        handle = pool.store(b"z" * 50)
        errors = []
        barrier = threading.Barrier(2)

        def free(handle=handle, barrier=barrier, errors=errors):
            barrier.wait()
            try:
                pool.free(handle)
            except StaleHandleError as error:
                errors.append(error)

        threads = [threading.Thread(target=free) for _ in range(2)]
        for t in threads:
            t.start()
        for t in threads:
            t.join()
        assert len(errors) == 1
    assert pool.stats().objects == 0


def test_view_shows_the_bytes_in_place(pool):
    handle = pool.store(b"abcdef")
    with pool.view(handle) as data:
        assert data.readonly
        assert data.tobytes() == b"abcdef"
        with pytest.raises(HandleBusyError):
            pool.close()
    with pytest.raises(ValueError, match="released"):
        data.tobytes()
    view = pool.view(handle)
    del view  # a view that was never entered lets go as well
    gc.collect()
    pool.free(handle)


def test_view_that_is_still_looked_at_does_not_end(pool):
    handle = pool.store(b"abcdef")
    view = pool.view(handle)
    data = view.__enter__()
    array = np.asarray(data)
    with pytest.raises(BufferError):
        view.__exit__(None, None, None)
    assert bytes(array) == b"abcdef"
    del array
    view.__exit__(None, None, None)


@pytest.mark.parametrize("magazines", [0, 7])
def test_object_that_is_read_is_neither_freed_nor_moved_nor_overwritten(magazines):
    with Pool(locking="handle", magazines=magazines) as pool:
        handles = [pool.store(bytes([i]) * 1000) for i in range(64)]
        with pool.view(handles[63]) as data:
            with pytest.raises(HandleBusyError):
                pool.free(handles[63])
            with pytest.raises(HandleBusyError):
                pool.write(handles[63], b"x")
            for h in handles[::2]:
                pool.free(h)
            pool.compact()
            assert data.tobytes() == bytes([63]) * 1000
        pool.check_valid("full")
        pool.free(handles[63])


def test_full_pool_raises_and_goes_on(pool):
    handles = []
    with pytest.raises(MemoryLimitError, match="no room"):
        while True:
            handles.append(pool.store(os.urandom(3000)))
    assert pool.used_bytes <= pool.limit_bytes
    assert pool.stats().peak_bytes <= pool.limit_bytes
    for h in handles[:64]:
        pool.free(h)
    assert pool.read(pool.store(b"q" * 3000)) == b"q" * 3000


def test_pressure_takes_objects_back_from_magazines():
    with Pool(magazines=True, limit="64K") as pool:
        for size in (100, 500, 1000, 2000):  # leaves whole zspages in magazines
            pool.free(pool.store(bytes(size)))
        big = []
        with pytest.raises(MemoryLimitError):
            while True:
                big.append(pool.store(bytes(4096)))
        assert len(big) == 16


def test_double_free_is_seen_through_a_magazine():
    with Pool(magazines=True) as pool:
        h = pool.store(b"a" * 64)
        pool.free(h)
        assert pool.stats().objects_cached > 0
        with pytest.raises(DoubleFreeError):
            pool.free(h)


def test_magazines_are_left_out_of_what_is_used():
    with Pool(magazines=True) as pool:
        handles = [pool.store(b"m" * 64) for _ in range(20)]
        for h in handles[:13]:
            pool.free(h)
        stats = pool.stats()
        assert stats.objects == 7
        assert sum(row.obj_used for row in pool.class_stats()) == 7
        assert stats.objects_cached == sum(row.obj_cached for row in pool.class_stats()) > 0
        pool.trim()
        assert pool.stats().objects_cached == 0
        assert pool.stats().objects == 7


@pytest.mark.parametrize(("locking", "magazines"), ARMS)
def test_closing(locking, magazines):
    pool = Pool(locking=locking, magazines=magazines)
    pool.store(b"abc")
    pool.close()
    pool.close()
    for call in (pool.compact, pool.stats, pool.check_valid, lambda: pool.store(b"x")):
        with pytest.raises(ClosedError):
            call()


def test_bad_arguments():
    for bad in (
        {"locking": "none"},
        {"locking": "class", "magazines": True},
        {"magazines": 15},
        {"compact_batch": 0},
        {"chain": 17},
        {"unit_bytes": 8192},
        {"limit": "4K"},
        {"chain_rule": "best"},
    ):
        with pytest.raises(UsageError):
            Pool(**bad)
    with pytest.raises(UsageError):
        Pools(0)
    with Pool() as pool, pytest.raises(UsageError):
        pool.check_valid("deep")
    with pytest.raises(UsageError), Pool() as pool:
        pool.__init__()


def test_refused_address_space_is_a_clear_error():
    with pytest.raises(EnvironmentFailure, match="capacity"):
        Pool(limit="64M", capacity=1 << 60)


def test_class_statistics_have_the_columns_of_debugfs():
    with Pool() as pool:
        handles = [pool.store(bytes(1000)) for _ in range(100)]
        rows = {row.index: row for row in pool.class_stats()}
        row = rows[pool.lookup_class_index(1000)]
        assert row.obj_used == 100
        assert row.obj_allocated >= 100
        assert row.pages_used % row.pages_per_zspage == 0
        assert sum(row.zspages_by_group) * row.pages_per_zspage == row.pages_used
        for h in handles[:60]:
            pool.free(h)
        row = {r.index: r for r in pool.class_stats()}[row.index]
        per_zspage = row.pages_per_zspage * 4096 // row.size
        spare = row.obj_allocated - row.obj_used
        assert row.freeable == spare // per_zspage * row.pages_per_zspage
        table = format_classes(pool.class_stats()).splitlines()
        assert table[0].split() == [
            "class", "size", "10%", "20%", "30%", "40%", "50%", "60%", "70%", "80%", "90%", "99%",
            "100%", "obj_allocated", "obj_used", "pages_used", "pages_per_zspage", "freeable",
        ]
        assert table[-1].split()[0] == "Total"
        assert len(table) == 2 + len(rows)


def test_fullness_groups_are_floor_based():
    """Group of inuse/objs: exactly 10 % lands under "20%"; full is "100%"."""
    with Pool() as pool:
        row = pool.size_classes.lookup(24)  # 128 objects in one unit
        assert (row.units_per_zspage, row.objs_per_zspage) == (1, 128)
        for n in range(1, 129):
            pool.store(bytes(24))
            groups = pool.class_stats()[0].zspages_by_group
            expected = 10 if n == 128 else n * 10 // 128
            assert groups.index(1) == expected, n


def test_allocation_takes_the_fullest_zspage():
    with Pool() as pool:
        per = pool.size_classes.lookup(1000).objs_per_zspage
        handles = [pool.store(bytes(1000)) for _ in range(3 * per)]
        for h in handles[:2]:
            pool.free(h)
        for h in handles[per : per + per // 2]:
            pool.free(h)
        for _ in range(2):
            pool.store(bytes(1000))
        groups = pool.class_stats()[pool_row(pool, 1000)].zspages_by_group
        assert groups[10] == 2  # the one that lacked two was filled first


def pool_row(pool, size):
    index = pool.lookup_class_index(size)
    return next(i for i, row in enumerate(pool.class_stats()) if row.index == index)


def test_shrinker_hook():
    with Pool(name="p") as pool:
        shrinker = pool.shrinker()
        assert shrinker.name == "zsmalloc:p"
        assert shrinker.count() == 0
        assert shrinker.scan() == STOP
        handles = [pool.store(bytes(1000)) for _ in range(400)]
        for h in handles[::2]:
            pool.free(h)
        can = shrinker.count()
        assert can > 0
        assert shrinker.scan() == can
        assert shrinker.scan() == STOP


def test_lock_statistics_count_and_cost_nothing_when_off():
    with Pool(lock_statistics=True, locking="class") as pool:
        pool.store(b"stays, so that its zspage does")
        before = pool.lock_stats()
        for _ in range(10):
            pool.free(pool.store(b"abcdefghijklmnopqrstuvwxyz"))
        after = pool.lock_stats()
        taken = {kind: after[kind].acquisitions - before[kind].acquisitions for kind in after}
        assert taken == {"pool": 0, "class": 20, "migrate": 20, "arena": 0}
    with Pool() as pool:
        pool.free(pool.store(b"abc"))
        assert all(s.acquisitions == 0 for s in pool.lock_stats().values())


def test_pools_share_one_limit_and_find_their_slots():
    with Pools(32, limit="4M") as pools:
        handles = {}
        with pytest.raises(MemoryLimitError):
            for slot in range(100_000):
                handles[slot] = pools.pool_of(slot).store(slot.to_bytes(8, "little") * 100)
        assert pools.used_bytes <= 4 << 20
        for slot, handle in handles.items():
            assert pools.pool_of(slot).read(handle)[:8] == slot.to_bytes(8, "little")
        used = sorted(pool.stats().objects for pool in pools)
        assert used[0] > 0, "the hash leaves a pool without slots"
        pools.check_valid()
