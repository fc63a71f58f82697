"""No compression: everything is "incompressible", so that the caller stores it as it is.

Locks: none, and no context either.
"""

import cython
from cython.cimports.libc.string import memcpy


def raw_compress(context, src, n, dst, cap, hint):
    return 0


def raw_decompress(context, src, n, dst, cap):
    """A copy; nobody calls it with data of ours, since `raw_compress` makes none."""
    if n > cap or n > 0x7FFFFFFF:
        return -1
    memcpy(dst, src, n)
    return n


def raw_context_new(self, unit_bytes):
    return self


def raw_context_free(context):
    pass


class RawCodec(Codec):
    """Stores units as they are."""

    def __init__(self):
        self.name = "raw"
        self.c.compress = raw_compress
        self.c.decompress = raw_decompress
        self.c.context_new = raw_context_new
        self.c.context_free = raw_context_free
        self.c.self = cython.address(self.c)
