"""`Pools(n)`: the workaround of 2023, n pools where one lock would be contended.

Owns: n pools and the budget that they share. The pool of a slot is chosen by a hash, so an object is
always found in the same one; n times the partly filled zspages are the price.
Locks: none of its own; the budget is changed by atomics.
"""

import cython
from cython.cimports.coldmem.zsmalloc.arena import budget_limit
from cython.cimports.coldmem.zsmalloc.core import PoolP
from cython.cimports.coldmem.zsmalloc.pool import Pool, pool_index
from cython.cimports.libc.stdint import uint64_t
from cython.cimports.libc.stdlib import calloc, free

from coldmem.errors import UsageError
from coldmem.units import parse_bytes
from coldmem.zsmalloc.arguments import default_capacity


class Pools:
    """n pools that share one limit.

    Parameters
    ----------
    n : int, default 32
        How many, 1..256.
    limit : int or str, optional
        Most bytes of zspages in all of them together.
    unit_bytes, chain, chain_rule, locking, magazines, lock_statistics, compact_batch, nodes
        As for `Pool`; the default locking is "pool", which is what the workaround was for.
    """

    def __init__(self, n=32, *, limit=None, unit_bytes=4096, chain=8, chain_rule="waste",
                 locking="pool", magazines=False, lock_statistics=False, compact_batch=8,
                 nodes=1):
        made: Pool
        if not 1 <= n <= 256:
            raise UsageError(f"{n} pools: choose 1 to 256")
        if self.c != cython.NULL:
            raise UsageError("pools cannot be initialised twice")
        wanted = None if limit is None else parse_bytes(limit)
        capacity = default_capacity(wanted, n, nodes)
        budget_limit(cython.address(self.budget), capacity if wanted is None else wanted)
        self.c = cython.cast(cython.pointer(PoolP), calloc(n, cython.sizeof(PoolP)))
        if self.c == cython.NULL:
            raise MemoryError("no memory for pools")
        pools = []
        for i in range(n):
            made = Pool.__new__(Pool)
            made.owner = self
            made._open(parse_bytes(unit_bytes), chain, chain_rule, locking, magazines, wanted,
                       capacity, lock_statistics, compact_batch, f"pool{i}",
                       nodes, cython.address(self.budget))
            pools.append(made)
            self.c[i] = made.c
        self.pools = tuple(pools)
        self.n = n

    def __dealloc__(self):
        free(self.c)

    def pool_of(self, slot):
        """The pool of a slot (any integer of 64 bits)."""
        key: uint64_t = slot
        return self.pools[pool_index(key, self.n)]

    def __len__(self):
        return self.n

    def __iter__(self):
        return iter(self.pools)

    @property
    def used_bytes(self):
        """Memory of all zspages of all pools."""
        return self.budget.used_bytes

    def compact(self):
        """Compact each pool; units freed."""
        return sum(pool.compact() for pool in self.pools)

    def migrate(self, node, from_node=None):
        """`Pool.migrate` of each; units moved."""
        return sum(pool.migrate(node, from_node) for pool in self.pools)

    def check_valid(self, level="full"):
        """`Pool.check_valid` of each."""
        for pool in self.pools:
            pool.check_valid(level)

    def close(self):
        """Close all."""
        for pool in self.pools or ():
            pool.close()

    def __enter__(self):
        return self

    def __exit__(self, *exc):
        self.close()
