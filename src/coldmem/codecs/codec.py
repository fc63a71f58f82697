"""The base of every codec, and its Python face.

Owns: the `CodecC` table of function pointers, filled by the subclass. `CodecC.self` points into the
codec object, so whoever keeps a `CodecC` beyond one call keeps a reference to the object as well.
Guarantees: `compress` and `decompress` release the GIL around the codec; errors are `CodecError`.
Assumes: a subclass has set all four functions by the end of its ``__init__``.
Locks: none. A context is used by one thread at a time; the calls here make one of their own, which
is right for tests and single calls. Code in a hurry keeps a context per thread and calls the
function pointers.
"""

import cython
from cython.cimports.cpython.buffer import (
    PyBUF_SIMPLE,
    PyBuffer_Release,
    PyObject_GetBuffer,
)
from cython.cimports.cpython.bytes import PyBytes_AS_STRING, PyBytes_FromStringAndSize
from cython.cimports.libc.stdint import int32_t, uint32_t, uint64_t
from cython.cimports.libc.stdlib import free, malloc

from coldmem.errors import CodecError, InvalidSizeError, UsageError

SIZE_BYTES_MAX = cython.declare(cython.longlong, 0x7E000000)  # LZ4's limit, the smallest of all
# No codec returns this: c_compress and c_decompress do, when there is no memory for a context.
NO_MEMORY = cython.declare(cython.int, -0x7FFFFFFF)


def c_compress(c, src, n, dst, cap, hint):
    context: cython.p_void = c.context_new(c.self, n)
    size: int32_t
    if context == cython.NULL:
        return NO_MEMORY
    size = c.compress(context, src, n, dst, cap, hint)
    c.context_free(context)
    return size


def c_decompress(c, src, n, dst, cap):
    context: cython.p_void = c.context_new(c.self, cap)
    size: int32_t
    if context == cython.NULL:
        return NO_MEMORY
    size = c.decompress(context, src, n, dst, cap)
    c.context_free(context)
    return size


class Codec:
    """A way to compress units; get one with `coldmem.codecs.get_codec`.

    To write one in Python, see `coldmem.codecs.PythonCodec`. To write one in compiled code, derive
    from this class, fill `self.c` (see ``codec.pxd`` for what each function must do) and set
    `self.name`.

    Attributes
    ----------
    name : str
        The name that `get_codec` would understand.
    """

    def compress(self, data, hint=0):
        """`data` compressed.

        Parameters
        ----------
        data : buffer
            Contiguous bytes of any type.
        hint : int, optional
            Key of the neighbourhood of the data; a codec with memory remembers per key what worked.

        Returns
        -------
        bytes or None
            None when the result would not be smaller than the data.

        Raises
        ------
        CodecError
            When the codec failed.
        """
        buffer: cython.Py_buffer
        key: uint64_t = hint
        size: int32_t
        n: uint32_t
        dst: cython.p_char
        if self.c.compress == cython.NULL:
            raise UsageError("this is the base class of codecs; use coldmem.codecs.get_codec(name)")
        PyObject_GetBuffer(data, cython.address(buffer), PyBUF_SIMPLE)
        try:
            if buffer.len > SIZE_BYTES_MAX:
                raise InvalidSizeError(f"{buffer.len} bytes are too many for one unit")
            if buffer.len < 2:
                return None
            n = buffer.len
            out: bytes = PyBytes_FromStringAndSize(cython.NULL, n - 1)
            dst = PyBytes_AS_STRING(out)
            with cython.nogil:
                size = c_compress(
                    cython.address(self.c), cython.cast(Bytes, buffer.buf), n,
                    cython.cast(BytesOut, dst), n - 1, key,
                )
        finally:
            PyBuffer_Release(cython.address(buffer))
        if size == NO_MEMORY:
            raise MemoryError(f"no memory for a context of the codec {self.name}")
        if size < 0:
            raise CodecError(f"the codec {self.name} failed to compress {n} bytes (error {size})")
        return out[:size] if size else None

    def compressed_bytes(self, values):
        """What many values would take, each by itself; the GIL is given away once for all of them.

        Parameters
        ----------
        values : list of bytes

        Returns
        -------
        int
            Bytes in all; a value that does not get smaller counts as it is.

        Raises
        ------
        CodecError
            When the codec failed.
        """
        if self.c.compress == cython.NULL:
            raise UsageError("this is the base class of codecs; use coldmem.codecs.get_codec(name)")
        joined: bytes = b"".join(values)
        p: Bytes = cython.cast(Bytes, PyBytes_AS_STRING(joined))
        count: uint32_t = len(values)
        most: uint32_t = max(map(len, values), default=0)
        i: uint32_t
        n: uint32_t
        size: int32_t
        total: uint64_t = 0
        bad: cython.bint = False
        context: cython.p_void
        out: BytesOut = cython.cast(BytesOut, malloc(most + 1))
        lengths: cython.pointer(uint32_t) = cython.cast(
            cython.pointer(uint32_t), malloc(4 * cython.cast(uint64_t, count) + 4))
        try:
            if out == cython.NULL or lengths == cython.NULL:
                raise MemoryError("no memory to try a codec")
            for i in range(count):
                lengths[i] = len(values[i])
            with cython.nogil:
                context = self.c.context_new(self.c.self, most)
                bad = context == cython.NULL
                for i in range(0 if bad else count):
                    n = lengths[i]
                    size = 0
                    if n > 1:
                        size = self.c.compress(context, p, n, out, n - 1, 0)
                    bad = bad or size < 0
                    total += size if size > 0 else n
                    p += n
                if context != cython.NULL:
                    self.c.context_free(context)
        finally:
            free(out)
            free(lengths)
        if bad:
            raise CodecError(f"the codec {self.name} failed to compress values")
        return total

    def decompress(self, data, size):
        """The `size` bytes that `data` was made from.

        Parameters
        ----------
        data : buffer
            What `compress` returned.
        size : int
            Bytes before compression; the result has exactly as many.

        Returns
        -------
        bytes

        Raises
        ------
        CodecError
            When `data` is not what `compress` made of `size` bytes. Not every change is noticed:
            a codec is no checksum.
        """
        buffer: cython.Py_buffer
        written: int32_t
        n: uint32_t
        cap: uint32_t
        dst: cython.p_char
        if self.c.decompress == cython.NULL:
            raise UsageError("this is the base class of codecs; use coldmem.codecs.get_codec(name)")
        if not 0 <= size <= SIZE_BYTES_MAX:
            raise InvalidSizeError(f"{size} is not a size of a unit")
        cap = size
        out: bytes = PyBytes_FromStringAndSize(cython.NULL, cap)
        dst = PyBytes_AS_STRING(out)
        PyObject_GetBuffer(data, cython.address(buffer), PyBUF_SIMPLE)
        try:
            if buffer.len > SIZE_BYTES_MAX:
                raise InvalidSizeError(f"{buffer.len} bytes are too many for one unit")
            n = buffer.len
            with cython.nogil:
                written = c_decompress(
                    cython.address(self.c), cython.cast(Bytes, buffer.buf), n,
                    cython.cast(BytesOut, dst), cap,
                )
        finally:
            PyBuffer_Release(cython.address(buffer))
        if written == NO_MEMORY:
            raise MemoryError(f"no memory for a context of the codec {self.name}")
        if written < 0:
            raise CodecError(f"{self.name}: {n} bytes of compressed data are damaged")
        if written != cap:
            raise CodecError(f"{self.name}: {written} bytes came out where {size} were expected")
        return out

    def __repr__(self):
        return f"<{type(self).__name__} {self.name!r}>"
