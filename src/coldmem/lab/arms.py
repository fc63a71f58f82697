"""The arms of the locking experiment: what is the same in all of them but the locks.

Owns nothing. An arm says how many pools there are, how they lock, and whether they have magazines.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol

from coldmem.errors import UsageError
from coldmem.lab.backend import Backend
from coldmem.lab.backends import Backends
from coldmem.zsmalloc import Pool, Pools

AnyPool = Pool | Pools | Backend | Backends


class Opens(Protocol):
    """An arm, of zsmalloc or of another allocator."""

    @property
    def name(self) -> str: ...

    def open(self, **options: Any) -> AnyPool:
        """A fresh pool, or several; `options` as for `coldmem.zsmalloc.Pool`."""


@dataclass(frozen=True, slots=True)
class Arm:
    """One way of locking."""

    name: str
    label: str
    pools_n: int
    locking: str
    magazines: bool = False

    def open(self, **options: Any) -> Pool | Pools:
        """A fresh `Pool` or `Pools`; `options` as for `coldmem.zsmalloc.Pool`."""
        kind: dict[str, Any] = {"locking": self.locking, "magazines": self.magazines, **options}
        return Pools(self.pools_n, **kind) if self.pools_n > 1 else Pool(**kind)


ARMS = {
    arm.name: arm
    for arm in (
        Arm("pools32", "32 pools, pool lock", 32, "pool"),
        Arm("pool", "1 pool, pool lock", 1, "pool"),
        Arm("class", "1 pool, class lock", 1, "class"),
        Arm("handle", "1 pool, handle", 1, "handle"),
        Arm("handle_magazine", "1 pool, handle, magazines", 1, "handle", magazines=True),
    )
}


def arm(name: str) -> Arm:
    """The arm of this name."""
    if name not in ARMS:
        raise UsageError(f"no arm is called {name!r}; there are {', '.join(ARMS)}")
    return ARMS[name]


def members(pool: AnyPool) -> tuple[Pool | Backend, ...]:
    """Every single pool of an arm."""
    return tuple(pool) if isinstance(pool, Pools | Backends) else (pool,)
