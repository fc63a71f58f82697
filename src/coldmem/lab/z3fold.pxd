# z3fold: three objects a page.
from libc.stdint cimport int32_t, uint8_t, uint32_t, uint64_t

from coldmem.lab.allocator cimport AllocatorOps
from coldmem.lab.backend_core cimport BackendC, PageHeader

cdef uint64_t z3fold_malloc(void *p, uint32_t size) noexcept nogil
cdef void z3fold_write(void *p, uint64_t handle, const uint8_t *src, uint32_t n) noexcept nogil
cdef int32_t z3fold_free(void *p, uint64_t handle) noexcept nogil
cdef const uint8_t *z3fold_read_begin(void *p, uint64_t handle, uint64_t *token, int32_t *error) noexcept nogil
cdef uint64_t z3fold_can_compact(void *p) noexcept nogil
cdef uint64_t z3fold_compact(void *p) noexcept nogil
cdef void z3fold_ops(AllocatorOps *out) noexcept nogil
# The number of the list that the page belongs in.
cdef uint32_t z3fold_room(PageHeader *page) noexcept nogil
# Move the middle object to where it leaves the others more room. Pool lock.
cdef void settle(BackendC *b, PageHeader *page) noexcept nogil
