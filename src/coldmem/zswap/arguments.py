"""What Python callers pass, turned into what C code takes: buffers and slots.

Guarantees: nothing is copied but lists of slots; what cannot be used raises UsageError (or its child
InvalidSizeError) and says what to pass.
"""

from array import array

import cython
from cython.cimports.coldmem.zswap.batch import U64CP
from cython.cimports.cpython.buffer import (
    PyBUF_C_CONTIGUOUS,
    PyBUF_FORMAT,
    PyBUF_SIMPLE,
    PyBUF_WRITABLE,
    PyObject_GetBuffer,
)
from cython.cimports.libc.stdint import uint64_t
from cython.cimports.libc.string import memset

from coldmem.errors import InvalidSizeError, UsageError

_UNSIGNED_64 = ("Q", "L", "@Q", "@L", "=Q", "<Q", "N", "@N")
_SLOTS = 1 << 64


def get_buffer(data, view, writable):
    try:
        PyObject_GetBuffer(data, view, PyBUF_WRITABLE if writable else PyBUF_SIMPLE)
    except TypeError:
        raise UsageError(f"{type(data).__name__} does not give its bytes as a buffer") from None
    except (BufferError, ValueError) as error:
        kind = "writable contiguous" if writable else "contiguous"
        raise UsageError(f"the buffer cannot be used: {error}; pass a {kind} one") from None
    return 0


def get_slots(slots, n, out, view):
    """Fill `out`; `view` keeps the array, if there is one, until it is released."""
    memset(view, 0, cython.sizeof(cython.Py_buffer))
    out.array = cython.NULL
    out.step = 1
    out.n = n
    if isinstance(slots, range):
        if n and len(slots) != n:
            raise InvalidSizeError(f"{len(slots)} slots for a buffer of {n} units")
        last = slots.start + (len(slots) - 1) * slots.step
        if slots and not (0 <= slots.start < _SLOTS and 0 <= last < _SLOTS):
            raise UsageError(f"{slots} is not within the slots 0 to 2**64 - 1")
        out.n = len(slots)
        out.start = slots.start if slots else 0
        out.step = cython.cast(uint64_t, slots.step % _SLOTS)  # a negative step wraps round
        return 0
    if isinstance(slots, int):
        if not 0 <= slots <= _SLOTS - max(n, 1):
            raise UsageError(f"slots from {slots} on, {n} of them, are not within 0 to 2**64 - 1")
        out.start = slots
        return 0
    if isinstance(slots, (list, tuple)):
        try:
            slots = array("Q", slots)
        except (TypeError, OverflowError) as error:
            raise UsageError(f"slots are integers from 0 to 2**64 - 1: {error}") from None
    try:
        PyObject_GetBuffer(slots, view, PyBUF_C_CONTIGUOUS | PyBUF_FORMAT)
    except (TypeError, BufferError, ValueError):
        raise UsageError(
            f"{type(slots).__name__} does not name slots: pass a first slot, a range, a list, or a "
            "contiguous array of uint64"
        ) from None
    form: bytes = view.format if view.format != cython.NULL else b"B"
    if view.itemsize != 8 or form.decode() not in _UNSIGNED_64:
        raise UsageError(f"an array of slots must be of uint64, not {form.decode()!r}")
    out.n = view.len // 8
    if n and out.n != n:
        raise InvalidSizeError(f"{out.n} slots for a buffer of {n} units")
    out.array = cython.cast(U64CP, view.buf)
    return 0
