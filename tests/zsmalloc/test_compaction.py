"""Which zspages compaction takes from and fills, and when it stops."""

import threading

import pytest

from coldmem.testing.pool_stress import PoolStress
from coldmem.zsmalloc import Pool

ARMS = [("pool", 0), ("class", 0), ("handle", 0), ("handle", 7)]


def groups(pool, size):
    index = pool.lookup_class_index(size)
    return next(r.zspages_by_group for r in pool.class_stats() if r.index == index)


def fill(pool, size, kept_per_zspage):
    """Zspages of one class with the given numbers of objects left; the handles that are left."""
    per = pool.size_classes.lookup(size).objs_per_zspage
    handles = [pool.store(i.to_bytes(4, "little") * (size // 4)) for i in
               range(per * len(kept_per_zspage))]
    kept = []
    for z, count in enumerate(kept_per_zspage):
        mine = handles[z * per : (z + 1) * per]
        for handle in mine[count:]:
            pool.free(handle)
        kept += mine[:count]
    return kept


@pytest.mark.parametrize(("locking", "magazines"), ARMS)
@pytest.mark.parametrize("batch", [1, 3, 8, 1000])
def test_moves_are_as_few_as_can_be(locking, magazines, batch):
    """From the emptiest to the fullest: 1 + 2 objects move, and two zspages become free."""
    with Pool(locking=locking, magazines=magazines, compact_batch=batch) as pool:
        size = 1024  # 31 objects in 8 units
        per = pool.size_classes.lookup(size).objs_per_zspage
        units = pool.size_classes.lookup(size).units_per_zspage
        kept = fill(pool, size, [per - 3, 1, 2, per])
        if magazines:
            pool.trim()
        assert pool.can_compact() == 2 * units
        assert pool.compact() == 2 * units
        assert pool.stats().objects_moved == 3
        assert pool.stats().pages_compacted == 2 * units
        assert groups(pool, size)[10] == 2
        assert sum(groups(pool, size)) == 2
        assert [pool.read(h) for h in kept] == [
            i.to_bytes(4, "little") * 256
            for z, n in enumerate([per - 3, 1, 2, per]) for i in range(z * per, z * per + n)
        ]
        pool.check_valid("full")


@pytest.mark.parametrize(("locking", "magazines"), ARMS)
@pytest.mark.parametrize("count", [80, 86, 95, 100])
def test_two_zspages_of_one_group_do_not_swap_objects_for_ever(locking, magazines, count):
    """The group is wider than a batch, so after a step both may still be in it."""
    pool = Pool(locking=locking, magazines=magazines)  # not closed if it fails: close would wait
    assert pool.size_classes.lookup(28).objs_per_zspage == 256
    kept = fill(pool, 28, [count, count])
    if magazines:
        pool.trim()
    assert groups(pool, 28)[3] == 2
    expected = pool.can_compact()
    thread = threading.Thread(target=pool.compact, daemon=True)
    thread.start()
    thread.join(60)
    assert not thread.is_alive(), "compaction does not end"
    assert pool.stats().pages_compacted == expected > 0
    assert pool.stats().objects_moved == count
    assert len({pool.read(h) for h in kept}) == 2 * count
    pool.check_valid("full")


@pytest.mark.parametrize(("locking", "magazines"), ARMS)
def test_nothing_to_gain_takes_no_lock(locking, magazines):
    with Pool(locking=locking, magazines=magazines, lock_statistics=True) as pool:
        fill(pool, 1024, [20, 0, 20])  # 40 objects: two zspages of 31 are needed
        pool.compact()
        before = pool.lock_stats()
        assert pool.can_compact() == 0
        assert pool.compact() == 0
        assert pool.lock_stats() == before


def test_objects_of_huge_classes_stay():
    with Pool() as pool:
        handles = [pool.store(bytes(4096)) for _ in range(10)]
        for h in handles[::2]:
            pool.free(h)
        assert pool.can_compact() == 0
        assert pool.compact() == 0
        assert pool.used_bytes == 5 * 4096


@pytest.mark.parametrize("locking", ["pool", "class", "handle"])
def test_object_in_use_is_left_and_the_rest_goes_on(locking):
    with Pool(locking=locking) as pool:
        kept = fill(pool, 1024, [20, 1, 1])
        with pool.view(kept[20]) as one, pool.view(kept[21]) as other:
            before = one.tobytes(), other.tobytes()
            pool.compact()  # must end, though it cannot empty these two
            assert (one.tobytes(), other.tobytes()) == before
            pool.check_valid("full")
        assert pool.compact() > 0
        pool.check_valid("full")


@pytest.mark.tsan
@pytest.mark.parametrize("locking", ["pool", "class", "handle"])
def test_one_runner_at_a_time_and_lists_stay_whole(locking):
    """Trap 3: lists must be whole when locks are dropped between steps; many compactors try."""
    pool = Pool(locking=locking, limit="32M", compact_batch=1)
    stress = PoolStress([pool], slots=2000, size_max=200)
    threads = [threading.Thread(target=stress.worker, args=(i,)) for i in range(3)]
    threads += [threading.Thread(target=stress.compactor) for _ in range(3)]
    for t in threads:
        t.start()
    for _ in range(20):
        pool.check_valid("full")
    stress.stop_all()
    for t in threads:
        t.join()
    pool.check_valid("full")
