# distutils: extra_compile_args = -O3
"""Bit planes of shuffled numbers, stored without a compressor.

In shuffled numbers most planes are all zeros, all ones, the same as their neighbour (sign bits), or
noise; of the rest, most change seldom from one byte to the next. A look at each plane tells, at the
speed of memory, where LZ4 would search: on units of 4 KiB a call of LZ4 clears a table of 16 KiB
before it starts. What has repetitions of other kinds compresses worse here; `picker` compares.

Format: log2 of the unit's size (1 byte); with delta, the first item, whose difference is then 0; for
each 16 KiB of the unit a block, preceded by its length (2 bytes) unless it is the last. A block: the
verbatim, changes and cross planes, in order; the list of kinds, backwards from the end, run-length
coded, a byte being ``kind << 5 | planes - 1``.
A changes plane is combined by exclusive or with itself a byte later (0 at the start), a cross plane
with the plane before it: two's complement makes neighbouring planes of small differences alike. Of
the result, for each 64 bytes, a flag byte with a bit per 8-byte word that is not 0; for each flagged
word a mask of the bytes that are not 0, and those bytes.

Guarantees: decompression keeps to its buffers on any input.
Locks: none, no state.
"""

import cython
from cython.cimports.coldmem.codecs.bitshuffle import (
    AVX512,
    load64,
    shuffle_differences,
    unshuffle,
    unshuffle_differences,
)
from cython.cimports.coldmem.codecs.simd import (
    avx512_kind,
    avx512_read_changes,
    avx512_write_changes,
)
from cython.cimports.coldmem.linux.atomic import ctz64, popcount64
from cython.cimports.libc.stdint import int32_t, uint8_t, uint32_t, uint64_t
from cython.cimports.libc.string import memcpy, memset

LOG2_MAX = cython.declare(uint32_t, 24)
LOW7 = cython.declare(uint64_t, 0x7F7F7F7F7F7F7F7F)
GATHER = cython.declare(uint64_t, 0x0102040810204080)  # bit 0 of each byte to the top byte
BYTES = cython.declare(uint64_t, 0x0101010101010101)


def planes_fit(n, width):
    """2-powers, planes of 8 bytes at least."""
    return (
        n & (n - 1) == 0
        and n >= 64 * cython.cast(uint32_t, width)
        and n <= cython.cast(uint32_t, 1) << LOG2_MAX
    )


def write_changes(p, m, cross, dst, cap):
    """Bytes written, or 0 when they do not fit (a word is only begun with room for all of it)."""
    i: uint32_t
    k: cython.int
    at: uint32_t = 0
    flags_at: uint32_t = 0
    word: uint64_t
    changed: uint64_t
    last: uint64_t = 0
    for i in range(0, m, 8):
        if at + 10 > cap:
            return 0
        if i & 63 == 0:
            flags_at = at
            dst[at] = 0
            at += 1
        word = load64(p + i)
        if cross:
            changed = word ^ load64(p + i - m)
        else:
            changed = word ^ ((word << 8) | last)
            last = word >> 56
        if changed != 0:
            dst[flags_at] |= 1 << ((i >> 3) & 7)
            # 1 in each byte that is not 0, then the eight of them side by side.
            word = ((((changed & LOW7) + LOW7) | changed) & ~LOW7) >> 7
            word = (word * GATHER) >> 56
            dst[at] = word
            at += 1
            for k in range(8):
                dst[at] = changed & 0xFF
                at += word & 1
                changed >>= 8
                word >>= 1
    return at


def read_changes(src, n, cross, p, m):
    """Bytes read from src, or -1 when there are not enough."""
    i: uint32_t
    k: cython.int
    at: uint32_t = 0
    flags: uint32_t = 0
    mask: uint32_t
    count: uint32_t
    packed: uint64_t
    word: uint64_t
    last: uint64_t = 0
    for i in range(0, m, 8):
        if i & 63 == 0:
            if at >= n:
                return -1
            flags = src[at]
            at += 1
        word = 0
        if flags & 1:
            if at >= n:
                return -1
            mask = src[at]
            at += 1
            count = popcount64(mask)
            if n - at >= 8:
                packed = load64(src + at)
            elif n - at >= count:
                packed = 0
                memcpy(cython.address(packed), src + at, count)
            else:
                return -1
            at += count
            # Without a branch per byte: they would be guessed wrong half the time.
            for k in range(8):
                count = 8 * (mask & 1)
                word |= (packed & (cython.cast(uint64_t, 255) * (mask & 1))) << (8 * k)
                packed >>= count
                mask >>= 1
        flags >>= 1
        if cross:
            word ^= load64(p + i - m)
        else:
            word ^= word << 8
            word ^= word << 16
            word ^= word << 32
            word ^= last * BYTES
            last = word >> 56
        memcpy(p + i, cython.address(word), 8)
    return at


def write_kinds(kinds, planes, dst, cap):
    """The list of kinds, its first run last; bytes written, or 0."""
    t: uint32_t = planes
    run: uint32_t
    at: uint32_t = 0
    while t > 0:
        t -= 1
        run = 1
        while t > 0 and kinds[t - 1] == kinds[t] and run < RUN_MAX:
            t -= 1
            run += 1
        if at >= cap:
            return 0
        dst[at] = (kinds[t] << 5) | (run - 1)
        at += 1
    return at


def write_block(simd, src, m, planes, dst, cap):
    """The planes of m bytes each at src; bytes written, or 0."""
    kinds: uint8_t[PLANES_MAX]
    t: uint32_t
    at: uint32_t = 0
    size: uint32_t
    room: uint32_t
    kind: uint32_t
    for t in range(planes):
        if simd:
            kind = avx512_kind(src + t * m, m, t == 0)
        elif m == 64:
            kind = kind_of(src + t * 64, 64, t == 0)
        elif m == 256:
            kind = kind_of(src + t * 256, 256, t == 0)
        else:
            kind = kind_of(src + t * m, m, t == 0)
        if kind >= CHANGES:
            room = m if m < cap - at else cap - at
            if simd:
                size = avx512_write_changes(src + t * m, m, kind == CROSS, dst + at, room)
            else:
                size = write_changes(src + t * m, m, kind == CROSS, dst + at, room)
            if size == 0:
                kind = VERBATIM
            at += size
        kinds[t] = kind
        if kind == VERBATIM:
            if m > cap - at:
                return 0
            if m == 64:
                memcpy(dst + at, src + t * 64, 64)
            else:
                memcpy(dst + at, src + t * m, m)
            at += m
    size = write_kinds(kinds, planes, dst + at, cap - at)
    return at + size if size else 0


def read_block(simd, src, n, m, planes, dst):
    """The inverse, from exactly n bytes; 0, or -1."""
    at: uint32_t = 0
    end: uint32_t = n
    t: uint32_t = 0
    run: uint32_t
    kind: uint32_t
    used: int32_t
    while t < planes:
        if end <= at:
            return -1
        end -= 1
        kind = src[end] >> 5
        run = (src[end] & (RUN_MAX - 1)) + 1
        if run > planes - t:
            return -1
        while run > 0:
            run -= 1
            if kind == VERBATIM:
                if m > end - at:
                    return -1
                memcpy(dst + t * m, src + at, m)
                at += m
            elif kind == CHANGES or (kind == CROSS and t > 0):
                if simd:
                    used = avx512_read_changes(src + at, end - at, kind == CROSS, dst + t * m, m)
                else:
                    used = read_changes(src + at, end - at, kind == CROSS, dst + t * m, m)
                if used < 0:
                    return -1
                at += used
            elif kind == SAME and t > 0:
                memcpy(dst + t * m, dst + t * m - m, m)
            elif kind == ZEROS:
                memset(dst + t * m, 0, m)
            elif kind == ONES:
                memset(dst + t * m, 0xFF, m)
            else:
                return -1
            t += 1
    return 0 if at == end else -1


def planes_compress(s, width, with_delta, src, n, a, b, dst, cap):
    block: uint32_t = n if n < BLOCK_BYTES else BLOCK_BYTES
    planes: uint32_t = 8 * width
    simd: cython.bint = s.way == AVX512 and block % (64 * planes) == 0
    done: uint32_t = 0
    at: uint32_t = 1
    start: uint32_t
    size: uint32_t
    p: ConstBytes
    if cap < 16:
        return 0
    dst[0] = ctz64(n)
    if with_delta:
        memcpy(dst + 1, src, width)
        at += width
    while done < n:
        p = src + done
        if with_delta:
            # The item before the block; for the first, the item itself, for a difference of 0.
            if shuffle_differences(s, width, block, p, p - width if done else p, a, b) < 0:
                return -1
        elif s.forward(width, block, p, b) < 0:
            return -1
        done += block
        start = at if done == n else at + 2
        if start >= cap:
            return 0
        size = write_block(simd, b, block // planes, planes, dst + start, cap - start)
        if size == 0:
            return 0
        if done != n:
            dst[at] = size & 0xFF
            dst[at + 1] = size >> 8
        at = start + size
    return at


def planes_decompress(s, width, with_delta, src, n, a, dst, cap):
    size: uint32_t
    block: uint32_t
    simd: cython.bint
    planes: uint32_t = 8 * width
    done: uint32_t = 0
    at: uint32_t = 1
    length: uint32_t
    p: ConstBytes
    q: MutBytes
    if n < 2 or src[0] > LOG2_MAX:
        return -1
    size = cython.cast(uint32_t, 1) << src[0]
    if size > cap or not planes_fit(size, width):
        return -1
    block = size if size < BLOCK_BYTES else BLOCK_BYTES
    simd = s.way == AVX512 and block % (64 * planes) == 0
    if with_delta:
        at += width
    if n < at:
        return -1
    while done < size:
        q = dst + done
        length = n - at
        if size - done > block:
            if length < 2:
                return -1
            length = src[at] | (src[at + 1] << 8)
            at += 2
            if length > n - at:
                return -1
        if read_block(simd, src + at, length, block // planes, planes, a) < 0:
            return -1
        at += length
        if with_delta:
            p = src + 1
            if done:
                p = q - width
            if unshuffle_differences(s, width, block, a, p, q) < 0:
                return -1
        elif unshuffle(s, width, block, a, q) < 0:
            return -1
        done += block
    return size
