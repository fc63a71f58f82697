"""The loops of ``bench engine``: the bare codec and coldmem, side by side on the same units.

Owns: the log of the bare codec, one output buffer, one codec context.
Guarantees: the bare side does the least that a program must do which keeps compressed units: it
compresses each unit straight to the end of a log (no second copy, no allocator: the cheapest place
there is), and decompresses from there. The codec gets the same limit on its output as coldmem gives
it; what does not fit is kept as it came, by a copy, as coldmem does. The log is as large as its live
results, so both sides touch about the same memory. Each call times one block and returns
nanoseconds; `errors` counts whatever failed.
Assumes: one thread; the Zswap is large enough that nothing is written back.
"""

import zlib

import cython
from cython.cimports.coldmem.codecs.codec import Codec
from cython.cimports.coldmem.linux.atomic import now_ns
from cython.cimports.coldmem.zswap.context import context_get, context_put
from cython.cimports.coldmem.zswap.load import zswap_invalidate, zswap_load
from cython.cimports.coldmem.zswap.state import GROUP_ROOT, WorkContextP
from cython.cimports.coldmem.zswap.store import zswap_store
from cython.cimports.coldmem.zswap.zswap import Zswap
from cython.cimports.libc.stdint import int32_t, uint32_t, uint64_t
from cython.cimports.libc.stdlib import calloc, free, malloc
from cython.cimports.libc.string import memcpy, memset

from coldmem.errors import InternalError, UsageError

LOG_ALIGN = cython.declare(uint64_t, 16)


def bare_compress(e, begin, end):
    i: uint32_t
    n: int32_t
    src: constP
    for i in range(begin, end):
        src = e.data + cython.cast(uint64_t, i) * e.unit_bytes
        if e.log_end + e.unit_bytes > e.log_bytes:
            e.log_end = 0
        n = e.codec.compress(e.codec_context, src, e.unit_bytes, e.log + e.log_end, e.cap, i)
        if n <= 0:
            if n < 0:
                e.errors += 1
            memcpy(e.log + e.log_end, src, e.unit_bytes)
            n = e.unit_bytes
        e.log_at[i] = e.log_end
        e.log_n[i] = n
        e.log_end += (cython.cast(uint64_t, n) + LOG_ALIGN - 1) & ~(LOG_ALIGN - 1)


def bare_decompress(e, begin, end):
    i: uint32_t
    for i in range(begin, end):
        if e.log_n[i] == e.unit_bytes:
            memcpy(e.out, e.log + e.log_at[i], e.unit_bytes)
        elif e.codec.decompress(
            e.codec_context, e.log + e.log_at[i], e.log_n[i], e.out, e.unit_bytes
        ) != cython.cast(int32_t, e.unit_bytes):
            e.errors += 1


def coldmem_store(e, begin, end):
    i: uint32_t
    w: WorkContextP
    for i in range(begin, end):
        w = context_get(e.zswap)
        if zswap_store(
            e.zswap, i, e.data + cython.cast(uint64_t, i) * e.unit_bytes, GROUP_ROOT, w
        ) != 0:
            e.errors += 1
        context_put(e.zswap, w)


def coldmem_load(e, begin, end):
    i: uint32_t
    w: WorkContextP
    for i in range(begin, end):
        w = context_get(e.zswap)
        if zswap_load(e.zswap, i, e.out, False, w) != cython.cast(int32_t, e.unit_bytes):
            e.errors += 1
        context_put(e.zswap, w)


def coldmem_invalidate(e, begin, end):
    i: uint32_t
    w: WorkContextP
    for i in range(begin, end):
        w = context_get(e.zswap)
        if not zswap_invalidate(e.zswap, i, w):
            e.errors += 1
        context_put(e.zswap, w)


# no_gc_clear: __dealloc__ uses the codec, which a collected cycle must not drop first.
@cython.no_gc_clear
@cython.cclass
class EngineWork:
    def __cinit__(self):
        memset(cython.address(self.c), 0, cython.sizeof(EngineC))

    def __init__(self, zswap, codec, data):
        # data: bytes, a whole number of units
        z: Zswap = zswap
        k: Codec = codec
        whole: bytes = data
        if not whole or len(whole) % z.unit_bytes:
            raise UsageError(f"the data must be whole units of {z.unit_bytes} bytes")
        self.keep = (zswap, codec, whole)
        self.c.zswap = z.c
        self.c.codec = cython.address(k.c)
        self.c.unit_bytes = z.unit_bytes
        self.c.units_n = len(whole) // z.unit_bytes
        self.c.cap = z.c.compress_cap
        text: constP = whole
        self.c.data = text
        self.c.log_at = cython.cast(U64P, calloc(self.c.units_n, 8))
        self.c.log_n = cython.cast(U32P, calloc(self.c.units_n, 4))
        self.c.out = cython.cast(U8P, malloc(self.c.unit_bytes + 64))
        if self.c.codec.context_new != cython.NULL:
            self.c.codec_context = self.c.codec.context_new(self.c.codec.self, self.c.unit_bytes)
        if self.c.log_at == cython.NULL or self.c.log_n == cython.NULL or self.c.out == cython.NULL:
            raise MemoryError("no memory for the bare codec's results")
        # Once into a log that is large enough for anything, to learn how large it must be.
        self._new_log(cython.cast(uint64_t, self.c.units_n + 1) * (self.c.unit_bytes + LOG_ALIGN))
        with cython.nogil:
            bare_compress(cython.address(self.c), 0, self.c.units_n)
        # Live results, a gap that a codec may scribble on, and what is lost at the wrap.
        self._new_log(self.c.log_end + 4 * cython.cast(uint64_t, self.c.unit_bytes))
        with cython.nogil:
            bare_compress(cython.address(self.c), 0, self.c.units_n)

    def _new_log(self, size):
        free(self.c.log)
        self.c.log = cython.cast(U8P, malloc(size))
        if self.c.log == cython.NULL:
            raise MemoryError("no memory for the bare codec's results")
        memset(self.c.log, 0, size)
        self.c.log_bytes = size
        self.c.log_end = 0

    def __dealloc__(self):
        if self.c.codec_context != cython.NULL:
            self.c.codec.context_free(self.c.codec_context)
        free(self.c.log_at)
        free(self.c.log_n)
        free(self.c.out)
        free(self.c.log)

    def units(self):
        return self.c.units_n

    def errors(self):
        return self.c.errors

    def compressed_bytes(self):
        """Of all units as the bare codec keeps them."""
        i: uint32_t
        total = 0
        for i in range(self.c.units_n):
            total += self.c.log_n[i]
        return total

    def bare_compress_ns(self, begin, end):
        b: uint32_t = begin
        n: uint32_t = end
        t: uint64_t
        with cython.nogil:
            t = now_ns()
            bare_compress(cython.address(self.c), b, n)
            t = now_ns() - t
        return t

    def bare_decompress_ns(self, begin, end):
        b: uint32_t = begin
        n: uint32_t = end
        t: uint64_t
        with cython.nogil:
            t = now_ns()
            bare_decompress(cython.address(self.c), b, n)
            t = now_ns() - t
        return t

    def store_ns(self, begin, end):
        b: uint32_t = begin
        n: uint32_t = end
        t: uint64_t
        with cython.nogil:
            t = now_ns()
            coldmem_store(cython.address(self.c), b, n)
            t = now_ns() - t
        return t

    def load_ns(self, begin, end):
        b: uint32_t = begin
        n: uint32_t = end
        t: uint64_t
        with cython.nogil:
            t = now_ns()
            coldmem_load(cython.address(self.c), b, n)
            t = now_ns() - t
        return t

    def invalidate_ns(self, begin, end):
        b: uint32_t = begin
        n: uint32_t = end
        t: uint64_t
        with cython.nogil:
            t = now_ns()
            coldmem_invalidate(cython.address(self.c), b, n)
            t = now_ns() - t
        return t

    def verify(self):
        """Checksum of all units as both sides give them back; they must be the units themselves."""
        i: uint32_t
        bare = cold = 0
        for i in range(self.c.units_n):
            bare_decompress(cython.address(self.c), i, i + 1)
            bare = zlib.crc32(self.c.out[: self.c.unit_bytes], bare)
            coldmem_load(cython.address(self.c), i, i + 1)
            cold = zlib.crc32(self.c.out[: self.c.unit_bytes], cold)
        want = zlib.crc32(self.keep[2])
        if bare != want or cold != want or self.c.errors:
            raise InternalError(
                f"units came back changed: bare {bare:08x}, coldmem {cold:08x}, want {want:08x}, "
                f"{self.c.errors} errors"
            )
        return f"{want:08x}"
