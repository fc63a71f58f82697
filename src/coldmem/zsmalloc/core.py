"""malloc, free, read and write of the pool, in its three lockings.

Lock order, the only place where it stands::

    pool lock                                   "pool":   guards everything
    migrate lock -> class lock -> zspage lock   "class":  the seed patch's order
    magazine (try only) -> class lock           "handle": no pool, migrate or zspage lock
    any of these -> arena lock                  a leaf

"class": malloc takes the class lock. free and read take the migrate lock for reading, which keeps
the object where it is, then the class lock (free) or the zspage's reader count (read), and drop the
migrate lock at once. Compaction and migration take the migrate lock for writing.

"handle": the word of a handle says class, zspage and object, so nothing has to be held still to find
them. Invariants:

1. A handle never changes its class: free lists of handles belong to classes. So free may read the
   class from the word without a lock, and it is still right after the class lock is taken.
2. The location in a word changes only under the lock of its class.
3. A reader adds a pin to the word with one atomic add, which also tells it the location; until it
   takes the pin back the object stays. It never waits.
4. Compaction, under the class lock, marks a word that has no pins as moving, copies, and commits by
   compare-and-swap of "moving, no pins" to the new location. A pin that came in between makes the
   swap fail; the object then stays. The old place is overwritten only after the commit.
5. A fresh object is born pinned and is published by taking that pin back (release), so compaction
   never copies one that is being written. A magazine does not hand out an object that is marked
   moving. `zs_rewrite` holds the class lock. Hence no byte is ever read and written at once.
6. Pins are only ever added and taken back, never set, so a reader with a stale handle, who pins for a
   moment before it sees that the generation has changed, harms nothing.

The generation is odd while a handle is live. free bumps it by compare-and-swap, so of two frees of
one handle exactly one wins, in every locking, with magazines too.
"""

import cython
from cython.cimports.coldmem.linux.atomic import (
    a32_cas,
    a32_fetch_add_acq,
    a32_fetch_add_rel,
    a32_load_acq,
    a32_store_rel,
    a64_fetch_add_acq,
    a64_fetch_add_rel,
    a64_load_acq,
    a64_load_rlx,
    a64_store_rel,
    a64_store_rlx,
    copy_cold,
    prefetch,
    sched_yield,
)
from cython.cimports.coldmem.linux.lock import (
    MutexP,
    mutex_lock,
    mutex_unlock,
    rw_read_lock,
    rw_read_unlock,
)
from cython.cimports.coldmem.zsmalloc.arena import ZspageP, arena_get, arena_put
from cython.cimports.coldmem.zsmalloc.handle import (
    GENERATION_MASK,
    PINS_MAX,
    handle_generation,
    handle_index,
    handle_tag,
    make_handle,
    make_location,
    pin_one,
    word_class,
    word_location,
    word_object,
    word_pins,
    word_zspage,
)
from cython.cimports.coldmem.zsmalloc.magazine import (
    magazine_give,
    magazine_take,
    magazines_drain,
)
from cython.cimports.coldmem.zsmalloc.zspage import (
    find_fullest,
    format_zspage,
    list_add,
    list_del,
    object_give,
    object_header,
    object_payload,
    object_take,
    refile,
    zspage_enter,
    zspage_leave,
)
from cython.cimports.libc.stdint import int32_t, uint32_t, uint64_t
from cython.cimports.libc.string import memcpy

HANDLE_BATCH = cython.declare(uint32_t, 64)


@cython.cfunc
@cython.nogil
@cython.inline
@cython.exceptval(check=False)
def _class_for(p: PoolP, size: uint32_t) -> SizeClassP:
    """Class of a payload of 1..unit bytes; the 8 bytes of the header are counted here."""
    slot: uint32_t = 0
    if size + 8 > 32:
        slot = (size + 8 - 32 + p.step - 1) // p.step
        if slot >= p.slots:
            slot = p.slots - 1
    return cython.address(p.classes[p.class_of[slot]])


def class_lock(p, k):
    """The lock that guards class `k`."""
    return cython.address(p.lock) if p.locking == LOCK_POOL else cython.address(k.lock)


# -- handles: the free list of a class, under its lock ---------------------------------------------
@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def _refill_handles(p: PoolP, k: SizeClassP) -> cython.bint:
    first: uint64_t
    i: uint64_t
    mutex_lock(cython.address(p.arena.lock))
    first = p.handles_next
    if first + HANDLE_BATCH > p.handles_max:
        mutex_unlock(cython.address(p.arena.lock))
        return False
    a64_store_rlx(cython.address(p.handles_next), first + HANDLE_BATCH)
    mutex_unlock(cython.address(p.arena.lock))
    for i in range(first, first + HANDLE_BATCH):
        a64_store_rlx(cython.address(p.handles[i].word), make_location(k.index, 0, 0))
        p.handles[i].size = cython.cast(uint32_t, i + 1) if i + 1 < first + HANDLE_BATCH else 0
    k.handle_free = cython.cast(uint32_t, first)
    return True


# -- the core: objects of one class, under its lock ------------------------------------------------
def core_take(p, k, out, n, pin, node):
    l: MutexP = class_lock(p, k)
    done: uint32_t = 0
    z: uint32_t
    zp: ZspageP
    h: HandleP
    i: uint32_t
    location: uint64_t
    spare: uint32_t = 0
    mutex_lock(l)
    while done < n:
        z = find_fullest(k)
        if z == 0:
            if done:
                break  # a batch does not make a zspage for what may never be used
            if spare == 0:
                mutex_unlock(l)
                spare = arena_get(cython.address(p.arena), k.units, node, True)
                if spare == 0:
                    return 0
                format_zspage(k, cython.address(p.arena.zspages[spare]))
                mutex_lock(l)
                continue  # somebody may have freed an object meanwhile: that is the better place
            z = spare
            spare = 0
            zspage_enter(k, cython.address(p.arena.zspages[z]))
            list_add(p, k, z, 0)
        if k.handle_free == 0 and not _refill_handles(p, k):
            if p.arena.zspages[z].inuse == 0:
                list_del(p, k, z)
                zspage_leave(k, cython.address(p.arena.zspages[z]))
                spare = z
            break
        zp = cython.address(p.arena.zspages[z])
        out[done] = k.handle_free
        h = cython.address(p.handles[k.handle_free])
        k.handle_free = h.size
        i = object_take(k, zp, out[done])
        refile(p, k, z)
        location = make_location(k.index, z, i)
        if p.locking == LOCK_HANDLE:
            # An add, not a store: it keeps the pin of a stale reader that is just passing through.
            location -= word_location(a64_load_rlx(cython.address(h.word)))
            if pin and done == 0:
                location += pin_one()
            a64_fetch_add_rel(cython.address(h.word), location)
        else:
            a64_store_rel(cython.address(h.word), location)
        done += 1
        if zp.freeobj < k.objs:  # for the next caller
            prefetch(object_header(k, zp, zp.freeobj))
        prefetch(cython.address(p.handles[k.handle_free]))
    if done:
        a64_store_rlx(cython.address(k.objects), k.objects + done)
    mutex_unlock(l)
    if spare:
        arena_put(cython.address(p.arena), spare)
    return done


@cython.cfunc
@cython.nogil
@cython.inline
@cython.exceptval(check=False)
def _give_locked(p: PoolP, k: SizeClassP, index: uint32_t) -> uint32_t:
    """Free one object; the zspage to hand to the arena after unlocking, or 0."""
    h: HandleP = cython.address(p.handles[index])
    w: uint64_t = a64_load_rlx(cython.address(h.word))
    z: uint32_t = word_zspage(w)
    object_give(k, cython.address(p.arena.zspages[z]), word_object(w))
    a64_store_rlx(cython.address(k.objects), k.objects - 1)
    h.size = k.handle_free
    k.handle_free = index
    if refile(p, k, z) == 0:
        list_del(p, k, z)
        zspage_leave(k, cython.address(p.arena.zspages[z]))
        return z
    return 0


def core_give(p, k, handles, n):
    l: MutexP = class_lock(p, k)
    empty: uint32_t[16]
    found: uint32_t = 0
    i: uint32_t
    mutex_lock(l)
    for i in range(n):
        empty[found] = _give_locked(p, k, handles[i])
        if empty[found]:
            found += 1
    mutex_unlock(l)
    for i in range(found):
        arena_put(cython.address(p.arena), empty[i])


# -- the public functions --------------------------------------------------------------------------
def zs_malloc(p, size):
    return zs_malloc_node(p, size, 0)


def zs_malloc_node(p, size, node):
    k: SizeClassP = _class_for(p, size)
    index: uint32_t = 0
    h: HandleP
    generation: int32_t
    if p.cpus:
        index = magazine_take(p, k, node)
    if index == 0 and core_take(p, k, cython.address(index), 1, True, node) == 0:
        if p.cpus == 0:
            return 0
        magazines_drain(p)
        if core_take(p, k, cython.address(index), 1, True, node) == 0:
            return 0
    h = cython.address(p.handles[index])
    h.size = size
    generation = (h.generation + 1) & GENERATION_MASK
    a32_store_rel(cython.address(h.generation), generation)
    return make_handle(p.tag, generation, index)


def zs_publish(p, handle):
    if p.locking == LOCK_HANDLE:
        a64_fetch_add_rel(cython.address(p.handles[handle_index(handle)].word), -pin_one())


def zs_write(p, handle, src, n):
    w: uint64_t
    zp: ZspageP
    k: SizeClassP
    token: uint64_t = 0
    if p.locking == LOCK_HANDLE:
        w = a64_load_rlx(cython.address(p.handles[handle_index(handle)].word))
        zp = cython.address(p.arena.zspages[word_zspage(w)])
        k = cython.address(p.classes[word_class(w)])
        copy_cold(object_payload(k, zp, word_object(w)), src, n)
        zs_publish(p, handle)
        return
    # The seed's map in write mode: the zspage's reader count keeps compaction away.
    copy_cold(_hold(p, handle_index(handle), cython.address(token)), src, n)
    zs_read_end(p, handle, token)


@cython.cfunc
@cython.nogil
@cython.inline
@cython.exceptval(check=False)
def _hold(p: PoolP, index: uint32_t, token: cython.pointer(uint64_t)) -> cython.p_uchar:
    """Lockings "pool" and "class": hold the object's zspage still; the address of the payload."""
    line: int32_t = 0
    w: uint64_t
    zp: ZspageP
    if p.locking == LOCK_CLASS:
        line = rw_read_lock(cython.address(p.migrate))
    else:
        mutex_lock(cython.address(p.lock))
    w = a64_load_acq(cython.address(p.handles[index].word))
    zp = cython.address(p.arena.zspages[word_zspage(w)])
    a32_fetch_add_acq(cython.address(zp.readers), 1)
    if p.locking == LOCK_CLASS:
        rw_read_unlock(cython.address(p.migrate), line)
    else:
        mutex_unlock(cython.address(p.lock))
    token[0] = word_zspage(w)
    return object_payload(cython.address(p.classes[zp.klass]), zp, word_object(w))


@cython.cfunc
@cython.nogil
@cython.inline
@cython.exceptval(check=False)
def _check(p: PoolP, handle: uint64_t) -> int32_t:
    """Whether the handle is this pool's and live, as far as can be seen without a lock."""
    index: uint32_t = handle_index(handle)
    generation: int32_t
    if (handle_tag(handle) != p.tag or index == 0
            or index >= a64_load_rlx(cython.address(p.handles_next))):
        return ZS_FOREIGN
    generation = a32_load_acq(cython.address(p.handles[index].generation))
    if generation == handle_generation(handle):
        return ZS_OK if generation & 1 else ZS_FOREIGN
    return ZS_STALE


def zs_read_begin(p, handle, token, error):
    h: HandleP
    w: uint64_t
    at: cython.p_uchar
    error[0] = _check(p, handle)
    if error[0] != ZS_OK:
        return cython.NULL
    h = cython.address(p.handles[handle_index(handle)])
    if p.locking != LOCK_HANDLE:
        at = _hold(p, handle_index(handle), token)
    else:
        while True:
            w = a64_fetch_add_acq(cython.address(h.word), pin_one())
            if word_pins(w) < PINS_MAX:
                break
            a64_fetch_add_rel(cython.address(h.word), -pin_one())
            sched_yield()
        token[0] = 0
        at = object_payload(cython.address(p.classes[word_class(w)]),
                            cython.address(p.arena.zspages[word_zspage(w)]), word_object(w))
    # Freed and given out again between the check and the pin? Then this is not our object.
    if a32_load_acq(cython.address(h.generation)) != handle_generation(handle):
        zs_read_end(p, handle, token[0])
        error[0] = ZS_STALE
        return cython.NULL
    return at


def zs_read_end(p, handle, token):
    if p.locking == LOCK_HANDLE:
        a64_fetch_add_rel(cython.address(p.handles[handle_index(handle)].word), -pin_one())
    else:
        a32_fetch_add_rel(cython.address(p.arena.zspages[token].readers), -1)


def zs_free(p, handle):
    index: uint32_t = handle_index(handle)
    error: int32_t = _check(p, handle)
    generation: int32_t = handle_generation(handle)
    dead: int32_t = (generation + 1) & GENERATION_MASK
    h: HandleP
    k: SizeClassP
    l: MutexP
    w: uint64_t
    line: int32_t
    empty: uint32_t
    if error == ZS_FOREIGN:
        return error
    h = cython.address(p.handles[index])
    if not a32_cas(cython.address(h.generation), generation, dead):
        return ZS_DOUBLE_FREE if a32_load_acq(cython.address(h.generation)) == dead else ZS_STALE
    if p.locking == LOCK_HANDLE:
        w = a64_load_acq(cython.address(h.word))
        if word_pins(w):
            a32_store_rel(cython.address(h.generation), generation)
            return ZS_BUSY
        k = cython.address(p.classes[word_class(w)])
        if p.cpus == 0 or not magazine_give(p, k, index):
            core_give(p, k, cython.address(index), 1)
        return ZS_OK
    if p.locking == LOCK_CLASS:
        line = rw_read_lock(cython.address(p.migrate))
        w = a64_load_acq(cython.address(h.word))
        k = cython.address(p.classes[p.arena.zspages[word_zspage(w)].klass])
        l = cython.address(k.lock)
        mutex_lock(l)
        rw_read_unlock(cython.address(p.migrate), line)
    else:
        l = cython.address(p.lock)
        mutex_lock(l)
        k = cython.address(p.classes[word_class(a64_load_acq(cython.address(h.word)))])
    empty = _give_locked(p, k, index)
    mutex_unlock(l)
    if empty:
        arena_put(cython.address(p.arena), empty)
    return ZS_OK


def zs_rewrite(p, handle, src, n):
    """Overwrite in place. ZS_BUSY while the object is being read."""
    h: HandleP = cython.address(p.handles[handle_index(handle)])
    error: int32_t = _check(p, handle)
    k: SizeClassP
    l: MutexP
    w: uint64_t
    if error != ZS_OK:
        return error
    k = cython.address(p.classes[word_class(a64_load_acq(cython.address(h.word)))])
    l = class_lock(p, k)
    mutex_lock(l)  # compaction takes it too, in every locking: the object stays where it is
    w = a64_load_acq(cython.address(h.word))
    if a32_load_acq(cython.address(h.generation)) != handle_generation(handle):
        error = ZS_STALE
    elif word_pins(w):
        error = ZS_BUSY
    else:
        memcpy(object_payload(k, cython.address(p.arena.zspages[word_zspage(w)]), word_object(w)),
               src, n)
    mutex_unlock(l)
    return error


def zs_size(p, handle):
    return p.handles[handle_index(handle)].size


def zs_used_bytes(p):
    return a64_load_rlx(cython.address(p.arena.budget.used_bytes))


def zs_drain(p):
    if p.cpus:
        magazines_drain(p)
