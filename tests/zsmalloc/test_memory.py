"""Empty zspages go back to the operating system, in batches."""

import os

from coldmem.zsmalloc import Pool


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
        assert full - freed > 0.9 * size
        stats = pool.stats()
        assert stats.resident_free_bytes <= 1 << 20
        assert stats.used_bytes == 0
        zspages = stats.released_bytes // (pool.size_classes.lookup(3000).units_per_zspage * 4096)
        assert 0 < stats.release_calls * 20 < zspages, "not one system call per zspage"
        pool.trim()
        assert pool.stats().resident_free_bytes == 0


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
