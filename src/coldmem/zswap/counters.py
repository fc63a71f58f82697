"""What a Zswap tells about itself.

Owns: nothing. The live and event counts lie in `GroupLru` and are changed under the shard lock; the
rare events are atomics in `Events`. Here they are summed, without a lock, so a sum taken while
others work is a little smeared in time, but no count is ever lost.
"""

import cython
from cython.cimports.coldmem.linux.atomic import a32_load_rlx, a64_load_rlx
from cython.cimports.coldmem.linux.lock import LockCounts, mutex_counts
from cython.cimports.coldmem.zswap.group import group_below
from cython.cimports.coldmem.zswap.lru import (
    F_DISK_BYTES,
    F_DISK_LOADS,
    F_DISK_UNITS,
    F_LOADS,
    F_RAM_BYTES,
    F_RAM_UNITS,
    F_RAW_UNITS,
    F_SAME_STORES,
    F_SAME_UNITS,
    F_STORES,
    F_WRITTEN_BACK,
    lru_sum,
)
from cython.cimports.coldmem.zswap.state import (
    CODECS_MAX,
    GROUP_LIVE,
    GROUP_ROOT,
    METADATA_BYTES,
    Entry,
    GroupP,
)
from cython.cimports.libc.stdint import uint32_t, uint64_t

NO_LIMIT = 0xFFFFFFFFFFFFFFFF


def total(z, top, field):
    n: uint64_t = 0
    g: uint32_t
    for g in range(z.groups_end):
        if top == GROUP_ROOT or (z.groups[g].state == GROUP_LIVE and group_below(z, g, top)):
            n += lru_sum(z, g, field)
    return n


def metadata_bytes(z):
    """Entries handed out so far and the cells of the indexes: what is in RAM beside the pool."""
    return (
        a64_load_rlx(cython.address(z.entries_next)) * cython.sizeof(Entry)
        + a64_load_rlx(cython.address(z.index_bytes))
    )


def zswap_counters(z):
    in_ram: uint64_t = total(z, GROUP_ROOT, F_RAM_UNITS)
    same: uint64_t = total(z, GROUP_ROOT, F_SAME_UNITS)
    written: uint64_t = total(z, GROUP_ROOT, F_WRITTEN_BACK)
    return {
        "pool_limit_hit": a64_load_rlx(cython.address(z.events.pool_limit_hit)),
        "reject_reclaim_fail": a64_load_rlx(cython.address(z.events.reject_reclaim_fail)),
        "reject_alloc_fail": a64_load_rlx(cython.address(z.events.reject_alloc_fail)),
        "reject_kmemcache_fail": a64_load_rlx(cython.address(z.events.reject_kmemcache_fail)),
        "reject_compress_fail": a64_load_rlx(cython.address(z.events.reject_compress_fail)),
        "reject_compress_poor": a64_load_rlx(cython.address(z.events.reject_compress_poor)),
        "reject_group_limit": a64_load_rlx(cython.address(z.events.reject_group_limit)),
        "decompress_fail": a64_load_rlx(cython.address(z.events.decompress_fail)),
        "checksum_fail": a64_load_rlx(cython.address(z.events.checksum_fail)),
        "read_fail": a64_load_rlx(cython.address(z.events.read_fail)),
        "write_errors": a64_load_rlx(cython.address(z.events.write_errors)),
        "writeback_fail": a64_load_rlx(cython.address(z.events.writeback_fail)),
        "writeback_raced": a64_load_rlx(cython.address(z.events.writeback_raced)),
        "direct_reclaims": a64_load_rlx(cython.address(z.events.direct_reclaims)),
        "shrinker_wakeups": a64_load_rlx(cython.address(z.events.shrinker_wakeups)),
        "recompressed": a64_load_rlx(cython.address(z.events.recompressed)),
        "compactions": a64_load_rlx(cython.address(z.events.compactions)),
        "pool_total_size": a64_load_rlx(cython.address(z.budget.used_bytes)),
        "stored_pages": in_ram + same,
        "stored_incompressible_pages": total(z, GROUP_ROOT, F_RAW_UNITS),
        "same_filled_pages": same,
        "disk_pages": total(z, GROUP_ROOT, F_DISK_UNITS),
        "written_back_pages": written,
        "zswpin": total(z, GROUP_ROOT, F_LOADS),
        "zswpout": total(z, GROUP_ROOT, F_STORES),
        "zswpwb": written,
        "swpin_disk": total(z, GROUP_ROOT, F_DISK_LOADS),
    }


def zswap_stats(z):
    in_ram: uint64_t = total(z, GROUP_ROOT, F_RAM_UNITS)
    same: uint64_t = total(z, GROUP_ROOT, F_SAME_UNITS)
    on_disk: uint64_t = total(z, GROUP_ROOT, F_DISK_UNITS)
    used: uint64_t = a64_load_rlx(cython.address(z.budget.used_bytes))
    metadata: uint64_t = metadata_bytes(z)
    memory = used + metadata
    return {
        "unit_bytes": z.unit_bytes,
        "units": in_ram + same + on_disk,
        "units_ram": in_ram,
        "units_same_filled": same,
        "units_incompressible": total(z, GROUP_ROOT, F_RAW_UNITS),
        "units_disk": on_disk,
        "same_filled_stores": total(z, GROUP_ROOT, F_SAME_STORES),
        "stored_bytes": total(z, GROUP_ROOT, F_RAM_BYTES),
        "disk_bytes": total(z, GROUP_ROOT, F_DISK_BYTES),
        "pool_used_bytes": used,
        "pool_peak_bytes": a64_load_rlx(cython.address(z.budget.peak_bytes)),
        "pool_limit_bytes": z.max_pool_bytes,
        "accept_bytes": z.accept_bytes,
        "metadata_bytes": metadata,
        "full": a32_load_rlx(cython.address(z.full)) != 0,
        "ratio": (in_ram + same) * z.unit_bytes / memory if memory else 0.0,
    }


def group_stats(z, group):
    g: GroupP = z.groups + group
    in_ram: uint64_t = total(z, group, F_RAM_UNITS)
    same: uint64_t = total(z, group, F_SAME_UNITS)
    on_disk: uint64_t = total(z, group, F_DISK_UNITS)
    stats = {
        "zswap": total(z, group, F_RAM_BYTES),
        "zswapped": (in_ram + same) * z.unit_bytes,
        "zswpin": total(z, group, F_LOADS),
        "zswpout": total(z, group, F_STORES),
        "zswpwb": total(z, group, F_WRITTEN_BACK),
        "zswap_incomp": total(z, group, F_RAW_UNITS) * z.unit_bytes,
        "swap": total(z, group, F_DISK_BYTES),
        "swapped": on_disk * z.unit_bytes,
        "swpin_disk": total(z, group, F_DISK_LOADS),
        "memory": a64_load_rlx(cython.address(g.memory_bytes)),
        "hot": a64_load_rlx(cython.address(g.hot_bytes)),
        "reject_limit": a64_load_rlx(cython.address(g.reject_limit)),
        "writeback_fail": a64_load_rlx(cython.address(g.writeback_fail)),
    }
    if group == GROUP_ROOT:  # not charged: it has no limit that could be passed
        stats["memory"] = stats["zswap"] + (in_ram + same + on_disk) * METADATA_BYTES
    return stats


def codec_units(z, names):
    """Live units by codec name, for each codec that has any."""
    id: uint32_t
    shard: uint32_t
    n: uint64_t
    found = {}
    for id in range(CODECS_MAX):
        n = 0
        for shard in range(z.shards_mask + 1):
            n += a64_load_rlx(cython.address(z.shards[shard].codec_units[id]))
        if n:
            found[names[id]] = found.get(names[id], 0) + n
    return found


def shard_lock_counts(z):
    counts: LockCounts
    shard: uint32_t
    counts.acquisitions = 0
    counts.contended = 0
    counts.wait_ns = 0
    for shard in range(z.shards_mask + 1):
        mutex_counts(cython.address(z.shards[shard].lock), cython.address(counts))
    return counts.acquisitions, counts.contended, counts.wait_ns
