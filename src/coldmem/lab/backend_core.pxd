# What zbud and z3fold share: pages cut into chunks, lists of pages by free chunks, handles.
from libc.stdint cimport int32_t, uint8_t, uint32_t, uint64_t

from coldmem.linux.atomic cimport a64_load_rlx, ctz64
from coldmem.linux.lock cimport Mutex
from coldmem.zsmalloc.arena cimport Arena, Budget
from coldmem.zsmalloc.core cimport Handle
from coldmem.zsmalloc.handle cimport word_location

cdef enum:
    PAGE_BYTES = 4096
    CHUNK_BITS = 6
    CHUNKS = 64                 # of 64 bytes in a page; the first one is the header
    FIRST = 0
    MIDDLE = 1                  # z3fold only
    LAST = 2
    # An object with a header beside it leaves one chunk free: the number of the list of its page.
    SHARED_BYTES_MAX = 3968

# The first chunk of a page. Pool lock.
cdef struct PageHeader:
    PageHeader *prev
    PageHeader *next
    uint32_t list               # free chunks; 0: full, no object can be added
    uint32_t handles[3]         # index of each object's handle; 0: there is none
    uint8_t chunks[3]           # length of each object; 0: there is none
    uint8_t start               # chunk at which the middle object begins
    uint8_t fill[12]

ctypedef PageHeader *PageHeaderP

cdef struct BackendC:
    Mutex lock                  # guards all that has no word of its own, and every page header
    uint64_t nonempty           # bit i: list i is not empty
    PageHeader *head[CHUNKS]    # pages by free chunks
    uint32_t handle_free        # first of the free handles; 0: none
    uint32_t fill1
    uint64_t objects
    uint64_t pages              # with a header, in a list
    uint64_t headless           # z3fold: pages that one object fills
    uint64_t moved              # objects moved within their page, or to another one
    uint64_t compacted          # pages freed by moving the last object out
    uint64_t unsettled          # pages whose middle object could not be moved: it was being read
    uint64_t fill2[7]
    uint64_t handles_next       # pool lock; read without it
    uint64_t refused            # atomic: objects of a size that this allocator does not take
    uint64_t fill3[14]
    Arena arena                 # runs of one page each, on one node
    Handle *handles             # type-stable; word = pins | chunk of the arena
    uint64_t handles_max
    uint32_t tag

ctypedef BackendC *BackendP

cdef int backend_init(BackendC *b, uint64_t capacity, uint64_t limit, Budget *budget, uint32_t tag,
                      bint counting) noexcept nogil
# Nobody may be inside. Memory in use is taken off a shared budget.
cdef void backend_destroy(BackendC *b) noexcept nogil
# A page with an empty header, in no list; NULL: no room. Takes the arena lock.
cdef PageHeader *page_get(BackendC *b) noexcept nogil
cdef void page_put(BackendC *b, PageHeader *page) noexcept nogil
# A live, pinned handle of an object at `location`. Pool lock.
cdef uint64_t handle_take(BackendC *b, uint64_t location, uint32_t size) noexcept nogil
# ZS_OK: the handle is dead now, and nobody reads the object. Pool lock.
cdef int32_t handle_kill(BackendC *b, uint64_t handle) noexcept nogil
cdef void handle_give(BackendC *b, uint32_t index) noexcept nogil
cdef int32_t handle_check(BackendC *b, uint64_t handle) noexcept nogil
# Pin the object; its address. For zbud without a lock, for z3fold under the pool lock.
cdef const uint8_t *handle_pin(BackendC *b, uint64_t handle, int32_t *error) noexcept nogil
# These three are of the table of functions.
cdef void backend_read_end(void *p, uint64_t handle, uint64_t token) noexcept nogil
cdef int32_t backend_rewrite(BackendC *b, uint64_t handle, const uint8_t *src, uint32_t n) noexcept nogil

cdef inline uint32_t chunks_of(uint32_t size) noexcept nogil:
    return (size + (1 << CHUNK_BITS) - 1) >> CHUNK_BITS

cdef inline uint64_t page_chunk(BackendC *b, PageHeader *page) noexcept nogil:
    return <uint64_t> (<uint8_t *> page - b.arena.mem) >> CHUNK_BITS

cdef inline uint64_t location_of(BackendC *b, uint32_t index) noexcept nogil:
    return word_location(a64_load_rlx(&b.handles[index].word))

cdef inline uint8_t *address_of(BackendC *b, uint64_t location) noexcept nogil:
    return b.arena.mem + (location << CHUNK_BITS)

cdef inline PageHeader *page_of(BackendC *b, uint64_t location) noexcept nogil:
    return <PageHeader *> address_of(b, location & ~<uint64_t> (CHUNKS - 1))

# Pool lock, all of them -------------------------------------------------------------------------
cdef inline void list_add(BackendC *b, PageHeader *page, uint32_t free_chunks) noexcept nogil:
    page.list = free_chunks
    page.prev = NULL
    page.next = b.head[free_chunks]
    if page.next:
        page.next.prev = page
    b.head[free_chunks] = page
    b.nonempty |= <uint64_t> 1 << free_chunks

cdef inline void list_del(BackendC *b, PageHeader *page) noexcept nogil:
    if page.prev:
        page.prev.next = page.next
    else:
        b.head[page.list] = page.next
        if page.next == NULL:
            b.nonempty &= ~(<uint64_t> 1 << page.list)
    if page.next:
        page.next.prev = page.prev

# The page with the least room that `chunks` (at least 1) fit in; NULL: there is none.
cdef inline PageHeader *best_page(BackendC *b, uint32_t chunks) noexcept nogil:
    cdef uint64_t lists = b.nonempty >> chunks
    return b.head[chunks + <uint32_t> ctz64(lists)] if lists else NULL
