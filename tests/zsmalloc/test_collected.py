"""Pools and views that nobody closes are freed by the garbage collector, in any order.

What goes wrong here is a write to freed memory, so `make asan` is what really looks.
"""

import gc
import weakref

from coldmem.zsmalloc import Pool, Pools


def test_pools_that_were_not_closed():
    """Each pool refers to its Pools, whose budget it gives its memory back to."""
    for _ in range(20):
        pools = Pools(4, limit="16M")
        for slot in range(200):
            pools.pool_of(slot).store(b"x" * 1000)
        gone = weakref.ref(pools.pools[0])
        del pools
        gc.collect()
        assert gone() is None


def test_a_pool_outlives_the_pools_it_came_from():
    pool = Pools(4, limit="16M").pool_of(7)
    gc.collect()
    handle = pool.store(b"still here")
    assert pool.read(handle) == b"still here"


def test_a_view_that_was_not_ended():
    """The view and the memoryview that it gave refer to each other."""
    for _ in range(20):
        pool = Pool(limit="16M")
        view = pool.view(pool.store(b"x" * 1000))
        view.__enter__()
        gone = weakref.ref(pool)
        del pool, view
        gc.collect()
        assert gone() is None
