"""zbud: two objects a page, one from each end.

Owns: nothing beyond the pool that it is called with (`BackendC`).
Guarantees: no object ever moves, so a read needs no lock and there is nothing to compact. Never more
than half of the pages is saved: that is the whole idea, and its limit.
Assumes: objects of 1 to `SHARED_BYTES_MAX` bytes; others are refused, and counted.
Locks: the pool lock in malloc and free. See `backend_core` for the order.

A page whose two places are taken is *buddied* and in list 0; an *unbuddied* one is in the list of its
free chunks. malloc takes the unbuddied page with the least room that is enough.
"""

import cython
from cython.cimports.coldmem.lab.backend_core import (
    CHUNKS,
    FIRST,
    LAST,
    SHARED_BYTES_MAX,
    BackendP,
    PageHeaderP,
    address_of,
    backend_read_end,
    best_page,
    chunks_of,
    handle_give,
    handle_kill,
    handle_pin,
    handle_take,
    list_add,
    list_del,
    location_of,
    page_chunk,
    page_get,
    page_of,
    page_put,
)
from cython.cimports.coldmem.linux.atomic import a64_fetch_add_rlx, copy_cold
from cython.cimports.coldmem.linux.lock import mutex_lock, mutex_unlock
from cython.cimports.coldmem.zsmalloc.core import ZS_OK
from cython.cimports.coldmem.zsmalloc.handle import handle_index
from cython.cimports.libc.stdint import int32_t, uint32_t, uint64_t


def zbud_room(page):
    if page.chunks[FIRST] and page.chunks[LAST]:
        return 0
    return CHUNKS - 1 - page.chunks[FIRST] - page.chunks[LAST]


def zbud_malloc(p, size):
    b: BackendP = cython.cast(BackendP, p)
    n: uint32_t = chunks_of(size)
    page: PageHeaderP
    place: uint32_t
    at: uint64_t
    handle: uint64_t
    if size == 0 or size > SHARED_BYTES_MAX:
        a64_fetch_add_rlx(cython.address(b.refused), 1)
        return 0
    mutex_lock(cython.address(b.lock))
    page = best_page(b, n)
    if page == cython.NULL:
        mutex_unlock(cython.address(b.lock))
        page = page_get(b)
        if page == cython.NULL:
            return 0
        mutex_lock(cython.address(b.lock))
        b.pages += 1
    else:
        list_del(b, page)
    place = LAST if page.chunks[FIRST] else FIRST
    at = page_chunk(b, page) + (1 if place == FIRST else CHUNKS - n)
    handle = handle_take(b, at, size)
    page.chunks[place] = n
    page.handles[place] = handle_index(handle)
    list_add(b, page, zbud_room(page))
    mutex_unlock(cython.address(b.lock))
    return handle


def zbud_write(p, handle, src, n):
    b: BackendP = cython.cast(BackendP, p)
    copy_cold(address_of(b, location_of(b, handle_index(handle))), src, n)
    backend_read_end(p, handle, 0)


def zbud_free(p, handle):
    b: BackendP = cython.cast(BackendP, p)
    index: uint32_t = handle_index(handle)
    page: PageHeaderP
    place: uint32_t
    error: int32_t
    mutex_lock(cython.address(b.lock))
    error = handle_kill(b, handle)
    if error != ZS_OK:
        mutex_unlock(cython.address(b.lock))
        return error
    page = page_of(b, location_of(b, index))
    place = FIRST if page.handles[FIRST] == index else LAST
    page.chunks[place] = 0
    page.handles[place] = 0
    handle_give(b, index)
    list_del(b, page)
    if page.handles[FIRST] == 0 and page.handles[LAST] == 0:
        b.pages -= 1
        mutex_unlock(cython.address(b.lock))
        page_put(b, page)
    else:
        list_add(b, page, zbud_room(page))
        mutex_unlock(cython.address(b.lock))
    return ZS_OK


def zbud_read_begin(p, handle, token, error):
    token[0] = 0
    return handle_pin(cython.cast(BackendP, p), handle, error)


def zbud_can_compact(p):
    return 0


def zbud_compact(p):
    return 0


def zbud_ops(out):
    out.malloc = zbud_malloc
    out.write = zbud_write
    out.free = zbud_free
    out.read_begin = zbud_read_begin
    out.read_end = backend_read_end
    out.can_compact = zbud_can_compact
    out.compact = zbud_compact
