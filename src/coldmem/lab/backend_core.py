"""What zbud and z3fold share: pages cut into chunks, lists of pages by free chunks, handles.

Owns: the handles of a pool, and through an arena of its own (that of zsmalloc) its pages.
Guarantees: a handle stays valid while its object lives, wherever the object moves; of two frees of one
handle one wins. The limit is never exceeded. An object that is pinned neither moves nor is freed.
Assumes: at most three objects in a page, so there are handles enough for all pages.
Locks: pool lock -> arena lock. Both allocators have one lock per pool, as their originals had.

A handle is that of zsmalloc: tag, generation, index. Its word holds the chunk of the arena at which the
object begins, and the pins of its readers. Runs of the arena are of one page and on one node, so the
number of a run follows from its address, and nothing but the handle lies between an object and us.
"""

import cython
from cython.cimports.coldmem.linux.atomic import (
    a32_cas,
    a32_load_acq,
    a32_store_rel,
    a64_fetch_add,
    a64_fetch_add_acq,
    a64_fetch_add_rel,
    a64_fetch_add_rlx,
    a64_load_acq,
    a64_load_rlx,
    a64_store_rlx,
    sched_yield,
)
from cython.cimports.coldmem.linux.lock import mutex_init, mutex_lock, mutex_unlock
from cython.cimports.coldmem.linux.memory import memory_release, memory_reserve
from cython.cimports.coldmem.zsmalloc.arena import (
    arena_destroy,
    arena_get,
    arena_init,
    arena_put,
    budget_limit,
)
from cython.cimports.coldmem.zsmalloc.core import (
    ZS_BUSY,
    ZS_DOUBLE_FREE,
    ZS_FOREIGN,
    ZS_OK,
    ZS_STALE,
    Handle,
    HandleP,
)
from cython.cimports.coldmem.zsmalloc.handle import (
    GENERATION_MASK,
    PINS_MAX,
    handle_generation,
    handle_index,
    handle_tag,
    make_handle,
    pin_one,
    word_pins,
)
from cython.cimports.libc.stdint import int32_t, uint32_t, uint64_t
from cython.cimports.libc.string import memcpy, memset


def backend_init(b, capacity, limit, budget, tag, counting):
    """0, or -1 when the address space is refused."""
    memset(b, 0, cython.sizeof(BackendC))
    mutex_init(cython.address(b.lock), counting)
    b.tag = tag
    b.handles_next = 1
    b.handles_max = capacity // PAGE_BYTES * 3 + 2
    b.handles = cython.cast(HandleP, memory_reserve(b.handles_max * cython.sizeof(Handle)))
    if b.handles == cython.NULL:
        return -1
    if arena_init(cython.address(b.arena), PAGE_BYTES, capacity, 1, budget, counting) != 0:
        backend_destroy(b)
        return -1
    if budget == cython.NULL:
        budget_limit(cython.address(b.arena.own_budget), limit)
    return 0


def backend_destroy(b):
    if b.arena.budget != cython.NULL:
        a64_fetch_add_rlx(
            cython.address(b.arena.budget.used_bytes), -((b.pages + b.headless) * PAGE_BYTES))
        arena_destroy(cython.address(b.arena))
    memory_release(b.handles, b.handles_max * cython.sizeof(Handle))
    b.handles = cython.NULL


def page_get(b):
    page: PageHeaderP
    run: uint32_t = arena_get(cython.address(b.arena), 1, 0, False)
    if run == 0:
        return cython.NULL
    page = cython.cast(PageHeaderP, b.arena.zspages[run].mem)
    memset(page, 0, cython.sizeof(PageHeader))
    return page


def page_put(b, page):
    # Runs are handed out in the order of their addresses, from 1 on.
    arena_put(cython.address(b.arena),
              cython.cast(uint32_t, (page_chunk(b, page) >> CHUNK_BITS) + 1))


def handle_take(b, location, size):
    index: uint32_t = b.handle_free
    generation: int32_t
    h: HandleP
    if index:
        b.handle_free = b.handles[index].size
    else:
        index = cython.cast(uint32_t, b.handles_next)
        a64_store_rlx(cython.address(b.handles_next), b.handles_next + 1)
    h = cython.address(b.handles[index])
    h.size = size
    # An add, not a store: it keeps the pin of a stale reader that is just passing through.
    a64_fetch_add_rel(cython.address(h.word), location - location_of(b, index) + pin_one())
    generation = (h.generation + 1) & GENERATION_MASK
    a32_store_rel(cython.address(h.generation), generation)
    b.objects += 1
    return make_handle(b.tag, generation, index)


def handle_check(b, handle):
    index: uint32_t = handle_index(handle)
    generation: int32_t
    if (handle_tag(handle) != b.tag or index == 0
            or index >= a64_load_rlx(cython.address(b.handles_next))):
        return ZS_FOREIGN
    generation = a32_load_acq(cython.address(b.handles[index].generation))
    if generation == handle_generation(handle):
        return ZS_OK if generation & 1 else ZS_FOREIGN
    return ZS_STALE


def handle_kill(b, handle):
    index: uint32_t = handle_index(handle)
    error: int32_t = handle_check(b, handle)
    generation: int32_t = handle_generation(handle)
    dead: int32_t = (generation + 1) & GENERATION_MASK
    h: HandleP
    if error == ZS_FOREIGN:
        return error
    h = cython.address(b.handles[index])
    if error == ZS_STALE:
        return ZS_DOUBLE_FREE if a32_load_acq(cython.address(h.generation)) == dead else ZS_STALE
    if word_pins(a64_load_acq(cython.address(h.word))):
        return ZS_BUSY
    a32_cas(cython.address(h.generation), generation, dead)
    # An add of nothing: a reader of zbud that pins after it sees the new generation.
    if word_pins(a64_fetch_add(cython.address(h.word), 0)):
        a32_store_rel(cython.address(h.generation), generation)
        return ZS_BUSY
    return ZS_OK


def handle_give(b, index):
    b.handles[index].size = b.handle_free
    b.handle_free = index
    b.objects -= 1


def handle_pin(b, handle, error):
    h: HandleP
    w: uint64_t
    error[0] = handle_check(b, handle)
    if error[0] != ZS_OK:
        return cython.NULL
    h = cython.address(b.handles[handle_index(handle)])
    while True:
        w = a64_fetch_add_acq(cython.address(h.word), pin_one())
        if word_pins(w) < PINS_MAX:
            break
        a64_fetch_add_rel(cython.address(h.word), -pin_one())
        sched_yield()
    # Freed and given out again between the check and the pin? Then this is not our object.
    if a32_load_acq(cython.address(h.generation)) != handle_generation(handle):
        a64_fetch_add_rel(cython.address(h.word), -pin_one())
        error[0] = ZS_STALE
        return cython.NULL
    return address_of(b, word_location(w))


def backend_read_end(p, handle, token):
    b: BackendP = cython.cast(BackendP, p)
    a64_fetch_add_rel(cython.address(b.handles[handle_index(handle)].word), -pin_one())


def backend_rewrite(b, handle, src, n):
    """Overwrite in place. ZS_BUSY while the object is being read."""
    error: int32_t
    index: uint32_t = handle_index(handle)
    mutex_lock(cython.address(b.lock))  # nothing moves or is freed under it
    error = handle_check(b, handle)
    if error == ZS_OK:
        if word_pins(a64_load_acq(cython.address(b.handles[index].word))):
            error = ZS_BUSY
        else:
            memcpy(address_of(b, location_of(b, index)), src, n)
    mutex_unlock(cython.address(b.lock))
    return error
