"""Load and invalidate.

A load takes a reference under the shard lock, and decompresses straight from the pool (or from what
it read from the swap file) into the caller's memory, with no lock held.

Guarantees: what a load hands out is one version of the unit, whole. An exclusive load removes the
version that it handed out and no other; of several at once, one gets it. A unit that cannot be read
stays where it is, and is never handed out damaged: what comes from disk is checked.
Assumes: the caller holds a context and no lock.
"""

import cython
from cython.cimports.coldmem.codecs.codec import CodecP
from cython.cimports.coldmem.linux.atomic import (
    a32_fetch_add_acq,
    a64_fetch_add_rlx,
    likely,
)
from cython.cimports.coldmem.linux.lock import mutex_lock, mutex_unlock
from cython.cimports.coldmem.zsmalloc.pool import PoolP, zs_prefetch, zs_read_begin, zs_read_end
from cython.cimports.coldmem.zswap.context import context_codec
from cython.cimports.coldmem.zswap.entry import (
    Held,
    entry_put,
    entry_unlink,
    held_free,
    pool_of,
)
from cython.cimports.coldmem.zswap.group import group_alive
from cython.cimports.coldmem.zswap.index import index_find, shard_of, slot_hash
from cython.cimports.coldmem.zswap.lru import count_add, count_sub, lru_of
from cython.cimports.coldmem.zswap.state import (
    CODEC_NONE,
    ENTRY_FREE,
    ENTRY_RAM,
    ENTRY_SAME,
    RECENT,
    REFERENCED,
    ZW_CONTEXT,
    ZW_CORRUPT,
    ZW_DECOMPRESS,
    ZW_NOT_FOUND,
    ZW_READ,
    EntryP,
    GroupLruP,
    ShardP,
)
from cython.cimports.coldmem.zswap.swapfile import checksum, swap_read
from cython.cimports.libc.stdint import int32_t, int64_t, uint8_t, uint32_t, uint64_t
from cython.cimports.libc.string import memcpy, memset


def zswap_load(z, slot, out, exclusive, w):
    hash: uint64_t = slot_hash(slot)
    s: ShardP = shard_of(z, hash)
    e: EntryP
    l: GroupLruP
    entry: uint32_t
    length: uint32_t
    codec: uint32_t
    state: uint8_t
    body: uint64_t
    sum: uint64_t
    n: int32_t
    held: Held
    while True:
        mutex_lock(cython.address(s.lock))
        entry = index_find(z, s, hash, slot)
        if entry == 0:
            mutex_unlock(cython.address(s.lock))
            return ZW_NOT_FOUND
        e = z.entries + entry
        state = e.state
        body = e.body
        if state == ENTRY_SAME:
            w.cold_seen = 0
            w.stored_bytes = 0
            count_add(cython.address(lru_of(z, hash, e.group).loads), 1)
            held.state = ENTRY_FREE
            if exclusive:
                entry_unlink(z, s, hash, entry, cython.address(held))
            mutex_unlock(cython.address(s.lock))
            if exclusive:
                held_free(z, cython.address(held))
            fill(out, z.unit_bytes, body)
            return z.unit_bytes
        zs_prefetch(pool_of(z, slot), body)  # of a unit on disk it is for nothing, and harmless
        length = e.length
        w.stored_bytes = length
        codec = e.codec
        sum = e.checksum
        e.referenced = REFERENCED | RECENT
        a32_fetch_add_acq(cython.address(e.refs), 1)
        l = lru_of(z, hash, e.group)
        if likely(state == ENTRY_RAM):
            count_add(cython.address(l.loads), 1)
            w.cold_seen = codec != CODEC_NONE and codec == cython.cast(uint32_t, z.cold_codec)
            if w.cold_seen:
                count_add(cython.address(l.cold_loads), 1)
        else:
            w.cold_seen = 0
            count_add(cython.address(l.disk_loads), 1)
            if z.protected_rule:
                count_add(cython.address(l.protected_units), 1)
            a64_fetch_add_rlx(cython.address(z.groups[e.group].swapins), 1)
        mutex_unlock(cython.address(s.lock))

        if likely(state == ENTRY_RAM):
            n = load_object(z, slot, body, length, codec, out, w)
        else:
            n = load_disk(z, slot, cython.cast(int64_t, body), length, codec, sum, out, w)
        if n < 0:
            load_failed(z, hash, entry, state, w.cold_seen)
            entry_put(z, entry)
            return n
        if not exclusive:
            entry_put(z, entry)
            return n
        # Take what was handed out, unless somebody was faster. Our reference keeps the entry from
        # being reused, so the same number is the same version.
        mutex_lock(cython.address(s.lock))
        if index_find(z, s, hash, slot) == entry:
            entry_unlink(z, s, hash, entry, cython.address(held))
            mutex_unlock(cython.address(s.lock))
            entry_put(z, entry)
            return n
        mutex_unlock(cython.address(s.lock))
        load_failed(z, hash, entry, state, w.cold_seen)
        entry_put(z, entry)


def fill(out, n, word):
    i: uint32_t
    if word == 0:
        memset(out, 0, n)
        return
    for i in range(0, n, 8):
        memcpy(out + i, cython.address(word), 8)


def load_object(z, slot, handle, length, codec, out, w):
    p: PoolP = pool_of(z, slot)
    token: uint64_t
    error: int32_t
    n: int32_t
    src: U8CP = zs_read_begin(p, handle, cython.address(token), cython.address(error))
    if src == cython.NULL:
        # Our reference keeps the object: this cannot be. Do not hand out anything.
        a64_fetch_add_rlx(cython.address(z.events.internal_errors), 1)
        return ZW_DECOMPRESS
    n = unpack(z, src, length, codec, out, w)
    zs_read_end(p, handle, token)
    return n


def load_disk(z, slot, offset, length, codec, sum, out, w):
    """Through the context's scratch, since the codec must not see bytes that fail the check."""
    error: int32_t = swap_read(z.swap, w.scratch, length, offset)
    if error != 0:
        w.errno_seen = -error
        a64_fetch_add_rlx(cython.address(z.events.read_fail), 1)
        return ZW_READ
    if checksum(w.scratch, length, slot) != sum:
        a64_fetch_add_rlx(cython.address(z.events.checksum_fail), 1)
        return ZW_CORRUPT
    return unpack(z, w.scratch, length, codec, out, w)


def unpack(z, src, length, codec, out, w):
    c: CodecP
    context: cython.p_void
    n: int32_t
    failed: int32_t = 0
    if codec == CODEC_NONE:
        memcpy(out, src, length)
        return length
    c = z.codecs[codec]
    context = context_codec(z, w, codec, cython.address(failed))
    if failed:
        return ZW_CONTEXT
    n = c.decompress(context, src, length, out, z.unit_bytes)
    if likely(cython.cast(uint32_t, n) == z.unit_bytes):
        return n
    a64_fetch_add_rlx(cython.address(z.events.decompress_fail), 1)
    return ZW_DECOMPRESS


def load_failed(z, hash, entry, state, cold):
    """Take the load out of the counts again: they count what was handed out."""
    s: ShardP = shard_of(z, hash)
    l: GroupLruP
    mutex_lock(cython.address(s.lock))
    l = lru_of(z, hash, group_alive(z, z.entries[entry].group))
    if state == ENTRY_RAM:
        count_sub(cython.address(l.loads), 1)
        if cold:
            count_sub(cython.address(l.cold_loads), 1)
    else:
        count_sub(cython.address(l.disk_loads), 1)
    mutex_unlock(cython.address(s.lock))


def zswap_invalidate(z, slot, w):
    hash: uint64_t = slot_hash(slot)
    s: ShardP = shard_of(z, hash)
    entry: uint32_t
    held: Held
    mutex_lock(cython.address(s.lock))
    entry = index_find(z, s, hash, slot)
    if entry == 0:
        mutex_unlock(cython.address(s.lock))
        return False
    zs_prefetch(pool_of(z, slot), z.entries[entry].body)
    entry_unlink(z, s, hash, entry, cython.address(held))
    mutex_unlock(cython.address(s.lock))
    held_free(z, cython.address(held))
    return True


def zswap_contains(z, slot, w):
    hash: uint64_t = slot_hash(slot)
    s: ShardP = shard_of(z, hash)
    found: cython.bint
    mutex_lock(cython.address(s.lock))
    found = index_find(z, s, hash, slot) != 0
    mutex_unlock(cython.address(s.lock))
    return found


def zswap_peek(z, slot, word):
    hash: uint64_t = slot_hash(slot)
    s: ShardP = shard_of(z, hash)
    state: uint8_t = ENTRY_FREE
    entry: uint32_t
    mutex_lock(cython.address(s.lock))
    entry = index_find(z, s, hash, slot)
    if entry != 0:
        state = z.entries[entry].state
        word[0] = z.entries[entry].body
    mutex_unlock(cython.address(s.lock))
    return state
