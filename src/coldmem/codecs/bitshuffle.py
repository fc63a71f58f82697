# distutils: extra_compile_args = -O3
"""Bit shuffle and delta: filters that make numbers easier to compress.

Bit shuffle of n items, `width` bytes each, writes bit 0 of all items, then bit 1 of all, and so on:
plane t starts at byte t * n / 8 and has bit t of item i at its bit i, least significant first. This
is the layout of libblosc2's `blosc2_bitshuffle`, byte for byte. Delta replaces each item by its
difference to the one before, modulo 2**(8 * width).

There are four ways to shuffle: AVX-512 with GFNI and AVX2 (_simd.h), libblosc2, and portable code.
What one wrote, the others read. A faster way that this machine has is taken first.

Guarantees: any length: a tail of less than 8 * width bytes (delta: width) is copied.
Assumes: a little-endian machine.
Locks: none, no state.
"""

import os

import cython
from cython.cimports.coldmem.codecs.library import Blosc2Api, load_blosc2
from cython.cimports.coldmem.codecs.simd import (
    avx2_backward,
    avx2_forward,
    avx2_init,
    avx512_backward,
    avx512_delta_backward,
    avx512_delta_forward,
    avx512_forward,
    avx512_init,
)
from cython.cimports.cpython.bytes import PyBytes_AS_STRING, PyBytes_FromStringAndSize
from cython.cimports.libc.stdint import int32_t, uint8_t, uint16_t, uint32_t, uint64_t
from cython.cimports.libc.string import memcpy, memset

from coldmem.errors import (
    CodecError,
    InvalidSizeError,
    MissingLibraryError,
    UnknownCodecError,
    UsageError,
)

WIDTHS = (8, 4, 2, 1)
WAYS = {"portable": PORTABLE, "blosc2": BLOSC2, "avx2": AVX2, "avx512": AVX512}

# Places inside a 64-bit word whose bit 5, 4, … 0 is 0.
M5 = cython.declare(uint64_t, 0x00000000FFFFFFFF)
M4 = cython.declare(uint64_t, 0x0000FFFF0000FFFF)
M3 = cython.declare(uint64_t, 0x00FF00FF00FF00FF)
M2 = cython.declare(uint64_t, 0x0F0F0F0F0F0F0F0F)
M1 = cython.declare(uint64_t, 0x3333333333333333)
M0 = cython.declare(uint64_t, 0x5555555555555555)
TOP1 = cython.declare(uint64_t, 0x8080808080808080)  # top bit of each byte
TOP2 = cython.declare(uint64_t, 0x8000800080008000)  # and of each pair of bytes
LANES4 = cython.declare(uint64_t, 0x0001000100010001)


def find_shuffler(s, portable):
    """The first that there is of WAYS from the end.

    The environment variable COLDMEM_SHUFFLE has another wish; what this machine lacks is portable.
    """
    wish: str = "portable" if portable else os.environ.get("COLDMEM_SHUFFLE", "")
    if wish and wish not in WAYS:
        raise UsageError(f"COLDMEM_SHUFFLE={wish}: choose one of {', '.join(WAYS)}")
    for name in reversed(WAYS):
        if (not wish or wish == name) and use_way(s, WAYS[name]):
            return
    use_way(s, PORTABLE)


def use_way(s, way):
    """Nothing is changed where the way is not to be had."""
    api: Blosc2Api
    probe: uint8_t[16]
    out: uint8_t[16]
    if way == AVX2:
        if not avx2_init():
            return False
        s.forward = avx2_bitshuffle
        s.backward = avx2_bitunshuffle
        s.backward_narrow = avx2_bitunshuffle
    elif way == AVX512:
        if not avx512_init():
            return False
        s.forward = avx512_bitshuffle
        s.backward = avx512_bitunshuffle
        s.backward_narrow = avx512_bitunshuffle
    elif way == BLOSC2:
        try:
            load_blosc2(cython.address(api))
        except MissingLibraryError:
            return False
        # libblosc2 chooses its SIMD code at the first call: let that be here, with one thread.
        memset(cython.address(probe[0]), 0, 16)
        api.bitshuffle(1, 16, cython.address(probe[0]), cython.address(out[0]))
        s.forward = api.bitshuffle
        s.backward = api.bitunshuffle
        # libblosc2's way back is slower than ours for narrow items: 2.5 against 5 GB/s at width 1.
        s.backward_narrow = portable_bitunshuffle
    else:
        s.forward = portable_bitshuffle
        s.backward = portable_bitunshuffle
        s.backward_narrow = portable_bitunshuffle
    s.way = way
    return True


def shuffle(s, width, n, src, dst):
    whole: uint32_t = n - n % (8 * width)
    if whole:
        if s.forward(width, whole, src, dst) < 0:
            return -1
    memcpy(dst + whole, src + whole, n - whole)
    return 0


def unshuffle(s, width, n, src, dst):
    whole: uint32_t = n - n % (8 * width)
    if whole:
        if width <= 2:
            if s.backward_narrow(width, whole, src, dst) < 0:
                return -1
        elif s.backward(width, whole, src, dst) < 0:
            return -1
    memcpy(dst + whole, src + whole, n - whole)
    return 0


def shuffle_differences(s, width, n, src, before, between, dst):
    first: uint64_t = 0
    done: uint32_t = 0
    if s.way == AVX512 and n % (512 * width) == 0:
        if before != cython.NULL:
            memcpy(cython.address(first), before, width)
        while done < n:
            avx512_delta_forward(width, first, src + done, dst + done // (8 * width), n // (8 * width))
            done += 512 * width
            memcpy(cython.address(first), src + done - width, width)
        return 0
    delta(width, n, src, between)
    if before != cython.NULL:
        combine_item(width, between, before, True)
    return 0 if s.forward(width, n, between, dst) >= 0 else -1


def unshuffle_differences(s, width, n, src, before, dst):
    last: uint64_t = 0
    done: uint32_t = 0
    if s.way == AVX512 and n % (512 * width) == 0:
        if before != cython.NULL:
            memcpy(cython.address(last), before, width)
        while done < n:
            avx512_delta_backward(width, last, src + done // (8 * width), n // (8 * width), dst + done)
            done += 512 * width
            memcpy(cython.address(last), dst + done - width, width)
        return 0
    if unshuffle(s, width, n, src, dst) != 0:
        return -1
    if before != cython.NULL:
        combine_item(width, dst, before, False)
    undelta(width, n, dst)
    return 0


# -- whole units, in blocks of 512 items, the last one filled up with zeros -----------------------
def shuffle_blocks(block, width, n, src, dst):
    padded: uint64_t[512]
    rows: uint64_t[512]
    octets: int32_t = n // (8 * width)
    done: int32_t = 0
    count: int32_t
    plane: cython.int
    p: ConstBytes = cython.cast(ConstBytes, src)
    q: MutBytes = cython.cast(MutBytes, dst)
    while octets - done >= 64:
        block(width, p + done * 8 * width, q + done, octets)
        done += 64
    count = octets - done
    if count:
        memset(padded, 0, 512 * width)
        memcpy(padded, p + done * 8 * width, count * 8 * width)
        block(width, cython.cast(ConstBytes, padded), cython.cast(MutBytes, rows), 64)
        for plane in range(8 * width):
            memcpy(q + plane * octets + done, cython.address(rows[plane * 8]), count)
    return n


def unshuffle_blocks(block, width, n, src, dst):
    padded: uint64_t[512]
    rows: uint64_t[512]
    octets: int32_t = n // (8 * width)
    done: int32_t = 0
    count: int32_t
    plane: cython.int
    p: ConstBytes = cython.cast(ConstBytes, src)
    q: MutBytes = cython.cast(MutBytes, dst)
    while octets - done >= 64:
        block(width, p + done, octets, q + done * 8 * width)
        done += 64
    count = octets - done
    if count:
        memset(rows, 0, 512 * width)
        for plane in range(8 * width):
            memcpy(cython.address(rows[plane * 8]), p + plane * octets + done, count)
        block(width, cython.cast(ConstBytes, rows), 64, cython.cast(MutBytes, padded))
        memcpy(q + done * 8 * width, padded, count * 8 * width)
    return n


def portable_bitshuffle(width, n, src, dst):
    return shuffle_blocks(portable_forward, width, n, src, dst)


def portable_bitunshuffle(width, n, src, dst):
    return unshuffle_blocks(portable_backward, width, n, src, dst)


def avx2_bitshuffle(width, n, src, dst):
    return shuffle_blocks(avx2_forward, width, n, src, dst)


def avx2_bitunshuffle(width, n, src, dst):
    return unshuffle_blocks(avx2_backward, width, n, src, dst)


def avx512_bitshuffle(width, n, src, dst):
    return shuffle_blocks(avx512_forward, width, n, src, dst)


def avx512_bitunshuffle(width, n, src, dst):
    return unshuffle_blocks(avx512_backward, width, n, src, dst)


# -- a block, portably -----------------------------------------------------------------------------
# A group is 64 items, 8 * width words as they lie in memory. A bit of it has an address of
# 9 + log2(width) bits: the number of its word, and its place in the word (6 bits). Shuffling is a
# permutation of these address bits, and each `swap_stage` swaps one of the first kind with one of
# the second; six stages do for every width. For width 8 that is the well-known transposition of a
# 64 x 64 matrix. The eight groups of a block go through the stages side by side, so that SIMD has
# lanes to work on and each plane is written a cache line at a time.
def portable_forward(width, p, dst, stride):
    a: uint64_t[512]
    k: cython.int
    g: cython.int
    words: cython.int = 8 * width
    for k in range(words):
        for g in range(8):
            a[k * 8 + g] = load64(p + (g * words + k) * 8)
    transpose(width, a)
    for k in range(words):
        memcpy(dst + plane_of_word(width, k) * stride, cython.address(a[k * 8]), 64)


def portable_backward(width, src, stride, p):
    a: uint64_t[512]
    k: cython.int
    g: cython.int
    words: cython.int = 8 * width
    for k in range(words):
        memcpy(cython.address(a[k * 8]), src + plane_of_word(width, k) * stride, 64)
    transpose_back(width, a)
    for g in range(8):
        for k in range(words):
            memcpy(p + (g * words + k) * 8, cython.address(a[k * 8 + g]), 8)


def transpose(width, a):
    if width == 8:
        swap_stage(a, 64, 32, 32, M5)
        swap_stage(a, 64, 16, 16, M4)
        swap_stage(a, 64, 8, 8, M3)
        swap_stage(a, 64, 4, 4, M2)
        swap_stage(a, 64, 2, 2, M1)
        swap_stage(a, 64, 1, 1, M0)
    elif width == 4:
        swap_stage(a, 32, 16, 32, M5)
        swap_stage(a, 32, 8, 16, M4)
        swap_stage(a, 32, 4, 8, M3)
        swap_stage(a, 32, 2, 4, M2)
        swap_stage(a, 32, 1, 2, M1)
        swap_stage(a, 32, 16, 1, M0)
    elif width == 2:
        swap_stage(a, 16, 8, 32, M5)
        swap_stage(a, 16, 4, 16, M4)
        swap_stage(a, 16, 2, 8, M3)
        swap_stage(a, 16, 1, 4, M2)
        swap_stage(a, 16, 8, 2, M1)
        swap_stage(a, 16, 4, 1, M0)
    else:
        swap_stage(a, 8, 4, 32, M5)
        swap_stage(a, 8, 2, 16, M4)
        swap_stage(a, 8, 1, 8, M3)
        swap_stage(a, 8, 4, 4, M2)
        swap_stage(a, 8, 2, 2, M1)
        swap_stage(a, 8, 1, 1, M0)


def transpose_back(width, a):
    if width == 8:
        swap_stage(a, 64, 1, 1, M0)
        swap_stage(a, 64, 2, 2, M1)
        swap_stage(a, 64, 4, 4, M2)
        swap_stage(a, 64, 8, 8, M3)
        swap_stage(a, 64, 16, 16, M4)
        swap_stage(a, 64, 32, 32, M5)
    elif width == 4:
        swap_stage(a, 32, 16, 1, M0)
        swap_stage(a, 32, 1, 2, M1)
        swap_stage(a, 32, 2, 4, M2)
        swap_stage(a, 32, 4, 8, M3)
        swap_stage(a, 32, 8, 16, M4)
        swap_stage(a, 32, 16, 32, M5)
    elif width == 2:
        swap_stage(a, 16, 4, 1, M0)
        swap_stage(a, 16, 8, 2, M1)
        swap_stage(a, 16, 1, 4, M2)
        swap_stage(a, 16, 2, 8, M3)
        swap_stage(a, 16, 4, 16, M4)
        swap_stage(a, 16, 8, 32, M5)
    else:
        swap_stage(a, 8, 1, 1, M0)
        swap_stage(a, 8, 2, 2, M1)
        swap_stage(a, 8, 4, 4, M2)
        swap_stage(a, 8, 1, 8, M3)
        swap_stage(a, 8, 2, 16, M4)
        swap_stage(a, 8, 4, 32, M5)


# -- delta -----------------------------------------------------------------------------------------
def delta(width, n, src, dst):
    i: uint32_t
    end: uint32_t = n - n % width
    v8: uint64_t
    v4: uint32_t
    v2: uint16_t
    if end == 0:
        memcpy(dst, src, n)
        return
    memcpy(dst, src, width)
    if width == 8:
        for i in range(8, end, 8):
            v8 = load64(src + i) - load64(src + i - 8)
            memcpy(dst + i, cython.address(v8), 8)
    elif width == 4:
        for i in range(4, end, 4):
            v4 = load32(src + i) - load32(src + i - 4)
            memcpy(dst + i, cython.address(v4), 4)
    elif width == 2:
        i = 2
        while i + 8 <= end:
            v8 = subtract_lanes(load64(src + i), load64(src + i - 2), TOP2)
            memcpy(dst + i, cython.address(v8), 8)
            i += 8
        while i < end:
            v2 = load16(src + i) - load16(src + i - 2)
            memcpy(dst + i, cython.address(v2), 2)
            i += 2
    else:
        i = 1
        while i + 8 <= end:
            v8 = subtract_lanes(load64(src + i), load64(src + i - 1), TOP1)
            memcpy(dst + i, cython.address(v8), 8)
            i += 8
        while i < end:
            dst[i] = src[i] - src[i - 1]
            i += 1
    memcpy(dst + end, src + end, n - end)


def undelta(width, n, dst):
    i: uint32_t
    end: uint32_t = n - n % width
    v8: uint64_t = 0
    v4: uint32_t = 0
    v2: uint16_t = 0
    if width == 8:
        for i in range(0, end, 8):
            v8 += load64(dst + i)
            memcpy(dst + i, cython.address(v8), 8)
    elif width == 4:
        for i in range(0, end, 4):
            v4 += load32(dst + i)
            memcpy(dst + i, cython.address(v4), 4)
    elif width == 2:
        for i in range(0, end, 2):
            v2 += load16(dst + i)
            memcpy(dst + i, cython.address(v2), 2)
    else:
        undelta1(n, dst)


def combine_item(width, p, other, minus):
    x: uint64_t = 0
    y: uint64_t = 0
    memcpy(cython.address(x), p, width)
    memcpy(cython.address(y), other, width)
    x = x - y if minus else x + y
    memcpy(p, cython.address(x), width)


def undelta1(n, dst):
    """Running sum of bytes, eight at a time: even and odd bytes as four 16-bit lanes each, whose
    running sums are one multiplication and cannot overflow."""
    i: uint32_t = 0
    v: uint64_t
    even: uint64_t
    both: uint64_t
    carry: uint64_t = 0
    while i + 8 <= n:
        v = load64(dst + i)
        even = (v & M3) * LANES4
        v = ((v >> 8) & M3) * LANES4
        both = even + v + carry * LANES4
        even = even + (v << 16) + carry * LANES4
        v = (even & M3) | ((both & M3) << 8)
        carry = v >> 56
        memcpy(dst + i, cython.address(v), 8)
        i += 8
    while i < n:
        carry = (carry + dst[i]) & 0xFF
        dst[i] = carry
        i += 1


# -- the Python face -------------------------------------------------------------------------------
def run(data, width, which, way):
    """`which`: 0 shuffle, 1 unshuffle, 2 delta, 3 undelta."""
    s: Shuffler
    n: uint32_t
    w: int32_t
    what: cython.int = which
    result: cython.int = 0
    if width not in WIDTHS:
        raise InvalidSizeError(f"{width} is not an item width: use 1, 2, 4 or 8")
    copy: bytes = bytes(data)
    if len(copy) > 0x7E000000:
        raise InvalidSizeError(f"{len(copy)} bytes are too many for one unit")
    n = len(copy)
    w = width
    src: ConstBytes = cython.cast(ConstBytes, PyBytes_AS_STRING(copy))
    out: bytes = PyBytes_FromStringAndSize(cython.NULL, n)
    dst: MutBytes = cython.cast(MutBytes, PyBytes_AS_STRING(out))
    if way is None:
        find_shuffler(cython.address(s), False)
    elif way not in WAYS:
        raise UnknownCodecError(f"{way} is not a way to shuffle bits: {', '.join(WAYS)}")
    elif not use_way(cython.address(s), WAYS[way]):
        raise MissingLibraryError(f"this machine cannot shuffle bits by {way}")
    with cython.nogil:
        if what == 0:
            result = shuffle(cython.address(s), w, n, src, dst)
        elif what == 1:
            result = unshuffle(cython.address(s), w, n, src, dst)
        elif what == 2:
            delta(w, n, src, dst)
        else:
            memcpy(dst, src, n)
            undelta(w, n, dst)
    if result < 0:
        raise CodecError(f"libblosc2 failed to transpose {n} bytes of width {width}")
    return out


def bitshuffle(data, width, *, way=None):
    """`data` with its bits transposed; `way`: one of WAYS, or the best there is."""
    return run(data, width, 0, way)


def bitunshuffle(data, width, *, way=None):
    """The inverse of `bitshuffle`."""
    return run(data, width, 1, way)


def shuffle_ways():
    """The ways to shuffle bits that this machine has, the best first."""
    s: Shuffler
    return [name for name in reversed(WAYS) if use_way(cython.address(s), WAYS[name])]


def delta_encode(data, width):
    """Each item of `width` bytes replaced by its difference to the one before."""
    return run(data, width, 2, "portable")


def delta_decode(data, width):
    """The inverse of `delta_encode`."""
    return run(data, width, 3, "portable")
