"""LRU lists, one per group and shard, and the counts kept beside them.

Owns: `GroupLru`. A list holds the units of its group and shard that are in RAM as objects, from
the most recently stored (head) to the next to be written back (tail); same-filled units and units
on disk are on no list.
Guarantees: counts are exact. They are changed under the shard lock, which each operation takes
anyway, so they cost no atomic operation; whoever reads needs no lock.
Assumes: the caller holds the lock of the shard.

The first versions kept one list per pool; taking it apart by shard was worth a third more
operations per second, and it is what makes one lock per operation enough.
"""

import cython
from cython.cimports.coldmem.linux.atomic import a64_load_rlx
from cython.cimports.libc.stdint import uint32_t, uint64_t


def lru_rotate(z, l, entry):
    """Back to the head: a second chance, or being written back."""
    if l.head != entry:
        lru_remove(z, l, entry)
        lru_push(z, l, entry)


def lru_sum(z, group, field):
    total: uint64_t = 0
    shard: uint32_t
    for shard in range(z.shards_mask + 1):
        total += a64_load_rlx(
            cython.cast(U64P, lru_at(z, shard, group)) + field
        )
    return total
