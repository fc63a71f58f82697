"""A codec behind filters: bit shuffle, or delta and bit shuffle.

Owns: the inner codec's object, as long as this one lives; a context owns two buffers of a unit.
Guarantees: as in ``codec.pxd``, if the inner codec keeps them.
Assumes: units no larger than the context was made for; larger ones are an error.
Locks: none.
"""

import cython
from cython.cimports.coldmem.codecs.bitshuffle import (
    delta,
    find_shuffler,
    shuffle,
    shuffle_differences,
    undelta,
    unshuffle,
    unshuffle_differences,
)
from cython.cimports.libc.stdint import int32_t, uint8_t, uint32_t
from cython.cimports.libc.stdlib import free
from cython.cimports.posix.stdlib import posix_memalign

from coldmem.errors import UnknownCodecError

WIDTHS = (8, 4, 2, 1)


def apply_filter(s, width, with_delta, src, n, a, b):
    if not with_delta:
        return a if shuffle(s, width, n, src, a) == 0 else cython.NULL
    if n % (8 * width) == 0:
        return b if shuffle_differences(s, width, n, src, cython.NULL, a, b) == 0 else cython.NULL
    delta(width, n, src, a)
    return b if shuffle(s, width, n, a, b) == 0 else cython.NULL


def undo_filter(s, width, with_delta, src, n, dst):
    if with_delta and n % (8 * width) == 0:
        return unshuffle_differences(s, width, n, src, cython.NULL, dst)
    if unshuffle(s, width, n, src, dst) != 0:
        return -1
    if with_delta:
        undelta(width, n, dst)
    return 0


def filter_compress(context, src, n, dst, cap, hint):
    c: FilterContextP = cython.cast(FilterContextP, context)
    s: FilterSettingsP = c.settings
    filtered: cython.pointer(uint8_t)
    if n > c.unit_bytes:
        return -1
    filtered = apply_filter(
        cython.address(s.shuffler), s.width, s.with_delta, src, n, c.a, c.b
    )
    if filtered == cython.NULL:
        return -1
    return s.inner.compress(c.inner, filtered, n, dst, cap, hint)


def filter_decompress(context, src, n, dst, cap):
    c: FilterContextP = cython.cast(FilterContextP, context)
    s: FilterSettingsP = c.settings
    size: int32_t
    if cap > c.unit_bytes:
        cap = c.unit_bytes
    size = s.inner.decompress(c.inner, src, n, c.a, cap)
    # An inner codec that says more than it may write is broken; do not follow it.
    if size < 0 or cython.cast(uint32_t, size) > cap:
        return -1
    if undo_filter(cython.address(s.shuffler), s.width, s.with_delta, c.a, size, dst) != 0:
        return -1
    return size


def filter_context_new(self, unit_bytes):
    s: FilterSettingsP = cython.cast(FilterSettingsP, self)
    c: FilterContextP
    p: cython.p_void = cython.NULL
    step: cython.size_t = (cython.cast(cython.size_t, unit_bytes) + 63) // 64 * 64
    if posix_memalign(cython.address(p), 64, 64 + 2 * step) != 0:
        return cython.NULL
    c = cython.cast(FilterContextP, p)
    c.settings = s
    c.unit_bytes = unit_bytes
    c.a = cython.cast(BytesOut, p) + 64
    c.b = c.a + step
    c.inner = s.inner.context_new(s.inner.self, unit_bytes)
    if c.inner == cython.NULL:
        free(p)
        return cython.NULL
    return p


def filter_context_free(context):
    c: FilterContextP = cython.cast(FilterContextP, context)
    if c != cython.NULL:
        c.settings.inner.context_free(c.inner)
        free(context)


# no_gc_clear: contexts use the inner codec, which a collected cycle must not drop first.
@cython.no_gc_clear
@cython.cclass
class FilterCodec(Codec):
    """An inner codec behind bit shuffle, or behind delta and bit shuffle.

    Parameters
    ----------
    inner : Codec
        What compresses the filtered bytes.
    width : int
        Bytes of an item: 1, 2, 4 or 8.
    with_delta : bool, optional
        Take differences of neighbouring items first.
    portable : bool, optional
        Use neither SIMD nor libblosc2 even where they are. The bytes are the same.
    """

    def __init__(self, inner, width, with_delta=False, portable=False):
        codec: Codec = inner
        if width not in WIDTHS:
            raise UnknownCodecError(f"bitshuffle{width}: the item width is 1, 2, 4 or 8")
        self.inner = codec
        self.settings.inner = codec.c
        self.settings.width = width
        self.settings.with_delta = with_delta
        find_shuffler(cython.address(self.settings.shuffler), portable)
        prefix = f"delta{width}+" if with_delta else ""
        self.name = f"{prefix}bitshuffle{width}+{codec.name}"
        self.c.compress = filter_compress
        self.c.decompress = filter_decompress
        self.c.context_new = filter_context_new
        self.c.context_free = filter_context_free
        self.c.self = cython.address(self.settings)
