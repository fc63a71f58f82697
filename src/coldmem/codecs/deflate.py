"""zlib by libz: streams in zlib's own format, as Python's `zlib.compress` makes them.

Guarantees: as in ``codec.pxd``; `inflate` keeps to both buffers on any input, and the format has a
checksum, so that most damage is noticed. `PythonZlib` makes the same format by Python's `zlib`
module, for systems without libz.so.1.
Locks: none; a context holds one stream each way, made at first use and reset after.
"""

import zlib

import cython
from cython.cimports.coldmem.codecs.library import load_zlib
from cython.cimports.libc.stdlib import calloc, free

from coldmem.errors import UnknownCodecError

SIZE_BYTES_MAX = cython.declare(cython.uint, 0x7E000000)  # results are int32_t
VERSION = cython.declare(cython.p_const_char, b"1.2.0")  # libz compares the first digit
Z_FINISH = cython.declare(cython.int, 4)
Z_OK = cython.declare(cython.int, 0)
Z_STREAM_END = cython.declare(cython.int, 1)
Z_BUF_ERROR = cython.declare(cython.int, -5)
LEVEL_DEFAULT = 6


def zlib_compress(context, src, n, dst, cap, hint):
    c: ZlibContextP = cython.cast(ZlibContextP, context)
    s: ZStreamP = cython.address(c.deflate)
    api: ZlibApiP = cython.address(c.settings.api)
    result: cython.int
    if n > SIZE_BYTES_MAX:
        return -1
    if n == 0 or cap == 0:
        return 0
    if cap > SIZE_BYTES_MAX:
        cap = SIZE_BYTES_MAX
    if c.can_deflate:
        if api.deflate_reset(s) != Z_OK:
            return -1
    else:
        if api.deflate_init(s, c.settings.level, VERSION, cython.sizeof(ZStream)) != Z_OK:
            return -1
        c.can_deflate = 1
    s.next_in = src
    s.avail_in = n
    s.next_out = dst
    s.avail_out = cap
    result = api.deflate(s, Z_FINISH)
    if result == Z_STREAM_END:
        return cap - s.avail_out
    return 0 if result == Z_OK or result == Z_BUF_ERROR else -1


def zlib_decompress(context, src, n, dst, cap):
    c: ZlibContextP = cython.cast(ZlibContextP, context)
    s: ZStreamP = cython.address(c.inflate)
    api: ZlibApiP = cython.address(c.settings.api)
    if n == 0:
        return -1
    if cap > SIZE_BYTES_MAX:
        cap = SIZE_BYTES_MAX
    if c.can_inflate:
        if api.inflate_reset(s) != Z_OK:
            return -1
    else:
        if api.inflate_init(s, VERSION, cython.sizeof(ZStream)) != Z_OK:
            return -1
        c.can_inflate = 1
    s.next_in = src
    s.avail_in = n
    s.next_out = dst
    s.avail_out = cap
    if api.inflate(s, Z_FINISH) != Z_STREAM_END or s.avail_in != 0:
        return -1
    return cap - s.avail_out


def zlib_context_new(self, unit_bytes):
    c: ZlibContextP = cython.cast(ZlibContextP, calloc(1, cython.sizeof(ZlibContext)))
    if c != cython.NULL:
        c.settings = cython.cast(ZlibSettingsP, self)
    return c


def zlib_context_free(context):
    c: ZlibContextP = cython.cast(ZlibContextP, context)
    if c != cython.NULL:
        if c.can_deflate:
            c.settings.api.deflate_end(cython.address(c.deflate))
        if c.can_inflate:
            c.settings.api.inflate_end(cython.address(c.inflate))
        free(c)


def checked_level(level):
    if not 0 <= level <= 9:
        raise UnknownCodecError(f"zlib:{level}: levels are 0 to 9")
    return level


def zlib_name(level):
    return "zlib" if level == LEVEL_DEFAULT else f"zlib:{level}"


class ZlibCodec(Codec):
    """zlib.

    Parameters
    ----------
    level : int, optional
        0 to 9.
    """

    def __init__(self, level=LEVEL_DEFAULT):
        self.settings.level = checked_level(level)
        load_zlib(cython.address(self.settings.api))
        self.name = zlib_name(level)
        self.c.compress = zlib_compress
        self.c.decompress = zlib_decompress
        self.c.context_new = zlib_context_new
        self.c.context_free = zlib_context_free
        self.c.self = cython.address(self.settings)


class PythonZlib:
    """The same through Python's `zlib` module; wrapped by `PythonCodec` where libz is missing.

    Parameters
    ----------
    level : int, optional
        0 to 9.
    """

    def __init__(self, level=LEVEL_DEFAULT):
        self.level = checked_level(level)
        self.name = zlib_name(level)

    def compress(self, data):
        return zlib.compress(data, self.level)

    def decompress(self, data, size):
        stream = zlib.decompressobj()
        # A byte more than may come, so that too long a stream shows; 0 would mean no limit.
        out = stream.decompress(data, size + 1)
        if not stream.eof or stream.unused_data:
            raise zlib.error("the stream is cut short, too long, or has bytes after its end")
        return out
