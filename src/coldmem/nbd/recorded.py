"""From the records of a device's threads to a `Trace`. Owns nothing, takes no locks."""

from __future__ import annotations

import numpy as np

from coldmem.nbd.device import Device
from coldmem.nbd.trace import LOAD, STORE, TRIM, Trace

_RECORD = np.dtype([("time_ns", "u8"), ("slot", "u4"), ("what", "u4")])
_OP_SHIFT = 24  # as RECORD_OP_SHIFT in record.pxd


def trace_of(device: Device, codec: str, machine: dict[str, object] | None = None) -> Trace:
    """What was done to `device` since it was made, in the order of time.

    Loads of slots under which nothing was stored are left out, as are trims of them: an engine that
    runs the trace would find nothing.

    Parameters
    ----------
    device : Device
        Made with ``record=True``; no thread may be working on it.
    codec : str
        What it compresses with.
    machine : dict, optional
        Facts about the machine, ready for JSON.
    """
    chunks, dropped = device.records()
    whole = np.concatenate([np.frombuffer(data, _RECORD) for _, data in chunks] or
                           [np.empty(0, _RECORD)])
    threads = np.repeat(np.array([thread & 0xFFFF for thread, _ in chunks], np.uint16),
                        [len(data) // _RECORD.itemsize for _, data in chunks])
    order = np.argsort(whole["time_ns"], kind="stable")
    whole, threads = whole[order], threads[order]
    op = (whole["what"] >> _OP_SHIFT).astype(np.uint8)
    kept = _finds_something(op, whole["slot"])
    return Trace(
        time_ns=whole["time_ns"][kept].astype(np.uint64), op=op[kept],
        slot=whole["slot"][kept].astype(np.uint32),
        nbytes=(whole["what"][kept] & ((1 << _OP_SHIFT) - 1)).astype(np.uint32),
        thread=threads[kept], unit_bytes=device.unit_bytes, size_bytes=device.size_bytes,
        codec=codec, machine=machine or {}, dropped=dropped,
    )


def _finds_something(
    op: np.typing.NDArray[np.uint8], slot: np.typing.NDArray[np.uint32]
) -> np.typing.NDArray[np.bool_]:
    """Whether each operation is a store, or has a store into its slot before it and no trim since."""
    n = len(op)
    if n == 0:
        return np.empty(0, np.bool_)
    order = np.argsort(slot, kind="stable")
    ops, slots = op[order], slot[order]
    place = np.arange(n)
    first = np.maximum.accumulate(np.where(np.append(True, slots[1:] != slots[:-1]), place, 0))
    # The last store or trim before each place.
    last = np.maximum.accumulate(np.where(ops != LOAD, place, -1))
    before = np.append(-1, last[:-1])
    full = (before >= first) & (ops[np.maximum(before, 0)] == STORE)
    found = np.empty(n, np.bool_)
    found[order] = (ops == STORE) | full
    assert TRIM != STORE
    return found
