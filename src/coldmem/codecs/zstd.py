"""Zstandard by libzstd: one frame per unit, without a checksum.

Guarantees: as in ``codec.pxd``; one-shot decompression keeps to both buffers on any input and
allocates nothing that the input asks for.
Locks: none; a context holds libzstd's own contexts, made at first use and reused.
"""

import cython
from cython.cimports.coldmem.codecs.library import load_zstd
from cython.cimports.libc.stdlib import calloc, free

from coldmem.errors import UnknownCodecError

SIZE_BYTES_MAX = cython.declare(cython.uint, 0x7E000000)  # results are int32_t
DESTINATION_TOO_SMALL = cython.declare(cython.uint, 70)  # ZSTD_error_dstSize_tooSmall, stable


def zstd_compress(context, src, n, dst, cap, hint):
    c: ZstdContextP = cython.cast(ZstdContextP, context)
    api: ZstdApiP = cython.address(c.settings.api)
    size: cython.size_t
    if n > SIZE_BYTES_MAX:
        return -1
    if n == 0 or cap == 0:
        return 0
    if cap > SIZE_BYTES_MAX:
        cap = SIZE_BYTES_MAX
    if c.compressor == cython.NULL:
        c.compressor = api.create_compressor()
        if c.compressor == cython.NULL:
            return -1
    size = api.compress(c.compressor, dst, cap, src, n, c.settings.level)
    if api.is_error(size):
        return 0 if api.error_code(size) == DESTINATION_TOO_SMALL else -1
    return size


def zstd_decompress(context, src, n, dst, cap):
    c: ZstdContextP = cython.cast(ZstdContextP, context)
    api: ZstdApiP = cython.address(c.settings.api)
    size: cython.size_t
    if n == 0:
        return -1
    if cap > SIZE_BYTES_MAX:
        cap = SIZE_BYTES_MAX
    if c.decompressor == cython.NULL:
        c.decompressor = api.create_decompressor()
        if c.decompressor == cython.NULL:
            return -1
    size = api.decompress(c.decompressor, dst, cap, src, n)
    return -1 if api.is_error(size) else size


def zstd_context_new(self, unit_bytes):
    c: ZstdContextP = cython.cast(ZstdContextP, calloc(1, cython.sizeof(ZstdContext)))
    if c != cython.NULL:
        c.settings = cython.cast(ZstdSettingsP, self)
    return c


def zstd_context_free(context):
    c: ZstdContextP = cython.cast(ZstdContextP, context)
    if c != cython.NULL:
        # Both accept NULL.
        c.settings.api.free_compressor(c.compressor)
        c.settings.api.free_decompressor(c.decompressor)
        free(c)


class ZstdCodec(Codec):
    """Zstandard.

    Parameters
    ----------
    level : int, optional
        Negative levels are faster; libzstd says which exist.
    """

    def __init__(self, level=1):
        load_zstd(cython.address(self.settings.api))
        lowest = self.settings.api.level_min()
        highest = self.settings.api.level_max()
        if level == 0 or not lowest <= level <= highest:
            raise UnknownCodecError(f"zstd:{level}: levels are {lowest} to {highest}, without 0")
        self.settings.level = level
        self.name = "zstd" if level == 1 else f"zstd:{level}"
        self.c.compress = zstd_compress
        self.c.decompress = zstd_decompress
        self.c.context_new = zstd_context_new
        self.c.context_free = zstd_context_free
        self.c.self = cython.address(self.settings)
