"""Memory for a value that comes back, from disk or decompressed: what it is made of lies in it for good.

Owns: a `Space` owns its memory and gives it back when the last view of it goes.
Guarantees: it begins at a multiple of 64 bytes, so that arrays in it can; it can be written. From
2 MiB on it lies in huge pages where the system has them, from 128 KiB on its pages are taken in one
call: to get it page by page, a fault for each, costs more than to read a file into it.
Assumes: the bytes are not read before they are written.
Locks: none.
"""

import cython
from cython.cimports.coldmem.linux.memory import memory_populate, memory_return, memory_take
from cython.cimports.cpython.buffer import PyBuffer_FillInfo
from cython.cimports.cpython.bytearray import PyByteArray_AS_STRING, PyByteArray_FromStringAndSize
from cython.cimports.cpython.bytes import PyBytes_AS_STRING, PyBytes_FromStringAndSize
from cython.cimports.libc.stdint import uint8_t, uint64_t
from cython.cimports.libc.stdlib import free
from cython.cimports.posix.stdlib import posix_memalign

ALIGN = cython.declare(uint64_t, 64)
SPACE_BYTES = cython.declare(uint64_t, 64 << 10)  # below, a bytearray is made quicker
POPULATE_BYTES = cython.declare(uint64_t, 128 << 10)  # glibc asks the system for so much anew, or may
HUGE_BYTES = cython.declare(uint64_t, 2 << 20)


@cython.final
@cython.cclass
class Space:
    """Writable memory.

    Parameters
    ----------
    nbytes : int
        How much.
    """

    def __cinit__(self, nbytes: uint64_t):
        p: cython.p_void = cython.NULL
        self.nbytes = nbytes
        if nbytes >= HUGE_BYTES:
            p = memory_take(nbytes)
        elif posix_memalign(cython.address(p), ALIGN, max(nbytes, 1)) != 0:
            p = cython.NULL
        elif nbytes >= POPULATE_BYTES:
            memory_populate(p, nbytes)
        self.start = cython.cast(cython.pointer(uint8_t), p)
        if p == cython.NULL:
            raise MemoryError(f"no memory for a value of {nbytes} bytes")

    def __dealloc__(self):
        if self.start != cython.NULL and self.nbytes >= HUGE_BYTES:
            memory_return(self.start, self.nbytes)
        else:
            free(self.start)

    def __len__(self):
        return self.nbytes

    def __getbuffer__(self, buffer: cython.pointer(Py_buffer), flags: cython.int):
        PyBuffer_FillInfo(buffer, self, self.start, self.nbytes, False, flags)


def value_room(kind, nbytes, out):
    if kind == 0:
        made = PyBytes_FromStringAndSize(cython.NULL, nbytes)
    elif nbytes < SPACE_BYTES:
        made = PyByteArray_FromStringAndSize(cython.NULL, nbytes)
    else:
        made = Space(nbytes)
    out[0] = room_of(made)
    return made


def room_of(thing):
    space: Space
    if isinstance(thing, Space):
        space = thing
        return space.start
    if isinstance(thing, bytearray):
        return cython.cast(cython.pointer(uint8_t), PyByteArray_AS_STRING(thing))
    return cython.cast(cython.pointer(uint8_t), PyBytes_AS_STRING(thing))
