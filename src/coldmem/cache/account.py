"""The account of all memory of a cache that is not the pool's.

That is entries, index, bodies, contexts and hot copies.

Guarantees: `charge` refuses what would bring pool and account together above the limit; the limit of
the pool is what the account leaves.
Locks: none; atomics.
"""

import cython
from cython.cimports.coldmem.linux.atomic import a64_fetch_add_rlx, a64_load_rlx
from cython.cimports.coldmem.zsmalloc.arena import budget_limit
from cython.cimports.coldmem.zsmalloc.core import zs_used_bytes
from cython.cimports.libc.stdint import uint64_t


def charge(c, nbytes, force):
    meta: uint64_t = a64_fetch_add_rlx(cython.address(c.meta_bytes), nbytes) + nbytes
    budget_limit(c.pool.arena.budget, c.memory_max - meta if meta < c.memory_max else 0)
    if force or meta + zs_used_bytes(c.pool) <= c.memory_max:
        return True
    uncharge(c, nbytes)
    return False


def uncharge(c, nbytes):
    meta: uint64_t = a64_fetch_add_rlx(cython.address(c.meta_bytes), -nbytes) - nbytes
    budget_limit(c.pool.arena.budget, c.memory_max - meta if meta < c.memory_max else 0)


def used_bytes(c):
    return zs_used_bytes(c.pool) + a64_load_rlx(cython.address(c.meta_bytes))
