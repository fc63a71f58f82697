"""Hot copies: values that are read again and again, as they are, beside the compressed ones.

Guarantees: no more than a share of the limit, which is on the account from the beginning. Dropping a
copy costs nothing; a clock over them says which goes.
Locks: the shard's, held by the caller.
"""

import cython
from cython.cimports.coldmem.cache.state import (
    U8P,
    CacheP,
    EntryP,
    HotCopy,
    HotCopyP,
    ShardP,
    entry_at,
)
from cython.cimports.libc.stdint import uint32_t, uint64_t
from cython.cimports.libc.stdlib import free, malloc, realloc
from cython.cimports.libc.string import memcpy

HOT_OVERHEAD = cython.declare(uint64_t, 48)  # place, and malloc's own


def hot_destroy(s):
    i: uint32_t
    for i in range(s.hot_count):
        free(s.hot[i].data)
    free(s.hot)


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def _hot_free(c: CacheP, s: ShardP, place: uint32_t) -> cython.void:
    h: HotCopyP = s.hot + place
    e: EntryP = entry_at(s, h.entry)
    s.hot_bytes -= e.length + HOT_OVERHEAD
    free(h.data)
    h.data = cython.NULL
    h.entry = 0
    e.hot = 0
    s.hot_free += 1


def hot_drop(c, s, e):
    if e.hot:
        _hot_free(c, s, e.hot - 1)


def hot_put(c, s, i, data, n):
    """Keep a copy of the value of entry i, if there is room among the hot for it."""
    e: EntryP = entry_at(s, i)
    place: uint32_t
    looked: uint32_t = 0
    room: uint32_t
    new: HotCopyP
    copy: U8P
    h: HotCopyP
    if n == 0 or cython.cast(uint64_t, n) * 8 > c.hot_max:
        return
    while s.hot_bytes + n + HOT_OVERHEAD > c.hot_max:
        if looked > 2 * s.hot_count:
            return
        looked += 1
        s.hot_hand = s.hot_hand + 1 if s.hot_hand + 1 < s.hot_count else 0
        h = s.hot + s.hot_hand
        if h.entry == 0:
            continue
        if h.used:
            h.used = 0
            continue
        _hot_free(c, s, s.hot_hand)
    if s.hot_free:
        while s.hot[s.hot_hand].entry:
            s.hot_hand = s.hot_hand + 1 if s.hot_hand + 1 < s.hot_count else 0
        place = s.hot_hand
    else:
        if s.hot_count == s.hot_room:
            room = 2 * s.hot_room if s.hot_room else 16
            new = cython.cast(HotCopyP, realloc(s.hot, room * cython.sizeof(HotCopy)))
            if new == cython.NULL:
                return
            s.hot = new
            s.hot_room = room
        place = s.hot_count
        s.hot[place].entry = 0
        s.hot[place].data = cython.NULL
    copy = cython.cast(U8P, malloc(n))
    if copy == cython.NULL:
        return
    if place == s.hot_count:
        s.hot_count += 1
    else:
        s.hot_free -= 1
    memcpy(copy, data, n)
    s.hot[place].data = copy
    s.hot[place].entry = i
    s.hot[place].used = 0
    e.hot = place + 1
    s.hot_bytes += n + HOT_OVERHEAD
