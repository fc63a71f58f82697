"""The codec `auto`: per neighbourhood of data, the filter under which it compresses best.

It needs no type of the data: it samples a unit, compresses the sample plainly and behind bit shuffle
and delta + bit shuffle for items of 8, 4, 2 and 1 bytes, and takes the smallest; a filter must gain
more than 3 %, and what stays above 97 % is left raw. The choice is remembered per `hint`; unless it is
plain, or much smaller than plain, four units must agree on it, or one odd unit at the beginning of a
region would decide for all of it. Behind a filter, planes.py is tried in place of the inner codec: it is
several times as fast.

Owns: the table of choices, shared by all contexts of the codec.
Guarantees: as in ``codec.pxd``. The first byte of the output is the variant, so decompression needs
no memory, and forgetting or confusing a choice costs time or bytes, never data.
It looks again: when a unit comes out 1.25 times larger than expected, less and less often while that
goes on (a mixed region would sample all the time); every 32nd unit in regions that were picked raw;
every 1024th unit elsewhere, so that a region whose data became more regular is noticed too.
Locks: none. A table entry is one word, read and written with relaxed atomics; two threads that
choose for one hint at once overwrite each other, which is harmless.

A word of the table, from the top: tag of the hint (32 bits), doubt (3), variant + 1 (5), expected
ratio (12), cooldown (8), backoff (4). 0 is an empty entry.
"""

import cython
from cython.cimports.coldmem.codecs.bitshuffle import find_shuffler
from cython.cimports.coldmem.codecs.filters import apply_filter, undo_filter
from cython.cimports.coldmem.codecs.planes import (
    BLOCK_BYTES,
    planes_compress,
    planes_decompress,
    planes_fit,
)
from cython.cimports.coldmem.linux.atomic import a64_load_rlx, a64_store_rlx
from cython.cimports.cpython.bytes import PyBytes_AS_STRING, PyBytes_FromStringAndSize
from cython.cimports.libc.stdint import int32_t, uint8_t, uint32_t, uint64_t
from cython.cimports.libc.stdlib import calloc, free
from cython.cimports.libc.string import memcpy
from cython.cimports.posix.stdlib import posix_memalign

VARIANT_NAMES = (
    "plain", "bitshuffle8", "bitshuffle4", "bitshuffle2", "bitshuffle1",
    "delta8+bitshuffle8", "delta4+bitshuffle4", "delta2+bitshuffle2", "delta1+bitshuffle1",
    "bitshuffle8+planes", "bitshuffle4+planes", "bitshuffle2+planes", "bitshuffle1+planes",
    "delta8+bitshuffle8+planes", "delta4+bitshuffle4+planes", "delta2+bitshuffle2+planes",
    "delta1+bitshuffle1+planes", "raw",
)
HASH = cython.declare(uint64_t, 0x9E3779B97F4A7C15)
RAW_PERIOD = cython.declare(uint32_t, 32)  # 2-powers, both
PERIOD = cython.declare(uint32_t, 1024)
BACKOFF_MAX = cython.declare(uint32_t, 7)
PLANES_SLACK = cython.declare(uint32_t, 256)
SURE_PERCENT = cython.declare(uint64_t, 85)  # of plain: what is smaller needs no second look
DOUBT = cython.declare(uint32_t, 3)
SLACK = cython.declare(uint32_t, 16)  # in 1/1024: tiny results vary a lot, and it does not matter


def recall(s, hint, m):
    h: uint64_t = hint * HASH
    i: uint64_t = h & (TABLE_ENTRIES - 1)
    way: cython.int
    word: uint64_t
    h >>= 32
    for way in range(2):
        word = a64_load_rlx(cython.address(s.table[i ^ way]))
        if word != 0 and word >> 32 == h:
            m.variant = ((word >> 24) & 31) - 1
            m.doubt = (word >> 29) & 7
            m.expected = (word >> 12) & 4095
            m.cooldown = (word >> 4) & 255
            m.backoff = word & 15
            return True
    return False


def remember(s, hint, m):
    h: uint64_t = hint * HASH
    i: uint64_t = h & (TABLE_ENTRIES - 1)
    new: uint64_t
    word: uint64_t
    h >>= 32
    new = (
        (h << 32) | (cython.cast(uint64_t, (m.doubt & 7) << 5 | (m.variant + 1)) << 24)
        | (cython.cast(uint64_t, m.expected & 4095) << 12)
        | ((m.cooldown & 255) << 4) | (m.backoff & 15)
    )
    word = a64_load_rlx(cython.address(s.table[i]))
    if word != 0 and word >> 32 != h:
        # The first place is taken: the second, unless a third hint already had it.
        word = a64_load_rlx(cython.address(s.table[i ^ 1]))
        if word == 0 or word >> 32 == h or h & 1:
            i ^= 1
    a64_store_rlx(cython.address(s.table[i]), new)


def try_variant(c, variant, src, n, dst, cap, hint):
    """The inner codec behind the filters of a variant, without the first byte."""
    s: AutoSettingsP = c.settings
    filtered: cython.pointer(uint8_t)
    width: int32_t
    if variant == 0:
        return s.inner.compress(c.inner, src, n, dst, cap, hint)
    width = 8 >> ((variant - 1) & 3)
    if variant > FILTERS:
        if not planes_fit(n, width):
            return 0
        return planes_compress(
            cython.address(s.shuffler), width, variant > FILTERS + 4, src, n, c.a, c.b, dst, cap
        )
    filtered = apply_filter(cython.address(s.shuffler), width, variant > 4, src, n, c.a, c.b)
    if filtered == cython.NULL:
        return -1
    return s.inner.compress(c.inner, filtered, n, dst, cap, hint)


def look(c, src, n, hint, m):
    """Sample `src` and put the best variant and its ratio into `m`. 0, or -1 on error."""
    i: uint32_t
    sampled: uint32_t = n
    limit: uint32_t
    best: uint32_t
    plain: uint32_t
    room: uint32_t
    fits: uint32_t = 0
    liked: uint32_t = 0
    size: int32_t
    sample: cython.pointer(uint8_t) = c.sample
    c.looks += 1
    if n > SAMPLE_BYTES:
        sampled = SAMPLE_BYTES
        for i in range(cython.cast(uint32_t, SAMPLE_PIECES)):
            memcpy(
                sample + i * (SAMPLE_BYTES // SAMPLE_PIECES),
                src + cython.cast(uint64_t, n - SAMPLE_BYTES // SAMPLE_PIECES) * i
                // (SAMPLE_PIECES - 1) // 64 * 64,
                SAMPLE_BYTES // SAMPLE_PIECES,
            )
    else:
        memcpy(sample, src, n)
    m.variant = 0
    size = try_variant(c, 0, sample, sampled, c.packed, sampled, hint)
    if size < 0:
        return -1
    best = size if size != 0 else sampled
    plain = best
    # What a filter must come down to. Everybody gets no more room than winning takes, so that losers
    # end early.
    limit = cython.cast(uint64_t, best) * 97 // 100
    if planes_fit(sampled, 8) and planes_fit(n, 8):
        # Planes tell which filter suits at a quarter of the cost of the inner codec, which then is
        # tried for the width that they like best, and must gain more than it costs in time.
        room = sampled
        for i in range(1, FILTERS + 1):
            if i == 5:
                room = cython.cast(uint64_t, room) * 97 // 100  # delta costs time as well
            size = try_variant(c, i + FILTERS, sample, sampled, c.packed, room, hint)
            if size != 0:
                room = size - 1
                liked = i
                fits = size
        if liked != 0 and fits <= limit:
            m.variant = liked + FILTERS
            best = fits
            limit = best - sampled // PLANES_SLACK if best > sampled // PLANES_SLACK else 0
    for i in range(1, FILTERS + 1):
        if limit < 8:
            break
        if liked != 0 and (i - liked) & 3 != 0:
            continue
        size = try_variant(c, i, sample, sampled, c.packed, limit, hint)
        if size < 0:
            return -1
        if size != 0:
            m.variant = i
            best = size
            limit = best - 1
    if cython.cast(uint64_t, best) * 100 > cython.cast(uint64_t, sampled) * 97:
        m.variant = RAW
    m.doubt = 0
    if m.variant == RAW or (m.variant != 0 and cython.cast(uint64_t, best) * 100
                            > cython.cast(uint64_t, plain) * SURE_PERCENT):
        m.doubt = DOUBT
    m.expected = cython.cast(uint64_t, best) * 1024 // sampled
    return 0


def pack(c, variant, src, n, dst, cap, hint):
    """A whole unit with a variant and its first byte."""
    size: int32_t
    if variant == RAW:
        return 0
    size = try_variant(c, variant, src, n, dst + 1, cap - 1, hint)
    if size <= 0:
        return size
    dst[0] = variant
    return size + 1


def auto_compress(context, src, n, dst, cap, hint):
    c: AutoContextP = cython.cast(AutoContextP, context)
    m: Memory
    fresh: Memory
    size: int32_t
    ratio: uint32_t
    if n > c.unit_bytes:
        return -1
    if n < 2 or cap < 2:
        return 0
    if not recall(c.settings, hint, cython.address(m)):
        m.cooldown = 0
        m.backoff = 0
        if look(c, src, n, hint, cython.address(m)) != 0:
            return -1
        remember(c.settings, hint, cython.address(m))
        return pack(c, m.variant, src, n, dst, cap, hint)
    if m.doubt:
        if look(c, src, n, hint, cython.address(fresh)) != 0:
            return -1
        fresh.cooldown = 0
        fresh.backoff = m.backoff
        if fresh.variant == m.variant:
            fresh.doubt = m.doubt - 1
        remember(c.settings, hint, cython.address(fresh))
        return pack(c, fresh.variant, src, n, dst, cap, hint)
    if m.variant == RAW:
        c.raw_seen += 1
        if c.raw_seen & (RAW_PERIOD - 1):
            return 0
    else:
        c.seen += 1
        if c.seen & (PERIOD - 1):
            size = pack(c, m.variant, src, n, dst, cap, hint)
            if size < 0:
                return size
            ratio = cython.cast(uint64_t, size) * 1024 // n if size else 1024
            if ratio * 4 <= m.expected * 5 + 4 * SLACK:
                return size
            # A surprise. Look again, unless that was done a moment ago.
            if m.cooldown > 0:
                m.cooldown -= 1
                remember(c.settings, hint, cython.address(m))
                return size
            if look(c, src, n, hint, cython.address(fresh)) != 0:
                return -1
            fresh.cooldown = 1 << m.backoff
            fresh.backoff = m.backoff + 1 if m.backoff < BACKOFF_MAX else BACKOFF_MAX
            remember(c.settings, hint, cython.address(fresh))
            if fresh.variant == m.variant or fresh.variant == RAW:
                return size
            # dst holds the result of the old choice; the sample may have been wrong about the whole.
            ratio = size
            size = pack(c, fresh.variant, src, n, dst, ratio - 1 if ratio else cap, hint)
            if size == 0 and ratio != 0:
                return pack(c, m.variant, src, n, dst, cap, hint)
            return size
    # Its turn has come: look again, and let surprises count a little more.
    if look(c, src, n, hint, cython.address(fresh)) != 0:
        return -1
    fresh.cooldown = 0
    fresh.backoff = m.backoff - 1 if m.backoff else 0
    remember(c.settings, hint, cython.address(fresh))
    return pack(c, fresh.variant, src, n, dst, cap, hint)


def auto_decompress(context, src, n, dst, cap):
    c: AutoContextP = cython.cast(AutoContextP, context)
    s: AutoSettingsP = c.settings
    variant: uint32_t
    width: int32_t
    size: int32_t
    if n < 2:
        return -1
    variant = src[0]
    if variant >= VARIANTS:
        return -1
    if cap > c.unit_bytes:
        cap = c.unit_bytes
    if variant == 0:
        return s.inner.decompress(c.inner, src + 1, n - 1, dst, cap)
    width = 8 >> ((variant - 1) & 3)
    if variant > FILTERS:
        return planes_decompress(
            cython.address(s.shuffler), width, variant > FILTERS + 4, src + 1, n - 1, c.a, dst, cap
        )
    size = s.inner.decompress(c.inner, src + 1, n - 1, c.a, cap)
    if size < 0 or cython.cast(uint32_t, size) > cap:
        return -1
    if undo_filter(cython.address(s.shuffler), width, variant > 4, c.a, size, dst) != 0:
        return -1
    return size


def auto_context_new(self, unit_bytes):
    s: AutoSettingsP = cython.cast(AutoSettingsP, self)
    c: AutoContextP
    p: cython.p_void = cython.NULL
    step: cython.size_t = (cython.cast(cython.size_t, unit_bytes) + 63) // 64 * 64
    if step < BLOCK_BYTES:
        step = BLOCK_BYTES
    if posix_memalign(cython.address(p), 64, 128 + 2 * step + 2 * SAMPLE_BYTES) != 0:
        return cython.NULL
    c = cython.cast(AutoContextP, p)
    c.settings = s
    c.unit_bytes = unit_bytes
    c.raw_seen = 0
    c.seen = 0
    c.looks = 0
    c.a = cython.cast(BytesOut, p) + 128
    c.b = c.a + step
    c.sample = c.b + step
    c.packed = c.sample + SAMPLE_BYTES
    c.inner = s.inner.context_new(s.inner.self, step)
    if c.inner == cython.NULL:
        free(p)
        return cython.NULL
    return p


def auto_context_free(context):
    c: AutoContextP = cython.cast(AutoContextP, context)
    if c != cython.NULL:
        c.settings.inner.context_free(c.inner)
        free(context)


# no_gc_clear: contexts use the inner codec, which a collected cycle must not drop first.
@cython.no_gc_clear
@cython.cclass
class AutoCodec(Codec):
    """Picks filters by looking at the data.

    Parameters
    ----------
    inner : Codec
        What compresses, behind the filters or plainly.
    portable : bool, optional
        Use neither SIMD nor libblosc2 even where they are. The bytes are the same.
    """

    def __cinit__(self, *args, **kwargs):
        self.settings.table = cython.cast(
            cython.pointer(uint64_t), calloc(TABLE_ENTRIES, cython.sizeof(uint64_t))
        )
        if self.settings.table == cython.NULL:
            raise MemoryError("no memory for the picker's table")

    def __dealloc__(self):
        free(self.settings.table)

    def __init__(self, inner, portable=False):
        codec: Codec = inner
        self.inner = codec
        self.settings.inner = codec.c
        find_shuffler(cython.address(self.settings.shuffler), portable)
        self.name = "auto" if codec.name == "lz4" else f"auto+{codec.name}"
        self.c.compress = auto_compress
        self.c.decompress = auto_decompress
        self.c.context_new = auto_context_new
        self.c.context_free = auto_context_free
        self.c.self = cython.address(self.settings)

    def variants(self, data):
        """What each variant makes of `data`: a dict of outputs by name, without those that fail."""
        out = {}
        copy: bytes = bytes(data)
        src: BytesP = cython.cast(BytesP, PyBytes_AS_STRING(copy))
        n: uint32_t = len(copy)
        size: int32_t
        i: uint32_t
        room: bytes = PyBytes_FromStringAndSize(cython.NULL, n)
        dst: BytesOut = cython.cast(BytesOut, PyBytes_AS_STRING(room))
        c: AutoContextP = cython.cast(AutoContextP, auto_context_new(self.c.self, n))
        if c == cython.NULL:
            raise MemoryError("no memory for a context")
        for i in range(cython.cast(uint32_t, VARIANTS)):
            size = pack(c, i, src, n, dst, n - 1, 0) if n > 2 else 0
            if size > 0:
                out[VARIANT_NAMES[i]] = room[:size]
        auto_context_free(c)
        return out

    def choice(self, hint):
        """What is remembered under `hint`: a name such as "bitshuffle8" and a ratio, or None."""
        m: Memory
        key: uint64_t = hint
        if not recall(cython.address(self.settings), key, cython.address(m)):
            return None
        return VARIANT_NAMES[m.variant], m.expected / 1024

    @staticmethod
    def variant(data):
        """The filters that `compress` chose for this output."""
        first = memoryview(data).cast("B")[0]
        return VARIANT_NAMES[first] if first < VARIANTS else None
