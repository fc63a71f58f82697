"""Codecs written in Python.

Owns: a reference to the user's object; the raw pointer in `CodecC.self` is to the adapter, which the
holder of the codec keeps alive.
Guarantees: as in ``codec.pxd``, whatever the Python code does: results that are too long are not
copied, exceptions become an error for the caller and are reported through `sys.unraisablehook`, for
the fault or the shrinker thread that they happen in has nobody to raise them to.
Assumes: any thread may call, with or without the GIL; it is taken for the call.
Locks: the GIL.
"""

import cython
from cython.cimports.cpython.buffer import (
    PyBUF_SIMPLE,
    PyBuffer_FillInfo,
    PyBuffer_Release,
    PyObject_GetBuffer,
)
from cython.cimports.cpython.exc import PyErr_SetObject, PyErr_WriteUnraisable
from cython.cimports.libc.stdint import int32_t
from cython.cimports.libc.string import memcpy

from coldmem.errors import CodecError, UsageError


def python_compress(context, src, n, dst, cap, hint):
    codec: PythonCodec = cython.cast(PythonCodec, context)
    return codec.call(src, n, dst, cap, True)


def python_decompress(context, src, n, dst, cap):
    codec: PythonCodec = cython.cast(PythonCodec, context)
    return codec.call(src, n, dst, cap, False)


def python_context_new(self, unit_bytes):
    return self


def python_context_free(context):
    pass


class Window:
    """The input as an object; knows whether anything still looks at it."""

    def __getbuffer__(self, buffer: cython.pointer(cython.Py_buffer), flags: cython.int):
        PyBuffer_FillInfo(buffer, self, self.data, self.size, 1, flags)
        self.views += 1

    def __releasebuffer__(self, buffer: cython.pointer(cython.Py_buffer)):
        self.views -= 1


class PythonCodec(Codec):
    """Makes a codec of Python code.

    Any object will do that has

    - ``name``: a string,
    - ``compress(data: memoryview) -> bytes-like``: the compressed form of `data`; None, or a result
      that is not smaller, means incompressible;
    - ``decompress(data: memoryview, size: int) -> bytes-like``: the `size` bytes it was made from.

    The views are read-only and valid during the call only: copy what must last. Both methods may
    run in several threads, and must not depend on the order of calls. An exception means that the
    unit could not be compressed or that its data are damaged; it is passed to `sys.unraisablehook`
    and the store or load fails with a `CodecError`.

    A codec in Python holds the GIL while it works. Built-in codecs do not.

    Parameters
    ----------
    target : object, optional
        The object; without it, the methods of a subclass, ``pack(data)`` and ``unpack(data,
        size)``, are used.
    name : str, optional
        The name; that of `target` or of the class if not given.

    Examples
    --------
    >>> import bz2
    >>> class Bz2:
    ...     name = "bz2"
    ...     def compress(self, data):
    ...         return bz2.compress(data)
    ...     def decompress(self, data, size):
    ...         return bz2.decompress(data)
    >>> from coldmem.codecs import get_codec
    >>> codec = get_codec(Bz2())
    >>> len(codec.decompress(codec.compress(bytes(4096)), 4096))
    4096

    To make it known by name, so that ``"bitshuffle8+bz2"`` works too, pass the class to
    `coldmem.codecs.register_codec`.
    """

    def __init__(self, target=None, name=None):
        if target is None:
            for method in ("pack", "unpack"):
                if not callable(getattr(self, method, None)):
                    raise UsageError(f"{type(self).__name__} has no method {method}(…)")
        else:
            for method in ("compress", "decompress"):
                if not callable(getattr(target, method, None)):
                    raise UsageError(
                        f"a codec needs a method {method}(…); {type(target).__name__} has none"
                    )
        if name is None:
            name = type(self).__name__ if target is None else getattr(target, "name", None)
        if not isinstance(name, str) or not name:
            raise UsageError(f"a codec needs a name, a string; this is {name!r}")
        self.target = target
        self.name = name
        self.c.compress = python_compress
        self.c.decompress = python_decompress
        self.c.context_new = python_context_new
        self.c.context_free = python_context_free
        self.c.self = cython.cast(VoidP, self)

    def call(self, src, n, dst, cap, packing):
        view: object = None
        try:
            window: Window = Window()
            window.data = cython.cast(VoidP, src)
            window.size = n
            view = memoryview(window)
            size: int32_t = self.fill(view, dst, cap, packing)
            # What the user's code made from the view and kept would soon point to other data.
            view.release()
            if window.views != 0:
                raise BufferError(f"the codec {self.name} kept a view of its input; copy instead")
            return size
        except BaseException as error:
            PyErr_SetObject(type(error), error)
            PyErr_WriteUnraisable(self)
            return -1

    def fill(self, view, dst, cap, packing):
        """One call of the user's code, its result copied to dst; the size, 0 or an exception."""
        buffer: cython.Py_buffer
        if self.target is None:
            result = self.pack(view) if packing else self.unpack(view, cap)
        elif packing:
            result = self.target.compress(view)
        else:
            result = self.target.decompress(view, cap)
        if result is None and packing:
            return 0
        PyObject_GetBuffer(result, cython.address(buffer), PyBUF_SIMPLE)
        try:
            if buffer.len > cap:
                if packing:
                    return 0
                raise CodecError(
                    f"the codec {self.name} made {buffer.len} bytes of a unit of {cap}"
                )
            if buffer.len == 0 and packing:
                raise CodecError(f"the codec {self.name} compressed {len(view)} bytes to none")
            memcpy(dst, buffer.buf, buffer.len)
            return buffer.len
        finally:
            PyBuffer_Release(cython.address(buffer))
