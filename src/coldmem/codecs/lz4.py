"""LZ4 by liblz4: the block format, without a frame.

Guarantees: as in ``codec.pxd``; `LZ4_decompress_safe` keeps to both buffers on any input.
Locks: none; the context is the hash table of one compression at a time.
"""

import cython
from cython.cimports.coldmem.codecs.library import load_lz4
from cython.cimports.libc.stdlib import free, malloc

from coldmem.errors import UnknownCodecError

SIZE_BYTES_MAX = cython.declare(cython.uint, 0x7E000000)  # LZ4_MAX_INPUT_SIZE
ACCELERATION_MAX = 65537  # what liblz4 clamps to


def lz4_compress(context, src, n, dst, cap, hint):
    c: Lz4ContextP = cython.cast(Lz4ContextP, context)
    if n > SIZE_BYTES_MAX:
        return -1
    if n == 0 or cap == 0:
        return 0
    if cap > SIZE_BYTES_MAX:
        cap = SIZE_BYTES_MAX
    # It returns 0 when cap is too small, which is our "incompressible".
    return c.settings.api.compress(
        cython.address(c.state), cython.cast("const char *", src), cython.cast("char *", dst),
        n, cap, c.settings.acceleration,
    )


def lz4_decompress(context, src, n, dst, cap):
    c: Lz4ContextP = cython.cast(Lz4ContextP, context)
    if n == 0 or n > SIZE_BYTES_MAX:
        return -1
    if cap > SIZE_BYTES_MAX:
        cap = SIZE_BYTES_MAX
    return c.settings.api.decompress(
        cython.cast("const char *", src), cython.cast("char *", dst), n, cap
    )


def lz4_context_new(self, unit_bytes):
    settings: Lz4SettingsP = cython.cast(Lz4SettingsP, self)
    c: Lz4ContextP = cython.cast(
        Lz4ContextP, malloc(cython.sizeof(Lz4Context) + settings.api.state_bytes())
    )
    if c != cython.NULL:
        c.settings = settings
    return c


def lz4_context_free(context):
    free(context)


class Lz4Codec(Codec):
    """LZ4. A higher `acceleration` is faster and compresses less.

    Parameters
    ----------
    acceleration : int, optional
        1 to 65537.
    """

    def __init__(self, acceleration=1):
        if not 1 <= acceleration <= ACCELERATION_MAX:
            raise UnknownCodecError(
                f"lz4:{acceleration}: the acceleration is 1 to {ACCELERATION_MAX}"
            )
        load_lz4(cython.address(self.settings.api))
        self.settings.acceleration = acceleration
        self.name = "lz4" if acceleration == 1 else f"lz4:{acceleration}"
        self.c.compress = lz4_compress
        self.c.decompress = lz4_decompress
        self.c.context_new = lz4_context_new
        self.c.context_free = lz4_context_free
        self.c.self = cython.address(self.settings)
