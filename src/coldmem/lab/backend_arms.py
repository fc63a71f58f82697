"""The arms of ``lab backends``: zsmalloc, zbud and z3fold, with one lock, with 32 pools, with less.

Owns nothing. zbud and z3fold have a lock per pool and nothing else, so 32 pools is all that can be done
about it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from coldmem.errors import UsageError
from coldmem.lab.arms import AnyPool
from coldmem.lab.backend import Backend
from coldmem.lab.backends import Backends
from coldmem.zsmalloc import Pool, Pools

PAGE_BYTES = 4096


@dataclass(frozen=True, slots=True)
class BackendArm:
    """One allocator with one way of locking."""

    name: str
    label: str
    backend: str
    pools_n: int = 1
    locking: str = "pool"

    def open(self, **options: Any) -> AnyPool:
        """A fresh pool, or several; `options` as for `coldmem.zsmalloc.Pool`.

        zbud and z3fold know pages of 4096 bytes and have no chain: they take the other options.
        """
        if self.backend == "zsmalloc":
            kind = {"locking": self.locking, **options}
            return Pools(self.pools_n, **kind) if self.pools_n > 1 else Pool(**kind)
        if options.pop("unit_bytes", PAGE_BYTES) != PAGE_BYTES:
            raise UsageError(f"{self.backend} knows pages of {PAGE_BYTES} bytes only")
        options.pop("chain", None)
        if self.pools_n > 1:
            return Backends(self.backend, self.pools_n, **options)
        return Backend(self.backend, **options)


ARMS = {
    arm.name: arm
    for arm in (
        BackendArm("zsmalloc_handle", "zsmalloc, handle", "zsmalloc", locking="handle"),
        BackendArm("zsmalloc_class", "zsmalloc, class lock", "zsmalloc", locking="class"),
        BackendArm("zsmalloc_pool", "zsmalloc, pool lock", "zsmalloc"),
        BackendArm("zsmalloc_pools32", "zsmalloc, 32 pools", "zsmalloc", 32),
        BackendArm("z3fold_pool", "z3fold, pool lock", "z3fold"),
        BackendArm("z3fold_pools32", "z3fold, 32 pools", "z3fold", 32),
        BackendArm("zbud_pool", "zbud, pool lock", "zbud"),
        BackendArm("zbud_pools32", "zbud, 32 pools", "zbud", 32),
    )
}
#: One arm of each allocator, where locks make no difference.
ONE_OF_EACH = ("zsmalloc_class", "z3fold_pool", "zbud_pool")


def arm(name: str) -> BackendArm:
    """The arm of this name."""
    if name not in ARMS:
        raise UsageError(f"no arm is called {name!r}; there are {', '.join(ARMS)}")
    return ARMS[name]
