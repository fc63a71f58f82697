"""What the pools accept: handles, buffers, lockings, and how much address space they reserve."""

from __future__ import annotations

from typing import Any, Final

from coldmem.errors import ForeignHandleError, UsageError

LOCKINGS: Final = ("pool", "class", "handle")
DEFAULT_MAGAZINE = 7
MAGAZINE_LIMIT = 14
UNLIMITED_BYTES = 256 << 30
CAPACITY_BYTES_MAX = 8 << 40


def default_capacity(limit: int | None, pools: int) -> int:
    """Bytes of address space for one of `pools` pools.

    A run of n units is only ever used again for n units, so in the worst case each of the 16 lengths
    needs the whole limit.
    """
    if limit is None:
        return UNLIMITED_BYTES
    return min(16 * max(limit, 1 << 20), CAPACITY_BYTES_MAX // pools)


def bytes_of(data: Any) -> memoryview:
    """`data` as a flat view of bytes, without a copy."""
    try:
        view = memoryview(data)
    except TypeError:
        raise UsageError(f"{type(data).__name__} does not give its bytes as a buffer") from None
    if not view.c_contiguous:
        raise UsageError("the buffer is not contiguous: pass a contiguous copy")
    return view.cast("B") if view.nbytes else memoryview(b"")


def as_handle(value: object) -> int:
    """`value`, if it can be a handle at all."""
    if not isinstance(value, int) or not 0 <= value < 1 << 64:
        raise ForeignHandleError(f"{value!r} is not a handle")
    return value
