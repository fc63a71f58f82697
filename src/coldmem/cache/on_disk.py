"""`OnDisk`: the way of the engine to the disk tier.

Guarantees: who is on that way when the cache is closed hears that it is.
Locks: those of the tier.
"""

from __future__ import annotations

from typing import Any

from coldmem.cache.tier import Tier
from coldmem.errors import ClosedError


class OnDisk:
    """A part of `coldmem.Cache`."""

    _tier: Tier | None

    def _disk(self) -> Tier:
        tier = self._tier
        if tier is None:  # there was one when the engine sent us here
            raise ClosedError("this cache is closed")
        return tier

    def _from_disk(self, key: Any, place: tuple[int, int, int], stay: bool) -> Any:
        return self._disk().load(key, place, stay)

    def _straight_to_disk(self, key: bytes, payload: memoryview, kind: int, codec: int, length: int,
                          left: float | None, only_new: bool) -> bool:
        return self._disk().put(key, [payload], kind, codec, length, left, only_new)

    def _free_places(self, places: list[tuple[int, int, int]],
                     gone: list[tuple[int, int, int]]) -> None:
        tier = self._tier
        if tier is not None:
            tier.free_places(places, gone)
