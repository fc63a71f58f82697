"""`Backends(kind, n)`: n pools of zbud or z3fold where one lock would be contended.

Owns: n pools and the budget that they share, as `coldmem.zsmalloc.Pools`.
Locks: none of its own; the budget is changed by atomics.
"""

import cython
from cython.cimports.coldmem.lab.backend import Backend
from cython.cimports.coldmem.lab.backend_core import BackendP
from cython.cimports.coldmem.linux.atomic import a64_load_rlx
from cython.cimports.coldmem.zsmalloc.arena import budget_limit
from cython.cimports.libc.stdlib import calloc, free

from coldmem.errors import UsageError
from coldmem.lab.backend import DEFAULT_CAPACITY
from coldmem.units import parse_bytes


class Backends:
    """n pools that share one limit: the workaround for a contended lock, as `Pools`.

    Parameters
    ----------
    kind : {"zbud", "z3fold"}
        Which allocator.
    n : int, default 32
        How many, 1..256.
    limit : int or str, optional
        Most bytes of pages in all of them together.
    lock_statistics : bool, default False
        Count acquisitions and waits.
    """

    def __init__(self, kind, n=32, *, limit=None, lock_statistics=False):
        made: Backend
        if not 1 <= n <= 256:
            raise UsageError(f"{n} pools: choose 1 to 256")
        if self.c != cython.NULL:
            raise UsageError("pools cannot be initialised twice")
        wanted = None if limit is None else parse_bytes(limit)
        capacity = DEFAULT_CAPACITY if wanted is None else wanted
        budget_limit(cython.address(self.budget), capacity)
        self.c = cython.cast(BackendPP, calloc(n, cython.sizeof(BackendP)))
        if self.c == cython.NULL:
            raise MemoryError("no memory for pools")
        pools = []
        for i in range(n):
            made = Backend.__new__(Backend)
            made.owner = self
            made._open(kind, wanted, capacity, lock_statistics, f"{kind}{i}",
                       cython.address(self.budget))
            pools.append(made)
            self.c[i] = made.c
        self.pools = tuple(pools)
        self.n = n

    def __dealloc__(self):
        free(self.c)

    def __len__(self):
        return self.n

    def __iter__(self):
        return iter(self.pools)

    @property
    def used_bytes(self):
        """Memory of all pages of all pools."""
        return a64_load_rlx(cython.address(self.budget.used_bytes))

    def compact(self):
        """Compact each pool; pages freed."""
        return sum(pool.compact() for pool in self.pools)

    def check_valid(self, level="full"):
        """`Backend.check_valid` of each."""
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
