# One table of functions for any allocator, so that one native loop drives them all.
from libc.stdint cimport int32_t, uint8_t, uint32_t, uint64_t

ctypedef const uint8_t *payload_t

# As the functions of coldmem.zsmalloc.core, which say what each promises. `p` is one pool.
cdef struct AllocatorOps:
    uint64_t (*malloc)(void *p, uint32_t size) noexcept nogil
    void (*write)(void *p, uint64_t handle, const uint8_t *src, uint32_t n) noexcept nogil
    int32_t (*free)(void *p, uint64_t handle) noexcept nogil
    payload_t (*read_begin)(void *p, uint64_t handle, uint64_t *token, int32_t *error) noexcept nogil
    void (*read_end)(void *p, uint64_t handle, uint64_t token) noexcept nogil
    # Pages that compaction could free, roughly; 0: it would do nothing.
    uint64_t (*can_compact)(void *p) noexcept nogil
    uint64_t (*compact)(void *p) noexcept nogil

ctypedef AllocatorOps *AllocatorOpsP
