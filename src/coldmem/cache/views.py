"""What ``items()`` and ``values()`` of a cache give.

Owns: nothing but a reference to the cache. Guarantees: what goes while it is walked through is left out.
Assumes: nothing. Locks: none; see `Cache.__iter__`.
"""

from __future__ import annotations

from collections.abc import ItemsView, Iterator, ValuesView
from typing import TYPE_CHECKING, Any

from coldmem.cache.core import MISSING

if TYPE_CHECKING:
    from coldmem.cache.cache import Cache


class Items(ItemsView[Any, Any]):
    """Keys and values."""

    _mapping: Cache

    def __iter__(self) -> Iterator[tuple[Any, Any]]:
        for key in self._mapping:
            value = self._mapping.get(key, MISSING)
            if value is not MISSING:
                yield key, value


class Values(ValuesView[Any]):
    """Values."""

    _mapping: Cache

    def __iter__(self) -> Iterator[Any]:
        for _, value in self._mapping.items():
            yield value
