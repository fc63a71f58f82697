# The pool as C sees it. Lock order and invariants: see core.py.
from libc.stdint cimport int32_t, uint8_t, uint16_t, uint32_t, uint64_t

from coldmem.linux.atomic cimport prefetch
from coldmem.linux.lock cimport Mutex, RwLock
from coldmem.zsmalloc.arena cimport Arena

cdef enum Locking:
    LOCK_POOL = 0
    LOCK_CLASS = 1
    LOCK_HANDLE = 2

cdef enum:
    MAX_CLASSES = 264           # 257 slots at most, at units of 16K and 64K
    GROUPS = 12                 # fullness groups
    MAGAZINE_MAX = 15

# errors of zs_free and zs_read_begin
cdef enum ZsError:
    ZS_OK = 0
    ZS_FOREIGN = -1
    ZS_STALE = -2
    ZS_DOUBLE_FREE = -3
    ZS_BUSY = -4

# One indirection: the owner keeps the handle, the word says where the object is now.
# word = pins:11 | moving:1 | class:9 | zspage:28 | object:15
cdef struct Handle:
    uint64_t word               # atomic; location bits change under the class lock only
    int32_t generation          # atomic; odd while live. Bumped by malloc and, by CAS, by free
    uint32_t size               # payload bytes while live; next free handle otherwise (class lock)

cdef struct SizeClass:          # lock and list heads on one line, classes 128 bytes apart
    Mutex lock                  # "class" and "handle": guards what follows; "pool": unused
    uint32_t size               # constant: bytes of an object with its header
    uint32_t objs               # constant: objects in a zspage
    uint32_t units              # constant: units in a zspage
    uint32_t huge               # constant
    uint32_t index              # constant: slot in Pool.classes
    uint32_t nonempty           # bit g: list g is not empty (groups 0..11)
    uint32_t head[GROUPS]
    uint64_t zspages            # zspages in the class; stored atomically, read without the lock
    uint64_t objects            # objects in use, magazines included; likewise
    uint32_t handle_free        # free handles of this class: a handle never changes its class
    uint32_t fill0
    uint32_t count[GROUPS]      # zspages in each list
    uint64_t moved              # objects moved by compaction
    uint64_t freed_units        # units freed by compaction
    uint64_t fill[8]

cdef struct Magazine:           # per CPU and class: objects that are live for the core, free for us
    int32_t lock                # try only: 0 or 1
    uint16_t count
    uint16_t capacity
    uint32_t handle[MAGAZINE_MAX - 1]

cdef struct PoolC:              # what changes and what does not lie on different lines
    Mutex lock                  # "pool": guards everything
    uint64_t fill0[12]
    RwLock migrate              # "class": read by free and read, written by what moves objects
    uint64_t fill1[12]
    Arena arena
    uint64_t handles_next       # arena lock; read without it
    int32_t compacting          # atomic: one runner at a time, compaction or migration
    int32_t fill2
    uint64_t units_compacted    # atomic
    uint64_t units_migrated     # atomic
    uint64_t objects_migrated   # atomic
    uint64_t fill3[14]
    uint32_t locking            # from here on constant once the pool is made
    uint32_t unit_bytes
    uint32_t tag                # in every handle of this pool
    uint32_t step               # bytes between neighbouring class sizes
    uint32_t slots              # class slots, merged ones included
    uint32_t huge_class_size
    uint32_t compact_batch      # objects moved per hold of the locks
    uint32_t cpus               # magazines: how many CPUs have them; 0: none
    Handle *handles             # type-stable table; index 0 is unused
    uint64_t handles_max
    Magazine *magazines         # [cpu * MAX_CLASSES + class]
    SizeClass *classes          # [slot]; merged slots are unused
    uint16_t class_of[MAX_CLASSES]       # slot -> the slot that serves it

ctypedef PoolC *PoolP
ctypedef SizeClass *SizeClassP
ctypedef Handle *HandleP
ctypedef Magazine *MagazineP

# Allocate `size` bytes (1..unit_bytes): a handle, or 0 when there is no room. If that takes a new
# zspage, it comes from `node` (plain zs_malloc: 0), or from another one whose range has room.
# The object is *unpublished*: nothing may read it, and compaction leaves it alone, until zs_write or
# zs_publish is called, exactly once, by the caller.
cdef uint64_t zs_malloc_node(PoolC *p, uint32_t size, uint32_t node) noexcept nogil
cdef uint64_t zs_malloc(PoolC *p, uint32_t size) noexcept nogil
# Fill a fresh object and publish it.
cdef void zs_write(PoolC *p, uint64_t handle, const uint8_t *src, uint32_t n) noexcept nogil
cdef void zs_publish(PoolC *p, uint64_t handle) noexcept nogil
# Overwrite a published object in place; the caller sees to it that nobody reads it meanwhile.
cdef int32_t zs_rewrite(PoolC *p, uint64_t handle, const uint8_t *src, uint32_t n) noexcept nogil
cdef int32_t zs_free(PoolC *p, uint64_t handle) noexcept nogil
# Address of the payload, stable until zs_read_end with the same token; NULL: see error.
cdef const uint8_t *zs_read_begin(PoolC *p, uint64_t handle, uint64_t *token, int32_t *error) noexcept nogil
cdef void zs_read_end(PoolC *p, uint64_t handle, uint64_t token) noexcept nogil
cdef uint32_t zs_size(PoolC *p, uint64_t handle) noexcept nogil
cdef uint64_t zs_used_bytes(PoolC *p) noexcept nogil
# Objects back from the magazines to the core; called under memory pressure.
cdef void zs_drain(PoolC *p) noexcept nogil

# Begin to fetch what a read or free of the handle will look at first.
cdef inline void zs_prefetch(PoolC *p, uint64_t handle) noexcept nogil:
    prefetch(&p.handles[<uint32_t> handle])

# For the parts of the allocator itself ------------------------------------------------------------
cdef Mutex *class_lock(PoolC *p, SizeClass *k) noexcept nogil
# n objects of a class at once, unpinned but for the first if `pin`: how many there were room for.
cdef uint32_t core_take(PoolC *p, SizeClass *k, uint32_t *out, uint32_t n, bint pin,
                        uint32_t node) noexcept nogil
# Free n objects of one class; none is pinned.
cdef void core_give(PoolC *p, SizeClass *k, uint32_t *handles, uint32_t n) noexcept nogil
