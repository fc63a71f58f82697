"""The timed loop of the codec benchmark: one codec over one corpus, without the GIL.

Guarantees: each unit that comes back was compared to the original, outside the timed parts.
Locks: none.
"""

import cython
from cython.cimports.coldmem.linux.atomic import now_ns
from cython.cimports.cpython.buffer import PyBUF_SIMPLE, PyBuffer_Release, PyObject_GetBuffer
from cython.cimports.libc.stdint import int32_t, uint64_t
from cython.cimports.libc.stdlib import calloc, free
from cython.cimports.libc.string import memcmp, memcpy, memset

from coldmem.codecs.registry import get_codec
from coldmem.errors import CodecError, InternalError, InvalidSizeError


def one_pass(p):
    i: uint64_t
    n: uint64_t = p.unit_bytes
    t: uint64_t
    size: int32_t
    context: cython.p_void = p.codec.context_new(p.codec.self, p.unit_bytes)
    failure: cython.int = 0
    if context == cython.NULL:
        return -3
    p.stored_bytes = 0
    t = now_ns()
    for i in range(p.units):
        p.sizes[i] = p.codec.compress(
            context, p.data + i * n, p.unit_bytes, p.packed + i * n, p.unit_bytes - 1,
            p.hint + i // p.region_units,
        )
        if p.sizes[i] == 0:
            memcpy(p.packed + i * n, p.data + i * n, n)
    p.compress_ns = now_ns() - t
    # What could not be compressed was stored as it is, by a copy, and is read back by a copy.
    t = now_ns()
    for i in range(p.units):
        size = p.sizes[i]
        if size == 0:
            memcpy(p.back, p.packed + i * n, n)
        elif size > 0 and p.codec.decompress(
            context, p.packed + i * n, size, p.back, p.unit_bytes
        ) != cython.cast(int32_t, n):
            failure = -1
    p.decompress_ns = now_ns() - t
    for i in range(p.units):
        size = p.sizes[i]
        if size < 0:
            failure = -1
            break
        p.stored_bytes += size if size else n
        if size:
            p.codec.decompress(context, p.packed + i * n, size, p.back, p.unit_bytes)
            if memcmp(p.back, p.data + i * n, n) != 0:
                failure = -2
                break
    p.codec.context_free(context)
    return failure


def time_codec(codec, data, unit_bytes, region_bytes, hint):
    """One pass of `codec` over `data` in units.

    Parameters
    ----------
    codec : str or Codec
        The codec; hand in the same object to let it keep what it learned.
    data : buffer
        A multiple of `unit_bytes`.
    unit_bytes, region_bytes : int
        Units of one region share a hint.
    hint : int
        The hint of the first region; the next regions count on from it.

    Returns
    -------
    dict
        `compress_ns`, `decompress_ns`, `stored_bytes`.
    """
    made: Codec = get_codec(codec)
    p: Pass
    buffer: cython.Py_buffer
    failure: cython.int = -3
    p.codec = made.c
    p.unit_bytes = unit_bytes
    p.region_units = max(1, region_bytes // unit_bytes)
    p.hint = hint
    PyObject_GetBuffer(data, cython.address(buffer), PyBUF_SIMPLE)
    try:
        if buffer.len == 0 or buffer.len % unit_bytes:
            raise InvalidSizeError(f"{buffer.len} bytes are not a number of units of {unit_bytes}")
        p.data = cython.cast(ConstBytes, buffer.buf)
        p.units = buffer.len // unit_bytes
        p.packed = cython.cast(MutBytes, calloc(p.units, p.unit_bytes))
        p.back = cython.cast(MutBytes, calloc(1, p.unit_bytes))
        p.sizes = cython.cast(Sizes, calloc(p.units, cython.sizeof(int32_t)))
        if p.packed != cython.NULL and p.back != cython.NULL and p.sizes != cython.NULL:
            with cython.nogil:
                # Touched beforehand, so that no page fault is timed.
                memset(p.packed, 1, p.units * p.unit_bytes)
                failure = one_pass(cython.address(p))
        free(p.packed)
        free(p.back)
        free(p.sizes)
    finally:
        PyBuffer_Release(cython.address(buffer))
    if failure == -3:
        raise MemoryError("no memory for the buffers of the benchmark")
    if failure == -2:
        raise InternalError(f"the codec {made.name} gave back other data than it got")
    if failure:
        raise CodecError(f"the codec {made.name} failed")
    return {
        "compress_ns": p.compress_ns,
        "decompress_ns": p.decompress_ns,
        "stored_bytes": p.stored_bytes,
    }
