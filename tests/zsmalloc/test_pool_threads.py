"""Threads that verify what they read, with compaction running, in every locking."""

import threading
import time

import pytest

from coldmem.testing.pool_stress import PoolStress
from coldmem.zsmalloc import Pool, Pools

ARMS = {
    "pool": lambda **kw: [Pool(locking="pool", **kw)],
    "class": lambda **kw: [Pool(locking="class", **kw)],
    "handle": lambda **kw: [Pool(locking="handle", **kw)],
    "handle_magazine": lambda **kw: [Pool(locking="handle", magazines=True, **kw)],
    "pools32": lambda **kw: list(Pools(32, **kw).pools),
}


def run(stress, seconds, threads=6, compactors=2, drain=False):
    results = []
    workers = [
        threading.Thread(target=lambda seed=i: results.append(stress.worker(seed)))
        for i in range(threads)
    ]
    workers += [
        threading.Thread(target=stress.compactor, args=(drain,)) for _ in range(compactors)
    ]
    for w in workers:
        w.start()
    time.sleep(seconds)
    stress.stop_all()
    for w in workers:
        w.join()
    return [sum(column) for column in zip(*results, strict=True)]


@pytest.mark.tsan
@pytest.mark.parametrize("arm", ARMS)
def test_contents_under_threads_and_compaction(arm, stress_seconds):
    pools = ARMS[arm](limit="64M")
    stress = PoolStress(pools, slots=3000)
    done, bad, full = run(stress, stress_seconds)
    assert bad == 0
    assert full == 0
    assert done > 0
    for pool in pools:
        pool.check_valid("full")
    stats = [pool.stats() for pool in pools]
    assert sum(s.objects for s in stats) == stress.live()
    assert sum(s.objects_moved for s in stats) > 0, "the compactor never moved anything"
    stress.clear()
    for pool in pools:
        pool.trim()
        pool.check_valid("full")
        assert pool.stats().objects == 0
        assert pool.stats().zspages == 0
    assert pools[0].used_bytes == 0


@pytest.mark.tsan
@pytest.mark.parametrize("arm", ["class", "handle", "handle_magazine"])
def test_few_slots_make_zspages_come_and_go(arm, stress_seconds):
    """Zspages become empty and are revived all the time; one class, so everybody meets (trap 5)."""
    pools = ARMS[arm](limit="8M")
    stress = PoolStress(pools, slots=12, size_max=64)
    _, bad, _ = run(stress, stress_seconds / 2, drain=arm == "handle_magazine")
    assert bad == 0
    pools[0].check_valid("full")


@pytest.mark.tsan
@pytest.mark.parametrize("arm", ARMS)
def test_full_pool_refuses_and_never_exceeds_its_limit(arm, stress_seconds):
    pools = ARMS[arm](limit="2M")
    stress = PoolStress(pools, slots=4000)
    _, bad, full = run(stress, stress_seconds / 2)
    assert bad == 0
    assert full > 0
    assert pools[0].stats().peak_bytes <= 2 << 20
    for pool in pools:
        pool.check_valid("full")
