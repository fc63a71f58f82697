"""Calls of a codec between pages that cannot be touched: a conformance check for codecs.

A codec that reads behind its input or writes behind its output is killed by SIGSEGV, right at the
instruction that does it; one that writes before its output raises `InternalError`.
"""

import cython
from coldmem.codecs.registry import get_codec
from coldmem.errors import InternalError
from cython.cimports.cpython.bytes import PyBytes_AS_STRING, PyBytes_FromStringAndSize
from cython.cimports.libc.stdint import int32_t, uint64_t
from cython.cimports.libc.string import memcpy, memset
from cython.cimports.posix.mman import (
    MAP_ANONYMOUS,
    MAP_FAILED,
    MAP_PRIVATE,
    PROT_NONE,
    PROT_READ,
    PROT_WRITE,
    mmap,
    mprotect,
    munmap,
)

PAGE = cython.declare(uint64_t, 65536)  # a multiple of the page size of every machine
CANARY = cython.declare(cython.int, 0xA5)


def guarded_new(g, size):
    room: uint64_t = (size + PAGE) // PAGE * PAGE
    p: cython.p_void
    g.map = cython.NULL
    p = mmap(
        cython.NULL, room + PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0
    )
    if p == MAP_FAILED:
        return -1
    g.map = cython.cast(Bytes, p)
    g.map_bytes = room + PAGE
    g.data = g.map + room - size
    g.size = size
    memset(g.map, CANARY, room)
    return mprotect(g.map + room, PAGE, PROT_NONE)


def guarded_intact(g):
    p: Bytes = g.map
    while p < g.data:
        if p[0] != CANARY:
            return False
        p += 1
    return True


def guarded_free(g):
    if g.map != cython.NULL:
        munmap(g.map, g.map_bytes)


def guarded_call(codec, data, capacity, compressing, unit_bytes=None, hint=0):
    """One call of a codec between guard pages.

    Parameters
    ----------
    codec : str or Codec
        The codec.
    data : bytes
        The input.
    capacity : int
        Size of the output buffer.
    compressing : bool
        Whether to compress, or to decompress.
    unit_bytes : int, optional
        Size for the context; that of the larger buffer if not given.
    hint : int, optional
        For compression.

    Returns
    -------
    tuple of int and bytes
        What the codec returned, and the output.
    """
    made: Codec = get_codec(codec)
    copy: bytes = bytes(data)
    src: Guarded
    dst: Guarded
    context: cython.p_void
    n: uint64_t = len(copy)
    cap: uint64_t = capacity
    unit: uint64_t = max(n, cap) if unit_bytes is None else unit_bytes
    key: uint64_t = hint
    packing: cython.bint = compressing
    result: int32_t = 0
    intact: cython.bint = False
    if guarded_new(cython.address(src), n) != 0 or guarded_new(cython.address(dst), cap) != 0:
        raise MemoryError("no memory for guarded buffers")
    memcpy(src.data, PyBytes_AS_STRING(copy), n)
    with cython.nogil:
        context = made.c.context_new(made.c.self, unit)
        if context != cython.NULL:
            if packing:
                result = made.c.compress(context, src.data, n, dst.data, cap, key)
            else:
                result = made.c.decompress(context, src.data, n, dst.data, cap)
            made.c.context_free(context)
            intact = guarded_intact(cython.address(src)) and guarded_intact(cython.address(dst))
    out = b""
    if result > 0 and cython.cast(uint64_t, result) <= cap:
        out = PyBytes_FromStringAndSize(cython.cast(cython.p_char, dst.data), result)
    guarded_free(cython.address(src))
    guarded_free(cython.address(dst))
    if context == cython.NULL:
        raise MemoryError("no memory for a context")
    if not intact:
        raise InternalError(f"{made.name} wrote in front of its buffer")
    if result > 0 and cython.cast(uint64_t, result) > cap:
        raise InternalError(f"{made.name} says {result} bytes in a buffer of {cap}")
    return result, out
