"""Moving one object within its class, in the three lockings: what compaction and migration share.

Guarantees: a handle leads to the whole object at any moment, before the move, during it and after.
Locks: `move_lock` takes what core.py's order asks of somebody who moves objects. What is held for
reading is never waited for: its zspage (lockings "pool" and "class") or the object itself ("handle")
is left where it is.
"""

import cython
from cython.cimports.coldmem.linux.atomic import (
    a32_cas,
    a32_fetch_add_rel,
    a32_load_rlx,
    a64_cas,
    a64_fetch_and,
    a64_load_acq,
    a64_store_rel,
)
from cython.cimports.coldmem.linux.lock import (
    MutexP,
    mutex_lock,
    mutex_unlock,
    rw_write_lock,
    rw_write_unlock,
)
from cython.cimports.coldmem.zsmalloc.arena import ZspageP
from cython.cimports.coldmem.zsmalloc.core import (
    LOCK_CLASS,
    LOCK_HANDLE,
    HandleP,
    class_lock,
)
from cython.cimports.coldmem.zsmalloc.handle import (
    make_location,
    moving_bit,
    word_pins,
)
from cython.cimports.coldmem.zsmalloc.zspage import (
    object_give,
    object_header,
    object_payload,
    object_take,
)
from cython.cimports.libc.stdint import int32_t, uint32_t, uint64_t
from cython.cimports.libc.string import memcpy

WRITER = cython.declare(int32_t, -0x40000000)


def move_lock(p, k):
    if p.locking == LOCK_CLASS:
        rw_write_lock(cython.address(p.migrate))
    mutex_lock(class_lock(p, k))


def move_unlock(p, k):
    l: MutexP = class_lock(p, k)
    contended: cython.bint = a32_load_rlx(cython.address(l.word)) == 2
    mutex_unlock(l)
    if p.locking == LOCK_CLASS:
        contended = contended or a32_load_rlx(cython.address(p.migrate.closed)) == 2
        rw_write_unlock(cython.address(p.migrate))
    return contended


def zspage_try_write(p, z):
    return p.locking == LOCK_HANDLE or a32_cas(cython.address(z.readers), 0, WRITER)


def zspage_end_write(p, z):
    if p.locking != LOCK_HANDLE:
        a32_fetch_add_rel(cython.address(z.readers), -WRITER)


def move_object(p, k, source, i, target):
    sp: ZspageP = cython.address(p.arena.zspages[source])
    dp: ZspageP = cython.address(p.arena.zspages[target])
    index: uint32_t = cython.cast(uint32_t, object_header(k, sp, i)[0] >> 1)
    to: uint32_t = dp.freeobj
    h: HandleP = cython.address(p.handles[index])
    w: uint64_t
    location: uint64_t = make_location(k.index, target, to)
    nbytes: uint32_t = k.size if k.huge else k.size - 8  # a huge class has its header elsewhere
    if p.locking == LOCK_HANDLE:
        w = a64_load_acq(cython.address(h.word))
        if word_pins(w) or not a64_cas(cython.address(h.word), w, w | moving_bit()):
            return False
        memcpy(object_payload(k, dp, to), object_payload(k, sp, i), nbytes)
        if not a64_cas(cython.address(h.word), w | moving_bit(), location):
            # A reader came in between. It is served from the old place, which stays.
            a64_fetch_and(cython.address(h.word), ~moving_bit())
            return False
    else:
        memcpy(object_payload(k, dp, to), object_payload(k, sp, i), nbytes)
        a64_store_rel(cython.address(h.word), location)
    object_take(k, dp, index)
    object_give(k, sp, i)
    return True
