"""From what the C functions return to exceptions that say what to do."""

from __future__ import annotations

import os
from collections.abc import Sequence

from coldmem.errors import (
    CodecError,
    ColdmemError,
    CorruptDataError,
    MemoryLimitError,
    SlotNotFoundError,
    SwapFileError,
)

# As ZswapError in state.pxd.
NOT_FOUND, FULL, ALLOC, ENTRIES, GROUP, COMPRESS, POOR, READ, CORRUPT, DECOMPRESS, CONTEXT = range(
    -1, -12, -1
)

_STORE = {
    FULL: "the pool is full and nothing could be written back: raise max_pool, give it a larger swap "
    "file, or invalidate units",
    ALLOC: "the pool is below its limit, but the system gives it no memory",
    ENTRIES: "the table of entries is full: raise entries_max, or invalidate units",
    GROUP: "a limit of its group, or of a group above it, forbids it: raise memory_max or zswap_max, "
    "or invalidate units",
    POOR: "it is incompressible, and incompressible='reject' was asked for",
    CONTEXT: "there is no memory for the codec to work in",
}


def store_error(code: int, slot: int, batch: int = 1) -> ColdmemError:
    """The exception of a store of `batch` units that failed at `slot`."""
    whole = f"; none of the {batch} units of the call is stored" if batch > 1 else ""
    if code == COMPRESS:
        return CodecError(f"slot {slot} was not stored: the codec failed{whole}")
    return MemoryLimitError(f"slot {slot} was not stored: {_STORE[code]}{whole}")


def _some(slots: Sequence[int]) -> str:
    shown = ", ".join(str(slot) for slot in slots[:5])
    if len(slots) > 5:
        shown += f" and {len(slots) - 5} more"
    return f"slot {shown}" if len(slots) == 1 else f"slots {shown}"


def _load_error(code: int, slots: tuple[int, ...], errno: int) -> ColdmemError:
    error = _explain(code, slots, errno)
    error.slots = slots
    return error


def _explain(code: int, slots: tuple[int, ...], errno: int) -> ColdmemError:
    named = _some(slots)
    if code == NOT_FOUND:
        return SlotNotFoundError(f"nothing is stored under {named}", slots)
    if code == READ:
        return SwapFileError(
            f"{named}: the swap file cannot be read ({os.strerror(errno)}); what is stored was kept",
            slots, errno,
        )
    if code == CORRUPT:
        return CorruptDataError(
            f"{named}: the swap file gave back other data than was written (checksum); "
            "nothing was handed out",
            slots,
        )
    if code == CONTEXT:
        return MemoryLimitError(f"{named}: there is no memory for the codec to work in")
    return CodecError(f"{named}: the codec cannot decompress what it compressed")


def load_error(failed: Sequence[tuple[int, int]], errno: int) -> ColdmemError:
    """The exception for loads that failed, given as (slot, code).

    When they failed in several ways, the gravest is raised, and the rest are its `others`.
    """
    codes = sorted({code for _, code in failed}, key=(READ, CORRUPT, DECOMPRESS, CONTEXT,
                                                      NOT_FOUND).index)
    errors = [
        _load_error(code, tuple(slot for slot, other in failed if other == code), errno)
        for code in codes
    ]
    errors[0].others = tuple(errors[1:])
    for other in errors[1:]:
        errors[0].add_note(str(other))
    return errors[0]
