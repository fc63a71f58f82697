"""Working memory of one call, and a chunk through a codec.

Owns: contexts that are not in use; each has buffers, and what codecs made for it.
Guarantees: a context has one user at a time, who gives it back.
Locks: `contexts_lock`, a leaf.
"""

import cython
from cython.cimports.coldmem.cache.account import charge, uncharge
from cython.cimports.coldmem.cache.state import (
    CHUNK_BYTES,
    CODEC_RAW,
    CODECS_MAX,
    KEY_ROOM,
    U8P,
    U64P,
    CacheP,
    CodecP,
    Context,
    ContextP,
)
from cython.cimports.coldmem.linux.atomic import (
    a64_load_acq,
)
from cython.cimports.coldmem.linux.lock import mutex_lock, mutex_unlock
from cython.cimports.libc.stdint import int32_t, uint32_t, uint64_t
from cython.cimports.libc.stdlib import calloc, free, malloc
from cython.cimports.libc.string import memcpy

SLACK = cython.declare(cython.int, 64)
CODEC_BYTES = cython.declare(uint64_t, 131072)  # about what a codec makes for a context
IDLE_BYTES = cython.declare(uint64_t, 2 * 65536 + 2 * 131072)  # of one, with two codecs
IDLE_SHARE = cython.declare(uint64_t, 8)  # idle ones take an eighth of the limit at most, or are one


def context_get(c):
    w: ContextP
    mutex_lock(cython.address(c.contexts_lock))
    w = c.contexts
    if w != cython.NULL:
        c.contexts = w.next
        c.contexts_idle -= 1
    else:
        c.contexts_made += 1
    mutex_unlock(cython.address(c.contexts_lock))
    if w == cython.NULL:
        w = cython.cast(ContextP, calloc(1, cython.sizeof(Context)))
        if w == cython.NULL:
            _one_less(c)
            return cython.NULL
        w.gather = cython.cast(U8P, malloc(CHUNK_BYTES + SLACK))
        w.room = cython.cast(U8P, malloc(KEY_ROOM + CHUNK_BYTES + SLACK))
        if w.gather == cython.NULL or w.room == cython.NULL:
            free(w.gather)
            free(w.room)
            free(w)
            _one_less(c)
            return cython.NULL
        w.out = w.room + KEY_ROOM
        charge(c, 2 * CHUNK_BYTES + KEY_ROOM, True)
    return w


def context_put(c, w):
    """Back among the idle ones, or freed: they may not take much of a small cache for good."""
    keep: cython.bint
    mutex_lock(cython.address(c.contexts_lock))
    keep = c.contexts_idle == 0 or (c.contexts_idle + 1) * IDLE_SHARE * IDLE_BYTES <= c.memory_max
    if keep:
        w.next = c.contexts
        c.contexts = w
        c.contexts_idle += 1
    mutex_unlock(cython.address(c.contexts_lock))
    if not keep:
        _context_free(c, w)
        _one_less(c)


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def _one_less(c: CacheP) -> cython.void:
    mutex_lock(cython.address(c.contexts_lock))
    c.contexts_made -= 1
    mutex_unlock(cython.address(c.contexts_lock))


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def _context_free(c: CacheP, w: ContextP) -> cython.void:
    i: uint32_t
    for i in range(CODECS_MAX):
        if w.made[i] != cython.NULL:
            c.codecs[i].context_free(w.made[i])
            uncharge(c, CODEC_BYTES)
    free(w.gather)
    free(w.room)
    free(w)
    uncharge(c, 2 * CHUNK_BYTES + KEY_ROOM)


def contexts_destroy(c):
    w: ContextP = c.contexts
    after: ContextP
    while w != cython.NULL:
        after = w.next
        _context_free(c, w)
        w = after
    c.contexts = cython.NULL


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def _made(c: CacheP, w: ContextP, number: uint32_t) -> CodecP:
    codec: CodecP = cython.cast(
        CodecP, a64_load_acq(cython.cast(U64P, cython.address(c.codecs[number]))))
    if codec == cython.NULL:
        return cython.NULL
    if w.made[number] == cython.NULL:
        w.made[number] = codec.context_new(codec.self, CHUNK_BYTES)
        if w.made[number] == cython.NULL:
            return cython.NULL
        charge(c, CODEC_BYTES, True)
    return codec


# -- chunks ----------------------------------------------------------------------------------------
def chunk_compress(c, w, src, n, number, hint, result):
    codec: CodecP
    size: int32_t = 0
    result[0] = src
    if number == CODEC_RAW or n < 2:
        return n
    codec = _made(c, w, number)
    if codec == cython.NULL:
        return -1
    size = codec.compress(w.made[number], src, n, w.out, n - 1, hint)
    if size < 0:
        return -1
    if size == 0:
        return n
    result[0] = w.out
    return size


def chunk_decompress(c, w, src, stored, number, out, n):
    codec: CodecP
    if number == CODEC_RAW:
        memcpy(out, src, n)
        return 0 if stored == n else -1
    codec = _made(c, w, number)
    if codec == cython.NULL:
        return -1
    return 0 if codec.decompress(w.made[number], src, stored, out, n) == cython.cast(int32_t, n) else -1
