"""z3fold: up to three objects a page: first, middle, last.

Owns: nothing beyond the pool that it is called with (`BackendC`).
Guarantees: handles stay valid although objects move. free moves the middle object of its page to where
the free chunks are in one piece; `z3fold_compact` moves objects that are alone in their page into pages
that have room. An object that is being read stays. One that leaves no chunk beside the header has a page
without a header: such an object always begins at chunk 0 of its page, no other does.
Assumes: objects of 1 to `PAGE_BYTES` bytes; others are refused, and counted.
Locks: the pool lock in everything but the end of a read. See `backend_core` for the order.
"""

import cython
from cython.cimports.coldmem.lab.allocator import payload_t
from cython.cimports.coldmem.lab.backend_core import (
    CHUNK_BITS,
    CHUNKS,
    FIRST,
    LAST,
    MIDDLE,
    PAGE_BYTES,
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
from cython.cimports.coldmem.linux.atomic import (
    a64_fetch_add_rel,
    a64_fetch_add_rlx,
    a64_load_acq,
    copy_cold,
)
from cython.cimports.coldmem.linux.lock import mutex_lock, mutex_unlock
from cython.cimports.coldmem.zsmalloc.core import ZS_OK
from cython.cimports.coldmem.zsmalloc.handle import handle_index, word_pins
from cython.cimports.libc.stdint import int32_t, uint32_t, uint64_t
from cython.cimports.libc.string import memcpy, memmove

GAP = cython.declare(uint32_t, 3)  # chunks: a smaller gain is not worth a copy


def z3fold_room(page):
    before: uint32_t
    after: uint32_t
    if page.chunks[FIRST] and page.chunks[MIDDLE] and page.chunks[LAST]:
        return 0
    if page.chunks[MIDDLE] == 0:
        return CHUNKS - 1 - page.chunks[FIRST] - page.chunks[LAST]
    before = 0 if page.chunks[FIRST] else page.start - 1
    after = 0 if page.chunks[LAST] else CHUNKS - page.start - page.chunks[MIDDLE]
    return max(before, after)


@cython.cfunc
@cython.nogil
@cython.inline
@cython.exceptval(check=False)
def _place(page: PageHeaderP, n: uint32_t, start: cython.pointer(uint32_t)) -> uint32_t:
    """Where an object of `n` chunks goes in a page that has room: the place, and its first chunk."""
    if page.chunks[FIRST] == 0 and (page.chunks[MIDDLE] == 0 or n < page.start):
        start[0] = 1
        return FIRST
    if page.chunks[LAST] == 0:
        start[0] = CHUNKS - n
        return LAST
    start[0] = page.chunks[FIRST] + 1
    return MIDDLE


@cython.cfunc
@cython.nogil
@cython.inline
@cython.exceptval(check=False)
def _put(page: PageHeaderP, place: uint32_t, n: uint32_t, start: uint32_t,
         index: uint32_t) -> cython.void:
    page.chunks[place] = n
    page.handles[place] = index
    if place == MIDDLE:
        page.start = start


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def _malloc_headless(b: BackendP, size: uint32_t) -> uint64_t:
    handle: uint64_t
    page: PageHeaderP = page_get(b)
    if page == cython.NULL:
        return 0
    mutex_lock(cython.address(b.lock))
    b.headless += 1
    handle = handle_take(b, page_chunk(b, page), size)
    mutex_unlock(cython.address(b.lock))
    return handle


def z3fold_malloc(p, size):
    b: BackendP = cython.cast(BackendP, p)
    n: uint32_t = chunks_of(size)
    page: PageHeaderP
    place: uint32_t
    start: uint32_t = 0
    handle: uint64_t
    if size == 0 or size > PAGE_BYTES:
        a64_fetch_add_rlx(cython.address(b.refused), 1)
        return 0
    if size > SHARED_BYTES_MAX:
        return _malloc_headless(b, size)
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
    place = _place(page, n, cython.address(start))
    handle = handle_take(b, page_chunk(b, page) + start, size)
    _put(page, place, n, start, handle_index(handle))
    list_add(b, page, z3fold_room(page))
    mutex_unlock(cython.address(b.lock))
    return handle


def z3fold_read_begin(p, handle, token, error):
    b: BackendP = cython.cast(BackendP, p)
    at: payload_t
    token[0] = 0
    mutex_lock(cython.address(b.lock))  # the object must not move between its address and the pin
    at = handle_pin(b, handle, error)
    mutex_unlock(cython.address(b.lock))
    return at


def z3fold_write(p, handle, src, n):
    # Fresh objects are pinned, so this one stays. The lock is what the original took to find it.
    b: BackendP = cython.cast(BackendP, p)
    at: cython.p_uchar
    mutex_lock(cython.address(b.lock))
    at = address_of(b, location_of(b, handle_index(handle)))
    mutex_unlock(cython.address(b.lock))
    copy_cold(at, src, n)
    backend_read_end(p, handle, 0)


@cython.cfunc
@cython.nogil
@cython.inline
@cython.exceptval(check=False)
def _pinned(b: BackendP, index: uint32_t) -> cython.bint:
    return word_pins(a64_load_acq(cython.address(b.handles[index].word))) != 0


@cython.cfunc
@cython.nogil
@cython.inline
@cython.exceptval(check=False)
def _relocate(b: BackendP, index: uint32_t, to: uint64_t) -> cython.void:
    # An add keeps the pins of readers who are stepping back.
    a64_fetch_add_rel(cython.address(b.handles[index].word), to - location_of(b, index))
    b.moved += 1


def settle(b, page):
    n: uint32_t = page.chunks[MIDDLE]
    first: uint32_t = page.chunks[FIRST]
    last: uint32_t = page.chunks[LAST]
    index: uint32_t = page.handles[MIDDLE]
    to: uint32_t
    base: uint64_t
    if n == 0 or (first and last):
        return
    if _pinned(b, index):
        b.unsettled += 1
        return
    if first == 0 and last == 0:
        to = 1
    elif last == 0:
        to = first + 1
        if page.start - to < GAP:
            return
    else:
        to = CHUNKS - last - n
        if to - page.start < GAP:
            return
    base = page_chunk(b, page)
    memmove(address_of(b, base + to), address_of(b, base + page.start), n << CHUNK_BITS)
    _relocate(b, index, base + to)
    if first == 0 and last == 0:
        page.chunks[MIDDLE] = 0
        page.handles[MIDDLE] = 0
        _put(page, FIRST, n, to, index)
    else:
        page.start = to


def z3fold_free(p, handle):
    b: BackendP = cython.cast(BackendP, p)
    index: uint32_t = handle_index(handle)
    page: PageHeaderP
    place: uint32_t = FIRST
    at: uint64_t
    error: int32_t
    empty: cython.bint
    mutex_lock(cython.address(b.lock))
    error = handle_kill(b, handle)
    if error != ZS_OK:
        mutex_unlock(cython.address(b.lock))
        return error
    at = location_of(b, index)
    page = page_of(b, at)
    handle_give(b, index)
    if at % CHUNKS == 0:
        b.headless -= 1
        empty = True
    else:
        while page.handles[place] != index:
            place += 1
        page.chunks[place] = 0
        page.handles[place] = 0
        list_del(b, page)
        empty = page.handles[FIRST] == 0 and page.handles[MIDDLE] == 0 and page.handles[LAST] == 0
        if empty:
            b.pages -= 1
        else:
            settle(b, page)
            list_add(b, page, z3fold_room(page))
    mutex_unlock(cython.address(b.lock))
    if empty:
        page_put(b, page)
    return ZS_OK


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def _only_place(page: PageHeaderP) -> uint32_t:
    """The place of the only object of a page; 3: there are several."""
    first: cython.bint = page.handles[FIRST] != 0
    middle: cython.bint = page.handles[MIDDLE] != 0
    last: cython.bint = page.handles[LAST] != 0
    if first + middle + last != 1:
        return 3
    return FIRST if first else (MIDDLE if middle else LAST)


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def _settle_all(b: BackendP) -> cython.void:
    """Settle pages whose middle object was being read when that was due. Lock held."""
    room: uint32_t
    page: PageHeaderP
    after: PageHeaderP
    b.unsettled = 0
    for room in range(1, CHUNKS):
        page = b.head[room]
        while page != cython.NULL:
            after = page.next
            if page.chunks[MIDDLE]:
                list_del(b, page)
                settle(b, page)
                list_add(b, page, z3fold_room(page))
            page = after


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def _empty_list(b: BackendP, room: uint32_t, left: cython.pointer(PageHeaderP)) -> uint64_t:
    """Move lone objects of the pages of a list into other pages; how many. Lock held.

    The pages that they leave are chained in `left`.
    """
    n: uint32_t
    place: uint32_t
    start: uint32_t = 0
    index: uint32_t
    page: PageHeaderP = b.head[room]
    after: PageHeaderP
    target: PageHeaderP
    to: uint64_t
    done: uint64_t = 0
    while page != cython.NULL:
        after = page.next
        place = _only_place(page)
        if place < 3 and not _pinned(b, page.handles[place]):
            index = page.handles[place]
            n = page.chunks[place]
            list_del(b, page)
            target = best_page(b, n)
            if target == cython.NULL:
                list_add(b, page, room)
                break  # the lone objects of a list are all as long: none of them finds room
            if target == after:
                after = target.next
            list_del(b, target)
            place = _place(target, n, cython.address(start))
            to = page_chunk(b, target) + start
            memcpy(address_of(b, to), address_of(b, location_of(b, index)), n << CHUNK_BITS)
            _relocate(b, index, to)
            _put(target, place, n, start, index)
            list_add(b, target, z3fold_room(target))
            b.pages -= 1
            b.compacted += 1
            page.next = left[0]
            left[0] = page
            done += 1
        page = after
    return done


def z3fold_compact(p):
    """Pages freed. The lock is dropped after each list. Large objects go first: they fit the fewest."""
    b: BackendP = cython.cast(BackendP, p)
    left: PageHeaderP
    after: PageHeaderP
    freed: uint64_t = 0
    room: uint32_t
    mutex_lock(cython.address(b.lock))
    if b.unsettled:
        _settle_all(b)
    mutex_unlock(cython.address(b.lock))
    for room in range(1, CHUNKS):
        left = cython.NULL
        mutex_lock(cython.address(b.lock))
        freed += _empty_list(b, room, cython.address(left))
        mutex_unlock(cython.address(b.lock))
        while left != cython.NULL:
            after = left.next
            page_put(b, left)
            left = after
    return freed


def z3fold_can_compact(p):
    """Whether any page has room; a compaction tells the rest."""
    b: BackendP = cython.cast(BackendP, p)
    some: uint64_t
    mutex_lock(cython.address(b.lock))
    some = b.nonempty > 1
    mutex_unlock(cython.address(b.lock))
    return some


def z3fold_ops(out):
    out.malloc = z3fold_malloc
    out.write = z3fold_write
    out.free = z3fold_free
    out.read_begin = z3fold_read_begin
    out.read_end = backend_read_end
    out.can_compact = z3fold_can_compact
    out.compact = z3fold_compact
