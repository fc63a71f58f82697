"""What holds units of a Memory: extents, which are the memory of arrays, and pins.

Guarantees: an extent's units are given back with its last reference; a pin that is dropped lets go.
Locks: none of its own.
"""

import cython
from cython.cimports.coldmem.linux.atomic import a64_load_rlx
from cython.cimports.coldmem.memory.region import region_free, region_pin, region_unpin
from cython.cimports.coldmem.memory.state import FAULT_OK, MemoryP
from cython.cimports.cpython.buffer import PyBuffer_FillInfo
from cython.cimports.libc.stdint import int32_t, uint64_t

from coldmem.errors import ClosedError, CorruptDataError, MemoryLimitError, UsageError
from coldmem.units import format_bytes


# no_gc_clear: __dealloc__ uses the manager's C side, which a collected cycle must not drop first.
@cython.no_gc_clear
@cython.cclass
class Extent:
    """Memory of an array, with the buffer protocol (writable bytes)."""

    def __dealloc__(self):
        if self.start != cython.NULL and self.c.base != cython.NULL:
            with cython.nogil:
                region_free(self.c, self.start)

    def __getbuffer__(self, buffer: cython.pointer(Py_buffer), flags: cython.int):
        PyBuffer_FillInfo(buffer, self, self.start, self.nbytes, False, flags)

    def __len__(self):
        return self.nbytes

    @property
    def address(self):
        """Where it begins; a whole number of units from the start of the range."""
        return cython.cast(uint64_t, self.start)


# no_gc_clear: as above.
@cython.no_gc_clear
@cython.cclass
class Pin:
    """What `Memory.pinned` gives: a context manager, whose value is the array."""

    def __enter__(self):
        result: int32_t
        m: MemoryP = self.c
        if m.base == cython.NULL:
            raise ClosedError("this Memory is closed")
        if self.held:
            raise UsageError("this pin is held already: make another with pinned(array)")
        pinned = (a64_load_rlx(cython.address(m.pinned_units)) + self.n) << m.unit_shift
        if pinned > m.limit_bytes // 4 * 3:
            raise MemoryLimitError(
                f"{format_bytes(pinned)} would be pinned, and no more than three quarters of memory_max "
                f"({format_bytes(m.limit_bytes)}) may be: pin smaller slices, one by one"
            )
        with cython.nogil:
            result = region_pin(m, self.first, self.n)
        if result != FAULT_OK:
            raise CorruptDataError("data of this array cannot be read back from the swap file")
        self.held = True
        return self.keep[1]

    def __exit__(self, *exc):
        self._release()

    def __dealloc__(self):
        self._release()

    def _release(self):
        if self.held and self.c.base != cython.NULL:
            with cython.nogil:
                region_unpin(self.c, self.first, self.n)
        self.held = False
