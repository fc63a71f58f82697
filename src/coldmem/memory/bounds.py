"""Addresses of what has the array interface or the buffer protocol. Owns nothing, takes no locks."""

import cython
from cython.cimports.libc.stdint import uint64_t

from coldmem.errors import UsageError


def array_bounds(array):
    """Lowest address of an array's bytes and the one after the highest."""
    interface = getattr(array, "__array_interface__", None)
    if interface is not None and hasattr(array, "itemsize"):
        low = high = interface["data"][0]
        shape, strides = interface["shape"], interface.get("strides")
        size = array.itemsize
        if 0 in shape:
            return low, low
        if strides is None:
            count = 1
            for length in shape:
                count *= length
            return low, low + count * size
        for length, stride in zip(shape, strides, strict=True):
            if stride > 0:
                high += (length - 1) * stride
            else:
                low += (length - 1) * stride
        return low, high + size
    view: cython.const[cython.uchar][::1]
    try:
        view = memoryview(array).cast("B")
    except (TypeError, ValueError) as error:
        raise UsageError(f"{type(array).__name__} does not say where its bytes are: {error}") from None
    if view.shape[0] == 0:
        return 0, 0
    start = cython.cast(uint64_t, cython.address(view[0]))
    return start, start + view.shape[0]
