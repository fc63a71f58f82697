"""An object of a pool held still, so that its bytes can be read in place.

Owns: one reader hold (`zs_read_begin`) until the view ends, and a reference to its pool.
Locks: none beyond that hold.
"""

import cython
from cython.cimports.coldmem.linux.atomic import a32_fetch_add_rel
from cython.cimports.coldmem.zsmalloc.core import zs_read_end
from cython.cimports.cpython.buffer import PyBuffer_FillInfo

from coldmem.errors import HandleBusyError


# no_gc_clear: __dealloc__ uses the pool, which a collected cycle must not drop first.
@cython.no_gc_clear
@cython.cclass
class View:
    """An object of a pool held still; see `Pool.view`."""

    def __enter__(self):
        self.shown = memoryview(self)
        return self.shown

    def __exit__(self, *exc):
        if self.shown is not None:
            self.shown.release()
            self.shown = None
        if self.exports:
            # As an open mmap does: the bytes must not move under somebody who looks at them.
            raise BufferError("arrays or slices of this view are still in use: delete them first")
        self._end()

    def _end(self):
        if self.data != cython.NULL:
            zs_read_end(self.c, self.handle, self.token)
            self.data = cython.NULL
            a32_fetch_add_rel(self.open_views, -1)

    def __getbuffer__(self, buffer: cython.pointer(Py_buffer), flags: cython.int):
        if self.data == cython.NULL:
            raise HandleBusyError("this view has ended")
        PyBuffer_FillInfo(buffer, self, cython.cast(cython.p_void, self.data), self.size, True, flags)
        self.exports += 1

    def __releasebuffer__(self, buffer: cython.pointer(Py_buffer)):
        self.exports -= 1

    def __dealloc__(self):
        if self.data != cython.NULL:
            self._end()
