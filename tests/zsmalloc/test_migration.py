"""Zspages change their simulated node: where new ones are made, what moves, and what stays."""

import threading

import pytest

from coldmem.errors import UsageError
from coldmem.testing.pool_stress import PoolStress
from coldmem.zsmalloc import Pool, Pools

ARMS = [("pool", 0), ("class", 0), ("handle", 0), ("handle", 7)]
JOIN_S = 120


def content(number, size):
    return (number.to_bytes(4, "little") * (size // 4 + 1))[:size]


def fill(pool, size, count, node=0):
    return {pool.store(content(i, size), node=node): content(i, size) for i in range(count)}


def units_used(pool):
    """Units on each node, checked against the memory that the classes account for."""
    stats = pool.stats()
    assert sum(stats.node_units) * pool.unit_bytes == stats.used_bytes
    return stats.node_units


def all_as_stored(pool, objects):
    pool.check_valid("full")
    assert all(pool.read(h) == data for h, data in objects.items())
    assert pool.stats().objects == len(objects)


# -- where new zspages are made --------------------------------------------------------------------
def test_a_new_zspage_is_made_on_the_wanted_node():
    with Pool(nodes=3) as pool:
        assert pool.nodes == 3
        pool.store(b"x" * 1024, node=2)
        pool.store(b"x" * 4096, node=1)
        units = pool.size_classes.lookup(1024).units_per_zspage
        assert units_used(pool) == (0, 1, units)
        pool.check_valid("full")


def test_the_fullest_zspage_wins_over_the_node():
    with Pool(nodes=2) as pool:
        per = pool.size_classes.lookup(1024).objs_per_zspage
        units = pool.size_classes.lookup(1024).units_per_zspage
        fill(pool, 1024, 1, node=1)
        fill(pool, 1024, per - 1, node=0)
        assert units_used(pool) == (0, units)
        fill(pool, 1024, 1, node=0)
        assert units_used(pool) == (units, units)


@pytest.mark.parametrize("wanted", [0, 1, 2])
def test_a_node_that_is_used_up_falls_back_to_another(wanted):
    with Pool(nodes=3, capacity=3 * 8 * 4096, limit=24 * 4096) as pool:
        objects = fill(pool, 4096, 8, node=wanted)
        assert units_used(pool)[wanted] == 8
        objects |= fill(pool, 4096, 16, node=wanted)
        assert units_used(pool) == (8, 8, 8)
        all_as_stored(pool, objects)


def test_each_node_has_free_runs_of_its_own():
    with Pool(nodes=2, limit="8M") as pool:
        first = fill(pool, 4096, 100, node=1)
        for handle in first:
            pool.free(handle)
        pool.trim()
        fill(pool, 4096, 50, node=0)
        assert units_used(pool) == (50, 0)
        fill(pool, 4096, 50, node=1)
        assert units_used(pool) == (50, 50)
        pool.check_valid("full")


def test_any_node_can_hold_the_whole_limit_in_any_length():
    """The default address space suffices though a run keeps its length and its node for good."""
    with Pool(nodes=3, limit=1 << 20, chain=16) as pool:
        for size in (4096, 3000, 2000, 1000, 600):
            for node in range(3):
                whole = (1 << 20) // (pool.size_classes.lookup(size).units_per_zspage * 4096)
                count = whole * pool.size_classes.lookup(size).objs_per_zspage
                objects = fill(pool, size, count, node)
                used = units_used(pool)
                assert used[node] == sum(used) > 0
                for handle in objects:
                    pool.free(handle)
        pool.check_valid("full")


@pytest.mark.parametrize("nodes", [0, 17, -1])
def test_a_number_of_nodes_that_cannot_be_is_refused(nodes):
    with pytest.raises(UsageError, match="nodes"):
        Pool(nodes=nodes)


@pytest.mark.parametrize("node", [2, -1, "0", 1.0, None])
def test_a_node_that_is_not_there_is_refused(node):
    with Pool(nodes=2) as pool:
        for call in (lambda: pool.malloc(10, node=node), lambda: pool.store(b"x", node=node),
                     lambda: pool.migrate(node)):
            with pytest.raises(UsageError, match="nodes 0 to 1"):
                call()
        assert pool.stats().objects == 0


# -- what moves ------------------------------------------------------------------------------------
@pytest.mark.parametrize(("locking", "magazines"), ARMS)
@pytest.mark.parametrize("batch", [1, 3, 8, 10_000])
def test_contents_and_handles_right_after_migration(locking, magazines, batch):
    with Pool(locking=locking, magazines=magazines, compact_batch=batch, nodes=3) as pool:
        objects = {}
        for size in (16, 100, 1000, 3000, 3700, 4096):
            for node in range(3):
                objects |= fill(pool, size, 150, node)
        for handle in list(objects)[::3]:
            pool.free(handle)
            del objects[handle]
        before = units_used(pool)
        moved = pool.migrate(1)
        assert moved == before[0] + before[2] > 0
        assert units_used(pool) == (0, sum(before), 0)
        stats = pool.stats()
        assert stats.units_migrated == moved
        assert 0 < stats.objects_migrated <= len(objects) + stats.objects_cached
        assert stats.objects_moved == stats.pages_compacted == 0
        all_as_stored(pool, objects)
        assert pool.migrate(1) == 0
        for handle in objects:
            pool.free(handle)
        pool.trim()
        pool.check_valid("full")
        assert units_used(pool) == (0, 0, 0)


@pytest.mark.parametrize(("locking", "magazines"), ARMS)
def test_only_what_lies_on_the_node_asked_for_moves(locking, magazines):
    with Pool(locking=locking, magazines=magazines, nodes=3) as pool:
        objects = {}
        for node, count in enumerate((10, 20, 40)):
            objects |= fill(pool, 4096, count, node)
        # A magazine may serve one node with what was made for another.
        before = units_used(pool) if magazines else (10, 20, 40)
        assert pool.migrate(0, from_node=2) == before[2]
        assert units_used(pool) == (before[0] + before[2], before[1], 0)
        assert pool.migrate(0, from_node=0) == 0
        all_as_stored(pool, objects)


@pytest.mark.parametrize("locking", ["pool", "class", "handle"])
def test_huge_objects_keep_all_their_bytes(locking):
    """Their header lies in the descriptor, so all of the unit is payload, up to its last byte."""
    with Pool(locking=locking, nodes=2) as pool:
        objects = {pool.store(data): data for data in
                   (bytes([i]) * 4088 + b"the last" for i in range(5))}
        assert pool.migrate(1) == 5
        assert units_used(pool) == (0, 5)
        all_as_stored(pool, objects)
        for handle in objects:
            pool.write(handle, b"new")
            assert pool.read(handle)[:3] == b"new"
            pool.free(handle)
        assert pool.used_bytes == 0


@pytest.mark.parametrize(("locking", "magazines"), ARMS)
def test_use_of_a_zspage_stays_what_it_was(locking, magazines):
    """Migration neither packs nor spreads: each zspage keeps the number of its objects."""
    with Pool(locking=locking, magazines=magazines, nodes=2) as pool:
        objects = fill(pool, 1024, 400)
        for handle in list(objects)[::2]:
            pool.free(handle)
            del objects[handle]
        groups = [row.zspages_by_group for row in pool.class_stats()]
        can_compact = pool.can_compact()
        pool.migrate(1)
        assert [row.zspages_by_group for row in pool.class_stats()] == groups
        assert pool.can_compact() == can_compact
        assert pool.compact() == can_compact
        all_as_stored(pool, objects)


def test_one_node_has_nowhere_to_go():
    with Pool() as pool:
        fill(pool, 100, 100)
        assert pool.migrate(0) == 0
        assert pool.stats().node_units == (pool.used_bytes // 4096,)


def test_pools_migrate_each():
    with Pools(4, limit="8M", nodes=2) as pools:
        for slot in range(200):
            pools.pool_of(slot).store(bytes(4096), node=0)
        assert pools.migrate(1) == 200
        assert [sum(pool.stats().node_units) for pool in pools] == [
            pool.stats().node_units[1] for pool in pools]
        pools.check_valid()


# -- what stays ------------------------------------------------------------------------------------
@pytest.mark.parametrize("batch", [1, 8, 10_000])
def test_of_a_zspage_with_a_view_only_the_object_stays(batch):
    with Pool(locking="handle", nodes=2, compact_batch=batch) as pool:
        per = pool.size_classes.lookup(1024).objs_per_zspage
        units = pool.size_classes.lookup(1024).units_per_zspage
        objects = fill(pool, 1024, per)
        handle = list(objects)[per // 2]
        with pool.view(handle) as seen:
            assert pool.migrate(1) == 0
            assert bytes(seen) == objects[handle]
            assert pool.stats().objects_migrated == per - 1
            assert units_used(pool) == (units, units)
            all_as_stored(pool, objects)
        assert pool.migrate(1) == units
        assert units_used(pool)[0] == 0
        all_as_stored(pool, objects)


@pytest.mark.parametrize("locking", ["pool", "class"])
def test_a_zspage_with_a_view_stays(locking):
    with Pool(locking=locking, nodes=2) as pool:
        per = pool.size_classes.lookup(1024).objs_per_zspage
        units = pool.size_classes.lookup(1024).units_per_zspage
        objects = fill(pool, 1024, 2 * per)
        handle = next(iter(objects))
        with pool.view(handle) as seen:
            assert pool.migrate(1) == units
            assert bytes(seen) == objects[handle]
            assert units_used(pool) == (units, units)
            all_as_stored(pool, objects)
        assert pool.migrate(1) == units
        all_as_stored(pool, objects)


@pytest.mark.parametrize("locking", ["pool", "class", "handle"])
def test_a_huge_object_with_a_view_stays(locking):
    with Pool(locking=locking, nodes=2) as pool:
        objects = fill(pool, 4096, 3)
        with pool.view(next(iter(objects))):
            assert pool.migrate(1) == 2
            assert units_used(pool) == (1, 2)
            all_as_stored(pool, objects)
        assert pool.migrate(1) == 1


@pytest.mark.parametrize("locking", ["pool", "class", "handle"])
def test_without_room_for_the_copy_nothing_moves_and_the_limit_holds(locking):
    limit = 64 * 4096
    with Pool(locking=locking, nodes=2, limit=limit) as pool:
        objects = fill(pool, 4096, 64)
        assert pool.migrate(1) == 0
        assert units_used(pool) == (64, 0)
        handle, _ = objects.popitem()
        pool.free(handle)  # one unit is enough: it is taken and given back for each
        assert pool.migrate(1) == 63
        assert units_used(pool) == (0, 63)
        assert pool.stats().peak_bytes == limit
        all_as_stored(pool, objects)


@pytest.mark.parametrize("locking", ["pool", "class", "handle"])
def test_what_is_too_long_for_the_room_stays_and_the_rest_goes(locking):
    with Pool(locking=locking, nodes=2, limit=16 * 4096) as pool:
        long = fill(pool, 1024, pool.size_classes.lookup(1024).objs_per_zspage)
        units = pool.size_classes.lookup(1024).units_per_zspage
        short = fill(pool, 4096, 15 - units)
        assert pool.migrate(1) == 15 - units
        assert units_used(pool) == (units, 15 - units)
        all_as_stored(pool, long | short)


def test_a_node_that_is_full_takes_no_more():
    with Pool(nodes=2, capacity=2 * 8 * 4096, limit=16 * 4096) as pool:
        objects = fill(pool, 4096, 3, node=1) | fill(pool, 4096, 8, node=0)
        assert pool.migrate(1) == 5
        assert units_used(pool) == (3, 8)
        all_as_stored(pool, objects)


# -- beside other threads --------------------------------------------------------------------------
def run(pools, seconds, slots, size_max=4096):
    """Workers, compactors, migrators and checks together; the stress, its sums, units moved."""
    stress = PoolStress(pools, slots=slots, size_max=size_max)
    done, moved = [], []
    jobs = [lambda seed=i: done.append(stress.worker(seed)) for i in range(4)]
    jobs += [stress.compactor] + [lambda: moved.append(stress.migrator())] * 2
    # Daemons: a thread that hangs makes the test fail instead of hanging the whole run.
    threads = [threading.Thread(target=job, daemon=True) for job in jobs]
    for thread in threads:
        thread.start()
    stopped = threading.Event()
    threading.Timer(seconds, stopped.set).start()
    while not stopped.wait(0.02):
        for pool in pools:
            pool.check_valid("full")
    stress.stop_all()
    for thread in threads:
        thread.join(JOIN_S)
    assert not any(thread.is_alive() for thread in threads), "a thread hangs"
    return stress, [sum(column) for column in zip(*done, strict=True)], sum(moved)


STRESSED = {
    "pool": lambda **kw: [Pool(locking="pool", **kw)],
    "class": lambda **kw: [Pool(locking="class", **kw)],
    "handle": lambda **kw: [Pool(locking="handle", **kw)],
    "handle_magazine": lambda **kw: [Pool(locking="handle", magazines=True, **kw)],
    "pools4": lambda **kw: list(Pools(4, **kw).pools),
}


@pytest.mark.tsan
@pytest.mark.parametrize("arm", STRESSED)
def test_contents_under_threads_compaction_and_migration(arm, stress_seconds):
    pools = STRESSED[arm](limit="64M", nodes=3)
    stress, (done, bad, full), moved = run(pools, stress_seconds, slots=1500)
    assert bad == 0
    assert full == 0
    assert done > 0
    assert moved > 0
    stats = [pool.stats() for pool in pools]
    assert sum(s.units_migrated for s in stats) == moved
    assert sum(s.objects for s in stats) == stress.live()
    for pool in pools:
        pool.check_valid("full")
    for node in range(3):  # nothing was left behind that cannot move
        for pool in pools:
            pool.migrate(node)
        on_others = [sum(p.stats().node_units) - p.stats().node_units[node] for p in pools]
        assert not any(on_others)
    stress.clear()
    for pool in pools:
        pool.trim()
        pool.check_valid("full")
        assert pool.stats().node_units == (0, 0, 0)
    assert pools[0].used_bytes == 0


@pytest.mark.tsan
@pytest.mark.parametrize("arm", ["pool", "class", "handle", "handle_magazine"])
def test_zspages_end_while_they_move(arm, stress_seconds):
    """One object per hold and few slots: both halves are freed, filled and taken again by others."""
    pools = STRESSED[arm](limit="8M", nodes=2, compact_batch=1)
    stress, (_, bad, _), moved = run(pools, stress_seconds / 2, slots=40, size_max=64)
    assert bad == 0
    assert moved > 0
    stress.clear()
    pools[0].trim()
    pools[0].check_valid("full")
    assert pools[0].stats().node_units == (0, 0)


@pytest.mark.tsan
@pytest.mark.parametrize("arm", STRESSED)
def test_a_full_pool_stays_within_its_limit_while_it_migrates(arm, stress_seconds):
    pools = STRESSED[arm](limit="2M", nodes=2)
    _, (_, bad, full), _ = run(pools, stress_seconds / 2, slots=3000)
    assert bad == 0
    assert full > 0
    assert pools[0].stats().peak_bytes <= 2 << 20
    for pool in pools:
        pool.check_valid("full")
