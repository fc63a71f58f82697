"""What the pools accept: handles, buffers, lockings, and how much address space they reserve."""

from __future__ import annotations

from typing import Any, Final

from coldmem.errors import ForeignHandleError, UsageError

LOCKINGS: Final = ("pool", "class", "handle")
DEFAULT_MAGAZINE = 7
MAGAZINE_LIMIT = 14
UNLIMITED_BYTES = 256 << 30
CAPACITY_BYTES_MAX = 8 << 40
NODES_MAX = 16


def default_capacity(limit: int | None, pools: int, nodes: int) -> int:
    """Bytes of address space for one of `pools` pools of `nodes` nodes each.

    A run of n units is only ever used again for n units, and only on its node, so in the worst case
    each of the 16 lengths needs the whole limit on each node.
    """
    if limit is None:
        return UNLIMITED_BYTES
    return min(16 * max(limit, 1 << 20) * max(nodes, 1), CAPACITY_BYTES_MAX // pools)


def magazine_size(locking: str, magazines: bool | int) -> int:
    """Objects per magazine, once it is sure that `locking` exists and allows for them."""
    if locking not in LOCKINGS:
        raise UsageError(f"locking {locking!r}: choose one of {LOCKINGS}")
    size = DEFAULT_MAGAZINE if magazines is True else int(magazines)
    if not 0 <= size <= MAGAZINE_LIMIT:
        raise UsageError(f"magazines of {magazines} objects: choose 0 to {MAGAZINE_LIMIT}")
    if size and locking != "handle":
        raise UsageError("magazines need locking='handle'")
    return size


def check_ranges(compact_batch: int, nodes: int, limit: int | None, zspage_bytes_max: int) -> None:
    """Refuse a batch, a number of nodes or a limit that no pool can work with."""
    if compact_batch < 1:
        raise UsageError(f"compact_batch of {compact_batch}: at least 1 object")
    if not isinstance(nodes, int) or not 1 <= nodes <= NODES_MAX:
        raise UsageError(f"{nodes} nodes: choose 1 to {NODES_MAX}")
    if limit is not None and limit < zspage_bytes_max:
        raise UsageError(f"limit of {limit} bytes: one zspage may need {zspage_bytes_max}")


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
