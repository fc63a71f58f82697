"""A recorded sequence of stores, loads and trims, and the file that holds it.

Owns: nothing but its arrays. Guarantees: what `save` wrote, `load` gives back, to the last value (times
to the step that `save` was given); a file that contradicts itself is refused with a sentence, never
handed out in part. Takes no locks.

The file is an ``.npz`` of NumPy that anybody can open. It is small because each array holds what
cannot be foreseen: times and slots as differences from the operation before, bytes of a load as the
difference from what was last stored under its slot (nearly always nothing), and each number split
into planes of bytes, which deflate then packs.
"""

from __future__ import annotations

import json
import os
import zipfile
import zlib
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from coldmem.errors import EnvironmentFailure, UsageError

VERSION = 1
STORE, LOAD, TRIM = 0, 1, 2

_U8 = npt.NDArray[np.uint8]
_U16 = npt.NDArray[np.uint16]
_U32 = npt.NDArray[np.uint32]
_U64 = npt.NDArray[np.uint64]
_I64 = npt.NDArray[np.int64]
_BOOLS = npt.NDArray[np.bool_]

# Planes in the file, and how many bytes each number has.
_PLANES = {"time": 8, "op": 1, "slot": 5, "nbytes": 4, "thread": 2}


@dataclass(frozen=True)
class Trace:
    """What was asked of an engine, in the order of time.

    Parameters
    ----------
    time_ns : numpy.ndarray of uint64, shape (n,)
        When the operation ended, in nanoseconds from the start of the recording; never falling.
    op : numpy.ndarray of uint8, shape (n,)
        `STORE` (0), `LOAD` (1) or `TRIM` (2).
    slot : numpy.ndarray of uint32, shape (n,)
        Which unit.
    nbytes : numpy.ndarray of uint32, shape (n,)
        Bytes that the unit takes after compression: 0 for one word repeated, `unit_bytes` for one
        that is kept as it came. Of a load: of what was loaded. Of a trim: 0.
    thread : numpy.ndarray of uint16, shape (n,)
        Which thread of the server did it.
    unit_bytes : int
        What one slot holds.
    size_bytes : int
        Of the device: slots are below ``size_bytes / unit_bytes``.
    codec : str
        What compressed the units.
    machine : dict
        Facts about the machine, ready for JSON, as whoever recorded gave them.
    dropped : int
        Operations that could not be recorded, for want of memory.

    Raises
    ------
    UsageError
        The arrays contradict each other or the sizes.
    """

    time_ns: _U64
    op: _U8
    slot: _U32
    nbytes: _U32
    thread: _U16
    unit_bytes: int
    size_bytes: int
    codec: str
    machine: dict[str, object] = field(default_factory=dict)
    dropped: int = 0

    def __post_init__(self) -> None:
        for name, kind in _KINDS.items():
            array = getattr(self, name)
            if not isinstance(array, np.ndarray) or array.dtype != kind or array.ndim != 1:
                raise UsageError(f"{name} of a trace must be a flat array of {np.dtype(kind)}")
            if len(array) != len(self.op):
                raise UsageError(f"a trace of {len(self.op)} operations has {len(array)} {name}")
        if self.unit_bytes < 1 or self.size_bytes < 1:
            raise UsageError("a trace needs unit_bytes and size_bytes above 0")
        found = _first_fault(self)
        if found:
            raise UsageError(f"this trace contradicts itself: {found}")

    def __len__(self) -> int:
        return len(self.op)

    def head(self, n: int) -> Trace:
        """The first `n` operations, or all of them when there are fewer."""
        if n < 0:
            raise UsageError(f"the first {n} operations: give 0 or more")
        return self._part(slice(0, n))

    def _part(self, part: slice) -> Trace:
        return Trace(
            **{name: getattr(self, name)[part] for name in _KINDS}, unit_bytes=self.unit_bytes,
            size_bytes=self.size_bytes, codec=self.codec, machine=self.machine, dropped=self.dropped,
        )

    def save(self, path: str | os.PathLike[str], tick_ns: int = 1) -> None:
        """Write it as one ``.npz`` file; either all of it, or nothing.

        Parameters
        ----------
        path : path
            Where to; an older file is replaced once the new one is whole.
        tick_ns : int, default 1
            Times are rounded down to whole steps of this many nanoseconds. 1000 makes a file much
            smaller, for the low digits of a clock do not compress.

        Raises
        ------
        EnvironmentFailure
            The file cannot be written.
        """
        if tick_ns < 1:
            raise UsageError(f"tick_ns is {tick_ns}: give 1 or more")
        about = {
            "kind": "coldmem trace", "version": VERSION, "operations": len(self),
            "unit_bytes": self.unit_bytes, "size_bytes": self.size_bytes, "codec": self.codec,
            "tick_ns": tick_ns, "dropped": self.dropped, "machine": self.machine,
        }
        expected = _last_stored(self.op, self.slot, self.nbytes)
        columns = {
            "time": _differences((self.time_ns // np.uint64(tick_ns)).astype(np.int64)),
            "op": self.op.astype(np.uint64),
            "slot": _folded(_differences(self.slot.astype(np.int64)).view(np.int64)),
            "nbytes": (self.nbytes ^ expected).astype(np.uint64),
            "thread": self.thread.astype(np.uint64),
        }
        planes: dict[str, Any] = {name: _split(columns[name], n) for name, n in _PLANES.items()}
        target = Path(path)
        unready = target.with_name(f".{target.name}.{os.getpid()}.tmp")
        try:
            with open(unready, "wb") as file:
                np.savez_compressed(
                    file, about=np.frombuffer(json.dumps(about).encode(), np.uint8), **planes
                )
            unready.replace(target)
        except OSError as error:
            raise EnvironmentFailure(f"cannot write the trace {target}: {error.strerror}") from error
        finally:
            unready.unlink(missing_ok=True)

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Trace:
        """Read what `save` wrote to `path`.

        Raises
        ------
        EnvironmentFailure
            The file cannot be opened.
        UsageError
            It is not a trace, is damaged, or was written by a later version.
        """
        try:
            # Opened here, since NumPy leaves the file of an archive that it cannot read open.
            with open(path, "rb") as raw:
                file = np.load(raw, allow_pickle=False)
                if not isinstance(file, np.lib.npyio.NpzFile) or "about" not in file:
                    raise UsageError("it is not a trace: record one with coldmem nbd --record")
                about = json.loads(bytes(file["about"]))
                if about.get("version") != VERSION:
                    raise UsageError(
                        f"it is a trace of version {about.get('version')}, and this coldmem reads "
                        f"version {VERSION}"
                    )
                return cls._unpacked(about, {name: file[name] for name in _PLANES})
        except OSError as error:
            raise EnvironmentFailure(
                f"cannot read the trace {path}: {error.strerror or error}") from error
        except UsageError as error:
            raise UsageError(f"{path}: {error}") from None
        except (KeyError, TypeError, ValueError, AttributeError, zipfile.BadZipFile, EOFError,
                zlib.error) as error:
            raise UsageError(f"{path} is not a whole trace: {error}") from error

    @classmethod
    def _unpacked(cls, about: dict[str, object], planes: dict[str, _U8]) -> Trace:
        n = int(str(about["operations"]))
        whole = {}
        for name, width in _PLANES.items():
            if planes[name].dtype != np.uint8 or planes[name].shape != (width, n):
                raise ValueError(f"{name} has the shape {planes[name].shape}, not ({width}, {n})")
            whole[name] = _joined(planes[name])
        tick_ns = np.uint64(int(str(about["tick_ns"])))
        op = whole["op"].astype(np.uint8)
        slots = np.cumsum(_unfolded(whole["slot"]))
        if n and (slots.min() < 0 or slots.max() >= 1 << 32):
            raise ValueError("a slot is out of range")
        slot = slots.astype(np.uint32)
        machine = about["machine"]
        return cls(
            time_ns=np.cumsum(whole["time"], dtype=np.uint64) * tick_ns, op=op, slot=slot,
            nbytes=_with_loads(op, slot, whole["nbytes"].astype(np.uint32)),
            thread=whole["thread"].astype(np.uint16), unit_bytes=int(str(about["unit_bytes"])),
            size_bytes=int(str(about["size_bytes"])), codec=str(about["codec"]),
            machine=dict(machine) if isinstance(machine, dict) else {},
            dropped=int(str(about["dropped"])),
        )


_KINDS = {"time_ns": np.uint64, "op": np.uint8, "slot": np.uint32, "nbytes": np.uint32,
          "thread": np.uint16}


def _first_fault(trace: Trace) -> str | None:
    """What is wrong with it, and where; None: nothing."""
    slots = -(-trace.size_bytes // trace.unit_bytes)
    checks: list[tuple[_BOOLS, str]] = [
        (trace.op > TRIM, "there is no such operation"),
        (trace.slot >= slots, f"the device ends at slot {slots}"),
        (trace.nbytes > trace.unit_bytes, f"more than the {trace.unit_bytes} bytes of a unit"),
        ((trace.op == TRIM) & (trace.nbytes != 0), "a trim that has bytes"),
        (np.append(False, trace.time_ns[1:] < trace.time_ns[:-1])[: len(trace)],
         "earlier than the one before"),
    ]
    for wrong, what in checks:
        if wrong.any():
            return f"operation {int(np.argmax(wrong))}: {what}"
    return None


# -- numbers that compress ------------------------------------------------------------------------
def _differences(values: _I64) -> _U64:
    """From the value before, the first from 0; a fall wraps round."""
    return np.diff(values, prepend=np.int64(0)).view(np.uint64)


def _folded(signed: _I64) -> _U64:
    """0, -1, 1, -2 ... as 0, 1, 2, 3: small numbers either way."""
    return ((signed << 1) ^ (signed >> 63)).view(np.uint64)


def _unfolded(folded: _U64) -> _I64:
    return (folded >> np.uint64(1)).view(np.int64) ^ -(folded & np.uint64(1)).view(np.int64)


def _split(values: _U64, width: int) -> _U8:
    """Planes of bytes, the lowest first."""
    return np.ascontiguousarray(values.astype("<u8").view(np.uint8).reshape(-1, 8)[:, :width].T)


def _joined(planes: _U8) -> _U64:
    whole = np.zeros((planes.shape[1], 8), np.uint8)
    whole[:, : len(planes)] = planes.T
    return whole.view("<u8").reshape(-1).astype(np.uint64)


def _last_store(op: _U8, slot: _U32) -> tuple[_I64, _BOOLS]:
    """For each operation the index of the last store into its slot before it, and whether one is."""
    n = len(op)
    order = np.argsort(slot, kind="stable")
    place = np.arange(n, dtype=np.int64)
    stores = np.where(op[order] == STORE, place, np.int64(-1))
    last = np.maximum.accumulate(stores) if n else stores  # by place in the order of slots
    found: _I64 = np.zeros(n, np.int64)
    found[order] = order[np.maximum(last, 0)] if n else last
    here = (last >= 0) & (slot[order[np.maximum(last, 0)]] == slot[order]) if n else last >= 0
    exists = np.zeros(n, np.bool_)
    exists[order] = here
    return found, exists & (op == LOAD)


def _last_stored(op: _U8, slot: _U32, nbytes: _U32) -> _U32:
    """What a load is expected to bring; 0 for all else."""
    found, exists = _last_store(op, slot)
    return np.where(exists, nbytes[found] if len(op) else nbytes, 0).astype(np.uint32)


def _with_loads(op: _U8, slot: _U32, stored: _U32) -> _U32:
    return stored ^ _last_stored(op, slot, stored)
