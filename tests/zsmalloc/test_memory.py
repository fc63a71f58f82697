"""Empty zspages go back to the operating system, in batches."""

import os

from coldmem.zsmalloc import Pool, Pools


def rss_bytes():
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def test_resident_memory_falls_when_objects_are_freed():
    size = 64 << 20
    with Pool(limit=2 * size) as pool:
        before = rss_bytes()
        handles = [pool.store(os.urandom(16) * 187) for _ in range(size // 3000)]
        full = rss_bytes()
        assert full - before > 0.9 * size
        for handle in handles:
            pool.free(handle)
        freed = rss_bytes()
        stats = pool.stats()
        kept = stats.limit_bytes // 16
        assert full - freed > 0.95 * size - kept
        assert stats.resident_free_bytes <= kept
        assert stats.used_bytes == 0
        zspages = stats.released_bytes // (pool.size_classes.lookup(3000).units_per_zspage * 4096)
        assert 0 < stats.release_calls * 20 < zspages, "not one system call per zspage"
        pool.trim()
        assert pool.stats().resident_free_bytes == 0


def test_free_memory_is_kept_for_reuse_but_not_above_the_limit():
    with Pool(limit="64M", unit_bytes=65536) as pool:
        # Half of the pool is freed: what stays resident is bounded, and is taken again first.
        handles = [pool.store(os.urandom(16) * 1200) for _ in range(3000)]
        for handle in handles[::2]:
            pool.free(handle)
        pool.compact()
        stats = pool.stats()
        assert 1 << 20 < stats.resident_free_bytes <= stats.limit_bytes // 16
        kept = stats.resident_free_bytes
        other = []
        while pool.used_bytes < stats.limit_bytes - (1 << 20):
            other.append(pool.store(os.urandom(16) * 3000))
        for handle in other[-40:]:
            pool.free(handle)  # a full pool keeps little beside what is in use
        stats = pool.stats()
        assert stats.resident_free_bytes < kept
        assert stats.used_bytes + stats.resident_free_bytes <= stats.limit_bytes + (1 << 20)


def test_pools_keep_free_memory_together_not_each():
    with Pools(32, limit="64M") as pools:
        handles = [
            (pool, pool.store(os.urandom(16) * 200)) for _ in range(400) for pool in pools
        ]
        for pool, handle in handles:
            pool.free(handle)
        assert 0 < sum(p.stats().resident_free_bytes for p in pools) <= 4 << 20


def test_compaction_gives_memory_back():
    with Pool(limit="64M") as pool:
        handles = [pool.store(bytes(1000)) for _ in range(20_000)]
        for handle in handles[::2]:
            pool.free(handle)
        used = pool.used_bytes
        rss = rss_bytes()
        freed = pool.compact()
        assert freed * 4096 > 0.4 * used
        assert pool.used_bytes == used - freed * 4096
        assert rss - rss_bytes() > 0.3 * used
        for handle in handles[1::2]:
            assert pool.read(handle) == bytes(1000)


def test_memory_that_comes_back_is_usable_again():
    with Pool(limit="32M") as pool:
        for round_ in range(3):
            data = bytes([round_ + 1]) * 4000
            handles = [pool.store(data) for _ in range(5000)]
            assert all(pool.read(h) == data for h in handles)
            for h in handles:
                pool.free(h)
            pool.trim()
        pool.check_valid("full")
