"""Store: a unit into the cache.

The order is the kernel's: same-filled check, group, global limit, compress, allocate, write; the
entry appears in index and LRU last, so nobody sees it half made. The difference is that a group is
charged for the worst case before the work, and given back the rest after it.

Guarantees: after ZW_OK the slot holds this unit. After an error of `zswap_store` it holds nothing: an
older unit must not survive a failed store, or it would come back as stale data. After an error of
`zswap_replace` it holds what it held, for callers whose old unit is not stale until the new one is in.
Each failure is counted once.
Assumes: the caller holds a context and no lock.
"""

import cython
from cython.cimports.coldmem.codecs.codec import CodecP
from cython.cimports.coldmem.linux.atomic import (
    a32_load_acq,
    a32_load_rlx,
    a32_store_rlx,
    a64_fetch_add_rlx,
    a64_load_rlx,
    unlikely,
)
from cython.cimports.coldmem.linux.lock import mutex_lock, mutex_unlock
from cython.cimports.coldmem.zsmalloc.pool import PoolP, zs_free, zs_malloc, zs_write
from cython.cimports.coldmem.zswap.context import context_codec
from cython.cimports.coldmem.zswap.entry import (
    Held,
    entry_count,
    entry_take,
    entry_unlink,
    held_copy,
    held_free,
    pool_of,
)
from cython.cimports.coldmem.zswap.group import group_alive, group_uncharge
from cython.cimports.coldmem.zswap.index import (
    index_find,
    index_grow,
    index_insert,
    index_prefetch,
    index_room,
    shard_of,
    slot_hash,
)
from cython.cimports.coldmem.zswap.load import zswap_invalidate
from cython.cimports.coldmem.zswap.lru import count_add, count_sub, lru_of, lru_push, lru_remove
from cython.cimports.coldmem.zswap.reclaim import reclaim_malloc, reclaim_reserve
from cython.cimports.coldmem.zswap.shrinker import shrinker_wake
from cython.cimports.coldmem.zswap.state import (
    CODEC_NONE,
    ENTRY_FREE,
    ENTRY_RAM,
    ENTRY_SAME,
    GROUP_ROOT,
    METADATA_BYTES,
    RECENT,
    REFERENCED,
    ZW_ALLOC,
    ZW_COMPRESS,
    ZW_CONTEXT,
    ZW_ENTRIES,
    ZW_FULL,
    ZW_GROUP,
    ZW_OK,
    ZW_POOR,
    EntryP,
    GroupLruP,
    ShardP,
)
from cython.cimports.libc.stdint import int32_t, uint32_t, uint64_t

MIX = cython.declare(uint64_t, 0x9E3779B97F4A7C15)


def same_filled(src, n, word):
    words: U64CP = cython.cast(U64CP, src)
    last: uint32_t = n // 8 - 1
    first: uint64_t = words[0]
    differ: uint64_t
    i: uint32_t
    if first != words[last]:
        return False  # so ends most other data
    # Eight words a step, so that the compiler uses wide registers; n is a multiple of 64.
    for i in range(0, last, 8):
        differ = (
            (words[i] ^ first) | (words[i + 1] ^ first)
            | (words[i + 2] ^ first) | (words[i + 3] ^ first)
            | (words[i + 4] ^ first) | (words[i + 5] ^ first)
            | (words[i + 6] ^ first) | (words[i + 7] ^ first)
        )
        if differ:
            return False
    word[0] = first
    return True


def zswap_store(z, slot, src, group, w):
    r: int32_t = zswap_replace(z, slot, src, group, w)
    if unlikely(r != ZW_OK):
        zswap_invalidate(z, slot, w)
    return r


def zswap_replace(z, slot, src, group, w):
    codec: CodecP
    context: cython.p_void
    id: int32_t
    n: int32_t
    failed: int32_t = 0
    word: uint64_t = 0
    group = group_alive(z, group)
    if unlikely(same_filled(src, z.unit_bytes, cython.address(word))):
        return store_same(z, slot, word, group, w)
    if group != GROUP_ROOT and not reclaim_reserve(
        z, group, METADATA_BYTES + z.unit_bytes, z.unit_bytes, w
    ):
        return store_failed(cython.address(z.events.reject_group_limit), ZW_GROUP)
    n = ZW_OK
    if unlikely(store_refused(z)):
        n = store_failed(cython.address(z.events.reject_reclaim_fail), ZW_FULL)
    else:
        id = a32_load_rlx(cython.address(z.codec))
        codec = z.codecs[id]
        context = context_codec(z, w, id, cython.address(failed))
        if unlikely(failed):
            n = store_failed(cython.address(z.events.reject_compress_fail), ZW_CONTEXT)
        else:
            index_prefetch(z, slot)  # here by the time that the unit is published
            # Neighbours in slot space hold similar data: a codec may learn per neighbourhood.
            n = codec.compress(
                context, src, z.unit_bytes, w.scratch, z.compress_cap,
                ((slot >> 8) ^ (cython.cast(uint64_t, group) << 48)) * MIX,
            )
            if unlikely(n < 0):
                n = store_failed(cython.address(z.events.reject_compress_fail), ZW_COMPRESS)
            elif n > 0:
                return store_object(z, slot, w.scratch, n, id, group, w)
            elif unlikely(z.refuse_poor):
                n = store_failed(cython.address(z.events.reject_compress_poor), ZW_POOR)
            else:
                return store_object(z, slot, src, z.unit_bytes, CODEC_NONE, group, w)
    group_uncharge(z, group, METADATA_BYTES + z.unit_bytes, z.unit_bytes, 0)
    return n


def zswap_store_compressed(z, slot, data, n, group, w):
    r: int32_t = ZW_OK
    group = group_alive(z, group)
    if group != GROUP_ROOT and not reclaim_reserve(
        z, group, METADATA_BYTES + z.unit_bytes, z.unit_bytes, w
    ):
        r = store_failed(cython.address(z.events.reject_group_limit), ZW_GROUP)
    elif unlikely(store_refused(z)):
        r = store_failed(cython.address(z.events.reject_reclaim_fail), ZW_FULL)
        group_uncharge(z, group, METADATA_BYTES + z.unit_bytes, z.unit_bytes, 0)
    else:
        r = store_object(z, slot, data, n, CODEC_NONE, group, w)
    if unlikely(r != ZW_OK):
        zswap_invalidate(z, slot, w)
    return r


def store_refused(z):
    used: uint64_t = a64_load_rlx(cython.address(z.budget.used_bytes))
    if unlikely(used > z.wake_bytes):
        shrinker_wake(z)
    if a32_load_rlx(cython.address(z.full)) == 0:
        return False
    if used <= z.accept_bytes:
        a32_store_rlx(cython.address(z.full), 0)
        return False
    return z.refuse_when_full != 0


def store_same(z, slot, word, group, w):
    u: Unit
    if group != GROUP_ROOT and not reclaim_reserve(z, group, METADATA_BYTES, 0, w):
        return store_failed(cython.address(z.events.reject_group_limit), ZW_GROUP)
    u.slot = slot
    u.body = word
    u.length = 0
    u.group = group
    u.state = ENTRY_SAME
    u.codec = CODEC_NONE
    w.stored_bytes = 0
    if publish(z, cython.address(u)):
        return ZW_OK
    group_uncharge(z, group, METADATA_BYTES, 0, 0)
    return store_failed(cython.address(z.events.reject_kmemcache_fail), ZW_ENTRIES)


def store_object(z, slot, data, n, codec, group, w):
    p: PoolP = pool_of(z, slot)
    u: Unit
    error: int32_t = ZW_OK
    u.body = zs_malloc(p, n)
    if unlikely(u.body == 0):
        u.body = reclaim_malloc(z, slot, n, cython.address(error), w)
        if u.body == 0:
            group_uncharge(z, group, METADATA_BYTES + z.unit_bytes, z.unit_bytes, 0)
            if error == ZW_FULL:
                return store_failed(cython.address(z.events.reject_reclaim_fail), ZW_FULL)
            return store_failed(cython.address(z.events.reject_alloc_fail), ZW_ALLOC)
    zs_write(p, u.body, data, n)
    if group != GROUP_ROOT:
        group_uncharge(z, group, z.unit_bytes - n, z.unit_bytes - n, 0)
    u.slot = slot
    u.length = n
    u.group = group
    u.state = ENTRY_RAM
    u.codec = codec
    w.stored_bytes = n
    if publish(z, cython.address(u)):
        return ZW_OK
    if zs_free(p, u.body) != 0:
        a64_fetch_add_rlx(cython.address(z.events.internal_errors), 1)
    group_uncharge(z, group, METADATA_BYTES + n, n, 0)
    return store_failed(cython.address(z.events.reject_kmemcache_fail), ZW_ENTRIES)


def publish(z, u):
    hash: uint64_t = slot_hash(u.slot)
    s: ShardP = shard_of(z, hash)
    l: GroupLruP
    e: EntryP
    entry: uint32_t
    before: uint32_t
    old: Held
    units: uint64_t
    old.state = ENTRY_FREE
    mutex_lock(cython.address(s.lock))
    before = index_find(z, s, hash, u.slot)
    if before != 0 and a32_load_acq(cython.address(z.entries[before].refs)) == 1:
        # Nobody else looks at it: the entry keeps its place in the index.
        entry = before
        e = z.entries + entry
        held_copy(cython.address(old), e)
        entry_count(z, hash, e, -1)
        if e.state == ENTRY_RAM:
            lru_remove(z, lru_of(z, hash, e.group), entry)
    else:
        # The older unit goes when there is an entry for the new one, and not before.
        entry = 0
        if before != 0 or index_room(s) or index_grow(z, s):
            entry = entry_take(z, s)
        if entry == 0:
            mutex_unlock(cython.address(s.lock))
            return False
        if before != 0:
            entry_unlink(z, s, hash, before, cython.address(old))
        index_insert(s, hash, entry)
    e = z.entries + entry
    e.slot = u.slot
    e.body = u.body
    a32_store_rlx(cython.address(e.refs), 1)
    e.length = u.length
    e.group = u.group
    e.state = u.state
    e.codec = u.codec
    e.writeback = 0
    e.linked = 1
    e.referenced = REFERENCED | RECENT
    e.cold = 0
    entry_count(z, hash, e, 1)
    l = lru_of(z, hash, u.group)
    count_add(cython.address(l.stores), 1)
    if u.state == ENTRY_RAM:
        lru_push(z, l, entry)
        if u.length == z.unit_bytes:
            count_add(cython.address(l.raw_stores), 1)
        if z.protected_rule:
            count_add(cython.address(l.protected_units), 1)
            units = a64_load_rlx(cython.address(l.ram_units))
            if a64_load_rlx(cython.address(l.protected_units)) > units // 4:
                count_sub(
                    cython.address(l.protected_units),
                    (a64_load_rlx(cython.address(l.protected_units)) + 1) // 2,
                )
    else:
        count_add(cython.address(l.same_stores), 1)
    mutex_unlock(cython.address(s.lock))
    if old.state != ENTRY_FREE:
        held_free(z, cython.address(old))
    return True


def store_failed(event, error):
    """Count it."""
    a64_fetch_add_rlx(event, 1)
    return error
