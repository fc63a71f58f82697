"""What a zbud or z3fold pool holds, and its invariants: what is true whenever the pool lock is free.

Guarantees: reads only, under the pool lock, so it can run beside any other thread.
"""

import cython
from cython.cimports.coldmem.lab.backend_core import (
    CHUNK_BITS,
    CHUNKS,
    FIRST,
    LAST,
    MIDDLE,
    SHARED_BYTES_MAX,
    BackendC,
    BackendP,
    PageHeaderP,
    chunks_of,
    location_of,
    page_chunk,
)
from cython.cimports.coldmem.lab.z3fold import z3fold_room
from cython.cimports.coldmem.lab.zbud import zbud_room
from cython.cimports.coldmem.linux.atomic import a32_load_rlx, a64_load_rlx
from cython.cimports.coldmem.linux.lock import mutex_lock, mutex_unlock
from cython.cimports.coldmem.zsmalloc.arena import Zspage
from cython.cimports.coldmem.zsmalloc.core import Handle, HandleP
from cython.cimports.libc.stdint import uint32_t, uint64_t

FindingP = cython.typedef(cython.pointer(BackendFinding))


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def _found(out: FindingP, what: text_t, page: uint64_t, number: uint64_t) -> cython.void:
    if out.what == cython.NULL:
        out.what = what
        out.page = page
        out.number = number


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def _check_page(b: BackendP, page: PageHeaderP, three: cython.bint, out: FindingP) -> uint32_t:
    """Objects of a page."""
    base: uint64_t = page_chunk(b, page)
    at: uint64_t = base >> CHUNK_BITS
    starts: uint32_t[3]
    end: uint32_t = 1
    objects: uint32_t = 0
    place: uint32_t
    h: HandleP
    starts[FIRST] = 1
    starts[MIDDLE] = page.start
    starts[LAST] = CHUNKS - page.chunks[LAST]
    if page.handles[MIDDLE] and not three:
        _found(out, b"zbud has a middle object", at, 0)
    for place in range(3):
        if (page.handles[place] != 0) != (page.chunks[place] != 0):
            _found(out, b"a place is half taken", at, place)
        if page.handles[place] == 0:
            continue
        objects += 1
        if page.handles[place] >= b.handles_next:
            _found(out, b"an object names a handle that was never made", at, place)
            continue
        h = cython.address(b.handles[page.handles[place]])
        if a32_load_rlx(cython.address(h.generation)) & 1 == 0:
            _found(out, b"an object has a dead handle", at, place)
        if location_of(b, page.handles[place]) != base + starts[place]:
            _found(out, b"a handle does not point back to its object", at, place)
        if chunks_of(h.size) != page.chunks[place]:
            _found(out, b"an object has another length than its handle says", at, place)
        if starts[place] < end:
            _found(out, b"two objects overlap", at, place)
        end = starts[place] + page.chunks[place]
    if end > CHUNKS:
        _found(out, b"an object runs over the end of its page", at, end)
    if objects == 0:
        _found(out, b"an empty page was kept", at, 0)
    if page.list != (z3fold_room(page) if three else zbud_room(page)):
        _found(out, b"a page is in the wrong list", at, page.list)
    return objects


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def _check_lists(b: BackendP, three: cython.bint, out: FindingP) -> uint64_t:
    """Objects of all pages with a header."""
    i: uint32_t
    page: PageHeaderP
    previous: PageHeaderP
    pages: uint64_t = 0
    objects: uint64_t = 0
    for i in range(CHUNKS):
        previous = cython.NULL
        page = b.head[i]
        if (page != cython.NULL) != ((b.nonempty >> i) & 1):
            _found(out, b"the map of filled lists is wrong", 0, i)
        while page != cython.NULL:
            if page.prev != previous or page.list != i:
                _found(out, b"a list is broken", page_chunk(b, page) >> CHUNK_BITS, i)
                return objects
            objects += _check_page(b, page, three, out)
            pages += 1
            if pages > b.pages:
                _found(out, b"there are more pages in the lists than were taken", 0, i)
                return objects
            previous = page
            page = page.next
    if pages != b.pages:
        _found(out, b"the number of pages is wrong", 0, pages)
    return objects


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def _check_handles(b: BackendP, three: cython.bint, out: FindingP) -> cython.void:
    i: uint64_t
    live: uint64_t = 0
    headless: uint64_t = 0
    free: uint64_t = 0
    h: HandleP
    next_free: uint32_t = b.handle_free
    for i in range(1, b.handles_next):
        h = cython.address(b.handles[i])
        if a32_load_rlx(cython.address(h.generation)) & 1 == 0:
            continue
        live += 1
        if location_of(b, i) % CHUNKS == 0:
            headless += 1
            if not three or h.size <= SHARED_BYTES_MAX:
                _found(out, b"a small object has a page without a header", location_of(b, i), i)
    while next_free and free < b.handles_next:
        free += 1
        next_free = b.handles[next_free].size
    if live != b.objects:
        _found(out, b"the number of live handles is not that of objects", 0, live)
    if headless != b.headless:
        _found(out, b"the number of pages without a header is wrong", 0, headless)
    if live + free + 1 != b.handles_next:
        _found(out, b"live and free handles do not add up", 0, free)


def backend_check(b, three, full, out):
    objects: uint64_t
    out.what = cython.NULL
    mutex_lock(cython.address(b.lock))
    objects = _check_lists(b, three, out) + b.headless
    if objects != b.objects:
        _found(out, b"the number of objects is wrong", 0, objects)
    if full:
        _check_handles(b, three, out)
    mutex_unlock(cython.address(b.lock))
    # A page is charged before it enters the lists and after it left them.
    if (b.arena.budget == cython.address(b.arena.own_budget)
            and a64_load_rlx(cython.address(b.arena.budget.used_bytes))
            > a64_load_rlx(cython.address(b.arena.budget.limit_bytes))):
        _found(out, b"the limit is exceeded", 0, 0)


def backend_counts(b, out):
    page: PageHeaderP
    out.full = 0
    mutex_lock(cython.address(b.lock))
    page = b.head[0]
    while page != cython.NULL:
        out.full += 1
        page = page.next
    out.objects = b.objects
    out.pages = b.pages
    out.headless = b.headless
    out.moved = b.moved
    out.compacted = b.compacted
    # The headers of pages are inside the pages.
    out.metadata_bytes = b.handles_next * cython.sizeof(Handle) + cython.sizeof(BackendC)
    mutex_unlock(cython.address(b.lock))
    mutex_lock(cython.address(b.arena.lock))
    out.metadata_bytes += b.arena.zspages_end * cython.sizeof(Zspage)
    out.resident_free_bytes = b.arena.dirty_bytes
    out.released_bytes = b.arena.released_bytes
    mutex_unlock(cython.address(b.arena.lock))
