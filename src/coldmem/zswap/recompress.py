"""Recompression: units that stay cold are packed once more, by a slower codec that makes them smaller.

Cold is what was neither stored nor loaded between two passes: each use marks a unit RECENT, a pass takes
the mark away, and what has none at the next pass is packed again (zram's recompression of idle pages
asks its user for both steps). A pass goes over each LRU from its tail; where it stopped stands in the
list, and whoever takes that unit off the list moves it on. The order of the list, which writeback needs,
stays as it is. What the other codec does not make smaller by an eighth keeps its form, and is not tried
again until it is stored anew.

The order of work is writeback's: reference and copy under the shard lock; decompress, compress and
allocate with no lock; then, under the lock, only if the same entry is still linked, unused and used by
nobody else, its new object takes the place of the old one.

Guarantees: the content is the same at every moment. No room for the new object, or a codec that fails,
costs nothing but the attempt.
Locks: a shard lock at a time, none during the work.
"""

import cython
from cython.cimports.coldmem.codecs.codec import CodecP
from cython.cimports.coldmem.linux.atomic import (
    a32_fetch_add_acq,
    a32_fetch_add_acq_rel,
    a32_load_acq,
    a64_fetch_add_rlx,
)
from cython.cimports.coldmem.linux.lock import mutex_lock, mutex_unlock
from cython.cimports.coldmem.zsmalloc.pool import PoolP, zs_free, zs_malloc, zs_write
from cython.cimports.coldmem.zswap.context import context_batch, context_codec
from cython.cimports.coldmem.zswap.entry import entry_count, entry_put, held_copy, pool_of
from cython.cimports.coldmem.zswap.group import group_uncharge
from cython.cimports.coldmem.zswap.index import shard_of, slot_hash
from cython.cimports.coldmem.zswap.load import load_object
from cython.cimports.coldmem.zswap.lru import lru_at
from cython.cimports.coldmem.zswap.state import (
    CODEC_NONE,
    ENTRY_RAM,
    GROUP_ROOT,
    RECENT,
    EntryP,
    GroupLruP,
    ShardP,
)
from cython.cimports.libc.stdint import int32_t, uint32_t, uint64_t

MIX = cython.declare(uint64_t, 0x9E3779B97F4A7C15)
GAIN = cython.declare(uint32_t, 8)  # one in so many bytes must go
SCAN = cython.declare(uint32_t, 64)  # entries looked at in one hold of a shard lock


def recompress_some(z, shard, group, scan, want, w, out):
    l: GroupLruP = lru_at(z, shard, group)
    copy: Cold
    old: Held
    entry: uint32_t
    n: cython.int
    p: PoolP
    handle: uint64_t
    out.end = 0
    while want > 0 and out.end == 0:
        entry = _next(z, shard, l, cython.address(scan), cython.address(copy), out)
        if entry == 0:
            return
        n = _pack(z, cython.address(copy), w)
        p = pool_of(z, copy.slot)
        handle = zs_malloc(p, n) if n > 0 else 0
        if handle != 0:
            zs_write(p, handle, w.scratch, n)
        if _replace(z, entry, cython.address(copy), handle, n, cython.address(old)):
            zs_free(p, old.body)
            group_uncharge(z, old.group, old.length - n, old.length - n, 0)
            out.units += 1
            out.freed_bytes += old.length - n
            a64_fetch_add_rlx(cython.address(z.events.recompressed), 1)
        else:
            if handle != 0:
                zs_free(p, handle)
            entry_put(z, entry)
        want -= 1


def _next(z, shard, l, scan, copy, out):
    """`copy`: the entry as it is. out.end where there is none left."""
    s: ShardP = z.shards + shard
    e: EntryP
    entry: uint32_t = 0
    mutex_lock(cython.address(s.lock))
    while scan[0] > 0:
        entry = l.walk if l.walk else l.tail
        if entry == 0:
            out.end = 1
            break
        scan[0] -= 1
        out.scanned += 1
        e = z.entries + entry
        l.walk = e.prev
        out.end = e.prev == 0
        if e.referenced & RECENT:
            e.referenced &= ~RECENT
        elif not e.cold and not e.writeback and e.codec != z.cold_codec:
            copy.slot = e.slot
            copy.body = e.body
            copy.length = e.length
            copy.codec = e.codec
            copy.group = e.group
            a32_fetch_add_acq(cython.address(e.refs), 1)
            break
        entry = 0
        if out.end:
            break
    mutex_unlock(cython.address(s.lock))
    return entry


def _pack(z, copy, w):
    """The unit by the cold codec, in w.scratch: bytes, or 0 if that gains too little."""
    c: CodecP = z.codecs[z.cold_codec]
    context: cython.p_void
    failed: int32_t = 0
    cap: uint32_t = copy.length - copy.length // GAIN
    if not context_batch(z, w) or cap < 2:
        return 0
    context = context_codec(z, w, z.cold_codec, cython.address(failed))
    if failed or load_object(z, copy.slot, copy.body, copy.length, copy.codec, w.batch, w) != (
        cython.cast(int32_t, z.unit_bytes)
    ):
        return 0
    return max(0, c.compress(
        context, w.batch, z.unit_bytes, w.scratch, min(cap, z.compress_cap),
        ((copy.slot >> 8) ^ (cython.cast(uint64_t, copy.group) << 48)) * MIX,
    ))


def _replace(z, entry, copy, handle, n, old):
    """The new object in place of the old one, which `old` holds then; our reference is gone."""
    hash: uint64_t = slot_hash(copy.slot)
    s: ShardP = shard_of(z, hash)
    e: EntryP = z.entries + entry
    done: cython.bint = False
    mutex_lock(cython.address(s.lock))
    if e.linked and e.state == ENTRY_RAM and e.body == copy.body:
        if handle == 0:
            e.cold = n == 0  # without room it may be tried again
        # The index's reference and ours: nobody reads it now, or will without taking the lock.
        elif e.referenced & RECENT == 0 and not e.writeback and (
            a32_load_acq(cython.address(e.refs)) == 2
        ):
            held_copy(old, e)
            entry_count(z, hash, e, -1)
            e.body = handle
            e.length = n
            e.codec = z.cold_codec
            e.cold = 1
            entry_count(z, hash, e, 1)
            a32_fetch_add_acq_rel(cython.address(e.refs), -1)
            done = True
    mutex_unlock(cython.address(s.lock))
    return done


def recompress_pass(z, all, w, out):
    shard: uint32_t
    group: uint32_t
    rounds: cython.int
    l: GroupLruP
    if z.cold_codec == CODEC_NONE:
        return
    for rounds in range(2 if all else 1):
        for group in range(GROUP_ROOT, z.groups_end):
            for shard in range(z.shards_mask + 1):
                l = lru_at(z, shard, group)
                mutex_lock(cython.address(z.shards[shard].lock))
                l.walk = 0
                mutex_unlock(cython.address(z.shards[shard].lock))
                out.end = 0
                while out.end == 0:
                    recompress_some(z, shard, group, SCAN, SCAN, w, out)
