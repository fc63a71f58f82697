"""Index and entries of a shard of the cache.

Owns: buckets, blocks of entries, and the room of the ghost table, which grows with the buckets. An entry
keeps its number while it lives, so a walk by number sees every entry that is there from begin to end,
once.
Guarantees: nothing is taken that the account refuses.
Locks: the shard's, held by the caller.
"""

import cython
from cython.cimports.coldmem.cache.account import charge, uncharge
from cython.cimports.coldmem.cache.body import body_key, entry_empty, event_put, place_drop
from cython.cimports.coldmem.cache.state import (
    E_FREE,
    ENTRIES_PER_BLOCK,
    EV_GONE,
    EV_PLACE,
    EV_REMOVED,
    F_PLACE,
    U32P,
    U64P,
    Entry,
    EntryP,
    EntryPP,
    entry_at,
)
from cython.cimports.coldmem.linux.atomic import a64_fetch_add_rlx
from cython.cimports.libc.stdint import uint32_t, uint64_t
from cython.cimports.libc.stdlib import calloc, free, malloc, realloc
from cython.cimports.libc.string import memset

FIRST_BUCKETS = cython.declare(uint32_t, 64)
ENTRIES_MAX = cython.declare(uint32_t, 0xFFFFFF00)
PER_BUCKET = cython.declare(uint64_t, 4 + 8)  # and a ghost for each
NO_MEMORY = cython.declare(uint64_t, 1)  # bytes to ask for when the system has none


def table_init(c, s):
    s.buckets = cython.cast(U32P, calloc(FIRST_BUCKETS, 4))
    s.ghost = cython.cast(U64P, calloc(FIRST_BUCKETS, 8))
    if s.buckets == cython.NULL or s.ghost == cython.NULL:
        return -1
    s.mask = FIRST_BUCKETS - 1
    s.end = 1
    charge(c, FIRST_BUCKETS * PER_BUCKET, True)
    return 0


def table_destroy(s):
    i: uint32_t
    for i in range(s.blocks_count):
        free(s.blocks[i])
    free(s.blocks)
    free(s.buckets)
    free(s.ghost)


def table_find(c, s, key):
    i: uint32_t = s.buckets[key.hash & s.mask]
    e: EntryP
    while i:
        e = entry_at(s, i)
        if e.hash == cython.cast(uint32_t, key.hash) and body_key(c, e, key):
            return i
        i = e.chain
    return 0


def _grow_buckets(c, s):
    """Twice as many, and as many ghosts; the old ghosts are forgotten, they are hints only."""
    i: uint32_t
    e: EntryP
    size: uint64_t = 2 * (cython.cast(uint64_t, s.mask) + 1)
    buckets: U32P
    ghost: U64P
    if not charge(c, size * PER_BUCKET, False):
        return size * PER_BUCKET
    buckets = cython.cast(U32P, calloc(size, 4))
    ghost = cython.cast(U64P, calloc(size, 8))
    if buckets == cython.NULL or ghost == cython.NULL:
        free(buckets)
        free(ghost)
        uncharge(c, size * PER_BUCKET)
        return NO_MEMORY
    free(s.buckets)
    free(s.ghost)
    uncharge(c, size // 2 * PER_BUCKET)
    s.buckets = buckets
    s.ghost = ghost
    s.mask = cython.cast(uint32_t, size - 1)
    for i in range(1, s.end):
        e = entry_at(s, i)
        if e.state != E_FREE:
            e.chain = buckets[e.hash & s.mask]
            buckets[e.hash & s.mask] = i
    return 0


def _grow_entries(c, s):
    block: EntryP
    room: uint32_t
    blocks: EntryPP
    nbytes: uint64_t = ENTRIES_PER_BLOCK * cython.sizeof(Entry) + 64
    if not charge(c, nbytes, False):
        return nbytes
    if s.blocks_count == s.blocks_room:
        room = s.blocks_room * 2 if s.blocks_room else 8
        blocks = cython.cast(EntryPP, realloc(s.blocks, room * 8))
        if blocks == cython.NULL:
            uncharge(c, nbytes)
            return NO_MEMORY
        s.blocks = blocks
        s.blocks_room = room
    block = cython.cast(EntryP, malloc(nbytes))
    if block == cython.NULL:
        uncharge(c, nbytes)
        return NO_MEMORY
    memset(block, 0, nbytes)
    s.blocks[s.blocks_count] = block
    s.blocks_count += 1
    return 0


def table_room(c, s):
    need: uint64_t
    if s.free_head == 0 and s.end // ENTRIES_PER_BLOCK >= s.blocks_count:
        need = _grow_entries(c, s) if s.end < ENTRIES_MAX else NO_MEMORY
        if need:
            return need
    if s.count > s.mask + s.mask // 2 and s.mask < 0x7FFFFFFF:
        return _grow_buckets(c, s)
    return 0


def table_add(c, s, hash):
    i: uint32_t = s.free_head
    e: EntryP
    if i:
        e = entry_at(s, i)
        s.free_head = e.chain
    else:
        i = s.end
        s.end += 1
        e = entry_at(s, i)
    memset(e, 0, cython.sizeof(Entry))
    e.hash = cython.cast(uint32_t, hash)
    e.chain = s.buckets[hash & s.mask]
    s.buckets[hash & s.mask] = i
    s.count += 1
    a64_fetch_add_rlx(cython.address(c.entries), 1)
    return i


def table_remove(c, s, i):
    e: EntryP = entry_at(s, i)
    at: U32P = cython.address(s.buckets[e.hash & s.mask])
    while at[0] != i:
        at = cython.address(entry_at(s, at[0]).chain)
    at[0] = e.chain
    e.state = E_FREE
    e.chain = s.free_head
    s.free_head = i
    s.count -= 1
    a64_fetch_add_rlx(cython.address(c.entries), -1)


def entry_forget(c, s, i, event):
    e: EntryP = entry_at(s, i)
    event_put(c, event, e)
    if e.flags & F_PLACE:  # of what the caller removed, a note is written by its key
        place_drop(c, s, e, EV_PLACE if event == EV_REMOVED else EV_GONE)
    entry_empty(c, s, e)
    table_remove(c, s, i)
