"""`items` and `values` of a cache, whose entries may go while somebody looks at them.

Owns: nothing. Guarantees: what goes before it is read is left out; nobody gets a KeyError for it.
Locks: none.
"""

from __future__ import annotations

from collections.abc import ItemsView, Iterator, Mapping, ValuesView
from typing import Any

_MISSING: Any = object()


def _pairs(mapping: Mapping[Any, Any]) -> Iterator[tuple[Any, Any]]:
    for key in mapping:
        value = mapping.get(key, _MISSING)
        if value is not _MISSING:
            yield key, value


class Items(ItemsView[Any, Any]):
    """See `Cache.items`."""

    def __init__(self, mapping: Mapping[Any, Any]) -> None:
        super().__init__(mapping)
        self._entries = mapping

    def __iter__(self) -> Iterator[tuple[Any, Any]]:
        return _pairs(self._entries)


class Values(ValuesView[Any]):
    """See `Cache.values`."""

    def __init__(self, mapping: Mapping[Any, Any]) -> None:
        super().__init__(mapping)
        self._entries = mapping

    def __iter__(self) -> Iterator[Any]:
        return (value for _, value in _pairs(self._entries))

    def __contains__(self, value: object) -> bool:
        return any(found is value or found == value for found in self)
