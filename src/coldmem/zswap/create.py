"""Making and unmaking the C side.

Guarantees: `zswap_new` gives a Zswap whose door is shut: each call returns at once as closed, so
the Python object is safe from its first moment to its last, whatever fails in between. `zswap_close`
returns when no call is inside and the shrinker has left; it may be called by several threads.
In a child after fork the calls of the parent's other threads never end, so there closing only shuts
the door.
"""

import cython
from cython.cimports.coldmem.linux.atomic import a32_load_acq, a32_store
from cython.cimports.coldmem.linux.lock import mutex_init, mutex_lock, mutex_unlock
from cython.cimports.coldmem.zswap.context import (
    contexts_destroy,
    contexts_free_buffers,
    contexts_init,
    contexts_stop,
)
from cython.cimports.coldmem.zswap.entry import entries_destroy, entries_init
from cython.cimports.coldmem.zswap.group import groups_destroy, groups_init
from cython.cimports.coldmem.zswap.index import index_destroy, index_init
from cython.cimports.coldmem.zswap.shrinker import shrinker_stop
from cython.cimports.coldmem.zswap.state import (
    CONTEXTS_MAX,
    ENTRY_DISK,
    EntryP,
    Shard,
    ShardP,
    ZswapP,
)
from cython.cimports.coldmem.zswap.swapfile import swap_free
from cython.cimports.libc.stdint import int64_t, uint32_t
from cython.cimports.libc.stdlib import free
from cython.cimports.libc.string import memset
from cython.cimports.posix.stdlib import posix_memalign
from cython.cimports.posix.unistd import getpid


def zswap_new():
    z: ZswapP
    p: cython.p_void = cython.NULL
    i: uint32_t
    if posix_memalign(cython.address(p), 128, cython.sizeof(ZswapC)) != 0:
        return cython.NULL
    memset(p, 0, cython.sizeof(ZswapC))
    z = cython.cast(ZswapP, p)
    if contexts_init(z) != 0:
        free(p)
        return cython.NULL
    for i in range(CONTEXTS_MAX):
        z.contexts[i].busy = 1
    z.closed = 1
    z.door = 1
    z.owner_pid = getpid()
    mutex_init(cython.address(z.admin), False)
    return z


def zswap_build(z, shards, counting):
    s: uint32_t
    p: cython.p_void = cython.NULL
    z.shards_mask = shards - 1
    z.counting = counting
    if posix_memalign(cython.address(p), 128, shards * cython.sizeof(Shard)) != 0:
        return -1
    memset(p, 0, shards * cython.sizeof(Shard))
    z.shards = cython.cast(ShardP, p)
    for s in range(shards):
        mutex_init(cython.address(z.shards[s].lock), counting)
        if index_init(z, z.shards + s) != 0:
            tables_destroy(z)
            return -1
    if groups_init(z) != 0 or entries_init(z) != 0:
        tables_destroy(z)
        return -1
    return 0


def tables_destroy(z):
    s: uint32_t
    contexts_free_buffers(z)
    if z.shards != cython.NULL:
        for s in range(z.shards_mask + 1):
            index_destroy(z.shards + s)
        free(z.shards)
        z.shards = cython.NULL
    groups_destroy(z)
    entries_destroy(z)


def disk_destroy(z):
    """Give back the room of every unit on disk: the swap file may outlive us."""
    s: uint32_t
    i: uint32_t
    e: EntryP
    if z.swap == cython.NULL:
        return
    for s in range(z.shards_mask + 1):
        for i in range(z.shards[s].cells_mask + 1):
            if z.shards[s].cells[i] != 0:
                e = z.entries + cython.cast(uint32_t, z.shards[s].cells[i])
                if e.state == ENTRY_DISK:
                    swap_free(z.swap, cython.cast(int64_t, e.body), e.length)


def zswap_close(z):
    if z.owner_pid != getpid():
        a32_store(cython.address(z.closed), 1)
        a32_store(cython.address(z.door), 1)
        return
    mutex_lock(cython.address(z.admin))
    if not a32_load_acq(cython.address(z.closed)):
        a32_store(cython.address(z.closed), 1)
        shrinker_stop(z)
        contexts_stop(z)
        disk_destroy(z)
        tables_destroy(z)
    mutex_unlock(cython.address(z.admin))


def zswap_free(z):
    """After zswap_close, by the last user of z."""
    if z.owner_pid == getpid():
        tables_destroy(z)  # of one that was never opened
    contexts_destroy(z)
    free(z.pools)
    free(z)
